"""Write a checkpoint that transformers' from_pretrained and this tool both read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from qbert_core.access import access
from qbert_core.checkpoints.checkpoint import Checkpoint
from qbert_core.checkpoints.description import ARCHITECTURES

TOKENIZER_FILES = ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json")


def save_checkpoint(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype) -> list[Path]:
    """Write config.json, model.safetensors (in `dtype`) and the tokenizer's files to `folder`.

    Everything is written to a sibling folder first and moved into place at the end, so that a full
    disk or a kill leaves no half checkpoint under the final name. Returns the files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = folder / ".partial"
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    try:
        tensors = {name: w.to(dtype).contiguous() for name, w in checkpoint.weights.items()}
        try:
            save_file(tensors, parts / "model.safetensors", metadata={"format": "pt"})
        except SafetensorError as error:  # its name for a full disk, too
            raise OSError(f"{folder}: the weights could not be written: {error}") from None
        (parts / "model.safetensors").chmod(0o644)  # the library makes it readable for its owner only
        (parts / "config.json").write_text(json.dumps(config_json(checkpoint, dtype), indent=2) + "\n")
        save_tokenizer(checkpoint, parts)
        return [path.replace(folder / path.name) for path in sorted(parts.iterdir())]
    finally:
        shutil.rmtree(parts, ignore_errors=True)


def save_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Write tokenizer.json and what else of the tokenizer the checkpoint's folder holds."""
    checkpoint.tokenizer.save(str(folder / "tokenizer.json"))
    for name in TOKENIZER_FILES:
        source = checkpoint.folder / name
        if source.is_file():
            shutil.copyfile(access().path(source), folder / name)


def config_json(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, object]:
    """What config.json says of the checkpoint, its tensors stored in `dtype`."""
    c = checkpoint.config
    raw: dict[str, object] = {
        "architectures": [next(name for name, head in ARCHITECTURES.items() if head == c.head)],
        "model_type": "bert",
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "hidden_size": c.hidden,
        "intermediate_size": c.intermediate,
        "vocab_size": c.vocabulary,
        "max_position_embeddings": c.positions,
        "type_vocab_size": c.token_types,
        "layer_norm_eps": c.eps,
        "hidden_act": c.activation,
        "hidden_dropout_prob": c.hidden_dropout,
        "attention_probs_dropout_prob": c.attention_dropout,
        "classifier_dropout": c.classifier_dropout,
        "initializer_range": 0.02,
        "pad_token_id": checkpoint.tokenizer.token_to_id("[PAD]"),
        "dtype": str(dtype).removeprefix("torch."),
    }
    if c.head != "question":
        raw["id2label"] = {str(i): label for i, label in enumerate(c.labels)}
        raw["label2id"] = {label: i for i, label in enumerate(c.labels)}
    return raw
