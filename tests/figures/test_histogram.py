"""The figures of the lessons: weights with levels, errors, holdings, plans side by side, large type."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.figures import (
    Contender,
    ErrorPoint,
    Holding,
    alt_text,
    contest_marks,
    enlarged,
    error_steps,
    holding_bars,
    kl_heatmap,
    weight_histogram,
)
from tests.figures.checks import check_figure, geometry, is_empty, trace

DARK = pytest.mark.parametrize("dark", [False, True])
BAND = (0.4, 1.0)


def histogram(weights: np.ndarray, levels: list[float], dark: bool = False):
    counts, edges = np.histogram(weights, bins=20)
    nearest = np.abs(weights[:, None] - np.array(levels)).argmin(1) if levels else np.array([], int)
    uses = np.bincount(nearest, minlength=len(levels)).tolist()
    return weight_histogram(edges.tolist(), counts.tolist(), levels, uses, dark=dark), counts, uses


def quantizer_levels(weights: np.ndarray, bits: int) -> list[float]:
    """The quantizer's, which rounding its zero point moves off the ends of the range."""
    low, high = min(weights.min(), 0), max(weights.max(), 0)
    scale = (high - low) / (2**bits - 1)
    return ((np.arange(2**bits) - np.round(-low / scale)) * scale).tolist()


@DARK
@settings(max_examples=20, deadline=None)  # plotly is slow on a busy machine
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.floats(1e-3, 1e3))
def test_every_weight_and_every_level_is_in_sight(dark: bool, seed: int, bits: int, width: float) -> None:
    weights = np.random.default_rng(seed).normal(0, width, 300)
    levels = quantizer_levels(weights, bits)
    figure, counts, uses = histogram(weights, levels, dark)
    check_figure(figure)
    low, high = figure.layout.xaxis.range
    assert low < min(weights.min(), *levels)
    assert max(weights.max(), *levels) < high
    bars = trace(figure, "weights")
    assert [y if y > 0.5 else 0 for y in bars.y] == counts.tolist()
    assert 10 ** figure.layout.yaxis.range[1] >= max(counts)
    drawn = {x for line in figure.data if "levels" in (line.name or "") for x in line.x if x is not None}
    assert drawn == set(levels)
    used = trace(figure, f"levels with weights: {sum(use > 0 for use in uses)}")
    assert {x for x in used.x if x is not None} == {x for x, use in zip(levels, uses, strict=True) if use}


def test_more_bits_move_nothing_but_the_levels() -> None:
    weights = np.random.default_rng(0).normal(size=500)
    few, many = (histogram(weights, quantizer_levels(weights, bits))[0] for bits in (4, 8))
    assert geometry(few) == geometry(many)
    assert trace(few, "weights").y == trace(many, "weights").y


def test_without_levels_it_is_the_weights_alone() -> None:
    figure, _, _ = histogram(np.arange(10.0), [])
    check_figure(figure)
    assert figure.layout.showlegend is False
    assert alt_text(figure) == "10 weights from 0 to 9."


@DARK
def test_weights_that_are_all_alike_have_an_axis(dark: bool) -> None:
    figure, _, _ = histogram(np.zeros(8), [0.0, 1.0], dark)
    check_figure(figure)
    low, high = figure.layout.xaxis.range
    assert low < high


@DARK
def test_errors_stand_in_order_and_one_is_ringed(dark: bool) -> None:
    points = [ErrorPoint(str(bits), 4.0**-bits) for bits in range(1, 9)]
    figure = error_steps(points, axis="Bits", chosen="3", waiting="wait", height=210, dark=dark)
    check_figure(figure)
    line = trace(figure, "error")
    assert list(line.y) == [point.error for point in points]
    assert [width > 0 for width in line.marker.line.width] == [point.name == "3" for point in points]
    low, high = (10**end for end in figure.layout.yaxis.range)
    assert low <= min(line.y) <= max(line.y) < high


