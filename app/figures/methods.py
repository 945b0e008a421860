"""Attention KL layer by layer, method against method."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from .frame import empty_figure, frame, safe
from .layers import LEFT, RIGHT, layer_axis
from .marks import declare_layers
from .palette import Palette, colours_for, fmt_kl, layer_label

KL_LOW, KL_HIGH = 1e-6, 10.0
"""Ends of the axis, in nats; what lies outside is drawn at the end and its hover label says the number."""

_HEIGHT, _TOP, _BOTTOM = 300, 36, 34
_SYMBOLS = ("circle", "square", "diamond")
_NOTHING_YET = (
    "Not measured yet. Presets are measured when no plan waits; their attention KL a layer appears here."
)


class LayerKL(NamedTuple):
    """One method: its name and the mean KL over the heads of every layer, in nats."""

    name: str
    kl: Sequence[float]


def kl_by_layer(methods: Sequence[LayerKL], *, layers: int, dark: bool) -> go.Figure:
    """Mean attention KL of each layer for up to three plans, on a logarithmic axis that never moves.

    Colour and symbol go by a method's place in `methods`; give an empty `kl` for one not measured yet, so
    that the others keep theirs.
    """
    if not any(method.kl for method in methods):
        return empty_figure(_NOTHING_YET, dark=dark, height=_HEIGHT)
    colours = colours_for(dark)
    figure = frame(
        "kl-by-layer", dark=dark, height=_HEIGHT, margin=(LEFT, RIGHT, _TOP, _BOTTOM), alt=_describe(methods)
    )
    for place, method in enumerate(methods):
        if method.kl:
            figure.add_trace(_line(method, place, colours))
    figure.update_xaxes(**layer_axis(layers))
    declare_layers(figure, "x", layers)
    powers = range(round(math.log10(KL_LOW)), round(math.log10(KL_HIGH)) + 1)
    figure.update_yaxes(
        type="log",
        range=[powers[0] - 0.15, powers[-1] + 0.15],
        tickvals=[10.0**power for power in powers],
        ticktext=[_tick(power) for power in powers],
        title_text="Attention KL (nats)",
        ticklabelstandoff=4,
        fixedrange=True,
    )
    figure.update_layout(showlegend=True, dragmode=False)
    return figure


def _line(method: LayerKL, place: int, colours: Palette) -> go.Scatter:
    colour = (colours.attention, colours.ffn, colours.embedding)[place]
    return go.Scatter(
        x=list(range(len(method.kl))),
        y=[min(max(value, KL_LOW), KL_HIGH) for value in method.kl],
        mode="lines+markers",
        name=safe(method.name),
        line={"color": colour, "width": 2, "dash": ("solid", "dash", "dot")[place]},
        marker={"color": colour, "size": 9, "symbol": _SYMBOLS[place]},
        customdata=[[layer_label(i), fmt_kl(value, unit=True)] for i, value in enumerate(method.kl)],
        hovertemplate=f"<b>{safe(method.name)}, %{{customdata[0]}}</b>: %{{customdata[1]}}<extra></extra>",
    )


def _tick(power: int) -> str:
    return f"{10.0**power:g}" if power >= -3 else f"10<sup>\N{MINUS SIGN}{-power}</sup>"


def _describe(methods: Sequence[LayerKL]) -> str:
    parts = [
        f"{method.name} {fmt_kl(min(method.kl))} to {fmt_kl(max(method.kl))} nats"
        for method in methods
        if method.kl
    ]
    return f"Mean attention KL by layer: {'; '.join(parts)}."
