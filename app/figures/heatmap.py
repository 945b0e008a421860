"""Attention KL, layers x heads, on a colour scale that never moves."""

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from .frame import colour_bar, colour_scale, empty_figure, frame
from .marks import declare_layers, outline_box
from .palette import MISSING, SMALL_SIZE, TEXT_SIZE, Palette, colours_for, fmt_kl, layer_label

KL_FLOOR = 1e-4
"""Nats; everything below has the lowest colour."""
KL_CEILING = 2.0
"""Nats; everything above has the highest colour."""

_TICKS = {1e-4: "≤ 0.0001", 1e-3: "0.001", 1e-2: "0.01", 0.1: "0.1", 1.0: "1", 2.0: "≥ 2"}
TOP, BOTTOM = 30, 46
_NOTHING_YET = "No attention measured yet. Choose a plan: its KL by layer and head appears here."


def kl_heatmap(
    kl: Sequence[Sequence[float | None]],
    *,
    dark: bool,
    outdated: bool = False,
    selected: tuple[int, int] | None = None,
) -> go.Figure:
    """Mean KL divergence of each head's attention from the fp32 model's, in nats.

    Colour is log10 of the KL between KL_FLOOR and KL_CEILING whatever the data are, so that two plans can be
    compared by eye; an exact 0 (nothing changed at all) is written as "0". Layer 1 is at the top.

    Heatmap cells cannot be selected, so invisible square markers lie on top of them; a click selects the
    nearest, whose `customdata` starts with the 0-based [layer, head].

    Args:
        kl: layers x heads; None or NaN where nothing was measured; empty before the first measurement.
        outdated: the numbers belong to an earlier plan: dimmed and said so.
        selected: 0-based (layer, head) to outline.
    """
    if not kl or not kl[0]:
        return empty_figure(_NOTHING_YET, dark=dark, height=heatmap_height(6))
    layers, heads = len(kl), len(kl[0])
    values = [[_finite(value) for value in row] for row in kl]
    colours = colours_for(dark)

    figure = frame(
        "kl-heatmap",
        dark=dark,
        height=heatmap_height(layers),
        margin=(46, 102, TOP, BOTTOM),
        alt=_describe(values, outdated),
    )
    figure.add_trace(_cells(values, colours, outdated))
    figure.add_trace(_targets(values, colours))
    if selected is not None:
        layer, head = selected
        outline_box(figure, head - 0.5, layer - 0.5, colours)
    figure.update_layout(clickmode="event+select", hoverdistance=60, dragmode=False)
    figure.update_xaxes(
        title_text="Head",
        range=[-0.5, heads - 0.5],
        tickvals=list(range(heads)),
        ticktext=[str(head + 1) for head in range(heads)],
        showgrid=False,
        showline=True,
        mirror=True,
        fixedrange=True,
    )
    figure.update_yaxes(
        range=[layers - 0.5, -0.5],
        tickvals=list(range(layers)),
        ticktext=[layer_label(layer) for layer in range(layers)],
        ticklabelstandoff=4,
        showgrid=False,
        showline=True,
        mirror=True,
        fixedrange=True,
    )
    declare_layers(figure, "y", layers)
    if outdated:
        figure.add_annotation(
            text="Outdated: an earlier plan’s numbers",
            x=0, xref="paper", xanchor="left", y=1, yref="paper", yanchor="bottom", yshift=5,
            showarrow=False, font={"size": TEXT_SIZE, "color": colours.ink},
        )  # fmt: skip
    return figure


def _cells(values: list[list[float | None]], colours: Palette, outdated: bool) -> go.Heatmap:
    low, high = math.log10(KL_FLOOR), math.log10(KL_CEILING)
    return go.Heatmap(
        z=[[None if v is None else math.log10(max(v, KL_FLOOR)) for v in row] for row in values],
        zmin=low,
        zmax=high,
        colorscale=colour_scale(colours.kl),
        opacity=0.5 if outdated else 1,
        xgap=2,
        ygap=2,
        hoverinfo="skip",
        colorbar=colour_bar(
            "KL divergence (nats)",
            colours,
            tickvals=[math.log10(tick) for tick in _TICKS],
            ticktext=list(_TICKS.values()),
        ),
    )


def _targets(values: list[list[float | None]], colours: Palette) -> go.Scatter:
    cells = [(layer, head) for layer, row in enumerate(values) for head in range(len(row))]
    return go.Scatter(
        x=[head for _, head in cells],
        y=[layer for layer, _ in cells],
        mode="markers+text",
        marker={"symbol": "square", "size": 12, "opacity": 0},
        selected={"marker": {"opacity": 0}},
        unselected={"marker": {"opacity": 0}, "textfont": {"color": colours.muted}},
        text=[_written(values[layer][head]) for layer, head in cells],
        textfont={"size": SMALL_SIZE, "color": colours.muted},
        customdata=[
            [layer, head, layer_label(layer), head + 1, _reading(values[layer][head])]
            for layer, head in cells
        ],
        hovertemplate="<b>%{customdata[2]}, head %{customdata[3]}</b><br>%{customdata[4]}"
        "<br>bert.encoder.layer.%{customdata[0]}.attention.self"
        "<br>head index %{customdata[1]}<extra></extra>",
        showlegend=False,
    )


def heatmap_height(layers: int) -> int:
    """Pixels of a layers x heads figure."""
    row = 34 if layers <= 6 else 28 if layers <= 12 else 21
    return TOP + BOTTOM + row * layers


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _written(value: float | None) -> str:
    """What stands in a cell: colour says the rest."""
    return MISSING if value is None else "0" if value == 0 else ""


def _reading(value: float | None) -> str:
    return "not measured" if value is None else f"KL {fmt_kl(value, unit=True)}"


def _describe(values: list[list[float | None]], outdated: bool) -> str:
    cells = ((value, layer, head) for layer, row in enumerate(values) for head, value in enumerate(row))
    known = [(value, layer, head) for value, layer, head in cells if value is not None]
    size = f"Attention KL of {len(values)} layers by {len(values[0])} heads"
    if not known:
        return f"{size}, not measured yet."
    mean = sum(value for value, _, _ in known) / len(known)
    worst, layer, head = max(known)
    return (
        f"{size}{', outdated' if outdated else ''}: mean {fmt_kl(mean)} nats, "
        f"highest {fmt_kl(worst)} nats in layer {layer + 1}, head {head + 1}."
    )
