"""The loss around the weights: measured points only, fixed axes, and a plan shown where it really is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.figures import Landscape, alt_text, landscape_contour, landscape_surface
from app.figures.frame import nice_range
from app.figures.landscape import known_grid
from app.figures.palette import colours_for
from tests.figures.checks import check_figure, is_empty, trace

DARK = pytest.mark.parametrize("dark", [False, True])
BOTH = pytest.mark.parametrize("draw", [landscape_surface, landscape_contour])


def bowl(x: float, y: float) -> float:
    return 0.2 + 0.5 * (3 * x * x + y * y) - 0.1 * x


def landscape(
    steps: int = 9,
    known: Callable[[int, int], bool] = lambda i, j: True,
    plan: tuple[float, float] | None = (0.4, -0.3),
    **other: Any,
) -> Landscape:
    """A quadratic bowl on [-1, 1]^2; `known(row, column)` says which points are there."""
    places = np.linspace(-1, 1, steps).tolist()
    loss = [[bowl(x, y) if known(i, j) else None for j, x in enumerate(places)] for i, y in enumerate(places)]
    quantized = plan and {
        "plan": "qbert-2",
        "x": plan[0],
        "y": plan[1],
        "loss": 0.9,
        "loss_at_projection": bowl(*plan),
        "distance": 3.0,
        "explained": 0.02,
    }
    made = {
        "layer": 2,
        "x": places,
        "y": places,
        "loss": loss,
        "loss_at_zero": bowl(0, 0),
        "eigenvalues": [3.0, 1.0],
        "normalise": "none",
        "quantized": quantized,
    }
    return {**made, **other}  # type: ignore[typeddict-item]


def axes(figure: Any) -> list[Any]:
    layout = figure.layout
    if figure.data[0].type == "surface":
        return [layout.height, *(layout.scene[axis].range for axis in ("xaxis", "yaxis", "zaxis"))]
    return [layout.height, layout.xaxis.range, layout.yaxis.range, figure.data[0].zmin, figure.data[0].zmax]


@DARK
@BOTH
@pytest.mark.parametrize("steps", [2, 3, 21, 41])
@pytest.mark.parametrize("plan", [None, (0.4, -0.3), (7.0, 0.1)])
def test_any_grid_can_be_drawn(draw: Any, dark: bool, steps: int, plan: tuple[float, float] | None) -> None:
    figure = draw(landscape(steps, plan=plan), dark=dark)
    check_figure(figure)
    area = figure.data[0]
    assert np.shape(area.z) == (steps, steps)
    assert [colour for _, colour in area.colorscale] == list(colours_for(dark).kl)
    low, high = axes(figure)[1]
    assert low < -1 < 1 < high
    if plan:
        assert low < plan[0] < high, "a plan beyond the grid is in sight"


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(2, 7))
def test_the_grid_drawn_has_no_holes_and_only_measured_points(data: Any, steps: int) -> None:
    cells = data.draw(
        st.lists(st.sampled_from([True, True, True, False]), min_size=steps**2, max_size=steps**2)
    )
    axis = [float(i) for i in range(steps)]
    loss = [[10.0 * i + j if cells[i * steps + j] else None for j in range(steps)] for i in range(steps)]
    grid = known_grid(landscape(x=axis, y=axis, loss=loss))
    assert len(grid.loss) == len(grid.y)
    for i, row in zip(grid.y, grid.loss, strict=True):
        assert row == [10.0 * i + j for j in grid.x], "each at its own place"
    if all(cells):
        assert grid.x == grid.y == axis


@pytest.mark.parametrize("steps", [3, 11, 21])
def test_the_grid_drawn_only_grows_and_only_with_a_whole_level(steps: int) -> None:
    """In the order of the engine: grid k has the indices round(i (steps - 1) / 2^k), row by row."""
    levels = [[round(i * (steps - 1) / 2**k) for i in range(2**k + 1)] for k in range(6)]
    order = dict.fromkeys(
        (i, j) for level in levels for i in dict.fromkeys(level) for j in dict.fromkeys(level)
    )
    partial = landscape(steps, lambda i, j: False)
    drawn: tuple[set[float], set[float]] = (set(), set())
    points: set[tuple[int, int]] = set()
    changes = 0
    for row, column in order:
        partial["loss"][row][column] = 1.0  # type: ignore[index]
        points.add((row, column))
        grid = known_grid(partial)
        assert drawn[0] <= set(grid.x)
        assert drawn[1] <= set(grid.y)
        changes += drawn != (set(grid.x), set(grid.y))
        drawn = (set(grid.x), set(grid.y))
        for level in levels:
            if {(i, j) for i in level for j in level} <= points:
                assert {partial["x"][j] for j in level} <= drawn[0]
                assert {partial["y"][i] for i in level} <= drawn[1]
    assert len(grid.x) == len(grid.y) == steps
    assert changes == len({len(set(level)) for level in levels})


@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize("extra", [0, 1, 3])
def test_what_is_measured_beyond_the_grid_drawn_is_a_dot(level: int, extra: int) -> None:
    coarse, fine = ({round(i * 20 / 2**k) for i in range(2**k + 1)} for k in (level, level + 1))
    begun = sorted({(i, j) for i in fine for j in fine} - {(i, j) for i in coarse for j in coarse})[:extra]
    partial = landscape(21, lambda i, j: (i in coarse and j in coarse) or (i, j) in begun)
    grid = known_grid(partial)
    assert grid.x == grid.y == [partial["x"][j] for j in sorted(coarse)]
    dots = landscape_contour(partial, dark=False).data[1]
    assert list(zip(dots.y, dots.x, strict=True)) == [(partial["y"][i], partial["x"][j]) for i, j in begun]


@BOTH
def test_axes_and_colours_stay_while_points_arrive(draw: Any) -> None:
    early = landscape(21, lambda i, j: i % 5 == j % 5 == 0)
    assert axes(draw(early, dark=False)) == axes(draw(landscape(21), dark=False))


def test_colours_are_of_the_plane_and_heights_of_the_plan_too() -> None:
    high = landscape()
    assert high["quantized"]
    high["quantized"]["loss"] = 40.0
    surface, lines = landscape_surface(high, dark=False), landscape_contour(high, dark=False).data[0]
    bottom, top = surface.layout.scene.zaxis.range
    assert bottom <= 0.2
    assert top >= 40
    assert (surface.data[0].cmin, surface.data[0].cmax) == (lines.zmin, lines.zmax)
    assert lines.zmin <= bowl(0, 0) < bowl(-1, -1) <= lines.zmax < 3


@given(st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=9))
def test_a_nice_range_holds_everything_in_some_steps(values: list[float]) -> None:
    low, high, step = nice_range(values)
    assert low <= min(values) <= max(values) <= high
    assert (low / step, high / step) == (pytest.approx(round(low / step)), pytest.approx(round(high / step)))
    if max(values) - min(values) > max(1e-5 * max(map(abs, values)), 1e-9):
        assert 5 <= round((high - low) / step) <= 14
    assert f"{step:.0e}"[0] in "125"


def test_a_flat_landscape_has_a_scale_too() -> None:
    flat = landscape(loss=[[0.7] * 9] * 9, loss_at_zero=0.7, quantized=None)
    for draw in (landscape_surface, landscape_contour):
        figure = draw(flat, dark=False)
        check_figure(figure)
        bottom, top = axes(figure)[-1] if figure.data[0].type == "surface" else axes(figure)[-2:]
        assert bottom < 0.7 < top


def test_a_plan_is_a_point_on_the_surface_and_one_at_its_measured_loss() -> None:
    figure = landscape_surface(landscape(), dark=False)
    bottom, top = figure.layout.scene.zaxis.range
    lift = 0.02 * (top - bottom)
    on, over = trace(figure, "plan, projected onto the plane"), trace(figure, "plan, as measured")
    assert (on.x, on.y) == (over.x, over.y) == ((0.4,), (-0.3,))
    assert bowl(0.4, -0.3) <= on.z[0] <= bowl(0.4, -0.3) + lift
    assert 0.9 <= over.z[0] <= 0.9 + lift
    line = next(t for t in figure.data if t.type == "scatter3d" and t.mode == "lines")
    assert (line.x, line.y, line.z) == ((0.4, 0.4), (-0.3, -0.3), (bowl(0.4, -0.3), 0.9))
    trained = trace(figure, "fp32")
    assert (trained.x, trained.y) == ((0,), (0,))
    assert len({on.marker.symbol, over.marker.symbol, trained.marker.symbol}) == 3, "not by colour alone"


def test_the_map_says_both_losses_of_a_plan_and_keeps_circles_round() -> None:
    figure = landscape_contour(landscape(), dark=False)
    text = trace(figure, "plan, projected onto the plane").hovertemplate
    assert "loss here 0.445" in text
    assert "as measured 0.900" in text
    assert figure.layout.yaxis.scaleanchor == "x"
    assert figure.layout.yaxis.scaleratio == 1


def test_a_plan_that_hardly_moves_does_not_hide_the_trained_weights() -> None:
    figure = landscape_contour(landscape(plan=(0.001, 0.0)), dark=False)
    plan, trained = figure.data[-2:]
    assert (plan.name, trained.name) == ("plan, projected onto the plane", "fp32")
    assert trained.marker.size < 0.6 * plan.marker.size


@BOTH
def test_a_plan_whose_loss_is_not_known_yet_hides_nothing(draw: Any) -> None:
    early = landscape()
    assert early["quantized"]
    early["quantized"]["loss"] = early["quantized"]["loss_at_projection"] = None
    early["loss_at_zero"] = None
    figure = draw(early, dark=False)
    check_figure(figure)
    assert "\N{EN DASH}" in alt_text(figure)


@BOTH
def test_the_axes_name_direction_eigenvalue_and_scale(draw: Any) -> None:
    for normalise, words in (("none", "(λ = +3.00)"), ("filter", "(λ = +3.00, filter-normalised)")):
        figure = draw(landscape(normalise=normalise), dark=False)
        layout = figure.layout.scene if figure.data[0].type == "surface" else figure.layout
        assert layout.xaxis.title.text == f"Step along v₁ {words}"


def test_it_is_said_in_words() -> None:
    text = alt_text(landscape_surface(landscape(), dark=False))
    assert text.startswith("Loss of layer 3 on 9 by 9 points")
    assert "after quantization 0.900, 0.445 where that falls on the plane" in text


@DARK
@BOTH
@pytest.mark.parametrize(
    "nothing", [None, landscape(9, lambda i, j: False), landscape(9, lambda i, j: i == j == 0)]
)
def test_before_there_is_an_area_it_says_what_to_do(draw: Any, dark: bool, nothing: Landscape | None) -> None:
    figure = draw(nothing, dark=dark)
    check_figure(figure)
    assert is_empty(figure)
    assert figure.layout.height == draw(landscape(), dark=dark).layout.height


def test_a_loss_that_is_no_number_is_a_hole() -> None:
    broken = landscape(3)
    broken["loss"] = [[0.1, 0.2, math.nan], [0.3, math.inf, 0.4], [0.5, 0.6, 0.7]]
    grid = known_grid(broken)
    assert not grid.loss
    broken["loss"][0][2] = 0.9  # type: ignore[index]
    assert known_grid(broken).loss == [[0.1, 0.9], [0.5, 0.7]]
