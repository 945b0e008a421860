"""Parts of a page that are drawn again, runs that are replaced, and the buttons pressed meanwhile."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from app import measured


def page_until() -> None:
    import streamlit as st

    from app.polling import draw_until

    drawn: list[bool] = []  # not done when the page comes to it, done when it was drawn
    draw_until(lambda: bool(drawn), lambda: drawn.append(True), 1000)
    if st.button("Below"):
        st.session_state["pressed"] = True


def page_when() -> None:
    import streamlit as st

    from app.polling import run_page_when

    run_page_when(lambda: True, 1000)
    if st.button("Below"):
        st.session_state["pressed"] = True


def test_a_part_that_is_done_while_the_page_is_drawn_does_not_swallow_the_button_below_it() -> None:
    for page in (page_until, page_when):
        at = AppTest.from_function(page, default_timeout=30).run()
        at.button[0].click().run()
        assert at.session_state["pressed"], page.__name__


def page_wants() -> None:
    import streamlit as st

    from app import runs
    from app.measured import want

    runs.begin()
    want("workspace", "first")
    st.session_state[runs.NEWEST] = runs.this_run() + 1  # as the next run does, in a thread of its own
    want("workspace", "late")


def test_a_run_that_was_replaced_wants_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plan would stay the session's wish, and the newer run's would never be measured."""
    wanted: list[str] = []

    class Wishes:
        def want(self, session: str, workspace: str, plan: str) -> None:
            wanted.append(plan)

    monkeypatch.setattr(measured, "live", Wishes)
    at = AppTest.from_function(page_wants, default_timeout=30).run()
    assert not at.exception
    assert wanted == ["first"]


def page_with_a_button_that_comes_and_goes() -> None:
    import streamlit as st

    from app import presses, runs

    runs.begin()
    waiting = presses.made()
    st.session_state.setdefault("acted", 0)
    hidden, disabled = st.checkbox("hidden"), st.checkbox("disabled")
    if not hidden and presses.pressed(st.button, "Act", key="act", disabled=disabled):
        st.session_state["acted"] += 1
    presses.forget(waiting)


def test_a_press_counts_once_and_only_for_a_button_that_is_there() -> None:
    at = AppTest.from_function(page_with_a_button_that_comes_and_goes, default_timeout=30).run()
    for box in (0, 1):
        at.button[0].click()
        at.checkbox[box].check().run()
        at.checkbox[box].uncheck().run()
        assert at.session_state["acted"] == 0, at.checkbox[box].label
    at.button[0].click().run()
    at.run()
    assert at.session_state["acted"] == 1
