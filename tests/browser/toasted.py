"""A page for a test: while its run says something in passing, the whole page is asked for anew."""

from __future__ import annotations

import time
from threading import Event

import streamlit as st
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.runtime.app_session import AppSession

from app import delivery

delivery.keep_what_was_drawn()
asked, said = Event(), Event()  # of this run


def slowly(session: AppSession, message: BackMsg) -> None:
    """Handle the next request as slowly as where others stand in line before it."""
    if not asked.is_set():
        asked.set()
        said.wait(5)
        time.sleep(0.3)
    handle(session, message)


handle = getattr(AppSession.handle_backmsg, "__wrapped__", AppSession.handle_backmsg)
slowly.__wrapped__ = handle  # type: ignore[attr-defined]

st.button("Other")
if st.button("Say"):
    AppSession.handle_backmsg = slowly  # type: ignore[method-assign]
    st.markdown("about to speak")
    asked.wait(5)
    AppSession.handle_backmsg = handle  # type: ignore[method-assign]
    # what is asked for is that the run stops, at what it draws next: but it does not know yet
    st.toast("in passing")
    said.set()
    time.sleep(1)
time.sleep(0.2)  # a browser that is told at once that a run is over shows nothing of the run before
st.markdown("at rest")
