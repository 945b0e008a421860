"""A row of a sweep as the figures read it, and how its mark looks wherever it is drawn."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from .frame import safe
from .palette import Palette, fmt_count, fmt_interval, fmt_mb, fmt_percent, fmt_signed_points

Band = tuple[float, float]
"""Ends of the metric's axis, fractions."""


class Difference(TypedDict):
    """The task's main metric, less the fp32 model's on the same examples; its 95 % interval."""

    mean: float
    interval: Sequence[float]


class SweepRow(TypedDict):
    """One measured plan, as `qbert_core sweep` writes it, as far as figures read it."""

    name: str
    method: str
    finetuned: bool
    seed: int
    metrics: Mapping[str, float]
    interval: Sequence[float]  # of the task's main metric
    difference: Difference
    size_mb: float
    n: int
    applied: Mapping[str, Any]


def row_key(row: SweepRow) -> str:
    """What tells a row from every other of its sweep; the first of a mark's `customdata`."""
    return f"{row['name']}|{'finetuned' if row['finetuned'] else 'as it is'}|{row['seed']}"


def value_of(row: SweepRow, metric: str) -> float:
    """The metric, a fraction."""
    return row["metrics"][metric]


def how(row: SweepRow) -> str:
    """Whether a row was finetuned, in words."""
    return f"finetuned, seed {row['seed']}" if row["finetuned"] else "not finetuned"


def hover(row: SweepRow, metric: str) -> list[str]:
    """`customdata` of a row's mark, in the order HOVER reads it."""
    low, high = row["interval"]
    difference = row["difference"]
    return [
        row_key(row),
        safe(row["name"]),
        how(row),
        fmt_percent(value_of(row, metric)),
        fmt_interval(low, high),
        fmt_signed_points(difference["mean"]),
        fmt_mb(row["size_mb"]),
        fmt_count(row["n"]),
    ]


HOVER = (
    "<b>%{customdata[1]}</b>, %{customdata[2]}<br>%{customdata[3]} (95 %: %{customdata[4]})"
    "<br>%{customdata[5]} from fp32<br>%{customdata[6]}, n = %{customdata[7]}<extra></extra>"
)


def clamped(value: float, band: Band) -> float:
    """A value kept inside the axis."""
    return min(max(value, band[0]), band[1])


def whiskers(rows: Sequence[SweepRow], metric: str, band: Band, colour: str) -> dict[str, Any]:
    """Plotly's `error_y`: the 95 % intervals, cut off at the axis' ends."""
    values = [clamped(value_of(row, metric), band) for row in rows]
    ends = [[clamped(end, band) for end in row["interval"]] for row in rows]
    return {
        "type": "data",
        "symmetric": False,
        "array": [_arm(high - value) for value, (_, high) in zip(values, ends, strict=True)],
        "arrayminus": [_arm(value - low) for value, (low, _) in zip(values, ends, strict=True)],
        "color": colour,
        "thickness": 1.2,
        "width": 0,
    }


def mark(
    rows: Sequence[SweepRow],
    metric: str,
    band: Band,
    colour: str,
    symbol: str,
    chosen: str | None,
    colours: Palette,
    *,
    hollow: bool,
) -> dict[str, Any]:
    """Plotly's `marker` of rows: hollow where asked for, the chosen one ringed, a triangle that points
    down where the value lies below the axis."""
    rims = [colours.accent if row_key(row) == chosen else colour for row in rows]
    below = [value_of(row, metric) < band[0] for row in rows]
    return {
        "symbol": ["triangle-down" if low else symbol for low in below] or symbol,
        "size": 9,
        "color": colours.background if hollow else colour,
        "line": {
            "width": [3 if row_key(row) == chosen else 1.6 for row in rows] or 1.6,
            "color": rims or colour,
        },
        "opacity": 1,
    }


def metric_axis(label: str, band: Band) -> dict[str, Any]:
    """The metric's axis, the same whatever the rows say."""
    ticks = [tenth / 10 for tenth in range(11) if band[0] <= tenth / 10 <= band[1]]
    if len(ticks) > 7:
        ticks = ticks[::2]
    return {
        "title_text": label,
        "range": [band[0] - 0.01, band[1] + 0.005],
        "tickvals": ticks,
        "ticktext": [fmt_percent(tick, 0) for tick in ticks],
        "ticklabelstandoff": 4,
        "fixedrange": True,
    }


def _arm(length: float) -> float:
    return max(length, 0) if math.isfinite(length) else 0
