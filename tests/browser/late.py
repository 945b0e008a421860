"""For the pages of tests: a request that is handled as late as where others stand in line before it."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.runtime.app_session import AppSession

PATIENCE = 5  # seconds
MOMENT = 0.3  # seconds


def handled_late(this: Callable[[BackMsg], object]) -> tuple[Event, Event]:
    """Two events: the next request that is one like `this` has come, and, to be set by the page: it is handled, a
    moment later."""
    handle = getattr(AppSession.handle_backmsg, "__wrapped__", AppSession.handle_backmsg)
    come, let = Event(), Event()

    def slowly(session: AppSession, message: BackMsg) -> None:
        if not come.is_set() and this(message):
            come.set()
            let.wait(PATIENCE)
            time.sleep(MOMENT)
        handle(session, message)

    slowly.__wrapped__ = handle  # type: ignore[attr-defined]
    AppSession.handle_backmsg = slowly  # type: ignore[method-assign]
    return come, let
