"""What the tables of page Bits send: numbered edits, each taken once, whatever is sent again or comes late."""

from __future__ import annotations

from dataclasses import dataclass

MOST = 1000  # edits in one message; a person makes a few before the server answers


@dataclass(frozen=True)
class Edit:
    """One thing a person did. `kind`: a cell of the row-th "layer" or "table", or "undo" and "redo"."""

    number: int
    kind: str
    row: int
    column: str
    value: object


def new_edits(sent: object, token: str, seen: int) -> list[Edit]:
    """The edits of a message with a number above `seen`, in the order of their numbers.

    `sent` comes from a browser and may be anything. What was made in another session or for another model
    has another `token`: nothing of it counts. A browser sends its last message again with everything it asks
    for, and after the server came back.
    """
    if not isinstance(sent, dict) or sent.get("token") != token or not isinstance(sent.get("edits"), list):
        return []
    found = [edit for item in sent["edits"][:MOST] if (edit := _edit(item)) and edit.number > seen]
    return sorted({edit.number: edit for edit in found}.values(), key=lambda edit: edit.number)


def _edit(item: object) -> Edit | None:
    if not isinstance(item, list) or len(item) != 5:
        return None
    number, kind, row, column, value = item
    if type(number) is not int or type(row) is not int or row < 0:
        return None
    if not isinstance(kind, str) or not isinstance(column, str):
        return None
    return Edit(number, kind, row, column, value)
