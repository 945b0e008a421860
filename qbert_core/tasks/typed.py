"""A row a person types: an example like any other, but for its right answer, which nobody knows."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pandas as pd

from qbert_core.checkpoints import Checkpoint
from qbert_core.errors import InputError
from qbert_core.tasks.base import Examples, Task

MAX_CHARACTERS = 20_000  # a field: more than any paragraph of SQuAD
SOURCE = "your text"
# a tokenizer cannot be set up by one thread while another one uses it
_TOKENIZING = threading.Lock()


def typed(task: Task, checkpoint: Checkpoint, fields: Mapping[str, str]) -> Examples:
    """One example from the text of each of the task's columns but the last, which is the answer; words
    of `tokens` are split at spaces.

    Its reference and targets are placeholders: nothing may be graded against them. Raises `InputError` for
    an empty field, one that is missing, and more than `MAX_CHARACTERS`.
    """
    row: dict[str, object] = {}
    for column in task.columns[:-1]:
        text = fields.get(column, "").strip()
        if not text:
            raise InputError(f"{column} is empty; type some text")
        if len(text) > MAX_CHARACTERS:
            raise InputError(f"{column} has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read")
        row[column] = text.split() if column == "tokens" else text
    with _TOKENIZING:
        return task.examples(pd.DataFrame([row | _unknown(task, row)]), checkpoint, SOURCE)


def _unknown(task: Task, row: Mapping[str, object]) -> dict[str, object]:
    """Something in the answer's place that every model has."""
    column = task.columns[-1]
    words = row.get("tokens")
    if isinstance(words, list):
        return {column: ["O"] * len(words)}
    return {column: {"text": [""], "answer_start": [0]} if column == "answers" else 0}
