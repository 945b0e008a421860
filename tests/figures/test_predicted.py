"""Predicted harm against measured: every plan a point, on axes that hold it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.figures import PredictedRow, alt_text, fmt_correlation, fmt_correlation_interval, predicted_scatter
from app.figures.palette import MISSING
from tests.figures.checks import check_figure, is_empty, trace

DARK = pytest.mark.parametrize("dark", [False, True])


def row(
    method: str, number: int, harm: float | None, accuracy: float = 0.8, loss: float = 0.4
) -> PredictedRow:
    return {
        "name": f"{method}-{number}",
        "method": method,
        "metrics": {"accuracy": accuracy},
        "interval": [max(accuracy - 0.05, 0), min(accuracy + 0.05, 1)],
        "loss": loss,
        "size_mb": 5.0 + number,
        "predicted": None if harm is None else {"omega": harm, "perturbation": 2 * harm},
    }


def draw(rows: list[PredictedRow], **other: Any) -> Any:
    given: dict[str, Any] = {
        "predictor": "omega", "predictor_label": "½ Ω |ΔW|²", "by_loss": False, "metric": "accuracy",
        "metric_label": "Accuracy", "band": (0.4, 1.0), "dark": False, **other,
    }  # fmt: skip
    return predicted_scatter(rows, **given)


ROWS = [
    row("baseline", 40, None, 0.9, 0.3),
    row("frontier", 1, 0.5, 0.7),
    row("frontier", 9, 0.02, 0.88),
    row("random", 2, 3.0, 0.3, 0.9),  # below the axis
    row("random", 3, 0.0, 0.85),  # not on a logarithmic axis
]


@DARK
@pytest.mark.parametrize("by_loss", [False, True])
def test_every_plan_is_a_point_and_the_best_predicted_are_marked(dark: bool, by_loss: bool) -> None:
    figure = draw(ROWS, dark=dark, by_loss=by_loss)
    check_figure(figure)
    best, drawn = trace(figure, "least predicted harm"), trace(figure, "random")
    assert list(best.x) == [0.5, 0.02]
    assert list(drawn.x) == [3.0, 0.01]
    assert list(best.y) == ([0.4, 0.4] if by_loss else [0.7, 0.88])
    assert list(drawn.y) == ([0.9, 0.4] if by_loss else [0.4, 0.85])
    assert list(best.marker.color) == [6.0, 14.0]
    assert best.marker.symbol != drawn.marker.symbol
    assert figure.layout.coloraxis.cmin <= 6.0
    assert figure.layout.coloraxis.cmax >= 14.0
    assert "fp32" in figure.layout.annotations[0].text
    assert ("0.300" if by_loss else "90.0") in figure.layout.annotations[0].text
    assert "4 plans" in alt_text(figure)
    assert "2 of them" in alt_text(figure)


@settings(max_examples=30, deadline=None)  # plotly is slow on a busy machine
@given(
    st.lists(st.tuples(st.floats(0, 1e8), st.floats(0, 1), st.floats(0, 1e3)), min_size=1, max_size=6),
    st.booleans(),
)
def test_every_point_is_within_the_axes(plans: list[tuple[float, float, float]], by_loss: bool) -> None:
    figure = draw([row("random", i, *plan) for i, plan in enumerate(plans)], by_loss=by_loss)
    check_figure(figure)
    points = trace(figure, "random")
    for axis, values in (
        (figure.layout.xaxis.range, [math.log10(x) for x in points.x]),
        (figure.layout.yaxis.range, points.y),
    ):
        assert min(values) >= axis[0] - 1e-9
        assert max(values) <= axis[1] + 1e-9


@DARK
def test_before_the_first_plan_it_says_what_to_do(dark: bool) -> None:
    assert is_empty(draw([], dark=dark))
    assert is_empty(draw([row("baseline", 1, None)], dark=dark))


def test_a_plan_without_a_loss_is_no_point_of_the_loss() -> None:
    rows = [row("random", 1, 1.0), {**row("random", 2, 2.0), "loss": None}]
    assert list(trace(draw(rows, by_loss=True), "random").y) == [0.4, None]


def test_the_control_has_its_own_numbers() -> None:
    assert list(trace(draw(ROWS, predictor="perturbation"), "least predicted harm").x) == [1.0, 0.04]


def test_correlations_have_two_digits_and_a_true_minus() -> None:
    assert fmt_correlation(0.934) == "0.93"
    assert fmt_correlation(-0.5) == "\N{MINUS SIGN}0.50"
    assert fmt_correlation(-0.001) == "0.00"
    assert fmt_correlation(None) == MISSING
    assert fmt_correlation_interval(-0.1, 0.934) == "\N{MINUS SIGN}0.10 to 0.93"
    assert fmt_correlation_interval(None, None) == MISSING
