"""A few plans side by side: the metric of each with its interval."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from .frame import empty_figure, frame, safe
from .palette import TICK_SIZE, colours_for, fmt_interval, fmt_percent
from .rows import Band, clamped, metric_axis

_RIGHT, _TOP, _BOTTOM = 26, 26, 46
_LEFT = 128
_ROW = 44  # pixels
_WIDE = 17  # characters of a name in a line


@dataclass(frozen=True)
class Contender:
    """A plan by the name it has here; `value` None until it is measured on every example."""

    name: str
    value: float | None = None
    interval: tuple[float, float] = (0.0, 0.0)


def contest_marks(
    contenders: Sequence[Contender],
    *,
    metric_label: str,
    band: Band,
    baseline: float | None,
    chosen: str | None,
    waiting: str | None,
    dark: bool,
) -> go.Figure:
    """A row a plan in the order given, from above; the dotted line is fp32.

    Args:
        band: ends of the axis; a value below it stands at its end.
        chosen: name of the row that is ringed.
        waiting: a sentence that stands here instead, None to draw the rows.
    """
    height = _TOP + _BOTTOM + _ROW * max(len(contenders), 1)
    if waiting is not None:
        return empty_figure(waiting, dark=dark, height=height)
    colours = colours_for(dark)
    figure = frame(
        "contest",
        dark=dark,
        height=height,
        margin=(_LEFT, _RIGHT, _TOP, _BOTTOM),
        alt=_describe(contenders, metric_label),
    )
    known = [(row, c, c.value) for row, c in enumerate(contenders) if c.value is not None]
    values = [clamped(value, band) for _, _, value in known]
    ends = [tuple(clamped(end, band) for end in c.interval) for _, c, _ in known]
    figure.add_trace(
        go.Scatter(
            x=values or [None],
            y=[row for row, _, _ in known] or [None],
            mode="markers+text",
            marker={
                "size": 11,
                "color": colours.hand,
                "line": {
                    "width": [4 if c.name == chosen else 0 for _, c, _ in known] or 0,
                    "color": colours.accent,
                },
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - at for (_, high), at in zip(ends, values, strict=True)],
                "arrayminus": [at - low for (low, _), at in zip(ends, values, strict=True)],
                "color": colours.hand,
                "thickness": 1.6,
                "width": 4,
            },
            text=[fmt_percent(value) for _, _, value in known],
            textposition="top center",
            textfont={"size": TICK_SIZE, "color": colours.ink},
            customdata=[[safe(c.name), fmt_percent(v), fmt_interval(*c.interval)] for _, c, v in known],
            hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]} (95 %: %{customdata[2]})<extra></extra>",
            name="plans",
            showlegend=False,
            cliponaxis=False,
        )
    )
    if baseline is not None:
        figure.add_vline(x=baseline, line={"width": 1.2, "dash": "dot", "color": colours.line}, layer="below")
        figure.add_annotation(
            text=f"fp32 {fmt_percent(baseline)}", x=baseline, y=1, yref="paper", yanchor="bottom",
            xanchor="right", showarrow=False, font={"size": TICK_SIZE, "color": colours.muted},
        )  # fmt: skip
    figure.update_xaxes(
        **{**metric_axis(metric_label, band), "range": [band[0] - 0.01, band[1] + 0.02]}, showgrid=True
    )
    figure.update_yaxes(
        range=[len(contenders) - 0.4, -0.6],
        tickvals=list(range(len(contenders))),
        ticktext=["<br>".join(textwrap.wrap(safe(c.name), _WIDE)) for c in contenders],
        ticklabelstandoff=6,
        showgrid=False,
        fixedrange=True,
    )
    figure.update_layout(dragmode=False)
    return figure


def _describe(contenders: Sequence[Contender], label: str) -> str:
    said = [f"{c.name} {fmt_percent(c.value)}" for c in contenders if c.value is not None]
    waiting = len(contenders) - len(said)
    tail = f"; {waiting} still being measured" if waiting else ""
    return f"{label}: {', '.join(said) or 'nothing measured yet'}{tail}."
