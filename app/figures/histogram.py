"""The weights of a group, and the levels they are rounded to."""

import itertools
import math
from collections.abc import Sequence

import plotly.graph_objects as go

from .frame import empty_figure, frame
from .palette import Palette, colours_for, fmt_count, with_alpha

HEIGHT = 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 30, 46
_FLOOR = 0.5  # a single weight stands above it
_MARGIN = 0.045  # of the weights' span
_REACH = 0.72  # of the axis: how far up a level that is used goes
_NOTHING_YET = "Looking at the weights …"


def weight_histogram(
    edges: Sequence[float],
    counts: Sequence[int],
    levels: Sequence[float] = (),
    uses: Sequence[int] = (),
    *,
    dark: bool,
) -> go.Figure:
    """How many weights there are in equal bins, on a logarithmic axis: the few large ones, which set the
    range, would be invisible on a linear one.

    Args:
        edges, counts: the bins; neither depends on the bits, so the axes stay while bits change.
        levels, uses: the values a weight can be rounded to, and how many are rounded to each: drawn as
            lines, short ones where no weight is. None of either: the weights alone.
            The outermost may lie half a step beyond the weights: only then the axis is longer.
    """
    if not len(counts):
        return empty_figure(_NOTHING_YET, dark=dark, height=HEIGHT)
    colours = colours_for(dark)
    top = max(1, math.ceil(math.log10(max(max(counts), 1) * 1.2)))
    figure = frame(
        "weight-histogram",
        dark=dark,
        height=HEIGHT,
        margin=(_LEFT, _RIGHT, _TOP, _BOTTOM),
        alt=_describe(edges, counts, levels, uses),
    )
    for trace in _steps(edges, counts, colours):
        figure.add_trace(trace)
    for used in (True, False):
        figure.add_trace(_lines(levels, uses, used, top, colours))
    low, high = _range(edges, levels)
    figure.update_xaxes(
        title_text="Weight", range=[low, high], nticks=9, showgrid=False, showline=True,
        zeroline=True, zerolinecolor=colours.grid, fixedrange=True,
    )  # fmt: skip
    figure.update_yaxes(
        title_text="Weights", type="log", range=[math.log10(_FLOOR), top],
        tickvals=[10**power for power in range(top + 1)],
        ticktext=[fmt_count(10**power) if power < 4 else f"10<sup>{power}</sup>" for power in range(top + 1)],
        ticklabelstandoff=4, fixedrange=True,
    )  # fmt: skip
    figure.update_layout(dragmode=False, showlegend=len(levels) > 0, legend_traceorder="normal")
    return figure


def _range(edges: Sequence[float], levels: Sequence[float]) -> tuple[float, float]:
    """Ends of the axis: the weights with a margin that half a step of 4 bits or more fits in, and all levels."""
    low, high = min(edges[0], 0.0), max(edges[-1], 0.0)
    room = _MARGIN * (high - low) or 1.0
    outer = [level + side * room / 4 for level in levels for side in (-1, 1)]
    return min([low - room, *outer]), max([high + room, *outer])


def _steps(edges: Sequence[float], counts: Sequence[int], colours: Palette) -> list[go.Scatter]:
    """The outline of the bins, filled down to the floor of the axis."""
    heights = [max(float(count), _FLOOR) for count in counts]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
    ground = go.Scatter(
        x=[edges[0], edges[-1]], y=[_FLOOR, _FLOOR], mode="lines", line={"width": 0}, hoverinfo="skip",
        showlegend=False,
    )  # fmt: skip
    outline = go.Scatter(
        x=[float(x) for x in middles],
        y=heights,
        mode="lines",
        line={"shape": "hvh", "width": 1.2, "color": colours.hand},
        fill="tonexty",
        fillcolor=with_alpha(colours.hand, 0.3),
        customdata=[
            [f"{a:.3g}", f"{b:.3g}", fmt_count(int(count))]
            for a, b, count in zip(edges[:-1], edges[1:], counts, strict=True)
        ],
        hovertemplate="%{customdata[2]} weights<br>from %{customdata[0]} to %{customdata[1]}<extra></extra>",
        name="weights",
        showlegend=False,
    )
    return [ground, outline]


def _lines(
    levels: Sequence[float], uses: Sequence[int], used: bool, top: float, colours: Palette
) -> go.Scatter:
    """Upright lines at the levels; all of one kind in one trace, with gaps between them."""
    chosen = [float(level) for level, use in zip(levels, uses, strict=True) if (use > 0) == used]
    reach = 10 ** (math.log10(_FLOOR) + (_REACH if used else 0.06) * (top - math.log10(_FLOOR)))
    xs: list[float | None] = []
    ys: list[float | None] = []
    for level in chosen:
        xs += [level, level, None]
        ys += [_FLOOR, reach, None]
    return go.Scatter(
        x=xs or [None],
        y=ys or [None],
        mode="lines",
        line={"color": colours.accent if used else colours.line, "width": 1.6 if len(levels) <= 32 else 0.8},
        hoverinfo="skip",
        name=f"levels with weights: {len(chosen)}" if used else f"levels without: {len(chosen)}",
        showlegend=bool(chosen),
        legendrank=1 if used else 2,
    )


def _describe(
    edges: Sequence[float], counts: Sequence[int], levels: Sequence[float], uses: Sequence[int]
) -> str:
    text = f"{fmt_count(int(sum(counts)))} weights from {edges[0]:.3g} to {edges[-1]:.3g}"
    if len(levels):
        text += f", rounded to {sum(use > 0 for use in uses)} of {len(levels)} levels"
    return text + "."
