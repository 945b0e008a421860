"""A page for a test: files to take while it is drawn, and while a part of it is drawn again and again."""

from __future__ import annotations

import time

import streamlit as st

from app import downloads, runs
from app.polling import draw_until
from tests.browser import late

EVERY = 0.05  # seconds between requests for the part
SLOW = 2.0  # seconds

downloads.keep_files_for_those_who_ask()
runs.begin()
number: int = st.session_state.setdefault("number", 0)
st.session_state["number"] += 1


def part() -> None:
    st.markdown("the part")


draw_until(lambda: False, part, EVERY)
late_one, slow_one = st.button("Late"), st.button("Slow")
st.markdown(f"run {number} is under way")
if slow_one:
    time.sleep(SLOW)
if late_one:
    asked, drawn = late.handled_late(lambda message: message.HasField("backend_operation_request"))
    asked.wait(late.PATIENCE)
st.download_button("Made", lambda: f"made by run {number}", "made.txt", on_click="ignore", key="made")
st.download_button("Drawn", "drawn", "drawn.txt", on_click="ignore", key="drawn")
if late_one:
    drawn.set()
st.markdown(f"the end of run {number}")
