"""The four tasks in one form: columns -> features -> loss -> metric -> interval."""

from qbert_core.errors import InputError
from qbert_core.tasks.base import Batch, Examples, Score, Task, collate, length_batches
from qbert_core.tasks.sst2 import Sst2

TASKS: dict[str, Task] = {"sst2": Sst2()}


def task_named(name: str) -> Task:
    """The task called `name`; `InputError` names those there are."""
    if name not in TASKS:
        raise InputError(f"task {name!r} is not known; there is {', '.join(TASKS)}")
    return TASKS[name]


__all__ = ["TASKS", "Batch", "Examples", "Score", "Task", "collate", "length_batches", "task_named"]
