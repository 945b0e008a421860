"""The quantization error of a weight against something that is chosen: bits, or a number of groups."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from .frame import empty_figure, frame
from .palette import SMALL_SIZE, colours_for, fmt_error

_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 18, 26, 46
_LABELLED = 5  # points, all of them
_SECOND_LINE = 18  # of a name


@dataclass(frozen=True)
class ErrorPoint:
    """One choice by its name on the axis ("4", "12 (heads)") and the mean squared error there."""

    name: str
    error: float


def error_steps(
    points: Sequence[ErrorPoint],
    *,
    axis: str,
    chosen: str | None,
    waiting: str,
    height: int,
    dark: bool,
) -> go.Figure:
    """Mean squared errors in the order given, equally far apart, on a logarithmic axis of whole powers.

    An error of 0 has no place on it: it stands at the foot and says so.

    Args:
        chosen: name of the point that is ringed.
        waiting: the sentence that stands here before there are points.
    """
    if not points:
        return empty_figure(waiting, dark=dark, height=height)
    colours = colours_for(dark)
    powers = [math.log10(point.error) for point in points if point.error > 0]
    low, high = math.floor(min(powers, default=-1)), math.ceil(max(powers, default=0))
    high = max(high, low + 1)
    figure = frame(
        "error-steps",
        dark=dark,
        height=height,
        margin=(_LEFT, _RIGHT, _TOP, _BOTTOM + _SECOND_LINE * any("<br>" in p.name for p in points)),
        alt=_describe(points, axis),
    )
    figure.add_trace(
        go.Scatter(
            x=list(range(len(points))),
            y=[max(point.error, 10.0**low) for point in points],
            mode="lines+markers+text",
            line={"color": colours.hand, "width": 2},
            marker={
                "size": 10,
                "color": colours.hand,
                "line": {
                    "width": [4 if point.name == chosen else 0 for point in points],
                    "color": colours.accent,
                },
            },
            text=_labels(points, chosen),
            customdata=[[point.name, fmt_error(point.error)] for point in points],
            textposition="top center",
            textfont={"size": SMALL_SIZE, "color": colours.muted},
            hovertemplate="<b>%{customdata[0]}</b>: %{customdata[1]}<extra></extra>",
            cliponaxis=False,
            name="error",
            showlegend=False,
        )
    )
    figure.update_xaxes(
        title_text=axis,
        range=[-0.5, len(points) - 0.5],
        tickvals=list(range(len(points))),
        ticktext=[point.name for point in points],
        tickangle=0,
        showgrid=False,
        showline=True,
        fixedrange=True,
    )
    ticks = list(range(low, high + 1, max(1, math.ceil((high - low) / 5))))
    figure.update_yaxes(
        title_text="Mean squared error",
        type="log",
        range=[low, high + 0.12 * (high - low)],
        tickvals=[10.0**power for power in ticks],
        ticktext=[f"10<sup>{power}</sup>".replace("-", "\N{MINUS SIGN}") for power in ticks],
        ticklabelstandoff=4,
        fixedrange=True,
    )
    figure.update_layout(dragmode=False)
    return figure


def _labels(points: Sequence[ErrorPoint], chosen: str | None) -> list[str]:
    """Every error where there is room, else that of the chosen point and those beside it."""
    names = [point.name for point in points]
    near = names.index(chosen) if chosen in names else None
    return [
        fmt_error(point.error)
        if len(points) <= _LABELLED or (near is not None and abs(place - near) <= 1)
        else ""
        for place, point in enumerate(points)
    ]


def _describe(points: Sequence[ErrorPoint], axis: str) -> str:
    said = ", ".join(f"{point.name}: {fmt_error(point.error)}" for point in points)
    return f"Mean squared error by {axis.lower()}: {said}."
