"""What holds for every figure."""

from __future__ import annotations

import json
from typing import Any

import plotly.graph_objects as go
import plotly.io


def check_figure(figure: go.Figure) -> dict[str, Any]:
    """Assert that a figure is well-behaved; its plain JSON."""
    text = plotly.io.to_json(figure, validate=True)
    spec: dict[str, Any] = json.loads(text, parse_constant=lambda name: _fail(f"{name} in the JSON"))
    layout = spec["layout"]
    assert layout["height"] >= 100, "the height is fixed"
    assert "width" not in layout, "the width is the column's"
    assert layout["uirevision"]
    assert layout["meta"]["alt"].endswith("."), "a sentence for screen readers"
    assert layout["margin"]["autoexpand"] is False, "margins do not depend on labels"
    if "scene" in layout:
        for axis in ("xaxis", "yaxis", "zaxis"):
            assert len(layout["scene"][axis]["range"]) == 2, "the axes do not scale themselves"
        assert layout["scene"]["aspectmode"] == "manual", "nor does their proportion"
    else:
        for axis in ("xaxis", "yaxis"):
            assert len(layout[axis]["range"]) == 2, "the axes do not scale themselves"
            assert layout[axis]["fixedrange"] is True
    for sheet in ("paper_bgcolor", "plot_bgcolor"):
        assert layout["template"]["layout"][sheet] == "rgba(0,0,0,0)"
    return spec


def is_empty(figure: go.Figure) -> bool:
    """Whether it is the sentence that stands in for a figure."""
    return not figure.data and len(figure.layout.annotations) == 1


def geometry(figure: go.Figure) -> dict[str, Any]:
    """What must not move while the data change."""
    layout = figure.layout
    return {
        "height": layout.height,
        "margin": layout.margin.to_plotly_json(),
        "x": layout.xaxis.range,
        "y": layout.yaxis.range,
    }


def trace(figure: go.Figure, name: str) -> Any:
    """The trace of that name."""
    return next(t for t in figure.data if t.name == name)


def _fail(message: str) -> None:
    raise AssertionError(message)
