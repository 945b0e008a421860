"""A page for a test: its second run stands still before it declares a part, until the third one is done."""

from __future__ import annotations

import time
from dataclasses import dataclass

import streamlit as st

from app import runs
from app.polling import draw_until
from app.presses import once

PATIENCE = 60  # seconds


@dataclass
class Done:
    """The last number of a run that came to its end; no yield point, as the session's state is."""

    number: int = 0


def further() -> None:
    st.session_state["number"] += 1


runs.begin()
done: Done = st.session_state.setdefault("done", Done())
number: int = st.session_state.setdefault("number", 1)
st.button("Further", on_click=once(further))
if number == 2:
    st.markdown("run 2 stands still")
    deadline = time.monotonic() + PATIENCE
    while done.number < 3 and time.monotonic() < deadline:
        time.sleep(0.01)


def part() -> None:
    st.markdown(f"part of run {number}")


draw_until(lambda: False, part, 0.1)
done.number = number
