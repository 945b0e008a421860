"""The score of a finetuned model, by the code that everybody else measures with."""

from __future__ import annotations

from types import MappingProxyType

import torch

from qbert_core.checkpoints import Checkpoint
from qbert_core.evaluation import Evaluator
from qbert_core.quantization import ActivationRanges, preset_named
from qbert_core.quantization.trained import TrainedQuantization
from qbert_core.runtime.events import Events, Silent
from qbert_core.tasks import Examples, Score, Task


def measure(
    checkpoint: Checkpoint,
    task: Task,
    data: Examples,
    events: Events | None = None,
    *,
    trained: TrainedQuantization | None = None,
) -> Score:
    """What an `Evaluator` says of a model in full precision, or of the plan it was trained for."""
    plan = trained.plan if trained else preset_named(checkpoint.config, checkpoint.task, "baseline")
    ranges = trained.ranges if trained else None
    if ranges is None:  # nothing will read them
        ranges = ActivationRanges(MappingProxyType({}), data.source, len(data))
    # what is drawn in there must not depend on whether it is the process's first evaluation
    with torch.random.fork_rng(devices=[]):
        # one plan is measured once: states kept for later would only take memory
        evaluator = Evaluator(checkpoint, task, data, ranges, cache_bytes=0)
        return evaluator.evaluate(plan, attention=False, events=_OnlyCheck(events or Silent())).score


class _OnlyCheck(Silent):
    """Passes on cancel, not progress: an evaluation's is no part of the training's."""

    def __init__(self, events: Events) -> None:
        self.check = events.check  # type: ignore[method-assign]
