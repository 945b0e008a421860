"""A page for a test: its run comes to its end with all of a part still to deliver, and a request for the part
already there."""

from __future__ import annotations

import time

import streamlit as st
from streamlit.runtime import get_instance

from app import runs
from app.polling import draw_until

EVERY = 0.1  # seconds between requests for the part


def stand_still(seconds: float) -> None:
    """Have the server neither hear nor say anything for so long, while the page goes on."""
    get_instance()._get_async_objs().eventloop.call_soon_threadsafe(time.sleep, seconds)


runs.begin()
st.button("Again")
number: int = st.session_state.setdefault("number", 0)
st.session_state["number"] += 1


def part() -> None:
    if runs.part_alone():
        time.sleep(6 * EVERY)  # long enough to see what is not there
    st.selectbox("Letter", ["a", "b"], key="letter")
    st.markdown(f"part of run {number}")


if number:
    stand_still(4 * EVERY)  # the browser knows nothing of this run yet, and asks for the part
    time.sleep(8 * EVERY)  # it is heard
    stand_still(3 * EVERY)  # nothing is delivered before the part is drawn anew
draw_until(lambda: False, part, EVERY)
