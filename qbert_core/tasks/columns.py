"""Check a table's columns before anything is tokenised."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from qbert_core.errors import InputError


def require_columns(table: pd.DataFrame, columns: Sequence[str], source: str) -> None:
    """Raise `InputError` naming the missing columns and those found, or an empty table."""
    missing = [c for c in columns if c not in table.columns]
    if missing:
        found = ", ".join(map(str, table.columns[:20])) or "none"
        raise InputError(f"{source}: column {', '.join(missing)} is missing; found: {found}")
    if table.empty:
        raise InputError(f"{source}: no rows; expected at least one with {', '.join(columns)}")


def texts(table: pd.DataFrame, column: str, source: str) -> list[str]:
    """The column as text; `InputError` names the first row that is none."""
    values = table[column].tolist()
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise InputError(f"{source}: row {row + 1}: {column} is {value!r}, expected text")
    return values


def class_ids(labels: pd.Series, names: Sequence[str], source: str) -> list[int]:
    """Labels as class ids 0..n-1, given as numbers or by the model's label names (any case).

    Raises `InputError` naming the first row whose label the model does not have.
    """
    by_name = {name.lower(): i for i, name in enumerate(names)}
    by_name |= {str(i): i for i in range(len(names))}
    ids = []
    for row, value in enumerate(labels.tolist()):
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        label = by_name.get(text.strip().lower())
        if label is None:
            known = ", ".join(f"{i} ({name})" for i, name in enumerate(names))
            raise InputError(f"{source}: row {row + 1}: label {value!r} is not one of the model's: {known}")
        ids.append(label)
    return ids
