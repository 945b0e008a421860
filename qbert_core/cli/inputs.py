"""Options that name files or lists, read; and files written whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from qbert_core import jsonfile
from qbert_core.errors import InputError

if TYPE_CHECKING:
    from qbert_core.checkpoints import Checkpoint
    from qbert_core.quantization import Plan
    from qbert_core.tasks import Task

MAX_JSON = 64 * 2**20  # bytes; a sensitivity of 24 layers x 1000 runs has 2 MB


def read_plan(plan: str, checkpoint: Checkpoint, task: Task) -> Plan:
    """A plan by its file (a PLAN document, or what `allocate` writes), by a preset's name, or `trained`:
    the one that the checkpoint was trained for."""
    from qbert_core.quantization import preset_named, sites_of
    from qbert_core.quantization.plan import parse_plan
    from qbert_core.quantization.trained import load_trained

    if plan == "trained":
        trained = load_trained(checkpoint.folder, checkpoint.config)
        if trained is None:
            raise InputError(f"--plan trained: {checkpoint.name} was not trained for a plan; give a plan")
        return trained.plan
    if not Path(plan).is_file():
        return preset_named(checkpoint.config, task.name, plan)
    document = read_json(plan)
    if isinstance(document, dict) and "plan" in document:
        document = document["plan"]
    return parse_plan(document, sites_of(checkpoint.config), plan)


def read_json(path: str) -> object:
    """A JSON file's content; `InputError` when it is not there, not JSON, or far too large."""
    return jsonfile.read_json(Path(path), MAX_JSON)


def whole_numbers(text: str, option: str) -> list[int]:
    """A comma-separated list of whole numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option} {text!r}; expected whole numbers with commas, for example 2,4") from None


def writable_folder(path: str) -> Path:
    """The folder, made and tried: an hour of training must not end at a wrong --save."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.partial"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"--save {path}: {error.strerror}; give a folder that can be written") from None
    return folder


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` so that a full disk or a kill leaves the old file as it was."""
    if path.exists() and not path.is_file():  # a device or pipe must be written to, not replaced
        path.write_text(text, encoding="utf-8")
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        partial.unlink(missing_ok=True)
