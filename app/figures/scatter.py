"""Every plan tried so far: its size against what the model still gets right."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import plotly.graph_objects as go

from .frame import empty_figure, frame, safe
from .labels import Box, place_labels
from .palette import (
    SMALL_SIZE,
    TICK_SIZE,
    Palette,
    colours_for,
    fmt_count,
    fmt_interval,
    fmt_mb,
    fmt_percent,
    with_alpha,
)
from .plans import PlanKind, PlanPoint, pareto

SizeScale = Literal["linear", "log"]

_HEIGHT = 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 54, 48  # room for a legend of two rows
_PLOT_WIDTH = 640 - _LEFT - _RIGHT  # labels are laid out for the narrowest column; a wider one only adds room
_PLOT_HEIGHT = _HEIGHT - _TOP - _BOTTOM
_NOTHING_YET = "No plan measured yet. Choose a preset or change some bits: every plan becomes a point here."

_MARKS: dict[PlanKind, tuple[str, str, int]] = {
    "hand": ("circle", "by hand", 9),
    "allocated": ("triangle-up", "allocated", 11),
    "preset": ("diamond", "preset", 11),
    "baseline": ("square", "fp32", 10),
}


def size_accuracy_scatter(
    points: Sequence[PlanPoint],
    *,
    metric_label: str,
    baseline_metric: float,
    baseline_size_mb: float,
    current: str | None,
    dark: bool,
    metric_range: tuple[float, float] = (0.4, 1.0),
    size_scale: SizeScale = "linear",
) -> go.Figure:
    """Size (MB) against the metric, on axes that do not depend on the points.

    Presets are labelled diamonds, plans made by hand circles, plans from the allocator triangles; hollow
    means measured on part of the examples so far. The step line is the Pareto frontier: the best metric a
    size budget can buy. The current plan has a ring and its 95 % interval in full; other intervals are faint.
    A plan below `metric_range` points down from the lower edge; its true value is in the hover text.

    `customdata` of a point starts with its digest, so a click can restore the plan.

    Args:
        metric_label: e.g. "Accuracy".
        baseline_metric, baseline_size_mb: of the fp32 model; the size axis ends 3 % above its size.
        current: digest of the current plan.
        size_scale: "linear" starts at 0; "log" starts at a 32nd of the baseline, gives every halving of the
            size the same room and so pulls 2 to 8 bits apart.
    """
    shown = [p for p in points if p.measured]
    if not shown:
        return empty_figure(_NOTHING_YET, dark=dark, height=_HEIGHT)
    colours = colours_for(dark)
    chosen = [p for p in shown if p.digest == current]
    size_range = (baseline_size_mb / 32 if size_scale == "log" else 0.0, baseline_size_mb * 1.03)
    figure = frame(
        "size-accuracy",
        dark=dark,
        height=_HEIGHT,
        margin=(_LEFT, _RIGHT, _TOP, _BOTTOM),
        alt=_describe(shown, metric_label, baseline_metric, chosen),
    )
    _baseline(figure, baseline_metric, colours)
    frontier = _steps(pareto(shown), size_range[1], metric_range)
    figure.add_trace(_frontier(frontier, colours))
    for kind in _MARKS:
        figure.add_trace(_marks(kind, [p for p in shown if p.kind == kind], metric_range, current, colours))
    figure.add_trace(_ring(chosen, metric_range, colours))
    if any(p.partial for p in shown):
        figure.add_trace(_partial_key(colours))
    _labels(figure, shown, frontier, baseline_metric, size_range, metric_range, size_scale, colours)

    figure.update_layout(clickmode="event+select", hoverdistance=16, dragmode=False)
    figure.update_xaxes(**_size_axis(baseline_size_mb, size_range, size_scale))
    ticks = [tenth / 10 for tenth in range(11)]
    figure.update_yaxes(
        title_text=metric_label,
        range=list(metric_range),
        tickvals=ticks,
        ticktext=[fmt_percent(tick, 0) for tick in ticks],
        ticklabelstandoff=4,
        fixedrange=True,
    )
    return figure


def _size_axis(baseline: float, size_range: tuple[float, float], size_scale: SizeScale) -> dict[str, Any]:
    if size_scale == "linear":
        return _axis("Size (MB)", range=list(size_range), nticks=8, showgrid=False)
    halvings = [baseline / 2**step for step in range(6)]
    return _axis(
        "Size (MB, halving from line to line)",
        type="log",
        range=[math.log10(end) for end in size_range],
        tickvals=halvings,
        # "#" keeps a zero, so that every tick has two digits; from ten on it would keep a bare point
        ticktext=[f"{size:.0f}" if size >= 9.95 else f"{size:#.2g}" for size in halvings],
    )


def _axis(title: str, **settings: Any) -> dict[str, Any]:
    return {"title_text": title, "showline": True, "fixedrange": True, **settings}


def _baseline(figure: go.Figure, metric: float, colours: Palette) -> None:
    figure.add_hline(y=metric, line={"width": 1, "dash": "dot", "color": colours.line}, layer="below")
    figure.add_annotation(
        text=f"fp32 {fmt_percent(metric)}",
        x=1, xref="paper", xanchor="right", y=metric, yanchor="bottom", yshift=5,
        showarrow=False, font={"size": TICK_SIZE, "color": colours.muted},
    )  # fmt: skip


def _steps(
    frontier: Sequence[PlanPoint], right: float, metric_range: tuple[float, float]
) -> list[tuple[float, float]]:
    """Corners of the frontier: up to the smallest plan, a step at each, and on to the right end."""
    if not frontier:
        return []
    metrics = [_clamped(p.metric, metric_range) for p in frontier]
    corners = [(frontier[0].size_mb, metric_range[0])]
    level = metric_range[0]
    for point, metric in zip(frontier, metrics, strict=True):
        corners += [(point.size_mb, level), (point.size_mb, metric)]
        level = metric
    return [*corners, (max(right, frontier[-1].size_mb), level)]


def _frontier(corners: Sequence[tuple[float, float]], colours: Palette) -> go.Scatter:
    return go.Scatter(
        **_places(corners),
        mode="lines",
        line={"width": 1.5, "color": colours.line},
        hoverinfo="skip",
        name="best for size",
    )


def _marks(
    kind: PlanKind,
    points: Sequence[PlanPoint],
    metric_range: tuple[float, float],
    current: str | None,
    colours: Palette,
) -> go.Scatter:
    symbol, name, size = _MARKS[kind]
    colour = colours.hand if kind in ("hand", "allocated") else colours.preset
    rims = [colour if p.partial else colours.background for p in points]
    still = {"marker": {"opacity": 1}}  # a click must not dim the other plans
    return go.Scatter(
        **_places([(p.size_mb, _clamped(p.metric, metric_range)) for p in points]),
        mode="markers",
        marker={
            "symbol": [_symbol(symbol, p, metric_range) for p in points] or symbol,
            "size": size,
            "color": [colours.background if p.partial else colour for p in points] or colour,
            "line": {"width": 1.5, "color": rims or colour},
            "opacity": 1,
        },
        selected=still,
        unselected=still,
        error_y=_whiskers([None if p.digest == current else p for p in points], with_alpha(colour, 0.25), 1),
        customdata=[
            [
                p.digest,
                safe(p.name),
                fmt_mb(p.size_mb),
                fmt_percent(p.metric),
                fmt_interval(p.low, p.high),
                fmt_count(p.n) + (" examples so far" if p.partial else " examples"),
            ]
            for p in points
        ],
        hovertemplate="<b>%{customdata[1]}</b><br>%{customdata[2]}<br>%{customdata[3]}"
        " (95 %: %{customdata[4]})<br>%{customdata[5]}<extra></extra>",
        name=name,
        showlegend=kind != "baseline",  # its line is labelled
        cliponaxis=False,
    )


def _ring(current: Sequence[PlanPoint], metric_range: tuple[float, float], colours: Palette) -> go.Scatter:
    return go.Scatter(
        **_places([(p.size_mb, _clamped(p.metric, metric_range)) for p in current]),
        mode="markers",
        marker={"symbol": "circle-open", "size": 17, "color": colours.accent, "line": {"width": 3}},
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": 1}},
        error_y=_whiskers(current, colours.accent, 2),
        hoverinfo="skip",
        name="current",
        cliponaxis=False,
    )


def _places(corners: Sequence[tuple[float, float]]) -> dict[str, list[Any]]:
    """x and y of a trace; a gap where there is nothing, because an empty trace leaves the legend."""
    return {"x": [x for x, _ in corners] or [None], "y": [y for _, y in corners] or [None]}


def _partial_key(colours: Palette) -> go.Scatter:
    """A legend entry that says what a hollow mark is."""
    return go.Scatter(
        **_places([]),
        mode="markers",
        marker={"symbol": "circle-open", "size": 9, "color": colours.hand, "line": {"width": 1.5}},
        name="partial",
    )


def _symbol(symbol: str, point: PlanPoint, metric_range: tuple[float, float]) -> str:
    return "triangle-down" if point.metric < metric_range[0] else symbol


def _whiskers(points: Sequence[PlanPoint | None], colour: str, thickness: float) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [_arm(p.high - p.metric) if p else 0 for p in points],
        "arrayminus": [_arm(p.metric - p.low) if p else 0 for p in points],
        "color": colour,
        "thickness": thickness,
        "width": 0,
    }


def _arm(length: float) -> float:
    return max(length, 0) if math.isfinite(length) else 0


def _labels(
    figure: go.Figure,
    points: Sequence[PlanPoint],
    frontier: Sequence[tuple[float, float]],
    baseline_metric: float,
    size_range: tuple[float, float],
    metric_range: tuple[float, float],
    size_scale: SizeScale,
    colours: Palette,
) -> None:
    """The names of the presets, with a thin line to the mark where the name had to move away."""
    scale: Callable[[float], float] = math.log10 if size_scale == "log" else float
    left, right = scale(size_range[0]), scale(size_range[1])
    bottom, top = metric_range

    def pixels(size: float, metric: float) -> tuple[float, float]:
        across = (scale(max(size, size_range[0] or size)) - left) / (right - left)
        return across * _PLOT_WIDTH, (top - _clamped(metric, metric_range)) / (top - bottom) * _PLOT_HEIGHT

    corners = [pixels(*corner) for corner in frontier]
    lines = [_strip(start, end) for start, end in pairwise(corners)]
    lines.append(_strip(pixels(size_range[0], baseline_metric), pixels(size_range[1], baseline_metric)))
    placements = place_labels(
        [pixels(p.size_mb, p.metric) for p in points],
        [p.name if p.kind == "preset" else "" for p in points],
        width=_PLOT_WIDTH,
        height=_PLOT_HEIGHT,
        text_size=SMALL_SIZE,
        keep_clear=lines,
    )
    for point, place in zip(points, placements, strict=True):
        if place is None:
            continue
        figure.add_annotation(
            text=safe(point.name),
            x=scale(point.size_mb), y=_clamped(point.metric, metric_range),
            ax=place.across, ay=place.down, axref="pixel", ayref="pixel",
            xanchor=place.xanchor, yanchor=place.yanchor, borderpad=0,
            showarrow=True, arrowhead=0, standoff=5, arrowwidth=0.8,
            arrowcolor=colours.line if place.moved else "rgba(0,0,0,0)",
            font={"size": SMALL_SIZE, "color": colours.ink},
        )  # fmt: skip


def _strip(start: tuple[float, float], end: tuple[float, float]) -> Box:
    """The room a horizontal or vertical line takes."""
    return (
        min(start[0], end[0]) - 2,
        min(start[1], end[1]) - 2,
        max(start[0], end[0]) + 2,
        max(start[1], end[1]) + 2,
    )


def _clamped(metric: float, metric_range: tuple[float, float]) -> float:
    return min(max(metric, metric_range[0]), metric_range[1])


def _describe(
    points: Sequence[PlanPoint], metric_label: str, baseline_metric: float, current: Sequence[PlanPoint]
) -> str:
    text = f"{metric_label} against size of {len(points)} plans; fp32 has {fmt_percent(baseline_metric)}."
    for plan in current[:1]:
        text += f" Current plan: {fmt_mb(plan.size_mb)}, {fmt_percent(plan.metric)}."
    return text
