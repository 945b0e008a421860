"""Finetunings as jobs: where each is saved, and how far one that was stopped had come."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from app.planfiles import plan_path
from app.workspace import Workspace
from qbert_core.quantization import Plan
from qbert_core.runtime.home import data_home
from qbert_core.training.layout import REPORT, STATES
from qbert_core.training.state import peek

FULL = "full"  # stands for the plan in the names of full-precision trainings


@dataclass(frozen=True)
class Settings:
    """What the controls say."""

    plan: Plan | None  # to train for; None: in full precision
    train: str
    limit: int | None  # first rows of the training data, None: all
    epochs: int
    lr: float
    batch_size: int
    seed: int
    base: str  # what is trained: a folder, a hub id or demo; with a plan the loaded model
    task: str  # what for; with a plan the loaded model's
    data: str  # measured on; with a plan the session's


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
    asked = asdict(settings)
    base = asked.pop("base")
    asked["model"] = workspace.checkpoint.fingerprint if base == workspace.source.model else base
    if settings.plan is not None:
        asked["plan"] = settings.plan.digest
        del asked["task"]  # the model's
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    kind = settings.plan.digest[:8] if settings.plan is not None else f"{FULL}-{settings.task}"
    name = f"{kind}-{digest[:8]}"
    home = models_home()
    made = sorted(home.glob(f"*-{name}")) if home.is_dir() else []
    return made[-1] if made else home / f"{today.isoformat()}-{name}"


def arguments(workspace: Workspace, settings: Settings, folder: Path) -> list[str]:
    """The command. Equal settings give equal arguments, so they find their job again."""
    limit = [] if settings.limit is None else ["--limit", str(settings.limit)]
    plan = []
    if settings.plan is not None:
        preset = next((p.name for p in workspace.presets if p.digest == settings.plan.digest), None)
        plan = ["--plan", preset or str(plan_path(settings.plan))]
    return [
        "finetune", settings.base, "--task", settings.task, "--train", settings.train, *limit,
        "--data", settings.data, *plan,
        "--epochs", str(settings.epochs), "--lr", f"{settings.lr:g}", "--batch-size", str(settings.batch_size),
        "--seed", str(settings.seed), "--save", str(folder),
    ]  # fmt: skip


def stopped_at(folder: Path) -> Stopped | None:
    """How far an unfinished training in `folder` had come; None where there is none that can be read."""
    progress = peek(folder / STATES)
    if progress is None:
        return None
    try:
        curve = tuple(progress["curve"])
        epoch = next((p["epoch"] / p["step"] * progress["step"] for p in curve if p["step"]), 0.0)
        return Stopped(int(progress["step"]), float(epoch), curve)
    except (ValueError, KeyError, TypeError):
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
