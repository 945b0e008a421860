"""Columns of the data that sort its examples into a few kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from app.workspace import Workspace
from qbert_core.evaluation import Evaluation, accuracy_by

MOST = 20  # different values of a column that makes kinds
EMPTY = "(empty)"


@dataclass(frozen=True)
class Kind:
    """Examples of one kind: how many, and the share fp32 and the plan have right, with Wilson's 95 %
    intervals."""

    name: str
    n: int
    before: float
    before_interval: tuple[float, float]
    after: float
    after_interval: tuple[float, float]


def kind_columns(workspace: Workspace) -> dict[str, list[str]]:
    """Column -> the kind of every example, for columns with 2 to `MOST` values; labels by their names come
    last, because every table has them."""
    rows, found = workspace.examples.rows, {}
    for column in rows.columns:
        if column in workspace.task.columns:
            continue
        kinds = _kinds(rows[column])
        if kinds is not None:
            found[str(column)] = kinds
    if workspace.task.head == "sequence":
        labels = workspace.examples.labels
        named = [labels[reference] for reference in workspace.examples.references]
        if len(set(named)) > 1:
            found["label"] = named
    return found


def _kinds(values: pd.Series) -> list[str] | None:
    try:
        few = 1 < values.nunique(dropna=False) <= MOST
    except TypeError:  # lists and the like
        return None
    return [EMPTY if pd.isna(v) or v == "" else str(v) for v in values.tolist()] if few else None


def right_by_kind(result: Evaluation, kinds: Sequence[str]) -> list[Kind]:
    """The share of right answers of each kind, by name, over the examples measured so far."""
    names = [kinds[index] for index in result.indices]
    sides = [
        accuracy_by(names, [bool(right) for right in grades[:, 0] == 1])
        for grades in (result.baseline_grades, result.grades)
    ]
    return [
        Kind(before.name, before.n, before.accuracy, before.interval, after.accuracy, after.interval)
        for before, after in zip(*sides, strict=True)
    ]
