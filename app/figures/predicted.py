"""Predicted harm against what was measured: a point a plan."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import plotly.graph_objects as go

from .blocks import known
from .frame import colour_bar, colour_scale, empty_figure, frame, nice_limit, safe
from .palette import (
    TICK_SIZE,
    Palette,
    colours_for,
    fmt_error,
    fmt_interval,
    fmt_loss,
    fmt_mb,
    fmt_percent,
    with_alpha,
)
from .rows import Band, clamped, metric_axis

_HEIGHT = 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 96, 36, 48
_NOTHING_YET = (
    "No plan measured yet. Finish an analysis above, then press Rank plans: each plan becomes a point here."
)
_MARKS = {"frontier": ("diamond", "least predicted harm", 11), "random": ("circle", "random", 8)}


class PredictedRow(TypedDict):
    """A plan as `qbert_core sweep --frontier` writes it, as far as it is drawn. The fp32 model has no prediction."""

    name: str
    method: str
    metrics: Mapping[str, float]
    interval: Sequence[float]  # of the main metric
    loss: float | None  # nats
    size_mb: float
    predicted: Mapping[str, float] | None


def predicted_scatter(
    rows: Sequence[PredictedRow],
    *,
    predictor: str,
    predictor_label: str,
    by_loss: bool,
    metric: str,
    metric_label: str,
    band: Band,
    dark: bool,
) -> go.Figure:
    """Predicted harm, logarithmic, against the metric, or with `by_loss` the mean loss; colour is size.

    A prediction that ranks well makes points fall (rise, for the loss) from left to right, also among those of
    one colour: that smaller plans do more harm needs no prediction. Diamonds are the plans of least predicted
    harm. A harm of 0 stands at the left edge; a metric below `band` at the lower.

    Args:
        predictor: key of the rows' `predicted`; `predictor_label` says on the axis what it is, with its unit.
        metric, metric_label, band: as in `setting_marks`.
    """
    plans = [row for row in rows if row["predicted"] is not None]
    if not plans:
        return empty_figure(_NOTHING_YET, dark=dark, height=_HEIGHT)
    colours = colours_for(dark)
    figure = frame(
        "predicted",
        dark=dark,
        height=_HEIGHT,
        margin=(_LEFT, _RIGHT, _TOP, _BOTTOM),
        alt=_describe(plans, predictor_label, "mean loss" if by_loss else metric_label),
    )
    low, high = _powers([_harm(row, predictor) for row in plans])
    sizes = [row["size_mb"] for row in plans]
    for method, (symbol, name, size) in _MARKS.items():
        some = [row for row in plans if row["method"] == method]
        figure.add_trace(
            go.Scatter(
                x=[max(_harm(row, predictor), 10.0**low) for row in some] or [None],
                y=[_value(row, metric, band, by_loss) for row in some] or [None],
                mode="markers",
                marker={
                    "symbol": symbol,
                    "size": size,
                    "color": [row["size_mb"] for row in some] or colours.muted,
                    "coloraxis": "coloraxis",
                    "line": {"width": 1, "color": colours.line},
                    "opacity": 1,
                },
                error_y=None if by_loss else _whiskers(some, metric, band, colours),
                customdata=[_hover(row, predictor, metric) for row in some],
                hovertemplate=_HOVER,
                name=name,
                cliponaxis=False,
            )
        )
    _baseline(figure, rows, metric, band, by_loss, colours)
    figure.update_layout(
        coloraxis={
            "colorscale": colour_scale(colours.bits[1:-1]),
            "cmin": min(sizes),
            "cmax": max(*sizes, min(sizes) * 1.001),
            "colorbar": colour_bar("Size (MB)", colours, nticks=6),
        },
        dragmode=False,
        hoverdistance=16,
    )
    figure.update_xaxes(
        title_text=f"Predicted harm: {predictor_label} (logarithmic)", type="log", range=[low, high],
        tickmode="linear", tick0=0, dtick=math.ceil((high - low) / 8), exponentformat="power",
        showline=True, fixedrange=True,
    )  # fmt: skip
    if by_loss:
        losses = [row["loss"] for row in rows if known(row["loss"])]
        figure.update_yaxes(
            title_text="Mean loss (nats)", range=[0, nice_limit(losses)], nticks=7, ticklabelstandoff=4,
            fixedrange=True,
        )  # fmt: skip
    else:
        figure.update_yaxes(**metric_axis(metric_label, band))
    return figure


_HOVER = (
    "<b>%{customdata[0]}</b>, %{customdata[1]}<br>predicted harm %{customdata[2]}"
    "<br>%{customdata[3]} (95 %: %{customdata[4]})<br>loss %{customdata[5]} nats<extra></extra>"
)


def _hover(row: PredictedRow, predictor: str, metric: str) -> list[str]:
    low, high = row["interval"]
    return [
        safe(row["name"]),
        fmt_mb(row["size_mb"]),
        fmt_error(_harm(row, predictor)),
        fmt_percent(row["metrics"][metric]),
        fmt_interval(low, high),
        fmt_loss(row["loss"]),
    ]


def _harm(row: PredictedRow, predictor: str) -> float:
    assert row["predicted"] is not None
    return row["predicted"][predictor]


def _value(row: PredictedRow, metric: str, band: Band, by_loss: bool) -> float | None:
    return row["loss"] if by_loss else clamped(row["metrics"][metric], band)


def _powers(harms: Sequence[float]) -> tuple[int, int]:
    """Whole powers of ten that hold all harms above 0: the axis seldom moves while plans arrive."""
    found = [math.log10(harm) for harm in harms if harm > 1e-300]
    low, high = math.floor(min(found, default=0.0)), math.ceil(max(found, default=1.0))
    return low, max(high, low + 1)


def _whiskers(rows: Sequence[PredictedRow], metric: str, band: Band, colours: Palette) -> dict[str, Any]:
    values = [clamped(row["metrics"][metric], band) for row in rows]
    ends = [[clamped(end, band) for end in row["interval"]] for row in rows]
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(high - value, 0) for value, (_, high) in zip(values, ends, strict=True)],
        "arrayminus": [max(value - low, 0) for value, (low, _) in zip(values, ends, strict=True)],
        "color": with_alpha(colours.line, 0.35),
        "thickness": 1,
        "width": 0,
    }


def _baseline(
    figure: go.Figure,
    rows: Sequence[PredictedRow],
    metric: str,
    band: Band,
    by_loss: bool,
    colours: Palette,
) -> None:
    first = next((row for row in rows if row["predicted"] is None), None)
    place = None if first is None else _value(first, metric, band, by_loss)
    if first is None or place is None:
        return
    text = fmt_loss(first["loss"]) if by_loss else fmt_percent(first["metrics"][metric])
    figure.add_hline(y=place, line={"width": 1, "dash": "dot", "color": colours.line}, layer="below")
    figure.add_annotation(
        text=f"fp32 {text}",
        x=1, xref="paper", xanchor="right", xshift=-4, y=place, yanchor="bottom", yshift=2,
        showarrow=False, font={"size": TICK_SIZE, "color": colours.muted},
    )  # fmt: skip


def _describe(plans: Sequence[PredictedRow], predictor: str, measured: str) -> str:
    best = sum(row["method"] == "frontier" for row in plans)
    return (
        f"{measured} of {len(plans)} plans against the harm that {predictor} predicts; {best} of them are the plans "
        "of least predicted harm at their size."
    )
