"""The WordPiece tokenizer of a checkpoint folder, through the tokenizers library."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer

from qbert_core.errors import InputError

MAX_FILE = 64 * 2**20  # bytes; multilingual BERT's tokenizer.json has 3 MB


def load_tokenizer(folder: Path, vocabulary: int) -> Tokenizer:
    """tokenizer.json, else vocab.txt, with padding and truncation off.

    Raises `InputError` when neither is there, one is broken, or it knows ids that the model's
    `vocabulary` does not have.
    """
    path = next((folder / n for n in ("tokenizer.json", "vocab.txt") if (folder / n).is_file()), None)
    if path is None:
        raise InputError(f"{folder}: no tokenizer there; expected tokenizer.json or vocab.txt")
    if path.stat().st_size > MAX_FILE:
        raise InputError(f"{path}: {path.stat().st_size:,} bytes, more than the {MAX_FILE:,} allowed")
    try:
        if path.name == "tokenizer.json":
            tokenizer = Tokenizer.from_file(str(path))
        else:
            tokenizer = BertWordPieceTokenizer(str(path), lowercase=_lowercase(folder))._tokenizer
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(f"{path}: not a tokenizer that can be read: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for token in ("[CLS]", "[SEP]", "[PAD]", "[UNK]"):
        if tokenizer.token_to_id(token) is None:
            raise InputError(f"{path}: not a BERT tokenizer: it has no {token}")
    try:
        probe = tokenizer.encode("a \u2603")  # the snowman: whether unknown characters are provided for
    except Exception as error:
        raise InputError(f"{path}: not a tokenizer that can be used: {error}") from None
    ends = [tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")]
    if [*probe.ids[:1], *probe.ids[-1:]] != ends or any(probe.type_ids):
        raise InputError(f"{path}: not a BERT tokenizer: it does not put [CLS] and [SEP] around a sentence")
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocabulary:
        raise InputError(f"{path}: knows token ids up to {largest}, the model has {vocabulary} rows for them")
    return tokenizer


def _lowercase(folder: Path) -> bool:
    path = folder / "tokenizer_config.json"
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("do_lower_case", True))
    except (OSError, ValueError, AttributeError):
        return True
