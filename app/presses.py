"""Presses of buttons, kept until a run of the page has come by the button.

Streamlit tells of a press in one run alone. Where that run is stopped before it comes to the button, because
something else was used, the press is forgotten; and where the run before ends a moment later, it resets what was
pressed. A callback is called at once, so it notes the press for whichever run comes by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import streamlit as st

from app import runs

PRESSES = "presses that wait"


def pressed(button: Callable[..., object], label: str, *, key: str, **look: Any) -> bool:
    """Draw a button, and say whether it was pressed since it was drawn last.

    `button`: `st.button`, that of a container, or `st.form_submit_button`; `look`: its other arguments.
    """
    button(label, key=key, on_click=_note, args=(key,), **look)
    return _kept().pop(key, None) is not None and not look.get("disabled")


def once(press: Callable[..., None]) -> Callable[..., None]:
    """The `on_click` of a button of the page, in no part: `press`, once for every press.

    A browser sends a press a moment after the click. What it asks for in between, to draw a part again, has the
    press with it, too.
    """

    @wraps(press)
    def pressed(*arguments: Any) -> None:
        if not runs.part_alone():
            press(*arguments)

    return pressed


def made() -> dict[str, object]:
    """The presses that wait for a button, by its key."""
    return dict(_kept())


def forget(presses: Mapping[str, object]) -> None:
    """Forget these: a run that has come to its end has not drawn their buttons. A later press stays."""
    kept = _kept()
    for key, press in presses.items():
        if kept.get(key) is press:
            del kept[key]


def _note(key: str) -> None:
    _kept()[key] = object()


def _kept() -> dict[str, object]:
    presses: dict[str, object] = st.session_state.setdefault(PRESSES, {})
    return presses
