"""The loss around the trained weights as a hill to be turned around."""

from typing import Any

import plotly.graph_objects as go

from .blocks import known
from .frame import colour_scale, empty_figure, frame, nice_range
from .landscape import (
    NOTHING_YET,
    SURFACE_HEIGHT,
    Grid,
    Landscape,
    Quantized,
    axis_title,
    describe,
    known_grid,
    mark,
    shown_losses,
    span,
)
from .palette import SMALL_SIZE, TICK_SIZE, Palette, colours_for, fmt_loss

_MARGIN = (0, 0, 30, 0)  # a legend above, the rest is the scene's
_HEIGHT_OF_LOSS = 0.72  # of the width of the plane
_EYE = {"x": -1.05, "y": -1.3, "z": 1.15}  # so that both axes are read from the front


def landscape_surface(landscape: Landscape | None, *, dark: bool) -> go.Figure:
    """Loss over the plane of the two sharpest directions as a surface.

    The square is the trained model. A plan moves the weights mostly out of the plane: the diamond lies on
    the surface where the displacement's projection is, the circle above or below it at the loss that the
    quantized weights really have, and the line between them is what the plane does not show.

    Only measured points are drawn (see `known_grid`), on a loss axis whose ends move in coarse steps. Its colours
    are those of the contour lines.
    """
    grid = known_grid(landscape) if landscape else None
    if landscape is None or grid is None or not grid.drawable:
        return empty_figure(NOTHING_YET, dark=dark, height=SURFACE_HEIGHT)
    colours = colours_for(dark)
    low, high, _ = nice_range(shown_losses(landscape, grid))
    bottom, top = _heights(landscape, grid)
    figure = frame(
        "landscape-surface", dark=dark, height=SURFACE_HEIGHT, margin=_MARGIN, alt=describe(landscape, grid)
    )
    figure.add_trace(
        go.Surface(
            x=grid.x,
            y=grid.y,
            z=grid.loss,
            cmin=low,
            cmax=high,
            colorscale=colour_scale(colours.kl),
            showscale=False,
            opacity=0.92,
            lighting={"ambient": 0.75, "diffuse": 0.45, "specular": 0.05, "roughness": 0.9},
            contours={"z": {"highlight": True, "highlightcolor": colours.ink, "highlightwidth": 2}},
            hovertemplate="x %{x:.3g}, y %{y:.3g}<br>loss %{z:.3g}<extra></extra>",
        )
    )
    lift = 0.018 * (top - bottom)
    figure.add_trace(_trained(landscape, lift, colours))
    if landscape["quantized"]:
        for trace in _plan(landscape["quantized"], lift, colours):
            figure.add_trace(trace)
    figure.update_layout(
        legend_itemsizing="constant",  # marks in a scene are sized in its own units
        modebar_orientation="v",  # beside the legend, which is nearly as wide as the figure
        scene={
            "xaxis": _axis(axis_title(landscape, "x"), span(landscape, "x"), colours),
            "yaxis": _axis(axis_title(landscape, "y"), span(landscape, "y"), colours),
            "zaxis": _axis("Loss (nats)", [bottom, top], colours),
            "aspectmode": "manual",
            "aspectratio": {"x": 1, "y": 1, "z": _HEIGHT_OF_LOSS},
            "camera": {"eye": _EYE, "center": {"x": 0, "y": 0, "z": -0.12}},
            "dragmode": "turntable",
            "bgcolor": "rgba(0,0,0,0)",
        },
    )
    return figure


def _heights(landscape: Landscape, grid: Grid) -> tuple[float, float]:
    """Range of the loss axis: the plane, and the plan's measured loss, which may lie far above it."""
    quantized = landscape["quantized"]
    measured = quantized["loss"] if quantized else None
    low, high, _ = nice_range([*shown_losses(landscape, grid), *filter(known, [measured])])
    return low, high


def _axis(title: str, limits: list[float], colours: Palette) -> dict[str, Any]:
    return {
        "title": {"text": title, "font": {"size": TICK_SIZE, "color": colours.muted}},
        "range": limits,
        "nticks": 6,
        "tickfont": {"size": SMALL_SIZE, "color": colours.muted},
        "gridcolor": colours.line,
        "gridwidth": 1,
        "linecolor": colours.line,
        "showbackground": False,
        "zeroline": False,
        "showspikes": False,
    }


def _trained(landscape: Landscape, lift: float, colours: Palette) -> go.Scatter3d:
    """The mark is lifted by a hair, or the surface would swallow half of it."""
    loss = landscape["loss_at_zero"]
    return go.Scatter3d(
        x=[0],
        y=[0],
        z=[_lifted(loss, lift)],
        hovertemplate=f"<b>trained weights</b><br>loss {fmt_loss(loss)}<extra></extra>",
        **mark("fp32", "square", colours.preset, colours, size=6),
    )


def _lifted(loss: float | None, lift: float) -> float | None:
    return loss + lift if known(loss) else None


def _plan(quantized: Quantized, lift: float, colours: Palette) -> list[go.Scatter3d]:
    """The projection on the surface, the measured loss over it, and the line between."""
    x, y = quantized["x"], quantized["y"]
    here, there = quantized["loss_at_projection"], quantized["loss"]
    traces = []
    if known(here) and known(there):
        traces.append(
            go.Scatter3d(
                x=[x, x],
                y=[y, y],
                z=[here, there],
                mode="lines",
                line={"width": 5, "color": colours.accent},
                hoverinfo="skip",
                showlegend=False,
            )
        )
    for name, symbol, loss in (
        ("plan, projected onto the plane", "diamond", here),
        ("plan, as measured", "circle", there),
    ):
        traces.append(
            go.Scatter3d(
                x=[x],
                y=[y],
                z=[_lifted(loss, lift)],
                hovertemplate=f"<b>{name}</b><br>loss {fmt_loss(loss)}<extra></extra>",
                **mark(name, symbol, colours.accent, colours, size=7),
            )
        )
    return traces
