"""Quantization-aware finetunings as jobs: where each is saved, and how far one that was stopped had come."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from app.planfiles import plan_path
from app.workspace import Workspace
from qbert_core.quantization import Plan
from qbert_core.runtime.home import data_home
from qbert_core.training.state import FILE as STATE

STATES = ".training"  # where in its folder the command keeps the state of a training under way
REPORT = "training.json"  # what it leaves when it is done


@dataclass(frozen=True)
class Settings:
    """What the controls say."""

    plan: Plan
    train: str
    limit: int | None  # first rows of the training data, None: all
    epochs: int
    lr: float
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Stopped:
    """A training that was cancelled or killed after its state had been written."""

    step: int
    epoch: float
    curve: tuple[dict[str, float], ...]


def models_home() -> Path:
    """Where finetuned models are kept."""
    return data_home() / "models"


def save_folder(workspace: Workspace, settings: Settings, today: date) -> Path:
    """The folder of this training: DATE-PLAN-SETTINGS, the last two digests.

    The same settings find the folder they made before, whatever the date, so that a training that was
    stopped is found again.
    """
    asked = {**asdict(settings), "plan": settings.plan.digest}
    asked |= {"model": workspace.checkpoint.fingerprint, "data": workspace.source.data}
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    name = f"{settings.plan.digest[:8]}-{digest[:8]}"
    home = models_home()
    made = sorted(home.glob(f"*-{name}")) if home.is_dir() else []
    return made[-1] if made else home / f"{today.isoformat()}-{name}"


def arguments(workspace: Workspace, settings: Settings, folder: Path) -> list[str]:
    """The command. Equal settings give equal arguments, so they find their job again."""
    preset = next((p.name for p in workspace.presets if p.digest == settings.plan.digest), None)
    limit = [] if settings.limit is None else ["--limit", str(settings.limit)]
    return [
        "finetune", workspace.source.model, "--task", workspace.task.name, "--train", settings.train, *limit,
        "--data", workspace.source.data, "--plan", preset or str(plan_path(settings.plan)),
        "--epochs", str(settings.epochs), "--lr", f"{settings.lr:g}", "--batch-size", str(settings.batch_size),
        "--seed", str(settings.seed), "--save", str(folder),
    ]  # fmt: skip


def stopped_at(folder: Path) -> Stopped | None:
    """How far an unfinished training in `folder` had come; None where there is none that can be read."""
    path = folder / STATES / STATE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:  # reads the header only
            progress = json.loads((file.metadata() or {})["training"])["progress"]
        curve = tuple(progress["curve"])
        epoch = next((p["epoch"] / p["step"] * progress["step"] for p in curve if p["step"]), 0.0)
        return Stopped(int(progress["step"]), float(epoch), curve)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None  # the command says what is wrong with it


def finished(folder: Path) -> dict[str, Any] | None:
    """The report of a training that ended in `folder`; None where there is none that can be read."""
    try:
        document = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and {"curve", "metrics", "n"} <= set(document) else None


def joined(earlier: Iterable[dict[str, float]], later: Iterable[dict[str, float]]) -> list[dict[str, float]]:
    """One curve of the points before a stop and those after it, in the order of steps."""
    by_step = {int(point["step"]): point for point in (*earlier, *later)}
    return [by_step[step] for step in sorted(by_step)]
