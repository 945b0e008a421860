"""What finer ranges are worth: the metric against the number of groups a matrix is split into."""

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from .frame import empty_figure, frame
from .palette import TICK_SIZE, Palette, colours_for, fmt_percent
from .rows import HOVER, Band, SweepRow, clamped, hover, mark, metric_axis, value_of, whiskers

_HEIGHT = 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 54, 34, 62
_NOTHING_YET = (
    "No group count measured yet. Press Start: each count becomes a mark here, from one range a matrix on."
)


def group_count_marks(
    rows: Sequence[SweepRow],
    counts: Sequence[tuple[str, int]],
    *,
    metric: str,
    metric_label: str,
    band: Band,
    finetuning: bool,
    chosen: str | None,
    dark: bool,
) -> go.Figure:
    """The metric of every group count with its 95 % interval, on a logarithmic axis.

    Args:
        counts: what was asked for ("heads", "128", "rows") and the groups that is; a row "groups-heads"
            stands at the number beside "heads". The axis holds all of them before the first row is there.
        metric, band, finetuning, chosen: as in `setting_marks`.
    """
    if not rows:
        return empty_figure(_NOTHING_YET, dark=dark, height=_HEIGHT)
    colours = colours_for(dark)
    places = {f"groups-{word}": count for word, count in counts}
    figure = frame(
        "group-counts",
        dark=dark,
        height=_HEIGHT,
        margin=(_LEFT, _RIGHT, _TOP, _BOTTOM),
        alt=_describe(rows, metric, metric_label),
    )
    first = next((row for row in rows if row["method"] == "baseline" and not row["finetuned"]), None)
    if first is not None:
        _baseline(figure, value_of(first, metric), band, colours)
    for finetuned in (False, True) if finetuning else (False,):
        some = sorted(
            (row for row in rows if row["name"] in places and row["finetuned"] == finetuned),
            key=lambda row: (row["seed"], places[row["name"]]),
        )
        colour = colours.hand
        still = {"marker": {"opacity": 1}}
        figure.add_trace(
            go.Scatter(
                x=[places[row["name"]] * (1.05 if finetuned else 1) for row in some] or [None],
                y=[clamped(value_of(row, metric), band) for row in some] or [None],
                mode="markers",
                marker=mark(
                    some, metric, band, colour, "circle", chosen, colours, hollow=finetuning and not finetuned
                ),
                selected=still,
                unselected=still,
                error_y=whiskers(some, metric, band, colour),
                customdata=[hover(row, metric) for row in some],
                hovertemplate=HOVER,
                name="finetuned" if finetuned else "not finetuned",
                showlegend=finetuning,
                cliponaxis=False,
            )
        )
    ends = [math.log10(count) for count in places.values()] or [0.0, 1.0]
    room = 0.08 * max(max(ends) - min(ends), 1)
    figure.update_xaxes(
        title_text="Groups a matrix, each with its own range (logarithmic)",
        type="log",
        range=[min(ends) - room, max(ends) + room],
        tickvals=_spread(list(places.values()), max(ends) - min(ends) + 2 * room),
        ticktext=None,
        showgrid=True,
        showline=True,
        fixedrange=True,
    )
    figure.layout.xaxis.ticktext = [_tick(value, counts) for value in figure.layout.xaxis.tickvals]
    figure.update_yaxes(**metric_axis(metric_label, band))
    figure.update_layout(clickmode="event+select", hoverdistance=16, dragmode=False)
    return figure


def _spread(values: list[int], decades: float) -> list[int]:
    """The counts that can be labelled without touching: at least a twelfth of the axis apart."""
    kept: list[int] = []
    for value in sorted(set(values)):
        if not kept or math.log10(value / kept[-1]) >= decades / 12:
            kept.append(value)
    return kept


def _tick(value: int, counts: Sequence[tuple[str, int]]) -> str:
    """The number and, under it, the word it was asked for with."""
    words = [word for word, count in counts if count == value and not word.isdecimal()]
    return f"{value}<br>{words[0]}" if words else str(value)


def _baseline(figure: go.Figure, value: float, band: Band, colours: Palette) -> None:
    place = clamped(value, band)
    figure.add_hline(y=place, line={"width": 1, "dash": "dot", "color": colours.line}, layer="below")
    figure.add_annotation(
        text=f"fp32<br>{fmt_percent(value)}",
        x=1, xref="paper", xanchor="left", xshift=4, y=place, yanchor="middle", align="left",
        showarrow=False, font={"size": TICK_SIZE, "color": colours.muted},
    )  # fmt: skip


def _describe(rows: Sequence[SweepRow], metric: str, label: str) -> str:
    plain = [row for row in rows if row["method"] != "baseline" and not row["finetuned"]]
    if not plain:
        return f"{label} against the number of groups; so far only fp32 is measured."
    best = max(plain, key=lambda row: value_of(row, metric))
    return (
        f"{label} against the number of groups of {len(plain)} plans; "
        f"the best is {best['name']} with {fmt_percent(value_of(best, metric))}."
    )
