"""What the tables of page Bits send: every edit taken once and in order, whatever a browser sends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import state
from app.plantable import Edit, new_edits
from app.plantable.edits import MOST
from app.views import bits
from app.workspace import Workspace

TOKEN = "session model"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=3),
)


def message(edits: list[Any], token: str = TOKEN) -> dict[str, Any]:
    return {"token": token, "edits": edits}


def item(number: int, kind: str = "layer", row: int = 0, column: str = "FFN", value: Any = "2") -> list[Any]:
    return [number, kind, row, column, value]


@given(st.data())
def test_every_edit_is_taken_once_and_in_order(data: st.DataObject) -> None:
    """A browser as it may behave: edits pile up until an answer tells which were taken; answers come late or
    never, and messages come again."""
    pending: list[list[Any]] = []
    sent: list[dict[str, Any]] = [message([])]
    taken: list[int] = []
    seen = made = 0
    for step in data.draw(st.lists(st.sampled_from(["edit", "answer", "again"]), max_size=40)):
        if step == "edit":
            made += 1
            pending = [*pending, item(made)]
            sent.append(message(pending))
        elif step == "answer":  # of any earlier moment
            known = data.draw(st.integers(0, seen))
            pending = [edit for edit in pending if edit[0] > known]
            continue
        else:
            sent.append(data.draw(st.sampled_from(sent)))
        arrives = json.loads(json.dumps(sent[-1]))
        for edit in new_edits(arrives, TOKEN, seen):
            taken.append(edit.number)
            seen = edit.number
    assert taken == list(range(1, made + 1))


def test_what_it_says_is_what_was_done() -> None:
    sent = message([item(4, row=2, value="fp32"), item(5, "undo", 0, "", None)])
    assert new_edits(sent, TOKEN, 3) == [Edit(4, "layer", 2, "FFN", "fp32"), Edit(5, "undo", 0, "", None)]
    assert new_edits(sent, TOKEN, 4) == [Edit(5, "undo", 0, "", None)]
    assert new_edits(sent, TOKEN, 5) == []


def test_another_session_s_or_model_s_edits_do_not_count() -> None:
    """A server that was started again is sent what its predecessor had taken."""
    assert new_edits(message([item(1)], "session another"), TOKEN, 0) == []


@pytest.mark.parametrize(
    "wrong",
    [
        item(True), item(1.0), item("1"), item(1, kind=3), item(1, row=-1), item(1, row=None), item(1, column=None),
        [], [1], item(1)[:4], [*item(1), 0], {"number": 1}, None, "edit",
    ],
)  # fmt: skip
def test_what_is_no_edit_is_left_out_and_the_rest_is_taken(wrong: Any) -> None:
    assert new_edits(message([wrong, item(2)]), TOKEN, 0) == [Edit(2, "layer", 0, "FFN", "2")]


@given(JSON, st.integers(0, 5))
def test_any_message_is_survived(sent: Any, seen: int) -> None:
    for anything in (sent, message(sent), message([sent, item(9)])):
        assert all(edit.number > seen for edit in new_edits(anything, TOKEN, seen))


def test_a_message_without_end_is_cut_off() -> None:
    assert len(new_edits(message([item(n) for n in range(1, 3 * MOST)]), TOKEN, 0)) == MOST


def test_what_is_wrong_with_an_edit_is_said_by_the_next_run_when_one_is_stopped(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = state.Tuning("w", workspace.start, refused=["one", "two"])
    said: list[str] = []

    class Stopped(BaseException):
        pass

    def toast(text: str, icon: str) -> None:
        if said == ["one"] and stops:
            stops.pop()
            raise Stopped
        said.append(text)

    stops = [1]
    monkeypatch.setattr(bits.st, "toast", toast)
    with pytest.raises(Stopped):
        bits._say_refused(current)
    bits._say_refused(current)
    assert said == ["one", "two"]
    assert current.refused == []
