"""A page for a test: a part is asked for, and while the server turns to that, the page's run comes to its end."""

from __future__ import annotations

import time
from threading import Event

import streamlit as st
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.runtime.app_session import AppSession

from app import runs
from app.polling import draw_until

EVERY = 0.1  # seconds between requests for the part
asked, over = Event(), Event()  # of this run


def slowly(session: AppSession, message: BackMsg) -> None:
    """Handle the first request for the part as slowly as where others stand in line before it."""
    if message.rerun_script.fragment_id and not asked.is_set():
        asked.set()
        over.wait(5)
        time.sleep(0.3)  # the run has a moment to end
    handle(session, message)


handle = getattr(AppSession.handle_backmsg, "__wrapped__", AppSession.handle_backmsg)
slowly.__wrapped__ = handle  # type: ignore[attr-defined]

runs.begin()
st.button("Again")
number: int = st.session_state.setdefault("number", 0)
st.session_state["number"] += 1


def part() -> None:
    st.markdown("the part")


draw_until(lambda: False, part, EVERY)
AppSession.handle_backmsg = slowly if number else handle  # type: ignore[method-assign]
if number:
    asked.wait(5)
st.markdown(f"the end of run {number}")
over.set()
