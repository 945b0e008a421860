"""The outline of a chosen layer lies where plotly draws the layer, in every figure that has layers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go
import pytest

from app.figures import (
    LayerKL,
    bits_pair,
    bits_strip,
    kl_by_layer,
    kl_difference,
    kl_heatmap,
    lambda_samples,
    layer_outline,
    omega_bars,
    part_bars,
)
from app.figures.palette import colours_for
from tests.figures.test_bits import plan

LAYERS = 6
WIDTH = 700  # pixels of the figure
KL = [[0.1] * 4 for _ in range(LAYERS)]


def blocks() -> list[Any]:
    return [
        {"name": f"layer {i}", "layer": i, "kind": "layer", "lambdas": [1.0, 2.0], "residuals": [0.0, 0.0],
         "mean": 1.5, "std": 0.5, "omega": 2.0}
        for i in range(LAYERS)
    ]  # fmt: skip


def sweep_rows() -> list[Any]:
    shared = {"finetuned": False, "seed": 0, "metrics": {"accuracy": 0.8}}
    difference = {"mean": -0.02, "interval": (-0.03, -0.01)}
    return [
        {
            **shared,
            "name": f"only-layer-{i}",
            "method": "only",
            "difference": difference,
            "plan_digest": str(i),
        }
        for i in range(LAYERS)
    ]


FIGURES: dict[str, Callable[[bool], go.Figure]] = {
    "heatmap": lambda dark: kl_heatmap(KL, dark=dark),
    "kl difference": lambda dark: kl_difference(KL, KL, dark=dark),
    "kl by layer": lambda dark: kl_by_layer([LayerKL("a", [0.1] * LAYERS)], layers=LAYERS, dark=dark),
    "samples": lambda dark: lambda_samples(blocks(), dark=dark),
    "samples with a slot for tables": lambda dark: lambda_samples(blocks(), dark=dark, embedding=True),
    "omega": lambda dark: omega_bars(blocks(), dark=dark),
    "strip": lambda dark: bits_strip(plan(LAYERS), dark=dark),
    "pair": lambda dark: bits_pair(plan(LAYERS), plan(LAYERS, 2), dark=dark),
    "parts": lambda dark: part_bars(
        sweep_rows(), LAYERS, metric_label="Accuracy", finetuned=False, chosen=None, dark=dark
    ),
}


def pixels(html: str) -> tuple[float, float, float, float]:
    """Left, top, width and height of an outline over a figure of `WIDTH`."""

    def value(name: str) -> float:
        found = re.search(rf"[;\"]{name}:([^;\"]*)", html)
        assert found, f"{name} in {html}"
        # CSS's arithmetic is python's, once units are gone
        text = found[1].replace("calc", "").replace("100%", str(WIDTH)).replace("px", "")
        return float(eval(text, {"__builtins__": {}}))

    return value("left"), value("top"), value("width"), value("height")


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("layer", [0, 3, LAYERS - 1])
def test_the_outline_encloses_the_layer_and_its_label(name: str, layer: int) -> None:
    figure = FIGURES[name](False)
    layout, margin = figure.layout, figure.layout.margin
    left, top, width, height = pixels(layer_outline(figure, layer, dark=False))
    plot_width = WIDTH - margin.l - margin.r
    plot_height = layout.height - margin.t - margin.b
    label = f"L{layer + 1}"
    if label in (layout.yaxis.ticktext or ()):
        place = layout.yaxis.tickvals[layout.yaxis.ticktext.index(label)]
        low, high = layout.yaxis.range
        middle = margin.t + plot_height * (high - place) / (high - low)
        assert top < middle < top + height
        assert top + height / 2 == pytest.approx(middle, abs=1)
        assert height == pytest.approx(plot_height / abs(high - low), abs=1)
        assert left < margin.l - 20, "the label is inside"
        assert left + width == pytest.approx(WIDTH - margin.r, abs=1)
    else:
        place = layout.xaxis.tickvals[layout.xaxis.ticktext.index(label)]
        low, high = layout.xaxis.range
        assert left + width / 2 == pytest.approx(margin.l + plot_width * (place - low) / (high - low), abs=1)
        assert width == pytest.approx(plot_width / (high - low), abs=1)
        above, below = margin.t - top, top + height - (layout.height - margin.b)
        if layout.xaxis.side == "top":  # plans: the tables below belong to no layer
            assert (above, below < -30) == (23, True)
        else:
            assert (above, below) == (0, 23)
        assert top >= 0
        assert top + height <= layout.height


@pytest.mark.parametrize("dark", [False, True])
def test_the_outline_has_the_themes_colours_and_lets_clicks_through(dark: bool) -> None:
    html = layer_outline(FIGURES["heatmap"](dark), 2, dark=dark)
    assert colours_for(dark).accent in html
    assert colours_for(dark).background in html
    assert "pointer-events:none" in html
    assert 'data-layer="3"' in html


@pytest.mark.parametrize("layer", [None, -1, LAYERS, 99])
def test_without_such_a_layer_nothing_is_outlined(layer: int | None) -> None:
    assert "hidden" in layer_outline(FIGURES["heatmap"](False), layer, dark=False)
    assert "hidden" in layer_outline(kl_heatmap((), dark=False), layer, dark=False)


def test_an_empty_figure_has_no_layers() -> None:
    assert "hidden" in layer_outline(kl_heatmap((), dark=False), 0, dark=False)


def test_the_outline_is_not_in_the_figure() -> None:
    """A chart whose JSON changed is built anew, which shows: a choice must not change any."""
    figure = FIGURES["omega"](False)
    before = figure.to_json()
    layer_outline(figure, 2, dark=False)
    assert figure.to_json() == before


@pytest.mark.parametrize("name", ["samples", "omega", "parts"])
def test_a_mark_that_is_clicked_says_its_layer_last(name: str) -> None:
    for trace in FIGURES[name](False).data:
        if trace.customdata:
            assert [point[-1] for point in trace.customdata] == [
                round(x) - (3 if name == "parts" else 0) for x in trace.x
            ]
            assert trace.selected.marker.opacity == trace.unselected.marker.opacity == 1


@pytest.mark.parametrize("dark", [False, True])
def test_a_click_fades_no_text(dark: bool) -> None:
    written = [trace for trace in FIGURES["omega"](dark).data if trace.type == "scatter"]
    assert written
    assert all(trace.unselected.textfont.color == trace.textfont.color for trace in written)


def test_a_cell_that_is_clicked_says_its_layer_first() -> None:
    for name in ("heatmap", "kl difference"):
        (targets,) = [trace for trace in FIGURES[name](False).data if trace.type == "scatter"]
        assert [point[0] for point in targets.customdata] == list(targets.y)
