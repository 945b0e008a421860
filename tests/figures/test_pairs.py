"""Two plans in one picture, and whose attention is further from fp32's."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.figures import bits_pair, kl_difference
from app.figures.heatmap import KL_CEILING, KL_FLOOR
from app.figures.palette import colours_for
from tests.figures.checks import check_figure, geometry, is_empty
from tests.figures.test_bits import plan

DARK = pytest.mark.parametrize("dark", [False, True])


@DARK
@pytest.mark.parametrize("layers", [1, 6, 12, 24])
def test_a_pair_has_every_cell_twice(dark: bool, layers: int) -> None:
    figure = bits_pair(plan(layers), plan(layers, 2), dark=dark)
    check_figure(figure)
    assert [trace.name for trace in figure.data] == ["A", "B"]
    assert [len(trace.x) for trace in figure.data] == [3 + 2 * layers] * 2
    assert list(figure.data[0].x) == list(figure.data[1].x)
    assert all(a > b for a, b in zip(figure.data[0].base, figure.data[1].base, strict=True)), "A is above B"


def test_only_what_differs_is_outlined_bold_and_in_full_colour() -> None:
    one = plan(3)
    other = [replace(site, bits=2) if site.layer == 1 and site.kind == "ffn" else site for site in one]
    figure = bits_pair(one, other, dark=False)
    colours = colours_for(False)
    for trace, text in zip(figure.data, ("<b>4</b>", "<b>2</b>"), strict=True):
        outlined = [i for i, width in enumerate(trace.marker.line.width) if width > 1]
        assert [trace.customdata[i][0] for i in outlined] == [f"Plan {trace.name}: L2 FFN"]
        (place,) = outlined
        assert trace.text[place] == text
        assert trace.marker.line.color[place] == colours.ink
        assert all("<b>" not in t for i, t in enumerate(trace.text) if i != place)
        assert all(c.startswith("rgba") == (i != place) for i, c in enumerate(trace.marker.color))
    assert figure.layout.meta["alt"] == (
        "Plans A and B differ in 2 of 21 weights, in 2 of them by their bits."
    )


def test_where_only_groups_differ_the_cells_say_them() -> None:
    one = plan(2)
    other = [
        replace(site, groups=1) if site.layer == 0 and site.kind == "attention" else site for site in one
    ]
    first, second = bits_pair(one, other, dark=False).data
    assert [t for t in first.text if "/" in t] == ["<b>4/128</b>"]
    assert [t for t in second.text if "/" in t] == ["<b>4/1</b>"]


def test_groups_of_weights_in_fp32_are_no_difference() -> None:
    one = plan(2, 32)
    other = [replace(site, groups=7) if site.bits == 32 else site for site in one]
    figure = bits_pair(one, other, dark=False)
    assert "the same bits and groups" in figure.layout.meta["alt"]
    assert {width for trace in figure.data for width in trace.marker.line.width} == {1}


def test_a_pair_keeps_its_places_and_is_empty_without_plans() -> None:
    assert geometry(bits_pair(plan(6), plan(6, 8), dark=False)) == geometry(
        bits_pair(plan(6), plan(6), dark=True)
    )
    assert is_empty(bits_pair([], [], dark=False))
    with pytest.raises(ValueError, match="different sites"):
        bits_pair(plan(2), plan(3), dark=False)


KL = st.lists(st.lists(st.floats(0, 5), min_size=3, max_size=3), min_size=2, max_size=2)


@settings(max_examples=30, deadline=None)
@given(KL, KL, st.booleans())
def test_a_difference_has_its_sign_and_a_scale_that_never_moves(
    first: list[list[float]], second: list[list[float]], dark: bool
) -> None:
    figure = kl_difference(first, second, dark=dark)
    check_figure(figure)
    cells = figure.data[0]
    assert (cells.zmin, cells.zmax) == (-1, 1)
    assert geometry(figure) == geometry(kl_difference([[0.0] * 3] * 2, [[1.0] * 3] * 2, dark=dark))
    opposite = kl_difference(second, first, dark=dark).data[0].z
    flat = [(i, j) for i in range(2) for j in range(3)]
    for i, j in flat:
        change, z = second[i][j] - first[i][j], cells.z[i][j]
        assert z == -opposite[i][j]
        assert abs(z) <= 1
        if abs(change) > 1.001 * KL_FLOOR:
            assert math.copysign(1, z) == math.copysign(1, change)
        assert cells.text[i][j] == ("" if abs(change) < 1e-3 else "+" if change > 0 else "\N{MINUS SIGN}")


def test_the_scale_is_logarithmic_between_floor_and_ceiling() -> None:
    middle = math.sqrt(KL_FLOOR * KL_CEILING)
    z = (
        kl_difference([[0.0] * 4], [[KL_FLOOR / 2, middle, KL_CEILING, 3 * KL_CEILING]], dark=False)
        .data[0]
        .z[0]
    )
    assert z == pytest.approx([0, 0.5, 1, 1])


def test_colours_are_two_sided_around_the_pages_grey() -> None:
    scale = [colour for _, colour in kl_difference([[0.0]], [[1.0]], dark=False).data[0].colorscale]
    order = colours_for(False).order
    assert scale == list(order[::-1])
    assert scale[len(scale) // 2] == order[len(order) // 2]


@DARK
def test_a_difference_waits_for_both(dark: bool) -> None:
    for pair in (([], [[0.1]]), ([[0.1]], []), ([], [])):
        figure = kl_difference(*pair, dark=dark)
        check_figure(figure)
        assert is_empty(figure)


def test_hover_says_both_and_the_change() -> None:
    figure = kl_difference([[0.01, 0.2]], [[0.5, 0.2]], dark=False)
    point = figure.data[1].customdata[0]
    assert [str(part).replace("\xa0", " ") for part in point] == [
        "0",
        "L1, head 1",
        "+0.490 nats",
        "0.0100",
        "0.500",
    ]
    assert "in layer 1, head 1." in figure.layout.meta["alt"]
