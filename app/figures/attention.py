"""One head's attention on a few tokens: fp32, quantized, and what quantization changed."""

from collections.abc import Sequence

import plotly.graph_objects as go

from .frame import colour_bar, colour_scale, empty_figure, frame, safe
from .palette import SMALL_SIZE, TEXT_SIZE, Palette, colours_for

WINDOW = 22
"""Tokens that fit side by side, in the narrowest column the figure is made for."""

_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 440, 112, 96, 30, 112
_GAP = 0.025  # between the maps, of the width
_LONGEST = 12  # characters of a token on an axis
_NOTHING_YET = "No attention yet. Choose a sentence and a head: what its tokens look at appears here."

Map = Sequence[Sequence[float]]


def attention_maps(
    before: Map,
    after: Map,
    tokens: Sequence[str],
    *,
    plan: str,
    dark: bool,
    start: int = 0,
) -> go.Figure:
    """Three maps over the same tokens: the fp32 model's, the plan's, and the plan's minus fp32's.

    A row is a query, its columns the keys it attends to; a row of all keys sums to 1. Probabilities have the
    colours of 0 to 1 and differences those of -1 to 1 whatever the data are; colours change fastest near 0,
    where most values lie, as the colour bars show.

    Args:
        before, after: (T, T), the attention of all tokens.
        tokens: T of them.
        plan: the plan's name, for the titles.
        start: the first of at most `WINDOW` tokens shown, as queries and as keys.
    """
    if not tokens:
        return empty_figure(_NOTHING_YET, dark=dark, height=_HEIGHT)
    colours = colours_for(dark)
    shown = range(start, min(start + WINDOW, len(tokens)))
    labels = [_short(tokens[i]) for i in shown]
    left = [[float(before[i][j]) for j in shown] for i in shown]
    middle = [[float(after[i][j]) for j in shown] for i in shown]
    right = [[b - a for a, b in zip(*rows, strict=True)] for rows in zip(left, middle, strict=True)]
    figure = frame(
        "attention-maps", dark=dark, height=_HEIGHT, margin=(_LEFT, _RIGHT, _TOP, _BOTTOM),
        alt=_describe(left, middle, [tokens[i] for i in shown], plan),
    )  # fmt: skip
    readings = [
        [
            [safe(tokens[query]), safe(tokens[key]), _number(left[i][j]), _number(middle[i][j]), _number(right[i][j])]
            for j, key in enumerate(shown)
        ]
        for i, query in enumerate(shown)
    ]  # fmt: skip
    titles = ("fp32", safe(plan), f"{safe(plan)} \N{MINUS SIGN} fp32")
    for place, (values, title) in enumerate(zip((left, middle, right), titles, strict=True)):
        _add(figure, place, values, title, readings, colours)
    axis = {
        "tickvals": list(range(len(shown))),
        "tickfont": {"size": SMALL_SIZE, "color": colours.muted},
        "showgrid": False,
        "showline": True,
        "mirror": True,
        "fixedrange": True,
    }
    figure.update_xaxes(
        **axis, ticktext=labels, range=[-0.5, len(shown) - 0.5], tickangle=-90, title_text="Key: looked at"
    )
    figure.update_yaxes(**axis, range=[len(shown) - 0.5, -0.5], ticklabelstandoff=4)
    figure.update_yaxes(ticktext=labels, title_text="Query: looks", selector=0)
    figure.update_yaxes(showticklabels=False, selector=1)
    figure.update_yaxes(showticklabels=False, selector=2)
    figure.update_layout(dragmode=False)
    return figure


def _add(
    figure: go.Figure,
    place: int,
    values: Map,
    title: str,
    readings: list[list[list[str]]],
    colours: Palette,
) -> None:
    """The map at `place`, 0 to 2, with axes of its own and its title above."""
    number = "" if place == 0 else str(place + 1)
    width = (1 - 2 * _GAP) / 3
    low = place * (width + _GAP)
    difference = place == 2
    figure.add_trace(
        go.Heatmap(
            z=values,
            zmin=-1 if difference else 0,
            zmax=1,
            colorscale=two_sided(colours.order) if difference else one_sided(colours.bits[:-1]),
            xgap=1,
            ygap=1,
            xaxis=f"x{number}",
            yaxis=f"y{number}",
            customdata=readings,
            hovertemplate="<b>%{customdata[0]} \N{RIGHTWARDS ARROW} %{customdata[1]}</b><br>fp32 %{customdata[2]}"
            "<br>quantized %{customdata[3]}<br>difference %{customdata[4]}<extra></extra>",
            showscale=place > 0,
            colorbar=attention_bar(colours, difference=difference),
            name=title,
        )
    )
    figure.update_layout(
        {
            f"xaxis{number}": {"domain": [low, low + width], "anchor": f"y{number}"},
            f"yaxis{number}": {"domain": [0, 1], "anchor": f"x{number}"},
        }
    )
    figure.add_annotation(
        text=f"<b>{title}</b>", x=low, xref="paper", xanchor="left", y=1, yref="paper", yanchor="bottom",
        yshift=4, showarrow=False, font={"size": TEXT_SIZE, "color": colours.ink},
    )  # fmt: skip


def attention_bar(colours: Palette, *, difference: bool) -> dict[str, object]:
    """The colour bars stand one above the other, at the right."""
    ticks = [-1, -0.5, 0, 0.5, 1] if difference else [0, 0.25, 0.5, 0.75, 1]
    return colour_bar(
        "Difference" if difference else "Attention",
        colours,
        tickvals=ticks,
        ticktext=[f"{tick:g}".replace("-", "\N{MINUS SIGN}") for tick in ticks],
        len=0.44,
        y=0 if difference else 1,
        yanchor="bottom" if difference else "top",
    )


def one_sided(colours: Sequence[str]) -> list[list[object]]:
    """Colours over 0 to 1, at the squares of equal steps."""
    return [[place**2, colour] for place, colour in colour_scale(colours)]


def two_sided(colours: Sequence[str]) -> list[list[object]]:
    """Colours over -1 to 1, on each side at the squares of equal steps; plotly counts from 0 to 1."""
    sided = [(2 * place - 1, colour) for place, colour in colour_scale(colours)]
    return [[(1 + side * abs(side)) / 2, colour] for side, colour in sided]


def _short(token: str) -> str:
    return safe(token if len(token) <= _LONGEST else token[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}")


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def _describe(before: Map, after: Map, tokens: Sequence[str], plan: str) -> str:
    changes = [
        (abs(b - a), i, j)
        for i, rows in enumerate(zip(before, after, strict=True))
        for j, (a, b) in enumerate(zip(*rows, strict=True))
    ]
    largest, i, j = max(changes)
    return (
        f"Attention among {len(tokens)} tokens in fp32 and under {plan}; the largest difference, {largest:.3f}, "
        f"is how much “{tokens[i]}” looks at “{tokens[j]}”."
    )
