"""The curves of a training: fixed axes from the first point on."""

from __future__ import annotations

from typing import Any

import pytest

from app.figures import epoch_metric, loss_curve
from tests.figures.checks import check_figure, geometry, is_empty, trace

POINTS: list[dict[str, float]] = [
    {"step": 10, "epoch": 0.5, "loss": 0.9, "lr": 2e-5, "eta_seconds": 9.0},
    {"step": 20, "epoch": 1.0, "loss": 0.7, "lr": 1.5e-5, "eta_seconds": 6.0, "accuracy": 0.71},
    {"step": 40, "epoch": 2.0, "loss": 0.55, "lr": 1e-5, "eta_seconds": 3.0, "accuracy": 0.84},
]
METRIC: dict[str, Any] = {
    "epochs": 3, "metric": "accuracy", "metric_label": "Accuracy", "before": 0.6, "fp32": 0.9,
    "band": (0.4, 1.0), "dark": False,
}  # fmt: skip


@pytest.mark.parametrize("dark", [False, True])
def test_loss_has_the_learning_rate_on_a_strip_of_its_own(dark: bool) -> None:
    figure = loss_curve(POINTS, epochs=3, lr=2e-5, dark=dark)
    check_figure(figure)
    loss, rate = figure.data
    assert list(loss.x) == list(rate.x) == [0.5, 1.0, 2.0]
    assert (loss.yaxis, rate.yaxis) == (None, "y2")
    assert figure.layout.yaxis2.domain[1] < figure.layout.yaxis.domain[0], "the strip is below, not over it"
    assert figure.layout.yaxis2.range[1] > max(rate.y)
    assert figure.layout.yaxis2.fixedrange
    low, high = figure.layout.yaxis.range
    assert low == 0
    assert max(loss.y) < high


def test_axes_end_where_the_training_will() -> None:
    first, last = (loss_curve(points, epochs=3, lr=2e-5, dark=False) for points in (POINTS[:1], POINTS))
    assert geometry(first) == geometry(last)
    assert first.layout.xaxis.range[1] >= 3
    early, late = (epoch_metric(points, **METRIC) for points in (POINTS[:1], POINTS))
    assert geometry(early) == geometry(late)


@pytest.mark.parametrize("dark", [False, True])
def test_the_metric_stands_between_the_plan_before_and_fp32(dark: bool) -> None:
    figure = epoch_metric(POINTS, **{**METRIC, "dark": dark})
    check_figure(figure)
    line = trace(figure, "plan, finetuned")
    assert list(line.x) == [1.0, 2.0], "only where it was measured"
    assert list(line.y) == [0.71, 0.84]
    assert {note.text for note in figure.layout.annotations} == {"fp32<br>90.0\xa0%", "before<br>60.0\xa0%"}
    assert {shape.y0 for shape in figure.layout.shapes} == {0.9, 0.6}


@pytest.mark.parametrize(("fp32", "before"), [(0.9, 0.89), (0.8, 0.81), (0.9, 0.9)])
def test_labels_of_close_lines_stand_on_their_two_sides(fp32: float, before: float) -> None:
    figure = epoch_metric(POINTS, **{**METRIC, "fp32": fp32, "before": before})
    sides = {note.text.split("<br>")[0]: note.yanchor for note in figure.layout.annotations}
    upper = "fp32" if fp32 >= before else "before"
    assert sides[upper] == "bottom"
    assert set(sides.values()) == {"bottom", "top"}


def test_labels_of_lines_far_apart_stand_at_their_lines() -> None:
    figure = epoch_metric(POINTS, **METRIC)
    assert {note.yanchor for note in figure.layout.annotations} == {"middle"}
    alone = epoch_metric(POINTS, **{**METRIC, "before": None})
    assert [note.yanchor for note in alone.layout.annotations] == ["middle"]


def test_before_there_is_anything_it_says_what_will_come() -> None:
    assert is_empty(loss_curve([], epochs=3, lr=2e-5, dark=False))
    assert is_empty(epoch_metric(POINTS[:1], **{**METRIC, "before": None, "fp32": None}))
    assert not is_empty(epoch_metric([], **METRIC)), "two lines are something to see"
