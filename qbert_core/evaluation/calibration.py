"""Where the activation ranges come from: a quantization-aware training, or examples to calibrate on."""

from __future__ import annotations

from typing import overload

from qbert_core.checkpoints import Checkpoint
from qbert_core.errors import InputError
from qbert_core.quantization import ActivationRanges, calibrate
from qbert_core.quantization.trained import load_trained
from qbert_core.runtime.events import Events
from qbert_core.tasks import Examples, Task
from qbert_core.tasks.data import read_table


@overload
def calibration(
    checkpoint: Checkpoint, task: Task, examples: Examples, train: str | None, events: Events | None = None
) -> ActivationRanges: ...
@overload
def calibration(
    checkpoint: Checkpoint, task: Task, examples: None, train: str | None, events: Events | None = None
) -> ActivationRanges | None: ...
def calibration(
    checkpoint: Checkpoint,
    task: Task,
    examples: Examples | None,
    train: str | None,
    events: Events | None = None,
) -> ActivationRanges | None:
    """Ranges from the training data `train`, where it is given; else those the checkpoint was trained
    with, where its folder has them (quantization.json); else from the task's demo training split, where
    the project has one; else from the inputs (never the labels) of `examples`, None without any.

    Raises `InputError` for a quantization.json that is broken or of another model."""
    if train is not None:
        given = task.examples(read_table(train, split="train"), checkpoint, train)
        return calibrate(checkpoint, task, given, events)
    trained = load_trained(checkpoint.folder, checkpoint.config)
    if trained is not None and trained.ranges is not None:
        return trained.ranges
    try:
        source: Examples | None = task.examples(read_table("demo", split="train"), checkpoint, "demo train")
    except InputError:  # no demo data for this task
        source = examples
    return None if source is None else calibrate(checkpoint, task, source, events)
