"""A page for a test: while its run says something in passing, the whole page is asked for anew."""

from __future__ import annotations

import time

import streamlit as st

from app import delivery
from tests.browser import late

delivery.keep_what_was_drawn()

st.button("Other")
if st.button("Say"):
    asked, said = late.handled_late(lambda _: True)
    st.markdown("about to speak")
    asked.wait(late.PATIENCE)
    # what is asked for is that the run stops, at what it draws next: but it does not know yet
    st.toast("in passing")
    said.set()
    time.sleep(1)
time.sleep(0.2)  # a browser that is told at once that a run is over shows nothing of the run before
st.markdown("at rest")
