"""Which examples the activation ranges are calibrated on."""

from __future__ import annotations

from qbert_core.checkpoints import Checkpoint
from qbert_core.errors import InputError
from qbert_core.quantization import ActivationRanges, calibrate
from qbert_core.runtime.events import Events
from qbert_core.tasks import Examples, Task
from qbert_core.tasks.data import read_table


def calibration(
    checkpoint: Checkpoint, task: Task, examples: Examples, train: str | None, events: Events | None = None
) -> ActivationRanges:
    """Ranges from the training data `train`, where it is given; else from the task's demo training
    split, where the project has one; else from the inputs (never the labels) of `examples`."""
    if train is not None:
        given = task.examples(read_table(train, split="train"), checkpoint, train)
        return calibrate(checkpoint, task, given, events)
    try:
        source = task.examples(read_table("demo", split="train"), checkpoint, "demo train")
    except InputError:  # no demo data for this task
        source = examples
    return calibrate(checkpoint, task, source, events)
