"""Size against metric: Pareto frontier, fixed axes, labels, and what a click needs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.figures import PlanPoint, pareto, size_accuracy_scatter
from app.figures.labels import place_labels
from tests.figures.checks import check_figure, geometry, is_empty, trace

COARSE = st.integers(0, 6)  # so that equal sizes and equal metrics are common
POINTS = st.lists(
    st.builds(
        PlanPoint,
        digest=st.uuids().map(str),
        name=st.text(max_size=12),
        size_mb=COARSE.map(lambda n: 10.0 + 5 * n),
        metric=st.one_of(COARSE.map(lambda n: n / 6), st.just(math.nan)),
        low=st.one_of(st.just(0.0), st.just(math.nan)),
        high=st.just(1.0),
        n=st.integers(1, 872),
        kind=st.sampled_from(["baseline", "preset", "hand", "allocated"]),
        partial=st.booleans(),
    ),
    max_size=14,
)


def plan(digest: str, size_mb: float, metric: float, **other: Any) -> PlanPoint:
    return PlanPoint(
        digest, other.pop("name", digest), size_mb, metric, metric - 0.02, metric + 0.02, 872, **other
    )


def draw(
    points: list[PlanPoint], *, current: str | None = None, dark: bool = False, **other: Any
) -> go.Figure:
    return size_accuracy_scatter(
        points,
        metric_label="Accuracy",
        current=current,
        dark=dark,
        **{"baseline_metric": 0.898, "baseline_size_mb": 86.4, **other},
    )


@given(POINTS)
def test_the_frontier_is_exactly_the_plans_no_other_beats(points: list[PlanPoint]) -> None:
    complete = [p for p in points if not p.partial and math.isfinite(p.metric)]

    def beats(q: PlanPoint, p: PlanPoint) -> bool:
        no_worse = q.size_mb <= p.size_mb and q.metric >= p.metric
        return no_worse and (q.size_mb < p.size_mb or q.metric > p.metric)

    unbeaten = {p.digest for p in complete if not any(beats(q, p) for q in complete)}
    frontier = pareto(points)
    assert {p.digest for p in frontier} == unbeaten
    assert [p.size_mb for p in frontier] == sorted(p.size_mb for p in frontier)


@settings(max_examples=40, deadline=None)  # plotly is slow on a busy machine
@given(POINTS, st.booleans(), st.sampled_from(["linear", "log"]))
def test_axes_do_not_depend_on_the_points(points: list[PlanPoint], dark: bool, scale: str) -> None:
    figure = draw(points, current=points[0].digest if points else None, dark=dark, size_scale=scale)
    check_figure(figure)
    if not is_empty(figure):
        assert geometry(figure) == geometry(draw([plan("x", 12, 0.5)], size_scale=scale))


def test_the_linear_axis_goes_from_zero_to_just_above_the_baseline() -> None:
    layout = draw([plan("x", 12, 0.5)], metric_range=(0.2, 0.95)).layout
    assert layout.xaxis.range == pytest.approx((0, 86.4 * 1.03))
    assert layout.yaxis.range == (0.2, 0.95)


@given(st.floats(1e-3, 1e5))
def test_the_sizes_on_the_logarithmic_axis_can_be_told_apart(baseline: float) -> None:
    axis = draw([plan("x", baseline / 4, 0.5)], size_scale="log", baseline_size_mb=baseline).layout.xaxis
    for written, value in zip(axis.ticktext, axis.tickvals, strict=True):
        assert float(written) == pytest.approx(value, rel=0.051)
        assert not written.endswith(".")


def test_the_logarithmic_axis_ends_at_one_bit_in_thirty_two() -> None:
    layout = draw([plan("x", 12, 0.5)], size_scale="log").layout
    assert [10**end for end in layout.xaxis.range] == pytest.approx([86.4 / 32, 86.4 * 1.03])


def test_a_click_finds_the_plan() -> None:
    figure = draw(
        [plan("p", 12, 0.8, kind="preset"), plan("h", 15, 0.7), plan("a", 16, 0.7, kind="allocated")]
    )
    found = {point[0] for t in figure.data if t.customdata is not None for point in t.customdata}
    assert found == {"p", "h", "a"}
    assert figure.layout.clickmode == "event+select"
    for marks in (trace(figure, "preset"), trace(figure, "by hand")):
        assert marks.selected.marker.opacity == marks.unselected.marker.opacity == 1


def test_the_current_plan_has_a_ring_and_its_interval() -> None:
    ring = trace(draw([plan("h", 15, 0.7), plan("i", 20, 0.8)], current="i"), "current")
    assert (list(ring.x), list(ring.y)) == ([20], [0.8])
    assert list(ring.error_y.array) == pytest.approx([0.02])
    assert ring.hoverinfo == "skip"


def test_a_plan_measured_on_part_of_the_examples_is_hollow_and_off_the_frontier() -> None:
    half, full = replace(plan("h", 10, 0.99), partial=True), plan("f", 20, 0.8)
    figure = draw([half, full])
    marks = trace(figure, "by hand")
    assert marks.marker.color[0] != marks.marker.color[1]
    assert marks.marker.line.color[0] == marks.marker.color[1]
    assert pareto([half, full]) == [full]
    assert trace(figure, "partial")
    assert "so far" in marks.customdata[0][5]


def test_a_plan_below_the_axis_points_down_from_its_edge_and_keeps_its_number() -> None:
    marks = trace(draw([plan("low", 10, 0.31)]), "by hand")
    assert list(marks.y) == [0.4]
    assert list(marks.marker.symbol) == ["triangle-down"]
    assert marks.customdata[0][3] == "31.0\xa0%"


def test_the_frontier_is_drawn_as_steps() -> None:
    line = trace(draw([plan("a", 10, 0.5), plan("b", 20, 0.8), plan("c", 15, 0.4)]), "best for size")
    assert list(zip(line.x, line.y, strict=True)) == [
        (10, 0.4),
        (10, 0.4),
        (10, 0.5),
        (20, 0.5),
        (20, 0.8),
        (pytest.approx(86.4 * 1.03), 0.8),
    ]


def test_only_presets_are_labelled_and_names_cannot_be_markup() -> None:
    figure = draw([plan("p", 12, 0.8, kind="preset", name="<b>2/3</b>"), plan("h", 15, 0.7, name="<i>mine")])
    texts = [annotation.text for annotation in figure.layout.annotations]
    assert texts == ["fp32 89.8\xa0%", "&lt;b&gt;2/3&lt;/b&gt;"]
    assert trace(figure, "by hand").customdata[0][1] == "&lt;i&gt;mine"


@pytest.mark.parametrize("nothing", [[], [plan("x", 12, math.nan)]])
def test_before_the_first_plan_it_says_what_to_do(nothing: list[PlanPoint]) -> None:
    figure = draw(nothing)
    check_figure(figure)
    assert is_empty(figure)
    assert figure.layout.height == draw([plan("x", 12, 0.5)]).layout.height


MARKS = [(60.0, 40.0), (70.0, 40.0), (64.0, 80.0), (70.0, 84.0), (75.0, 130.0), (82.0, 150.0), (90.0, 165.0)]


def boxes(marks: list[tuple[float, float]], labels: list[str]) -> list[tuple[float, float, float, float]]:
    """Where the labels come to lie, with 0.5 em a character."""
    placed = place_labels(marks, labels, width=560, height=298, text_size=11)
    found = []
    for (x, y), label, place in zip(marks, labels, placed, strict=True):
        if place:
            wide, high = 5.5 * len(label), 13
            left = x + place.across - wide * {"left": 0, "center": 0.5, "right": 1}[place.xanchor]
            top = y + place.down - high * {"top": 0, "middle": 0.5, "bottom": 1}[place.yanchor]
            found.append((left, top, left + wide, top + high))
    return found


def overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def test_labels_of_crowded_presets_hide_neither_each_other_nor_marks() -> None:
    labels = boxes(MARKS, ["8-bit", "4-bit", "2/4 MP", "3-bit", "2/3 MP", "3-bit DirectQ", "2-bit"])
    assert len(labels) == len(MARKS)
    marks = [(x - 5, y - 5, x + 5, y + 5) for x, y in MARKS]
    for index, label in enumerate(labels):
        assert label[0] >= 0
        assert not any(overlap(label, other) for other in labels[:index])
        assert not any(overlap(label, mark) for mark in marks)


def test_a_plan_without_a_label_gets_no_place() -> None:
    assert place_labels([(10, 10), (40, 40)], ["", "x"], width=100, height=100, text_size=11)[0] is None
