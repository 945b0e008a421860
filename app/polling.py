"""Part of a page that is drawn again while something it shows is under way.

None of it ends the page's own run: what stands below, and the button in it that was pressed, would be left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import streamlit as st

from app import delivery, presses, runs, selection

delivery.keep_what_was_drawn()


def part(draw: Callable[[], None], every: float | None) -> None:
    """Draw now, and that part alone again `every` so many seconds and when something in it was used.

    After that the page runs where a layer was chosen in it, which is marked elsewhere, too; or where the part
    is left from a run of the page that was replaced, and shows what that one knew.
    """
    run = runs.this_run()

    @st.fragment(run_every=every)
    @wraps(draw)  # Streamlit names a fragment by its function, and two of one name at one place are one
    def drawn() -> None:
        if not runs.part_alone():
            draw()
            return
        pressed = presses.made()
        draw()
        if runs.parts_alone() == 1:  # of several, one that comes later may have the button
            presses.forget(pressed)
        if selection.changed() or runs.replaced(run):
            st.rerun()

    drawn()


def draw_until(
    done: Callable[[], bool], draw: Callable[[], None], every: float, *, behind: bool = False
) -> None:
    """Draw now; while not `done`, draw that part alone `every` so many seconds, and then run the page once.

    `behind`: the page was drawn without something that may have come since. Then it runs once more, too.

    That is looked at when the part is drawn, never before: a run that is left half-way forgets the button in
    it that was pressed meanwhile.
    """
    running = behind or not done()

    @wraps(draw)
    def drawn() -> None:
        draw()
        if running and runs.part_alone() and done():
            st.rerun()

    part(drawn, every if running else None)


def run_page_when(ready: Callable[[], bool], every: float) -> None:
    """Look `every` so many seconds whether what was missing when the page was drawn is `ready`; then run it."""

    @wraps(ready)
    def look() -> None:
        if runs.part_alone() and ready():
            st.rerun()

    part(look, every)
