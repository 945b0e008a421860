"""Which run of a page something comes from.

A page that is asked for anew runs in a thread of its own, while the run before, told to stop, goes on until it
next sends something. What that one still declares takes the place of what the newer run declared there.
"""

from __future__ import annotations

import threading
from itertools import count

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

NEWEST = "newest run"

_numbers = count(1)
_of_thread = threading.local()


def begin() -> None:
    """Note that a run of the page begins, in this thread."""
    _of_thread.number = st.session_state[NEWEST] = next(_numbers)


def this_run() -> int:
    """The number of the run that asks; a part drawn alone belongs to the newest. 0 where none began, as in a
    test of one page alone."""
    return int(st.session_state.get(NEWEST, 0)) if part_alone() else getattr(_of_thread, "number", 0)


def replaced(run: int) -> bool:
    """Whether another run of the page has begun since that one."""
    return bool(run != st.session_state.get(NEWEST, 0))


def part_alone() -> bool:
    """Whether only a part of the page is drawn, not all of it."""
    return parts_alone() > 0


def parts_alone() -> int:
    """How many parts of the page are drawn in this run, one after the other; 0 where all of it is."""
    context = get_script_run_ctx()
    return len(context.fragment_ids_this_run or ()) if context is not None else 0
