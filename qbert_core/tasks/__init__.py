"""The four tasks in one form: columns -> windows -> loss -> answers -> metrics with intervals."""

from qbert_core.errors import InputError
from qbert_core.tasks.base import (
    Batch,
    Examples,
    Score,
    Task,
    answers,
    collate,
    difference,
    grades,
    length_batches,
)
from qbert_core.tasks.conll03 import Conll03
from qbert_core.tasks.mnli import Mnli
from qbert_core.tasks.squad import Squad
from qbert_core.tasks.sst2 import Sst2

TASKS: dict[str, Task] = {task.name: task for task in (Sst2(), Mnli(), Conll03(), Squad())}


def task_named(name: str) -> Task:
    """The task called `name`; `InputError` names those there are."""
    if name not in TASKS:
        raise InputError(f"task {name!r} is not known; there is {', '.join(TASKS)}")
    return TASKS[name]


__all__ = [
    "TASKS",
    "Batch",
    "Examples",
    "Score",
    "Task",
    "answers",
    "collate",
    "difference",
    "grades",
    "length_batches",
    "task_named",
]
