"""Outlines around what is chosen: the layer's is laid over a figure instead of drawn in it.

Streamlit builds a chart anew when anything in it changes, and while it does the page shows a gap. An outline
that lies over the chart moves without that.
"""

from typing import Literal

import plotly.graph_objects as go

from .palette import Palette, colours_for

_BESIDE = 40  # pixels of the layer's label that the outline takes in, left of a plot
_BELOW = 23  # the same below a plot, or above it
_NOTHING = '<div class="layer-outline" hidden></div>'
ROW = 35  # pixels of a table's row, and of its head


def declare_layers(
    figure: go.Figure,
    axis: Literal["x", "y"],
    count: int,
    first: float = 0,
    bottom: float = 0,
) -> None:
    """Note in a figure where its layers are: layer k takes [first + k - 1/2, first + k + 1/2] of `axis`.

    `bottom`: the share of the plot's height, from below, that belongs to no layer; for layers along x.
    """
    layers = {"axis": axis, "count": count, "first": first, "bottom": bottom}
    figure.layout.meta = {**figure.layout.meta, "layers": layers}


def outline_box(figure: go.Figure, left: float, top: float, colours: Palette) -> None:
    """Draw an outline into a figure, around one unit of both axes from (left, top). A double line, so that it
    is seen on the palest and on the darkest cell."""
    for width, colour in ((5, colours.background), (2.5, colours.accent)):
        figure.add_shape(
            type="rect", x0=left, x1=left + 1, y0=top, y1=top + 1, line={"width": width, "color": colour}
        )


def layer_outline(figure: go.Figure, selected: int | None, *, dark: bool) -> str:
    """HTML of an outline around the 0-based layer `selected` and its label, to lie over the figure.

    It is absolute from the figure's upper left corner, as wide as the figure is; without a layer, or in a
    figure that does not have it, nothing is to be seen. A double line, so that it is seen on every colour.
    """
    layers = (figure.layout.meta or {}).get("layers")
    if selected is None or layers is None or not 0 <= selected < layers["count"]:
        return _NOTHING
    layout = figure.layout
    left, right, top, bottom = (layout.margin[side] for side in "lrtb")
    middle = layers["first"] + selected
    # under bars and lines, so that their labels are read over it; over the cells of a heatmap, which hide it
    depth = 0 if layers["axis"] == "x" else 1
    axis = layout.xaxis if layers["axis"] == "x" else layout.yaxis
    start, end = axis.range
    ends = sorted((middle + side - start) / (end - start) for side in (-0.5, 0.5))
    share = ends[1] - ends[0]
    if layers["axis"] == "x":
        plot = f"(100% - {left + right}px)"
        above = _BELOW if axis.side == "top" else 0
        below = 0 if axis.side == "top" else _BELOW
        tall = (layout.height - top - bottom) * (1 - layers["bottom"])
        place = (
            f"left:calc({left}px + {plot} * {ends[0]:.5f});width:calc({plot} * {share:.5f});"
            f"top:{top - above}px;height:{tall + above + below:.1f}px"
        )
    else:  # y grows upwards, pixels downwards
        tall = layout.height - top - bottom
        beside = min(_BESIDE, left)
        place = (
            f"left:{left - beside}px;width:calc(100% - {left + right - beside}px);"
            f"top:{top + tall * (1 - ends[1]):.1f}px;height:{tall * share:.1f}px"
        )
    colours = colours_for(dark)
    return (
        f'<div class="layer-outline" data-layer="{selected + 1}" style="position:absolute;z-index:{depth};'
        f"pointer-events:none;box-sizing:border-box;border-radius:3px;border:2px solid {colours.accent};"
        f'box-shadow:0 0 0 1.5px {colours.background},inset 0 0 0 1.5px {colours.background};{place}"></div>'
    )
