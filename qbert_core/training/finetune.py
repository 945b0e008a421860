"""Finetuning, in full precision or for a plan, with a state on disk to go on from.

With a plan every step runs the model that the plan makes of the fp32 weights, and its gradient
updates those (`quantized`).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from qbert_core.checkpoints import Checkpoint
from qbert_core.errors import Cancelled, InputError
from qbert_core.quantization import ActivationRanges, Plan, sites_of
from qbert_core.runtime.events import Events, Silent
from qbert_core.tasks import Examples, Score, Task
from qbert_core.training.measure import measure
from qbert_core.training.recipes import Recipe
from qbert_core.training.state import discard_state, load_state, save_state
from qbert_core.training.steps import Training

STATE_SECONDS = 60.0  # between two states on disk at least; more where writing one takes long
STATE_SHARE = 0.05  # of the time goes into writing them at most


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """The finetuned model, its score on the evaluation data, and how it got there.

    With a plan `checkpoint` holds the fp32 weights that the plan is applied to, `score` is the plan's,
    and `ranges` are the frozen activation ranges, None where activations stay in fp32.

    A point of `curve` is {step, epoch, loss, lr, eta_seconds}, loss the mean since the last point; one
    at the end of an epoch holds the task's metrics, too.
    """

    checkpoint: Checkpoint
    score: Score
    curve: list[dict[str, float]]
    seconds: float
    ranges: ActivationRanges | None = None


def finetune(
    base: Checkpoint,
    task: Task,
    train: Examples,
    data: Examples,
    recipe: Recipe,
    events: Events | None = None,
    *,
    plan: Plan | None = None,
    resume: Path | None = None,
    device: str | torch.device | None = None,
) -> TrainingResult:
    """Finetune every parameter of `base` on `train`; measure on `data` after each epoch.

    Without a plan the result is the average of the weights over the last `recipe.average` of the steps
    (the last weights where that is 0). With a plan `base` is a finetuned model, training is
    quantization-aware, and the last weights are the result.

    `resume` is a folder for the training's state: it is written there every minute and after every
    epoch, and the same call finds it and goes on, to the very weights that an undisturbed run gives.
    It stays until `discard_state(folder)`: call that once the result is kept.

    `device` is a GPU where there is one. Same seed, data, machine and thread count: same weights.

    Raises `InputError` for a plan of another model, averaging with a plan, the state of another
    training in `resume`, and a loss that is not finite any more; `Cancelled` when `events` says so.
    """
    events = events or Silent()
    _check(base, recipe, plan)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    run = Training(base, task, train, recipe, plan, place)
    command = {
        "base": base.fingerprint,
        "task": task.name,
        "train": train.fingerprint,
        "data": data.fingerprint,
        "recipe": asdict(recipe),
        "plan": None if plan is None else plan.digest,
        "device": place.type,
    }
    if resume is not None and (found := load_state(resume, command)):
        run.restore(found)
    saving = _Saving(run, command, resume)
    score: Score | None = None
    try:
        for batch in run.batches():
            try:
                events.check()
            except Cancelled:
                saving.save()
                raise
            run.learn(batch)
            if run.epoch_ends:
                score = run.measure(data, events)
                events.progress(run.step, run.steps, run.point(score.metrics))
                saving.save()
            elif run.point_due:
                events.progress(run.step, run.steps, run.point({}))
            saving.save_if_due()
        final = run.result()
    except InputError:  # it diverged, and would from its state, too
        if resume is not None:
            discard_state(resume)
        raise
    if score is None or recipe.average:  # else the last epoch's
        score = measure(final, task, data, events, trained=run.trained())
    return TrainingResult(final, score, run.curve, run.seconds, run.ranges())


def _check(base: Checkpoint, recipe: Recipe, plan: Plan | None) -> None:
    if plan is None:
        return
    if {site.name for site in sites_of(base.config)} != set(plan.sites):
        raise InputError(f"plan {plan.name} is for another model; it needs an entry for each of its sites")
    if recipe.average:
        raise InputError(
            f"average is {recipe.average:g}; with a plan the last weights are the result, expected 0"
        )


class _Saving:
    """When a training's state is written."""

    def __init__(self, run: Training, command: dict[str, Any], folder: Path | None) -> None:
        self._run, self._command, self._folder = run, command, folder
        self._due = time.perf_counter() + STATE_SECONDS

    def save(self) -> None:
        if self._folder is None:
            return
        started = time.perf_counter()
        save_state(self._run.state(self._command), self._folder)
        ended = time.perf_counter()
        self._due = ended + max(STATE_SECONDS, (ended - started) / STATE_SHARE)

    def save_if_due(self) -> None:
        if time.perf_counter() >= self._due:
            self.save()
