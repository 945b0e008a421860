"""A page for a test: a part is asked for, and while the server turns to that, the page's run comes to its end."""

from __future__ import annotations

import streamlit as st

from app import runs
from app.polling import draw_until
from tests.browser import late

EVERY = 0.1  # seconds between requests for the part

runs.begin()
st.button("Again")
number: int = st.session_state.setdefault("number", 0)
st.session_state["number"] += 1


def part() -> None:
    st.markdown("the part")


draw_until(lambda: False, part, EVERY)
if number:
    asked, over = late.handled_late(lambda message: message.rerun_script.fragment_id)
    asked.wait(late.PATIENCE)
    over.set()  # before the end: the run is over within the moment
st.markdown(f"the end of run {number}")
