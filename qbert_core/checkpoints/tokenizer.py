"""The WordPiece tokenizer of a checkpoint folder, through the tokenizers library.

tokenizer.json is a small language: regular expressions, replacements, models of many kinds. Only the
parts a BERT tokenizer is made of are let through to the library, each with its range checked, because
some of the others take time or memory without bound, or end the process where they are broken.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer

from qbert_core.access import access
from qbert_core.errors import InputError
from qbert_core.jsonfile import cause, printable, read_json

MAX_FILE = 64 * 2**20  # bytes; multilingual BERT's tokenizer.json has 3 MB
MAX_CONFIG = 2**20
MAX_TOKEN = 1000  # characters of an entry of the vocabulary
MAX_WORD = 1000  # characters of a word that is looked up: WordPiece's time grows with their square
MAX_ADDED = 1000  # tokens beside the vocabulary; BERT has five
MAX_PARTS = 16  # of a sequence of normalizers
NORMALIZERS = ("BertNormalizer", "Lowercase", "StripAccents", "NFC", "NFD", "NFKC", "NFKD", "Strip")
PRE_TOKENIZERS = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Punctuation")
POST_PROCESSORS = ("BertProcessing", "TemplateProcessing")
DECODERS = ("WordPiece",)
FIELDS = {
    "version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
    "decoder", "model",
}  # fmt: skip


def load_tokenizer(folder: Path, vocabulary: int) -> Tokenizer:
    """tokenizer.json, else vocab.txt, with padding and truncation off.

    Raises `InputError` when neither is there, one is broken or holds what no BERT tokenizer does, or it
    knows ids that the model's `vocabulary` does not have.
    """
    path = next((folder / n for n in ("tokenizer.json", "vocab.txt") if (folder / n).is_file()), None)
    if path is None:
        raise InputError(f"{folder}: no tokenizer there; expected tokenizer.json or vocab.txt")
    path = access().path(path)
    if path.name == "tokenizer.json":
        raw = read_json(path, MAX_FILE)
        try:
            check_tokenizer(raw, vocabulary)
        except ValueError as error:
            raise InputError(f"{path}: not a tokenizer that is read here: {cause(error)}") from None
        tokenizer = _made(path, lambda: Tokenizer.from_file(str(path)))
    else:
        _check_vocab_txt(path, vocabulary)
        lowercase = _lowercase(folder)
        tokenizer = _made(path, lambda: BertWordPieceTokenizer(str(path), lowercase=lowercase)._tokenizer)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for token in ("[CLS]", "[SEP]", "[PAD]", "[UNK]"):
        if tokenizer.token_to_id(token) is None:
            raise InputError(f"{path}: not a BERT tokenizer: it has no {token}")
    try:
        probe = tokenizer.encode("a \u2603")  # the snowman: whether unknown characters are provided for
    except Exception as error:
        raise InputError(f"{path}: not a tokenizer that can be used: {cause(error)}") from None
    ends = [tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")]
    if [*probe.ids[:1], *probe.ids[-1:]] != ends or any(probe.type_ids):
        raise InputError(f"{path}: not a BERT tokenizer: it does not put [CLS] and [SEP] around a sentence")
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocabulary:
        raise InputError(f"{path}: knows token ids up to {largest}, the model has {vocabulary} rows for them")
    return tokenizer


def check_tokenizer(raw: Any, vocabulary: int) -> None:
    """Raise `ValueError` unless tokenizer.json's content is a WordPiece tokenizer made of BERT's parts."""
    if not isinstance(raw, dict):
        raise ValueError(f"holds a JSON {type(raw).__name__}, expected an object")
    if other := set(raw) - FIELDS:
        raise ValueError(f"unknown field {printable(min(other))}")
    model = raw.get("model")
    if not isinstance(model, dict) or model.get("type", "WordPiece") != "WordPiece":
        kind = model.get("type") if isinstance(model, dict) else model
        raise ValueError(f"the model is {kind!r:.60}, BERT's is WordPiece")
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not vocab:
        raise ValueError("the model has no vocabulary")
    for token, number in vocab.items():
        if not _whole(number, 2**31):
            raise ValueError(f"token {printable(token, 40)} has the id {number!r:.40}")
        if len(token) > MAX_TOKEN:
            raise ValueError(f"a token has {len(token):,} characters, {MAX_TOKEN} are allowed")
    if len(vocab) > vocabulary or max(vocab.values()) >= vocabulary:
        largest = max(len(vocab) - 1, *vocab.values())
        raise ValueError(f"knows token ids up to {largest}, the model has {vocabulary} rows for them")
    if not _whole(model.get("max_input_chars_per_word", 100), MAX_WORD):
        value = model["max_input_chars_per_word"]
        raise ValueError(f"max_input_chars_per_word is {value!r:.40}; expected 0..{MAX_WORD}")
    for name in ("unk_token", "continuing_subword_prefix"):
        value = model.get(name, "")
        if not isinstance(value, str) or len(value) > MAX_TOKEN:
            raise ValueError(f"the model's {name} is {value!r:.40}")
    _check_added(raw.get("added_tokens", []))
    _check_part(raw, "normalizer", NORMALIZERS, "normalizers")
    _check_part(raw, "pre_tokenizer", PRE_TOKENIZERS, "pretokenizers")
    _check_part(raw, "post_processor", POST_PROCESSORS, None)
    _check_part(raw, "decoder", DECODERS, None)
    for name in ("truncation", "padding"):  # switched off after loading; 0 and 2**64 are not for the library
        if not isinstance(raw.get(name), dict | None):
            raise ValueError(f"{name} is {raw[name]!r:.40}")
        for key, value in (raw.get(name) or {}).items():
            if isinstance(value, int) and not -(2**31) < value < 2**31:
                raise ValueError(f"{name} has {key}={value!r:.40}")


def _check_added(tokens: Any) -> None:
    if not isinstance(tokens, list) or len(tokens) > MAX_ADDED:
        raise ValueError(f"added_tokens must be a list of at most {MAX_ADDED}")
    for token in tokens:
        fits = isinstance(token, dict) and isinstance(token.get("content"), str)
        if not fits or not 0 < len(token["content"]) <= MAX_TOKEN or not _whole(token.get("id"), 2**31):
            raise ValueError(f"an added token is {token!r:.60}; expected a text and an id")


def _check_part(raw: dict[str, Any], name: str, known: tuple[str, ...], inner: str | None) -> None:
    """One of `known`, nothing, or a sequence of them in the list `inner`."""
    part = raw.get(name)
    if part is None:
        return
    parts = [part]
    if inner is not None and isinstance(part, dict) and part.get("type") == "Sequence":
        parts = part.get(inner)  # type: ignore[assignment]
        if not isinstance(parts, list) or len(parts) > MAX_PARTS:
            raise ValueError(f"the {name} is a sequence of {parts!r:.60}")
    for one in parts:
        kind = one.get("type") if isinstance(one, dict) else one
        if not isinstance(kind, str) or kind not in known:
            raise ValueError(f"the {name} is {kind!r:.60}; read are {', '.join(known)}")


def _check_vocab_txt(path: Path, vocabulary: int) -> None:
    """The file's size and lines, before a table is made of them."""
    size = path.stat().st_size
    if size > MAX_FILE:
        raise InputError(f"{path}: {size:,} bytes, more than the {MAX_FILE:,} allowed")
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if len(line) > MAX_TOKEN + 2:
                    raise InputError(f"{path}: line {number} has {len(line):,} characters; a token is short")
                if number > vocabulary:
                    raise InputError(
                        f"{path}: more tokens than the {vocabulary:,} rows that the model has for them"
                    )
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a tokenizer that can be read: {cause(error)}") from None


def _made(path: Path, make: Callable[[], Tokenizer]) -> Tokenizer:
    """The library's tokenizer; it raises bare Exception, and where its Rust code panics a BaseException."""
    try:
        return make()
    except Exception as error:
        raise InputError(f"{path}: not a tokenizer that can be read: {cause(error)}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{path}: not a tokenizer that can be read: {cause(error)}") from None


def _whole(value: object, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limit


def _lowercase(folder: Path) -> bool:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return True
    try:
        raw = read_json(access().path(path), MAX_CONFIG)
    except InputError:
        return True
    return bool(raw.get("do_lower_case", True)) if isinstance(raw, dict) else True
