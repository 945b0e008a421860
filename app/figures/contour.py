"""The loss around the trained weights as a map: easier to read off than the surface."""

import plotly.graph_objects as go

from .frame import colour_bar, colour_scale, empty_figure, frame, nice_range
from .landscape import (
    NOTHING_YET,
    SURFACE_HEIGHT,
    Grid,
    Landscape,
    axis_title,
    describe,
    known_grid,
    mark,
    measured_points,
    shown_losses,
    span,
)
from .palette import Palette, colours_for, fmt_loss, with_alpha

_MARGIN = (70, 96, 30, 46)
_LINES = 4  # to a step of the colour bar's


def landscape_contour(landscape: Landscape | None, *, dark: bool) -> go.Figure:
    """Lines of equal loss over the plane of the two sharpest directions, equally spaced in loss.

    Square: the trained model; diamond: where a plan's displacement falls on the plane. Both axes have the
    same scale, so that a circle is a circle. While points arrive, those measured beyond the grid drawn are
    dots.
    """
    grid = known_grid(landscape) if landscape else None
    if landscape is None or grid is None or not grid.drawable:
        return empty_figure(NOTHING_YET, dark=dark, height=SURFACE_HEIGHT)
    colours = colours_for(dark)
    figure = frame(
        "landscape-contour", dark=dark, height=SURFACE_HEIGHT, margin=_MARGIN, alt=describe(landscape, grid)
    )
    figure.add_trace(_lines(landscape, grid, colours))
    figure.add_trace(_early(landscape, grid, colours))
    for point in _points(landscape, colours):
        figure.add_trace(point)
    for axis, update in (("x", figure.update_xaxes), ("y", figure.update_yaxes)):
        update(
            title_text=axis_title(landscape, axis), range=span(landscape, axis), nticks=7, showgrid=False,
            constrain="domain", fixedrange=True,
        )  # fmt: skip
    figure.update_yaxes(scaleanchor="x", scaleratio=1, ticklabelstandoff=4)
    figure.update_layout(dragmode=False)
    return figure


def _lines(landscape: Landscape, grid: Grid, colours: Palette) -> go.Contour:
    low, high, step = nice_range(shown_losses(landscape, grid))
    return go.Contour(
        x=grid.x,
        y=grid.y,
        z=grid.loss,
        zmin=low,
        zmax=high,
        autocontour=False,
        contours={"start": low, "end": high, "size": step / _LINES},
        line={"width": 0.6, "color": with_alpha(colours.background, 0.6), "smoothing": 0},
        hovertemplate="x %{x:.3g}, y %{y:.3g}<br>loss %{z:.3g}<extra></extra>",
        colorscale=colour_scale(colours.kl),
        colorbar=colour_bar("Loss (nats)", colours, tickmode="linear", tick0=low, dtick=step),
    )


def _early(landscape: Landscape, grid: Grid, colours: Palette) -> go.Scatter:
    """Points measured already that no complete row and column holds yet."""
    drawn_x, drawn_y = set(grid.x), set(grid.y)
    points = [(x, y, z) for x, y, z in measured_points(landscape) if x not in drawn_x or y not in drawn_y]
    return go.Scatter(
        x=[x for x, _, _ in points],
        y=[y for _, y, _ in points],
        mode="markers",
        marker={"size": 3, "color": colours.line},
        hoverinfo="skip",
        showlegend=False,
    )


def _points(landscape: Landscape, colours: Palette) -> list[go.Scatter]:
    """The plan and, on top and smaller, the trained weights: both are seen where they are the same point."""
    quantized = landscape["quantized"]
    trained = go.Scatter(
        x=[0],
        y=[0],
        hovertemplate=f"<b>trained weights</b><br>loss {fmt_loss(landscape['loss_at_zero'])}<extra></extra>",
        legendrank=1,
        **mark("fp32", "square", colours.preset, colours, size=9),
    )
    if quantized is None:
        return [trained]
    plan = go.Scatter(
        x=[quantized["x"]],
        y=[quantized["y"]],
        hovertemplate="<b>plan, projected onto the plane</b>"
        f"<br>loss here {fmt_loss(quantized['loss_at_projection'])}"
        f"<br>as measured {fmt_loss(quantized['loss'])}<extra></extra>",
        **mark("plan, projected onto the plane", "diamond", colours.accent, colours, size=18),
    )
    return [plan, trained]
