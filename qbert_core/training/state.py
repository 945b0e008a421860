"""A training under way, on disk: written now and then, found again after a kill.

One safetensors file: tensors (weights, optimizer moments, running mean, random generators) and, in its
header, a JSON document with the rest. It is replaced as a whole, so what is found is always the state
after one certain step. The data's order is no part of it: that follows from the seed and the step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from qbert_core.checkpoints.safefile import read_header
from qbert_core.errors import InputError

FILE = "state.safetensors"
SCHEMA = 1


@dataclass(frozen=True, eq=False)
class TrainingState:
    """Everything that the rest of a training depends on, after some step.

    `command` says which training this is; `progress` holds numbers and the curve; both are JSON.
    """

    command: Mapping[str, Any]
    progress: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def save_state(state: TrainingState, folder: Path) -> None:
    """Write `state` to `folder`, which is made; replaces the one before, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"schema": SCHEMA, "command": state.command, "progress": state.progress}
    partial = folder / f"{FILE}.partial"  # one name: what a kill leaves is overwritten, not piled up
    try:
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in state.tensors.items()},
            partial,
            metadata={"training": json.dumps(document)},  # clip_norm may be infinite
        )
    except SafetensorError as error:  # its name for a full disk, too
        partial.unlink(missing_ok=True)
        raise OSError(f"{folder}: the training's state could not be written: {error}") from None
    partial.replace(folder / FILE)


def load_state(folder: Path, command: Mapping[str, Any]) -> TrainingState | None:
    """The state in `folder`, or None where there is none.

    Raises `InputError` where it is that of another command, saying what differs, or cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    remedy = "start over (--fresh), or give another folder"
    try:
        read_header(path)  # cut off or padded?
        with safe_open(path, framework="pt") as file:
            document = json.loads((file.metadata() or {}).get("training", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (InputError, SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as the state of a training ({error}); {remedy}") from None
    whole = isinstance(document, dict) and isinstance(document.get("command"), dict)
    if not whole or document.get("schema") != SCHEMA:
        raise InputError(f"{path}: not the state of a training of this version; {remedy}")
    found = document["command"]
    if found != command:
        differ = [key for key in {**command, **found} if command.get(key) != found.get(key)]
        raise InputError(f"{path}: the state of another training, with another {', '.join(differ)}; {remedy}")
    return TrainingState(command, document["progress"], tensors)


def peek(folder: Path) -> Mapping[str, Any] | None:
    """The `progress` of the state in `folder`, whichever command's it is; None where there is none that
    can be read. Reads no tensors."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            progress = json.loads((file.metadata() or {})["training"])["progress"]
    except (SafetensorError, OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    return progress if isinstance(progress, dict) else None


def discard_state(folder: Path) -> None:
    """Remove the state, and its folder when nothing else lies there."""
    for name in (FILE, f"{FILE}.partial"):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of the random generators that dropout draws from."""
    states = {"random.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["random.cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put the generators where `random_state` found them."""
    torch.set_rng_state(states["random.cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["random.cuda"], device)
