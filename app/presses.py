"""Presses of buttons, kept until a run of the page has come by the button.

Streamlit tells of a press in one run alone. Where that run is stopped before it comes to the button, because
something else was used, the press is forgotten; and where the run before ends a moment later, it resets what was
pressed. A callback is called at once, so it notes the press for whichever run comes by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import streamlit as st

PRESSES = "presses that wait"

_numbers = count(1)


def pressed(button: Callable[..., object], label: str, *, key: str, **look: Any) -> bool:
    """Draw a button, and say whether it was pressed since it was drawn last.

    `button`: `st.button`, that of a container, or `st.form_submit_button`; `look`: its other arguments.
    """
    button(label, key=key, on_click=_note, args=(key,), **look)
    return _kept().pop(key, None) is not None and not look.get("disabled")


def made() -> dict[str, int]:
    """The presses that wait for a button: its key -> a number of this press."""
    return dict(_kept())


def forget(presses: Mapping[str, int]) -> None:
    """Forget these: a run that has come to its end has not drawn their buttons. A later press stays."""
    kept = _kept()
    for key, number in presses.items():
        if kept.get(key) == number:
            del kept[key]


def _note(key: str) -> None:
    _kept()[key] = next(_numbers)


def _kept() -> dict[str, int]:
    presses: dict[str, int] = st.session_state.setdefault(PRESSES, {})
    return presses
