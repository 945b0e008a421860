"""How the bytes of a model are spread over its tables and layers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from .frame import empty_figure, frame, nice_limit
from .palette import TICK_SIZE, colours_for, fmt_mb

HEIGHT = 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 34, 46
_MOST_LABELS = 16
_NAMES = {"embedding": "embedding tables", "layer": "encoder layers", "attention": "attention", "ffn": "FFN"}


@dataclass(frozen=True)
class Holding:
    """Megabytes of one part of a place: kind "embedding", "layer", "attention" or "ffn"."""

    place: str  # "Word", "L3"
    kind: str
    megabytes: float


def holding_bars(
    holdings: Sequence[Holding], *, chosen: str | None, waiting: str, dark: bool, height: int = HEIGHT
) -> go.Figure:
    """A bar a place in the order given, stacked by kind.

    Args:
        chosen: the place that is outlined.
        waiting: the sentence that stands here before there are holdings.
    """
    if not holdings:
        return empty_figure(waiting, dark=dark, height=height)
    colours = colours_for(dark)
    places = list(dict.fromkeys(holding.place for holding in holdings))
    sums = [sum(h.megabytes for h in holdings if h.place == place) for place in places]
    figure = frame(
        "holdings",
        dark=dark,
        height=height,
        margin=(_LEFT, _RIGHT, _TOP, _BOTTOM),
        alt=_describe(places, sums),
    )
    for kind, name in _NAMES.items():
        own = [holding for holding in holdings if holding.kind == kind]
        if not own:
            continue
        figure.add_trace(
            go.Bar(
                x=[places.index(holding.place) for holding in own],
                y=[holding.megabytes for holding in own],
                width=0.8,
                name=name,
                marker={"color": colours.kind(kind)},
                customdata=[[holding.place, fmt_mb(holding.megabytes)] for holding in own],
                hovertemplate=f"<b>%{{customdata[0]}}</b>, {name}: %{{customdata[1]}}<extra></extra>",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=list(range(len(places))),
            y=sums,
            mode="text",
            text=[fmt_mb(total).partition("\N{NO-BREAK SPACE}")[0] for total in sums]
            if len(places) <= _MOST_LABELS
            else [],
            textposition="top center",
            textfont={"size": TICK_SIZE, "color": colours.muted},
            hoverinfo="skip",
            showlegend=False,
            cliponaxis=False,
        )
    )
    if chosen in places:
        middle = places.index(chosen)
        figure.add_shape(
            type="rect", x0=middle - 0.42, x1=middle + 0.42, y0=0, y1=sums[middle],
            line={"color": colours.accent, "width": 3},
        )  # fmt: skip
    step = math.ceil(len(places) / _MOST_LABELS)
    figure.update_xaxes(
        range=[-0.6, len(places) - 0.4],
        tickvals=list(range(0, len(places), step)),
        ticktext=places[::step],
        tickangle=0,
        showgrid=False,
        showline=True,
        fixedrange=True,
    )
    figure.update_yaxes(
        title_text="fp32 MB", range=[0, nice_limit(1.1 * total for total in sums)], nticks=6,
        ticklabelstandoff=4, fixedrange=True,
    )  # fmt: skip
    figure.update_layout(barmode="stack", dragmode=False, legend_traceorder="normal")
    return figure


def _describe(places: Sequence[str], sums: Sequence[float]) -> str:
    largest = max(range(len(places)), key=lambda i: sums[i])
    return f"Megabytes of {len(places)} parts; the largest is {places[largest]} with {fmt_mb(sums[largest])}."
