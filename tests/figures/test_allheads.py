"""All heads of a layer at a glance: whose map is whose, the same colours as a head's own maps, a click's head."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.figures import WINDOW, Shown, all_heads, alt_text, attention_maps
from tests.figures.checks import check_figure, geometry, is_empty

SHOWN: tuple[Shown, ...] = ("fp32", "plan", "difference")


def maps(heads: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[float]]:
    random = np.random.default_rng(seed)
    before, after = (random.dirichlet(np.ones(size), (heads, size)) for _ in range(2))
    return before, after, list(random.random(heads))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize(("heads", "size"), [(2, 3), (12, 22), (16, 40)])
def test_a_map_a_head_with_the_colours_of_its_own_maps(
    dark: bool, shown: Shown, heads: int, size: int
) -> None:
    before, after, kl = maps(heads, size)
    figure = all_heads(before, after, kl, shown=shown, selected=1, dark=dark)
    check_figure(figure)
    small, cells = figure.data[:-1], min(size, WINDOW)
    assert [np.shape(one.z) for one in small] == [(cells, cells)] * heads
    own = attention_maps(before[0], after[0], ["t"] * size, plan="p", dark=dark).data[SHOWN.index(shown)]
    assert [(one.zmin, one.zmax, one.colorscale) for one in small] == [
        (own.zmin, own.zmax, own.colorscale)
    ] * heads
    np.testing.assert_allclose(small[0].z, own.z, atol=1e-4)
    assert f"{1 + int(np.argmax(kl))}, by" in alt_text(figure)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(1, 30), st.data())
def test_maps_do_not_touch_and_a_click_in_one_is_nearest_to_its_own_mark(
    heads: int, size: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, size - 1))
    figure = all_heads(*maps(heads, size), shown="plan", selected=0, dark=False, start=start)
    targets, corners = figure.data[-1], []
    for one in figure.data[:-1]:
        left, top = one.x0 - one.dx / 2, one.y0 - one.dy / 2
        corners.append((left, top))
        assert one.dx * len(one.z) == pytest.approx(1)
        for across in (0.02, 0.5, 0.98):
            point = np.array([left + across, top + 0.02])
            near = np.argmin([np.hypot(*(point - mark)) for mark in zip(targets.x, targets.y, strict=True)])
            assert targets.customdata[near][0] == len(corners) - 1
    for i, a in enumerate(corners):
        assert all(abs(a[0] - b[0]) > 1 or abs(a[1] - b[1]) > 1 for b in corners[i + 1 :])


def test_the_chosen_head_is_outlined_and_nothing_moves_with_the_data() -> None:
    one = all_heads(*maps(12, 5), shown="fp32", selected=7, dark=True)
    other = all_heads(*maps(12, 30, 1), shown="difference", selected=0, dark=False)
    assert geometry(one) == geometry(other)
    assert {(s.x0, s.y0) for s in one.layout.shapes} == {
        (one.data[7].x0 - one.data[7].dx / 2, one.data[7].y0 - one.data[7].dy / 2)
    }
    assert "<b>8</b>" in one.layout.annotations[7].text


def test_before_there_is_attention_it_says_what_to_do() -> None:
    empty = all_heads([], [], [], shown="fp32", selected=0, dark=False)
    assert is_empty(empty)
    assert (
        empty.layout.height
        == geometry(all_heads(*maps(6, 4), shown="fp32", selected=0, dark=False))["height"]
    )
