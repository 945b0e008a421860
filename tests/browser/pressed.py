"""A page for a test: it counts presses, and a part of it is drawn again and again."""

from __future__ import annotations

import streamlit as st

from app import runs
from app.polling import draw_until
from app.presses import once

EVERY = 0.05  # seconds


def count() -> None:
    st.session_state["presses"] += 1


def told() -> None:
    st.markdown(f"pressed {st.session_state['presses']} times")


runs.begin()
st.session_state.setdefault("presses", 0)
st.button("Press", on_click=once(count))
draw_until(lambda: False, told, EVERY)
