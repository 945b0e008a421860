"""How long a job still takes: right for even units, and not spoilt by units that were there before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.eta import Pace

seconds = st.floats(0.05, 1000.0)


@given(each=seconds, load=st.floats(0.0, 500.0), done=st.integers(2, 40), left=st.integers(0, 40))
def test_even_units_give_their_time_whatever_loading_took(
    each: float, load: float, done: int, left: int
) -> None:
    pace = Pace(0.0)
    for unit in range(done):
        pace.saw(load + each * (unit + 1), unit + 1)
    now = load + each * done
    assert pace.remaining(now, done + left) == pytest.approx(each * left)


@given(
    each=seconds, resumed=st.integers(1, 200), burst=st.integers(1, 50), done=st.integers(1, 8),
    left=st.integers(0, 40),
)  # fmt: skip
def test_units_from_the_store_do_not_count(
    each: float, resumed: int, burst: int, done: int, left: int
) -> None:
    """They come at once, one after the other or many in one report, before the first that is computed."""
    pace, now = Pace(0.0), 3.0
    for unit in range(0, resumed, burst):
        now += each / 1000
        pace.saw(now, min(unit + burst, resumed))
    for unit in range(done):
        now += each
        pace.saw(now, resumed + unit + 1)
    assert pace.remaining(now, resumed + done + left) == pytest.approx(each * left, rel=0.01)


def test_while_the_first_computed_unit_is_under_way_nothing_is_known() -> None:
    pace = Pace(0.0)
    assert pace.remaining(1.0, 100) is None
    for unit in range(50):
        pace.saw(5.0 + unit * 0.001, unit + 1)
    assert pace.remaining(8.0, 100) is None
    pace.saw(15.0, 51)
    assert pace.remaining(15.0, 100) == pytest.approx(49 * 10, rel=0.01)


def test_what_the_unit_under_way_has_taken_is_counted() -> None:
    pace = Pace(0.0)
    for unit in range(4):
        pace.saw(10.0 * (unit + 1), unit + 1)
    assert pace.remaining(44.0, 6) == pytest.approx(16)
    assert pace.remaining(55.0, 6) == pytest.approx(10), "longer than usual: the next ones are still to come"


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 50)), max_size=30), st.integers(0, 60))
def test_it_is_never_negative_whatever_is_reported(reports: list[tuple[float, int]], total: int) -> None:
    pace, now = Pace(0.0), 0.0
    for wait, done in reports:
        now += wait
        pace.saw(now, done)
        left = pace.remaining(now, total)
        assert left is None or left >= 0
