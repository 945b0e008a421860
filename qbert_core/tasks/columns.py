"""Check a table's columns before anything is tokenised."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from qbert_core.errors import InputError
from qbert_core.jsonfile import printable

MAX_TEXT = 100_000  # characters of a text; the longest paragraph of SQuAD has 4,000
MAX_WORDS = 100_000  # entries of a list; the longest sentence of CoNLL-03 has 124 words


def require_columns(table: pd.DataFrame, columns: Sequence[str], source: str) -> None:
    """Raise `InputError` naming the missing columns and those found, or an empty table."""
    missing = [c for c in columns if c not in table.columns]
    if missing:
        found = ", ".join(printable(str(c), 40) for c in table.columns[:20]) or "none"
        raise InputError(f"{source}: column {', '.join(missing)} is missing; found: {found}")
    if table.empty:
        raise InputError(f"{source}: no rows; expected at least one with {', '.join(columns)}")


def texts(table: pd.DataFrame, column: str, source: str) -> list[str]:
    """The column as text; `InputError` names the first row that is none."""
    values = table[column].tolist()
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise InputError(f"{source}: row {row + 1}: {column} is {shown(value)}, expected text")
        check_text(value, f"{source}: row {row + 1}: {column}")
    return values


def check_text(text: str, where: str) -> None:
    """Raise `InputError` for a text too long to be an example, and for one that has no encoding."""
    if len(text) > MAX_TEXT:
        raise InputError(f"{where} has {len(text):,} characters, {MAX_TEXT:,} are allowed")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(f"{where} holds half a character (a lone surrogate)") from None


def class_ids(labels: pd.Series, names: Sequence[str], source: str, usual: Sequence[str] = ()) -> list[int]:
    """Labels as the model's class ids 0..n-1, given by the model's label names (any case) or as numbers.

    A number means the place in `usual`, the data's own order, where the model has just those names,
    maybe in another order; the model's own id where its names say nothing (LABEL_0).
    Raises `InputError` naming the first row whose label the model does not have.
    """
    by_name = {name.lower(): i for i, name in enumerate(names)}
    order = [name.lower() for name in usual]
    numbered = order if sorted(order) == sorted(by_name) else list(by_name)
    ids_of = by_name | {str(i): by_name[name] for i, name in enumerate(numbered)}
    ids = []
    for row, value in enumerate(labels.tolist()):
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        label = ids_of.get(text.strip().lower())
        if label is None:
            known = ", ".join(f"{i} ({names[by_name[name]]})" for i, name in enumerate(numbered[:20]))
            known += ", .." if len(numbered) > 20 else ""
            raise InputError(
                f"{source}: row {row + 1}: label {shown(value)} is not one of the model's: {known}"
            )
        ids.append(label)
    return ids


def lists(table: pd.DataFrame, column: str, source: str) -> list[list[Any]]:
    """A column of lists; in text files, a JSON list or words between spaces. `InputError` names the first
    row that is none."""
    found = []
    for row, value in enumerate(table[column].tolist()):
        made = parse_json(value) if isinstance(value, str) and value.lstrip().startswith("[") else value
        if isinstance(made, str):
            made = made.split()
        if isinstance(made, np.ndarray | tuple):
            made = list(made)
        if not isinstance(made, list):
            raise InputError(
                f"{source}: row {row + 1}: {column} is {shown(value)}, expected a list, one entry a word"
            )
        if len(made) > MAX_WORDS:
            raise InputError(
                f"{source}: row {row + 1}: {column} has {len(made):,} entries, {MAX_WORDS:,} are allowed"
            )
        for entry in made:
            if isinstance(entry, str):
                check_text(entry, f"{source}: row {row + 1}: {column}")
        found.append(made)
    return found


def parse_json(text: str) -> Any:
    """The JSON value in a text column; None where it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def shown(value: object) -> str:
    """A value of a table in an error message, short and in one line."""
    return printable(f"{value!r:.60}".replace("\n", " "))
