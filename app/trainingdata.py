"""Whether training data can be what a job needs, as far as that is cheap to say before the job starts."""

from __future__ import annotations

from pathlib import Path

from app.workspace import Workspace
from qbert_core.errors import InputError
from qbert_core.tasks.columns import require_columns
from qbert_core.tasks.data import read_table

LARGEST = 30 * 2**20  # bytes of a file that is opened while a person waits


def check_training_data(workspace: Workspace, data: str) -> None:
    """Raise `InputError` for training data that is missing or has not the task's columns.

    A hub data set and a large file are left to the job.
    """
    columns = ", ".join(workspace.task.columns)
    if not data:
        raise InputError(f"Give the training data: a file with the columns {columns}, or demo.")
    if data.startswith("hub:"):
        return
    path = Path(data).expanduser()
    if data != "demo" and path.is_file() and path.stat().st_size > LARGEST:
        return
    require_columns(read_table(data, split="train"), workspace.task.columns, data)
