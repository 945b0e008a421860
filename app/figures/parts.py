"""One layer or table at a time: what quantizing it alone costs, and what leaving it alone saves."""

import re
from collections.abc import Sequence

import plotly.graph_objects as go

from .frame import empty_figure, frame, nice_limit, safe
from .marks import declare_layers
from .palette import (
    TICK_SIZE,
    Palette,
    colours_for,
    fmt_percent,
    fmt_points_interval,
    fmt_signed_points,
    layer_label,
)
from .rows import SweepRow, row_key

_HEIGHT = 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 74, 40, 46
_WIDTH = 0.36
_NOTHING_YET = (
    "Nothing measured one at a time yet. Press Start: each layer and table gets two bars here, "
    "quantized alone and left in fp32 alone."
)
TABLES = ("word", "position", "token-type")


def part_bars(
    rows: Sequence[SweepRow],
    layers: int,
    *,
    metric_label: str,
    finetuned: bool,
    chosen: str | None,
    dark: bool,
) -> go.Figure:
    """Change of the task's metric from fp32, in percentage points, two bars a part.

    Left bar: only this part is quantized. Right bar: everything is but this part. The line is the whole
    plan. The whiskers are 95 % intervals of the paired difference. A bar's `customdata` starts with its
    `row_key`.

    Args:
        layers: how many the model has, so that each has its place before its row is there.
        finetuned: whether to draw the finetuned rows (of the first seed) or those that are not.
    """
    rows = [row for row in rows if row["finetuned"] == finetuned]
    rows = [row for row in rows if row["seed"] == rows[0]["seed"]]
    if not rows:
        return empty_figure(_NOTHING_YET, dark=dark, height=_HEIGHT)
    colours = colours_for(dark)
    parts = [*TABLES, *(f"layer-{layer}" for layer in range(layers))]
    places = {part: place for place, part in enumerate(parts)}
    figure = frame(
        "one-at-a-time",
        dark=dark,
        height=_HEIGHT,
        margin=(_LEFT, _RIGHT, _TOP, _BOTTOM),
        alt=_describe(rows),
    )
    whole = next((row for row in rows if row["method"] == "whole"), None)
    if whole is not None:
        _whole(figure, whole, colours)
    for kind, name, colour, shift in (
        ("only", "only this quantized", colours.hand, -0.2),
        ("without", "all but this quantized", colours.ffn, 0.2),
    ):
        own = [row for row in rows if row["method"] == kind and _part(row) in places]
        still = {"marker": {"opacity": 1}}
        figure.add_trace(
            go.Bar(
                x=[places[_part(row)] + shift for row in own] or [None],
                y=[100 * row["difference"]["mean"] for row in own] or [None],
                width=_WIDTH,
                name=name,
                marker={
                    "color": colour,
                    "line": {
                        "width": [3 if row_key(row) == chosen else 0 for row in own] or 0,
                        "color": colours.accent,
                    },
                    "pattern": {
                        "shape": "" if kind == "only" else "/",
                        "size": 6,
                        "solidity": 0.25,
                        "fillmode": "overlay",
                        "fgcolor": colours.background,
                    },
                },
                selected=still,
                unselected=still,
                error_y=_whiskers(own, colours),
                customdata=[[*_hover(row), places[_part(row)] - len(TABLES)] for row in own],
                hovertemplate="<b>%{customdata[1]}</b><br>%{customdata[2]} from fp32 (95 %: %{customdata[3]})"
                "<br>%{customdata[4]}<extra></extra>",
            )
        )
    figure.update_xaxes(
        range=[-0.6, len(parts) - 0.4],
        tickvals=list(range(len(parts))),
        ticktext=[part_label(part) for part in parts],
        tickangle=0,
        showgrid=False,
        fixedrange=True,
    )
    declare_layers(figure, "x", layers, first=len(TABLES))
    low, high = _range(rows)
    figure.update_yaxes(
        title_text=f"{metric_label} from fp32 (pp)",
        range=[low, high],
        nticks=7,
        zeroline=True,
        zerolinecolor=colours.line,
        zerolinewidth=1.5,
        ticklabelstandoff=4,
        fixedrange=True,
    )
    figure.update_layout(barmode="overlay", clickmode="event+select", dragmode=False)
    return figure


def part_label(part: str) -> str:
    """ "layer-2" -> "L3"; a table by its name."""
    found = re.fullmatch(r"layer-(\d+)", part)
    return layer_label(int(found[1])) if found else part.replace("-", "<br>").capitalize()


def _part(row: SweepRow) -> str:
    return row["name"].removeprefix("only-").removeprefix("without-")


def _hover(row: SweepRow) -> list[str]:
    low, high = row["difference"]["interval"]
    metrics = ", ".join(f"{safe(name)} {fmt_percent(value)}" for name, value in row["metrics"].items())
    return [
        row_key(row),
        safe(row["name"]),
        fmt_signed_points(row["difference"]["mean"]),
        fmt_points_interval(low, high),
        metrics,
    ]


def _whiskers(rows: Sequence[SweepRow], colours: Palette) -> dict[str, object]:
    means = [row["difference"]["mean"] for row in rows]
    ends = [row["difference"]["interval"] for row in rows]
    return {
        "type": "data",
        "symmetric": False,
        "array": [100 * max(high - mean, 0) for mean, (_, high) in zip(means, ends, strict=True)],
        "arrayminus": [100 * max(mean - low, 0) for mean, (low, _) in zip(means, ends, strict=True)],
        "color": colours.ink,
        "thickness": 1.2,
        "width": 3,
    }


def _range(rows: Sequence[SweepRow]) -> tuple[float, float]:
    """Steps coarse enough to move rarely while rows arrive; the side without values keeps a sliver."""
    ends = [100 * end for row in rows for end in row["difference"]["interval"]]
    low = -nice_limit([min([*ends, -2.0])])
    high = nice_limit([max([*ends, 0.0])]) if max(ends, default=0) > 0 else 0.0
    return low, max(high, -low * 0.06)


def _whole(figure: go.Figure, row: SweepRow, colours: Palette) -> None:
    value = 100 * row["difference"]["mean"]
    figure.add_hline(y=value, line={"width": 1.5, "dash": "dash", "color": colours.ink})
    figure.add_annotation(
        text=f"whole plan<br>{fmt_signed_points(row['difference']['mean'])}",
        x=1, xref="paper", xanchor="left", xshift=4, y=value, yanchor="middle", align="left",
        showarrow=False, font={"size": TICK_SIZE, "color": colours.ink},
    )  # fmt: skip


def _describe(rows: Sequence[SweepRow]) -> str:
    only = [row for row in rows if row["method"] == "only"]
    if not only:
        return "Change from fp32 by layer and table; so far only fp32 is measured."
    worst = min(only, key=lambda row: row["difference"]["mean"])
    return (
        f"Change from fp32 of {len(only)} parts quantized alone; the largest loss is {worst['name']} "
        f"with {fmt_signed_points(worst['difference']['mean'])}."
    )
