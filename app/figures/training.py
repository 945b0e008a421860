"""A training as it goes: loss and learning rate, and the metric after each epoch."""

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from .frame import empty_figure, frame, nice_limit
from .palette import TICK_SIZE, Palette, colours_for, fmt_loss, fmt_percent
from .rows import Band, clamped, metric_axis

_HEIGHT = 310
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 62, 32, 46
_NO_LOSS = "No training yet. Press Start: the training loss appears here, point by point."
_NO_METRIC = "No epoch is over yet: after each one what is trained is measured, and stands here."

Point = Mapping[str, float]
"""step, epoch, loss (nats, mean since the last point), lr, eta_seconds; metrics at the end of an epoch."""


def loss_curve(
    points: Sequence[Point], *, epochs: int, lr: float, trained: str = "quantized model", dark: bool
) -> go.Figure:
    """Training loss against epochs and, under it on a strip of its own, the learning rate.

    Args:
        epochs: how many there will be; the axis ends there from the start.
        lr: the peak learning rate; the strip's axis ends there.
        trained: whose loss it is.
    """
    if not points:
        return empty_figure(_NO_LOSS, dark=dark, height=_HEIGHT)
    colours = colours_for(dark)
    figure = frame(
        "training-loss",
        dark=dark,
        height=_HEIGHT,
        margin=(_LEFT, _RIGHT, _TOP, _BOTTOM),
        alt=_describe_loss(points),
    )
    epoch = [point["epoch"] for point in points]
    figure.add_trace(
        go.Scatter(
            x=epoch,
            y=[point["loss"] for point in points],
            mode="lines+markers" if len(points) < 60 else "lines",
            line={"width": 2, "color": colours.hand},
            marker={"size": 6, "color": colours.hand},
            customdata=[[int(point["step"]), fmt_loss(point["loss"])] for point in points],
            hovertemplate="<b>step %{customdata[0]}</b>: loss %{customdata[1]}<extra></extra>",
            name=f"loss ({trained}, training data)",
            cliponaxis=False,
        )
    )
    figure.add_trace(
        go.Scatter(
            x=epoch,
            y=[point["lr"] for point in points],
            yaxis="y2",
            mode="lines+markers" if len(points) < 60 else "lines",
            line={"width": 1.5, "color": colours.embedding},
            marker={"size": 4, "color": colours.embedding},
            customdata=[[int(point["step"]), f"{point['lr']:.3g}"] for point in points],
            hovertemplate="<b>step %{customdata[0]}</b>: lr %{customdata[1]}<extra></extra>",
            name="learning rate",
            cliponaxis=False,
        )
    )
    figure.update_xaxes(**_epoch_axis(epochs), anchor="y2")
    losses = [point["loss"] for point in points]
    figure.update_yaxes(
        title_text="Loss (nats)",
        range=[0, nice_limit(losses)],
        domain=[0.3, 1],
        nticks=6,
        ticklabelstandoff=4,
        fixedrange=True,
    )
    figure.update_layout(
        dragmode=False,
        yaxis2={
            "title": {"text": "lr", "standoff": 8},
            "domain": [0, 0.2],
            "range": [0, lr * 1.1],
            "tickvals": [0, lr],
            "ticktext": ["0", f"{lr:.3g}"],
            "ticklabelstandoff": 4,
            "fixedrange": True,
        },
    )
    return figure


def epoch_metric(
    points: Sequence[Point],
    *,
    epochs: int,
    metric: str,
    metric_label: str,
    before: float | None,
    fp32: float | None,
    band: Band,
    trained: str = "plan",
    dark: bool,
) -> go.Figure:
    """The metric of what is finetuned after each epoch; lines at fp32 and at the plan before finetuning.

    Args:
        before, fp32: the same metric of the plan without finetuning and of the fp32 model, None while unknown.
        trained: what is finetuned.
    """
    measured = [point for point in points if metric in point]
    if not measured and before is None and fp32 is None:
        return empty_figure(_NO_METRIC, dark=dark, height=_HEIGHT)
    colours = colours_for(dark)
    figure = frame(
        "training-metric",
        dark=dark,
        height=_HEIGHT,
        margin=(_LEFT, _RIGHT, _TOP, _BOTTOM),
        alt=_describe_metric(measured, metric, metric_label, before, fp32),
    )
    _levels(figure, fp32, before, band, colours)
    figure.add_trace(
        go.Scatter(
            x=[point["epoch"] for point in measured] or [None],
            y=[clamped(point[metric], band) for point in measured] or [None],
            mode="lines+markers",
            line={"width": 2, "color": colours.hand},
            marker={"size": 9, "color": colours.hand},
            customdata=[[int(point["step"]), fmt_percent(point[metric])] for point in measured],
            hovertemplate="<b>step %{customdata[0]}</b>: %{customdata[1]}<extra></extra>",
            name=f"{trained}, finetuned",
            showlegend=True,
            cliponaxis=False,
        )
    )
    figure.update_xaxes(**_epoch_axis(epochs))
    figure.update_yaxes(**metric_axis(metric_label, band))
    figure.update_layout(dragmode=False)
    return figure


def _epoch_axis(epochs: int) -> dict[str, object]:
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if epochs <= 10 * s)
    return {
        "title_text": "Epoch",
        "range": [0, epochs * 1.02],
        "tickmode": "linear",
        "tick0": 0,
        "dtick": step,
        "showline": True,
        "showgrid": False,
        "fixedrange": True,
    }


def _levels(
    figure: go.Figure, fp32: float | None, before: float | None, band: Band, colours: Palette
) -> None:
    """Two lines to compare with, labelled beside the plot; one label above and one below where they are close."""
    known = [(value, name) for value, name in ((fp32, "fp32"), (before, "before")) if value is not None]
    above = fp32 is None or before is None or fp32 >= before
    room = 0.16 * (band[1] - band[0])  # two lines of text
    close = len(known) == 2 and abs(known[0][0] - known[1][0]) < room
    for value, name in known:
        upper = (name == "fp32") == above
        place = clamped(value, band)
        dash = "dot" if name == "fp32" else "dash"
        figure.add_hline(y=place, line={"width": 1.5, "dash": dash, "color": colours.line}, layer="below")
        figure.add_annotation(
            text=f"{name}<br>{fmt_percent(value)}",
            x=1, xref="paper", xanchor="left", xshift=4, y=place, align="left",
            yanchor=("bottom" if upper else "top") if close else "middle",
            showarrow=False, font={"size": TICK_SIZE, "color": colours.muted},
        )  # fmt: skip


def _describe_loss(points: Sequence[Point]) -> str:
    now = points[-1]
    loss = fmt_loss(now["loss"]) if math.isfinite(now["loss"]) else "unknown"
    return f"Training loss of {len(points)} points; at step {int(now['step'])} it is {loss}."


def _describe_metric(
    measured: Sequence[Point], metric: str, label: str, before: float | None, fp32: float | None
) -> str:
    text = f"{label} after each epoch; fp32 {fmt_percent(fp32)}, before finetuning {fmt_percent(before)}"
    if not measured:
        return f"{text}; no epoch is over yet."
    return f"{text}, after {measured[-1]['epoch']:.0f} epochs {fmt_percent(measured[-1][metric])}."
