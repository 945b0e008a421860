"""The examples whose answer a plan changes, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd

from app.csvs import csv_text
from app.items import Item, answer_text, item_of, plan_column
from app.words import WORDS
from app.workspace import Workspace
from qbert_core.evaluation import Evaluation, Flip

WRONG, RIGHT, OTHER = "became wrong", "became right", "otherwise"
CHANGES = (WRONG, RIGHT, OTHER)


def change_of(flip: Flip) -> str:
    """Whether the answer became wrong, became right, or is another one that is as right as before."""
    if flip.was_right != flip.is_right:
        return WRONG if flip.was_right else RIGHT
    return OTHER


def counts(flips: Sequence[Flip]) -> dict[str, int]:
    """How many of each change."""
    found = Counter(map(change_of, flips))
    return {change: found[change] for change in CHANGES}


def chosen_flips(
    workspace: Workspace,
    flips: Sequence[Flip],
    *,
    change: str | None = None,
    text: str = "",
    kind: tuple[Sequence[str], str] | None = None,
) -> list[Flip]:
    """Those of one change, with `text` anywhere in them (any case), and of one kind: the kinds of all
    examples, and the one."""
    found = [flip for flip in flips if change is None or change_of(flip) == change]
    if kind is not None:
        kinds, name = kind
        found = [flip for flip in found if kinds[flip.index] == name]
    wanted = text.strip().lower()
    if wanted:
        found = [flip for flip in found if _contains(item_of(workspace, flip.index), wanted)]
    return found


def _contains(item: Item, wanted: str) -> bool:
    return any(wanted in text.lower() for text in item.texts.values())


def flip_table(workspace: Workspace, flips: Sequence[Flip], plan: str, before: str = "fp32") -> pd.DataFrame:
    """A row a flip, as the page shows it: number, text, the three answers, change. `before` and `plan` name
    the two models."""
    unit = WORDS[workspace.task.name].one.capitalize()
    plan = plan_column(plan, "Row", unit, "Right", before, "Change")
    rows = []
    for flip in flips:
        item = item_of(workspace, flip.index)
        answers = {
            "Right": answer_text(workspace, item, item.reference),
            before: answer_text(workspace, item, flip.before),
            plan: answer_text(workspace, item, flip.after),
        }
        rows.append({"Row": flip.index + 1, unit: item.line, **answers, "Change": change_of(flip)})
    return pd.DataFrame(rows, columns=["Row", unit, "Right", before, plan, "Change"])


def flip_csv(workspace: Workspace, result: Evaluation, kinds: Mapping[str, Sequence[str]]) -> str:
    """Every flip with its whole texts and kinds, as CSV; `row` counts from 1 as on the page."""
    rows = []
    for flip in result.flips:
        item = item_of(workspace, flip.index)
        answers = (item.reference, flip.before, flip.after)
        right, before, after = (answer_text(workspace, item, answer, whole=True) for answer in answers)
        own = [values[flip.index] for name, values in kinds.items() if name != "label"]
        rows.append([flip.index + 1, change_of(flip), *item.texts.values(), right, before, after, *own])
    names = list(item_of(workspace, 0).texts)
    columns = ["row", "change", *names, "right", "fp32", "plan", *(k for k in kinds if k != "label")]
    return csv_text(columns, rows)
