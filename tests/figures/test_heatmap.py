"""KL heatmap: fixed scale, selectable cells, honest zeros and gaps."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.figures import kl_heatmap
from app.figures.heatmap import KL_CEILING, KL_FLOOR
from app.figures.palette import MISSING, colours_for
from tests.figures.checks import check_figure, geometry, is_empty

DARK = pytest.mark.parametrize("dark", [False, True])
KL = st.one_of(st.none(), st.just(0.0), st.floats(0, 50), st.just(math.nan), st.just(math.inf))


def grid(layers: int, heads: int, value: float = 0.1) -> list[list[float]]:
    return [[value] * heads for _ in range(layers)]


@DARK
@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (6, 12), (12, 12), (24, 16)])
def test_any_model_has_a_cell_and_a_target_a_head(dark: bool, layers: int, heads: int) -> None:
    figure = kl_heatmap(grid(layers, heads), dark=dark)
    check_figure(figure)
    cells, targets = figure.data
    assert len(cells.z) == layers
    assert len(cells.z[0]) == heads
    assert [point[:2] for point in targets.customdata] == [
        [i, j] for i in range(layers) for j in range(heads)
    ]
    assert list(targets.x) == [j for _ in range(layers) for j in range(heads)]
    assert list(targets.y) == [i for i in range(layers) for _ in range(heads)]


@settings(max_examples=30, deadline=None)  # plotly is slow on a busy machine
@given(st.lists(st.lists(KL, min_size=4, max_size=4), min_size=3, max_size=3), st.booleans(), st.booleans())
def test_nothing_moves_whatever_the_numbers(kl: list[list[float | None]], dark: bool, outdated: bool) -> None:
    figure = kl_heatmap(kl, dark=dark, outdated=outdated)
    check_figure(figure)
    assert geometry(figure) == geometry(kl_heatmap(grid(3, 4), dark=dark))
    assert (figure.data[0].zmin, figure.data[0].zmax) == (math.log10(KL_FLOOR), math.log10(KL_CEILING))
    assert [colour for _, colour in figure.data[0].colorscale] == list(colours_for(dark).kl)


def test_colour_is_the_logarithm_and_never_leaves_the_scale_below() -> None:
    z = kl_heatmap([[1e-9, 1e-3, 1.0, 0.0, None]], dark=False).data[0].z[0]
    assert z[:4] == pytest.approx([-4, -3, 0, -4])
    assert z[4] is None


def test_cells_say_zero_and_missing_in_writing_and_hover_says_the_number() -> None:
    targets = kl_heatmap([[0.0, None, 0.09214, 3.2e-6]], dark=False).data[1]
    assert list(targets.text) == ["0", MISSING, "", ""]
    assert [point[4].replace("\xa0", " ") for point in targets.customdata] == [
        "KL 0 nats",
        "not measured",
        "KL 0.0921 nats",
        "KL 3.20\N{MULTIPLICATION SIGN}10\u207b\u2076 nats",
    ]
    assert [point[2:4] for point in targets.customdata] == [["L1", 1], ["L1", 2], ["L1", 3], ["L1", 4]]


def test_layer_one_is_at_the_top_and_heads_count_from_one() -> None:
    figure = kl_heatmap(grid(6, 12), dark=False)
    bottom, top = figure.layout.yaxis.range
    assert top < 0 < bottom
    assert figure.layout.yaxis.ticktext[0] == "L1"
    assert (figure.layout.xaxis.ticktext[0], figure.layout.xaxis.ticktext[-1]) == ("1", "12")


def test_markers_are_invisible_also_after_a_click() -> None:
    figure = kl_heatmap(grid(6, 12), dark=False)
    targets = figure.data[1]
    assert targets.marker.symbol == "square"
    opacities = {targets.marker.opacity, targets.selected.marker.opacity, targets.unselected.marker.opacity}
    assert opacities == {0}
    assert figure.layout.clickmode == "event+select"
    assert figure.data[0].hoverinfo == "skip"


def test_an_outdated_map_is_dimmed_and_says_so() -> None:
    fresh, old = (kl_heatmap(grid(6, 12), dark=False, outdated=outdated) for outdated in (False, True))
    assert fresh.data[0].opacity == 1
    assert 0.3 < old.data[0].opacity < 0.7
    assert not fresh.layout.annotations
    assert "Outdated" in old.layout.annotations[0].text


def test_the_selected_cell_is_outlined() -> None:
    shapes = kl_heatmap(grid(6, 12), dark=False, selected=(2, 4)).layout.shapes
    assert {(s.x0, s.x1, s.y0, s.y1) for s in shapes} == {(3.5, 4.5, 1.5, 2.5)}


@DARK
@pytest.mark.parametrize("nothing", [[], [[]]])
def test_before_the_first_measurement_it_says_what_to_do(dark: bool, nothing: list[list[float]]) -> None:
    figure = kl_heatmap(nothing, dark=dark)
    check_figure(figure)
    assert is_empty(figure)
    assert figure.layout.height == kl_heatmap(grid(6, 12), dark=dark).layout.height