def test_an_error_of_zero_stands_at_the_foot_and_says_so() -> None:
    points = [ErrorPoint("1", 1e-3), ErrorPoint("2", 0.0)]
    figure = error_steps(points, axis="Bits", chosen=None, waiting="wait", height=210, dark=False)
    check_figure(figure)
    assert trace(figure, "error").customdata[1] == ["2", "0"]
    assert np.log10(trace(figure, "error").y[1]) == figure.layout.yaxis.range[0]


@DARK
def test_holdings_add_up_by_place(dark: bool) -> None:
    held = [Holding("Word", "embedding", 44.7), Holding("L1", "attention", 2.0), Holding("L1", "ffn", 4.0)]
    figure = holding_bars(held, chosen="L1", waiting="wait", dark=dark)
    check_figure(figure)
    assert [bar.name for bar in figure.data if bar.type == "bar"] == ["embedding tables", "attention", "FFN"]
    assert list(figure.data[-1].text) == ["44.7", "6.0"]
    assert figure.layout.yaxis.range[1] >= 44.7
    assert "largest is Word" in alt_text(figure)


@DARK
def test_plans_side_by_side_with_their_intervals(dark: bool) -> None:
    known = Contender("most sensitive", 0.88, (0.84, 0.91))
    figure = contest_marks(
        [known, Contender("least <b>"), Contender("below", 0.2, (0.1, 0.3))],
        metric_label="Accuracy", band=BAND, baseline=0.9, chosen="most sensitive", waiting=None, dark=dark,
    )  # fmt: skip
    spec = check_figure(figure)
    marks = trace(figure, "plans")
    assert list(marks.x) == [0.88, 0.4], "what lies below the axis stands at its end"
    assert marks.text == ("88.0\N{NO-BREAK SPACE}%", "20.0\N{NO-BREAK SPACE}%"), "and keeps its number"
    assert list(marks.y) == [0, 2], "a plan that is not measured keeps its place"
    assert marks.error_x.array[0] == pytest.approx(0.03)
    assert marks.error_x.arrayminus[0] == pytest.approx(0.04)
    assert "<b>" not in json.dumps(spec["layout"]["yaxis"]["ticktext"])
    assert "1 still being measured" in alt_text(figure)


def test_the_height_is_that_of_what_comes() -> None:
    rows = [Contender(name) for name in "abc"]
    kwargs = {"metric_label": "F1", "band": BAND, "baseline": None, "chosen": None, "dark": False}
    before = contest_marks(rows, waiting="predict", **kwargs)
    assert is_empty(before)
    assert before.layout.height == contest_marks(rows, waiting=None, **kwargs).layout.height
    held = holding_bars([], chosen=None, waiting="predict", dark=False)
    assert is_empty(held)
    assert (
        held.layout.height
        == holding_bars([Holding("L1", "ffn", 1)], chosen=None, waiting="", dark=False).layout.height
    )


@pytest.mark.parametrize(
    "figure",
    [
        histogram(np.arange(50.0), [0.0, 49.0])[0],
        kl_heatmap([[0.1, 0.2]], dark=False),
        contest_marks(
            [Contender("a", 0.5, (0.4, 0.6))], metric_label="F1", band=BAND, baseline=0.8, chosen=None,
            waiting=None, dark=True,
        ),
    ],
    ids=["histogram", "heatmap", "contest"],
)  # fmt: skip
def test_a_large_figure_has_larger_type_and_the_same_data(figure) -> None:
    large = enlarged(figure, 1.5)
    check_figure(large)
    assert large.layout.height == round(1.5 * figure.layout.height)
    assert large.layout.margin.l == round(1.5 * figure.layout.margin.l)
    fonts = [f.layout.template.layout.xaxis.tickfont.size for f in (figure, large)]
    assert fonts[1] == round(1.5 * fonts[0])
    assert [t.to_plotly_json().get("x") for t in large.data] == [
        t.to_plotly_json().get("x") for t in figure.data
    ]
    for before, after in zip(figure.data, large.data, strict=True):
        if getattr(before, "marker", None) is not None:
            assert after.marker.size == before.marker.size, "marks are not type"
