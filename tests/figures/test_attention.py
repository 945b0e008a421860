"""A head's maps and the methods' lines: fixed scales, a window of tokens, honest ends."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.figures import WINDOW, LayerKL, alt_text, attention_maps, kl_by_layer
from app.figures.methods import KL_HIGH, KL_LOW
from app.figures.palette import colours_for
from tests.figures.checks import check_figure, geometry, is_empty, trace

DARK = pytest.mark.parametrize("dark", [False, True])


def uniform(size: int) -> list[list[float]]:
    return [[1 / size] * size for _ in range(size)]


def identity(size: int) -> list[list[float]]:
    return np.eye(size).tolist()


def named(size: int) -> list[str]:
    return ["[CLS]", *(f"word{i}" for i in range(size - 2)), "[SEP]"][:size]


@DARK
@pytest.mark.parametrize("size", [2, 9, 22, 23, 128])
def test_three_maps_over_at_most_a_window_of_tokens(dark: bool, size: int) -> None:
    figure = attention_maps(identity(size), uniform(size), named(size), plan="qbert-4", dark=dark)
    check_figure(figure)
    shown = min(size, WINDOW)
    assert len(figure.data) == 3
    for made in figure.data:
        assert np.shape(made.z) == (shown, shown)
    assert list(figure.layout.yaxis.ticktext) == named(size)[:shown]
    for axis in ("xaxis", "xaxis2", "xaxis3"):
        assert list(figure.layout[axis].ticktext) == named(size)[:shown]
        assert figure.layout[axis].fixedrange
    domains = [figure.layout[axis].domain for axis in ("xaxis", "xaxis2", "xaxis3")]
    assert all(a[1] < b[0] for a, b in pairwise(domains))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 60), st.data())
def test_the_difference_is_the_plans_minus_fp32s_of_the_tokens_shown(size: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, size - 1))
    generator = np.random.default_rng(size)
    before, after = generator.dirichlet(np.ones(size), size), generator.dirichlet(np.ones(size), size)
    figure = attention_maps(before, after, named(size), plan="p", dark=False, start=start)
    window = slice(start, start + WINDOW)
    for made, expected in zip(figure.data, (before, after, after - before), strict=True):
        np.testing.assert_allclose(made.z, expected[window, window])
    assert (
        geometry(figure)["margin"]
        == geometry(attention_maps([[1.0]], [[1.0]], ["a"], plan="p", dark=True))["margin"]
    )


@DARK
def test_scales_are_fixed_and_colours_are_the_palettes(dark: bool) -> None:
    colours = colours_for(dark)
    for size in (3, 30):
        maps = attention_maps(uniform(size), identity(size), named(size), plan="p", dark=dark).data
        assert [(made.zmin, made.zmax) for made in maps] == [(0, 1), (0, 1), (-1, 1)]
        for made, expected in zip(maps, (colours.bits[:-1], colours.bits[:-1], colours.order), strict=True):
            places = [place for place, _ in made.colorscale]
            assert places[0] == 0
            assert places[-1] == 1
            assert places == sorted(places)
            assert [colour for _, colour in made.colorscale] == list(expected)
        middle = {round(place, 9): colour for place, colour in maps[2].colorscale}
        assert middle[0.5] == colours.order[len(colours.order) // 2], "no difference has the page's grey"


def test_a_long_token_is_short_on_the_axis_and_whole_when_touched() -> None:
    tokens = ["[CLS]", "<b>incomprehensibilities", "[SEP]"]
    figure = attention_maps(identity(3), uniform(3), tokens, plan="<i>p", dark=False)
    label = figure.layout.yaxis.ticktext[1]
    assert "<b>" not in label
    assert len(label.replace("&lt;", "<").replace("&gt;", ">")) == 12
    assert "&lt;b&gt;incomprehensibilities" in figure.data[0].customdata[1][0][0]
    assert "<i>" not in figure.to_json().replace("\\u003c", "<")


def test_the_text_says_the_largest_difference() -> None:
    figure = attention_maps(
        [[1.0, 0.0], [0.5, 0.5]], [[0.9, 0.1], [0.1, 0.8]], ["a", "b"], plan="p", dark=False
    )
    assert "the largest difference, 0.400, is how much “b” looks at “a”" in alt_text(figure)


@DARK
def test_before_a_sentence_is_chosen_it_says_so_in_the_same_height(dark: bool) -> None:
    empty = attention_maps([], [], [], plan="p", dark=dark)
    assert is_empty(empty)
    check_figure(empty)
    assert empty.layout.height == attention_maps([[1.0]], [[1.0]], ["a"], plan="p", dark=dark).layout.height


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.floats(0, 100), min_size=6, max_size=6), st.lists(st.floats(0, 1e-3), min_size=6, max_size=6)
)
def test_the_methods_axis_never_moves_and_zero_is_drawn_at_its_end(
    one: list[float], two: list[float]
) -> None:
    figure = kl_by_layer([LayerKL("qbert-4", one), LayerKL("directq-4", two)], layers=6, dark=False)
    check_figure(figure)
    assert geometry(figure) == geometry(kl_by_layer([LayerKL("x", [1.0] * 6)], layers=6, dark=True))
    low, high = (10**end for end in figure.layout.yaxis.range)
    for line in figure.data:
        assert all(low < KL_LOW <= value <= KL_HIGH < high for value in line.y)


def test_a_method_keeps_its_colour_while_the_other_is_missing() -> None:
    both = kl_by_layer([LayerKL("qbert-4", [0.1]), LayerKL("directq-4", [0.2])], layers=1, dark=False)
    late = kl_by_layer([LayerKL("qbert-4", []), LayerKL("directq-4", [0.2])], layers=1, dark=False)
    assert trace(both, "directq-4").line.color == trace(late, "directq-4").line.color
    assert trace(both, "qbert-4").line.color != trace(both, "directq-4").line.color
    assert trace(both, "qbert-4").marker.symbol != trace(both, "directq-4").marker.symbol
    assert is_empty(kl_by_layer([LayerKL("qbert-4", [])], layers=1, dark=False))
    assert math.isclose(trace(both, "qbert-4").y[0], 0.1)
