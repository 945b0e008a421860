"""One example as people read it, whether it is a row of the data or was typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.words import WORDS
from app.workspace import Workspace
from qbert_core.tasks.columns import lists
from qbert_core.tasks.entities import entities

LINE = 96  # characters of an example where it must fit one line


@dataclass(frozen=True)
class Item:
    """`texts` by column, and the `words` of a sentence that is tagged; `reference` as in
    `Examples.references`, None where nobody knows it."""

    texts: Mapping[str, str]
    words: tuple[str, ...] = ()
    reference: Any = None

    @property
    def line(self) -> str:
        """All of it in one short line; of a question's paragraph nothing."""
        shown = {name: text for name, text in self.texts.items() if name != "context"}
        return shortened(" / ".join(shown.values()))


def item_of(workspace: Workspace, example: int | Mapping[str, str]) -> Item:
    """A row of the workspace's data, or what was typed."""
    if not isinstance(example, int):
        return Item(example, tuple(example.get("tokens", "").split()))
    rows = workspace.examples.rows
    columns = [field.column for field in WORDS[workspace.task.name].fields]
    words = tuple(lists(rows.iloc[[example]], "tokens", "")[0]) if "tokens" in columns else ()
    texts = {column: " ".join(words) if words else str(rows[column].iloc[example]) for column in columns}
    return Item(texts, words, workspace.examples.references[example])


def shortened(text: str, most: int = LINE) -> str:
    """`text` in one line of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def answer_text(workspace: Workspace, item: Item, answer: Any, *, whole: bool = False) -> str:
    """A prediction or reference in words: a label's name; a sentence's entities, or with `whole` its tags;
    the text of an answer, or of all that are right."""
    if workspace.task.head == "sequence":
        return workspace.examples.labels[answer]
    if workspace.task.head == "question":
        return answer if isinstance(answer, str) else " / ".join(dict.fromkeys(answer))
    if whole:
        return " ".join(answer)
    found = sorted(entities(answer), key=lambda entity: entity[1])
    return ", ".join(f"{' '.join(item.words[first : last + 1])} {kind}" for kind, first, last in found)


def plan_column(plan: str, *taken: str) -> str:
    """The plan's name as the head of a column: people name plans as they like, also as another column."""
    return f"{plan} (plan)" if plan in taken or not plan.strip() else plan
