"""Part of a page that is drawn again while something it shows is under way.

None of it ends the page's own run: what stands below, and the button in it that was pressed, would be left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import streamlit as st

from app import selection


def draw_until(done: Callable[[], bool], draw: Callable[[], None], every: float) -> None:
    """Draw now; while not `done`, draw that part alone `every` so many seconds, and then run the page once.

    The page runs too when a layer is chosen in that part: the same layer is marked elsewhere. Both are
    looked at when the part is drawn, never before: a run that is left half-way forgets the button in it
    that was pressed meanwhile.
    """
    running, of_page = not done(), True

    @st.fragment(run_every=every if running else None)
    @wraps(draw)  # Streamlit names a fragment by its function, and two of one name at one place are one
    def drawn() -> None:
        nonlocal of_page
        draw()
        if not of_page and (selection.changed() or (running and done())):
            st.rerun()
        of_page = False

    drawn()


def run_page_when(ready: Callable[[], bool], every: float) -> None:
    """Look `every` so many seconds whether what was missing when the page was drawn is `ready`; then run it."""
    of_page = True

    @st.fragment(run_every=every)
    @wraps(ready)
    def look() -> None:
        nonlocal of_page
        if not of_page and ready():
            st.rerun()
        of_page = False

    look()
