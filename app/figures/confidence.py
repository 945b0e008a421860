"""How sure the ranking is: for every two blocks, how often one comes out above the other."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import plotly.graph_objects as go

from .blocks import BlockSensitivity, known, title
from .frame import colour_bar, colour_scale, empty_figure, frame
from .palette import (
    TICK_SIZE,
    Palette,
    colours_for,
    fmt_probability,
    ink_on,
    layer_label,
)

_TOP, _BOTTOM, _LEFT, _RIGHT = 30, 46, 84, 102
_TALLEST = 24 * 21  # pixels of cells; more rows than fit get thinner
_WRITTEN = 12  # blocks; more cells than that squared have no room for numbers
_NOTHING_YET = (
    "No confidence yet. After three complete runs the ranking is redrawn from resampled runs: how often "
    "a block comes out above another appears here."
)


def rank_confidence(
    blocks: Sequence[BlockSensitivity], pairs: Sequence[Sequence[float | None]], *, dark: bool
) -> go.Figure:
    """Probability, over bootstrap samples of the runs, that the row's Omega exceeds the column's.

    Rows and columns are in layer order, not in rank order, so that a block stays where it is while runs
    arrive. The colours are fixed: blue for the row ahead, orange for the column, and the grey of the page
    where neither is.

    Args:
        blocks: as in the other figures; names the rows.
        pairs: blocks x blocks, the diagonal is not read; empty before there are three runs.
    """
    if not pairs or len(pairs) != len(blocks):
        return empty_figure(_NOTHING_YET, dark=dark, height=_height(6))
    values = [[p if known(p) and i != j else None for j, p in enumerate(row)] for i, row in enumerate(pairs)]
    colours, count = colours_for(dark), len(blocks)
    figure = frame(
        "rank-confidence",
        dark=dark,
        height=_height(count),
        margin=(_LEFT, _RIGHT, _TOP, _BOTTOM),
        alt=_describe(blocks, values),
    )
    figure.add_trace(_cells(blocks, values, colours))
    if count <= _WRITTEN:
        figure.add_trace(_numbers(values, colours))
    figure.update_xaxes(
        range=[-0.5, count - 0.5],
        title_text="… above this one",
        tickangle=0,
        **_ticks(blocks, every_block=count <= _WRITTEN and all(b["kind"] == "layer" for b in blocks)),
        **_EDGE,
    )
    figure.update_yaxes(
        range=[count - 0.5, -0.5],
        title_text="This block …",
        ticklabelstandoff=4,
        **_ticks(blocks, every_block=count <= _WRITTEN),
        **_EDGE,
    )
    figure.update_layout(dragmode=False)
    return figure


_EDGE = {"showgrid": False, "showline": True, "mirror": True, "fixedrange": True}


def _cells(
    blocks: Sequence[BlockSensitivity], values: list[list[float | None]], colours: Palette
) -> go.Heatmap:
    titles = [title(block) for block in blocks]
    gap = 2 if len(blocks) <= 24 else 0
    return go.Heatmap(
        z=values,
        zmin=0,
        zmax=1,
        colorscale=colour_scale(colours.order),
        xgap=gap,
        ygap=gap,
        customdata=[
            [[titles[i], titles[j], fmt_probability(value)] for j, value in enumerate(row)]
            for i, row in enumerate(values)
        ],
        hovertemplate="<b>%{customdata[0]} above %{customdata[1]}</b>: %{customdata[2]}<extra></extra>",
        hoverongaps=False,
        colorbar=colour_bar(
            "Probability",
            colours,
            tickvals=[0, 0.25, 0.5, 0.75, 1],
            ticktext=["0 %", "25 %", "50 %", "75 %", "100 %"],
        ),
    )


def _numbers(values: list[list[float | None]], colours: Palette) -> go.Scatter:
    """Percent in every cell: colour alone does not tell 90 from 96."""
    cells = [
        (i, j, value) for i, row in enumerate(values) for j, value in enumerate(row) if value is not None
    ]
    return go.Scatter(
        x=[j for _, j, _ in cells],
        y=[i for i, _, _ in cells],
        mode="text",
        text=[fmt_probability(value).replace("\N{NO-BREAK SPACE}", "").rstrip("%") for _, _, value in cells],
        textfont={"size": TICK_SIZE, "color": [ink_on(_colour(value, colours)) for _, _, value in cells]},
        hoverinfo="skip",
        showlegend=False,
    )


def _colour(value: float, colours: Palette) -> str:
    """The scale's colour nearest to that of `value`."""
    return colours.order[round(min(max(value, 0), 1) * (len(colours.order) - 1))]


def _ticks(blocks: Sequence[BlockSensitivity], *, every_block: bool) -> dict[str, Any]:
    """A label a block where there is room, else a label a layer in the middle of its blocks."""
    if every_block:
        return {"tickvals": list(range(len(blocks))), "ticktext": [title(block) for block in blocks]}
    places, labels = [], []
    for layer, found in groupby(range(len(blocks)), key=lambda i: blocks[i]["layer"]):
        own = list(found)
        places.append((own[0] + own[-1]) / 2)
        labels.append(layer_label(layer))
    step = math.ceil(len(places) / 16)
    return {"tickvals": places[::step], "ticktext": labels[::step]}


def _height(blocks: int) -> int:
    row = 34 if blocks <= 6 else 28 if blocks <= 12 else 21
    return _TOP + _BOTTOM + min(max(row * blocks, 60), _TALLEST)  # room for the colour bar


def _describe(blocks: Sequence[BlockSensitivity], values: list[list[float | None]]) -> str:
    unsure = [
        (abs(value - 0.5), i, j)
        for i, row in enumerate(values)
        for j, value in enumerate(row)
        if i < j and value is not None
    ]
    text = f"Probability that one of {len(blocks)} blocks is more sensitive than another"
    if not unsure:
        return f"{text}."
    _, i, j = min(unsure)
    return (
        f"{text}; the closest call is {title(blocks[i])} above {title(blocks[j])} with "
        f"{fmt_probability(values[i][j])}."
    )
