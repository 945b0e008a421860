"""A page for a test: two parts that are asked for again and again while others are drawn, so that they are drawn in
one run. Which comes first is a matter of chance."""

from __future__ import annotations

import time

import streamlit as st

from app import presses, runs
from app.polling import draw_until

EVERY = 0.1  # seconds between requests for a part
SLOW = 0.2  # seconds

runs.begin()


def part(name: str) -> None:
    if runs.part_alone():
        time.sleep(SLOW)
    st.session_state.setdefault(name, 0)
    if presses.pressed(st.button, name, key=f"act-{name}"):
        st.session_state[name] += 1
    st.markdown(f"{name}: {st.session_state[name]} times")


def left() -> None:
    part("Left")


def right() -> None:
    part("Right")


draw_until(lambda: False, left, EVERY)
draw_until(lambda: False, right, EVERY)
