"""A page for a test: it takes its time before it comes to a button, and counts how often that was pressed."""

from __future__ import annotations

import time

import streamlit as st

from app import presses, runs

SLOW = 0.8  # seconds

runs.begin()
waiting = presses.made()
st.session_state.setdefault("acted", 0)
st.button("Other")
time.sleep(SLOW)
if presses.pressed(st.button, "Act", key="act"):
    st.session_state["acted"] += 1
st.markdown(f"acted {st.session_state['acted']} times")
presses.forget(waiting)
