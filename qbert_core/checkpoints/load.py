"""A folder, a hub id or `demo` -> Checkpoint.

Only safetensors and the fast tokenizer's JSON (or a vocab.txt) are ever opened: no pickle, no code
from the checkpoint. Every size is known from config.json and the file's header before a tensor is
allocated.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import safetensors
import torch
from tokenizers import Tokenizer
from torch import Tensor

from qbert_core.access import DEMO, access
from qbert_core.bert import BertConfig
from qbert_core.checkpoints.checkpoint import Checkpoint
from qbert_core.checkpoints.description import (
    bert_config,
    finetuned_config,
    read_config_json,
)
from qbert_core.checkpoints.safefile import FLOAT_BYTES, read_header
from qbert_core.checkpoints.tokenizer import load_tokenizer
from qbert_core.errors import InputError
from qbert_core.jsonfile import cause, printable

WEIGHTS_FILE = "model.safetensors"
HUB_FILES = ["config.json", WEIGHTS_FILE, "tokenizer.json", "tokenizer_config.json", "vocab.txt"]


def demo_folder() -> Path:
    """Where the demo checkpoint and its data set lie."""
    return DEMO


def load_checkpoint(model: str | Path) -> Checkpoint:
    """Load a finetuned BERT from a folder, a hub id (`owner/name`) or `demo`.

    Raises `InputError` saying what is wrong with what was given: not a BERT, no task head, `.bin`
    weights, a truncated file, tensors missing or of the wrong shape, NaN, no tokenizer.
    """
    folder, name = _resolve(model)
    config = finetuned_config(read_config_json(folder), str(model))
    weights = _read_weights(folder, config.shapes(), optional_prefix="")
    return _checkpoint(name, config, weights, folder)


def load_base(model: str | Path, head: str, labels: tuple[str, ...], seed: int) -> Checkpoint:
    """Load a pretrained BERT body and put a fresh head on it, for finetuning.

    The head (and a pooler, where the body has none) is drawn from N(0, 0.02) with `seed`, its
    biases are zero: BERT's own initialisation. Weights may be named with or without `bert.`.
    """
    folder, name = _resolve(model)
    config = bert_config(read_config_json(folder), head, labels, str(model))
    body = config.shapes()
    generator = torch.Generator().manual_seed(seed)
    fresh: dict[str, Tensor] = {}
    path = _weights_path(folder)
    stored = set(read_header(path))
    for tensor, shape in config.head_shapes().items():
        if tensor.startswith("bert.pooler.") and {tensor, tensor.removeprefix("bert.")} & stored:
            continue
        del body[tensor]
        fresh[tensor] = torch.zeros(shape)
        if len(shape) == 2:
            fresh[tensor].normal_(0.0, 0.02, generator=generator)
    return _checkpoint(name, config, _read_weights(folder, body, optional_prefix="bert.") | fresh, folder)


def _resolve(model: str | Path) -> tuple[Path, str]:
    if str(model) == "demo":
        folder = demo_folder()
        if not (folder / WEIGHTS_FILE).is_file():
            raise InputError(f"the demo checkpoint is missing from {folder}; restore it with git checkout")
        return folder, "demo"
    hub_id = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", str(model)) is not None
    rule = access()
    if hub_id and rule.roots is not None:  # a relative path is nothing that a user of a server can mean
        rule.check_hub(str(model))
        return _download(str(model)), str(model)
    folder = rule.path(model)
    try:
        if folder.is_dir():
            return folder, folder.resolve().name
        there = folder.exists()
    except OSError as error:
        raise InputError(f"{printable(str(model))}: cannot be opened: {cause(error)}") from None
    if there:
        raise InputError(f"{model}: is a file; give the folder that holds config.json and {WEIGHTS_FILE}")
    if hub_id:
        return _download(str(model)), str(model)
    raise InputError(
        f"{printable(str(model))}: no such folder; give a folder, a hub id like owner/name, or demo"
    )


def _download(hub_id: str) -> Path:
    """Fetch the few files we read of `hub_id` into the hub's own cache."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub's client raises a dozen unrelated types
        raise InputError(
            f"{hub_id}: no folder of this name here, and it could not be fetched from the hub ({cause(error)}); "
            f"check the id and the network, or give a local folder"
        ) from None


def _weights_path(folder: Path) -> Path:
    path = access().path(folder / WEIGHTS_FILE)
    if path.is_file():
        return path
    if (folder / f"{WEIGHTS_FILE}.index.json").is_file():
        raise InputError(
            f"{folder}: the weights are in shards; write them as one file with "
            f"AutoModel.from_pretrained(...).save_pretrained(DIR, max_shard_size='8GB')"
        )
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise InputError(
            f"{folder}: only pickled weights (.bin) there, which are never opened; convert them where you "
            f'trust them: python -c "from transformers import AutoModelForSequenceClassification as M; '
            f"M.from_pretrained('{folder}').save_pretrained('{folder}')\" (the class that fits your head)"
        )
    raise InputError(f"{folder}: no {WEIGHTS_FILE} there")


def _read_weights(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], optional_prefix: str
) -> dict[str, Tensor]:
    """Read the named tensors as fp32; other tensors in the file are left alone."""
    path = _weights_path(folder)
    entries = read_header(path)
    names: dict[str, str] = {}  # ours -> the file's
    for name, shape in shapes.items():
        short = name.removeprefix(optional_prefix) if optional_prefix else name
        stored = name if name in entries else short
        if stored not in entries:
            raise InputError(f"{path}: tensor {name} is missing; config.json says it must be there")
        entry = entries[stored]
        if entry.dtype not in FLOAT_BYTES:
            raise InputError(f"{path}: tensor {stored} is {entry.dtype}; expected one of {list(FLOAT_BYTES)}")
        if entry.shape != tuple(shape):
            raise InputError(
                f"{path}: tensor {stored} has shape {list(entry.shape)}, config.json says {list(shape)}"
            )
        names[name] = stored
    weights: dict[str, Tensor] = {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            for name, stored in names.items():
                weights[name] = file.get_tensor(stored).to(torch.float32)
                if not torch.isfinite(weights[name]).all():
                    raise InputError(f"{path}: tensor {stored} holds NaN or infinite values")
    except safetensors.SafetensorError as error:  # stricter than `read_header` about what it ignores
        raise InputError(f"{path}: not a safetensors file: {cause(error)}") from None
    return weights


def _checkpoint(name: str, config: BertConfig, weights: dict[str, Tensor], folder: Path) -> Checkpoint:
    tokenizer = load_tokenizer(folder, config.vocabulary)
    return Checkpoint(
        name=name,
        config=config,
        weights=MappingProxyType(weights),
        tokenizer=tokenizer,
        fingerprint=_fingerprint(config, weights, tokenizer),
        folder=folder,
    )


def _fingerprint(config: BertConfig, weights: Mapping[str, Tensor], tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    digest.update(tokenizer.to_str().encode())
    for tensor in sorted(weights):
        digest.update(f"{tensor}{list(weights[tensor].shape)}".encode())
        digest.update(weights[tensor].contiguous().numpy().data)
    return digest.hexdigest()[:32]
