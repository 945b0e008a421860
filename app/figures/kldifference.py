"""Whose attention is further from fp32's, head by head: one plan's KL minus another's."""

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from .frame import colour_bar, colour_scale, empty_figure, frame
from .heatmap import BOTTOM, KL_CEILING, KL_FLOOR, TOP, heatmap_height
from .marks import declare_layers
from .palette import TICK_SIZE, colours_for, fmt_change, fmt_kl, layer_label

_WRITTEN_FROM = 1e-3
"""Nats; a sign is written into cells that differ by more."""

_TICKS = (1e-3, 1e-2, 0.1, 1.0)
_NOTHING_YET = "Not measured yet. Both plans' attention KL is compared here when all examples are measured."


def kl_difference(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], *, dark: bool
) -> go.Figure:
    """Attention KL of plan B (`second`) minus that of plan A (`first`), layers x heads, in nats.

    The scale is fixed and logarithmic on both sides of zero, from KL_FLOOR, below which the page's own grey
    says "no difference", to KL_CEILING: the scale of `kl_heatmap` twice. Orange with a plus: B's attention is
    further from fp32's; blue with a minus: A's is. A cell's `customdata` begins with its 0-based layer.

    Args:
        first, second: of equal shape; empty while either is not measured completely.
    """
    if not first or not second:
        return empty_figure(_NOTHING_YET, dark=dark, height=heatmap_height(6))
    layers, heads = len(first), len(first[0])
    values = [[b - a for a, b in zip(*rows, strict=True)] for rows in zip(first, second, strict=True)]
    colours = colours_for(dark)
    figure = frame(
        "kl-difference",
        dark=dark,
        height=heatmap_height(layers),
        margin=(46, 102, TOP, BOTTOM),
        alt=_describe(values),
    )
    figure.add_trace(
        go.Heatmap(
            z=[[_place(value) for value in row] for row in values],
            zmin=-1,
            zmax=1,
            colorscale=colour_scale(colours.order[::-1]),
            xgap=2,
            ygap=2,
            hoverinfo="skip",
            text=[
                ["" if abs(v) < _WRITTEN_FROM else "+" if v > 0 else "\N{MINUS SIGN}" for v in row]
                for row in values
            ],
            texttemplate="%{text}",  # plotly writes it in what reads on the cell
            textfont={"size": TICK_SIZE},
            colorbar=colour_bar(
                "KL of B \N{MINUS SIGN} KL of A (nats)",
                colours,
                tickvals=[*(-_place(tick) for tick in reversed(_TICKS)), 0, *map(_place, _TICKS)],
                ticktext=[
                    *(f"\N{MINUS SIGN}{tick:g}" for tick in reversed(_TICKS)),
                    "0",
                    *(f"+{tick:g}" for tick in _TICKS),
                ],
            ),
        )
    )
    figure.add_trace(_targets(values, first, second))
    figure.update_layout(clickmode="event+select", hoverdistance=60, dragmode=False)
    edge = {"showgrid": False, "showline": True, "mirror": True, "fixedrange": True}
    figure.update_xaxes(
        title_text="Head",
        range=[-0.5, heads - 0.5],
        tickvals=list(range(heads)),
        ticktext=[str(head + 1) for head in range(heads)],
        **edge,
    )
    figure.update_yaxes(
        range=[layers - 0.5, -0.5],
        tickvals=list(range(layers)),
        ticktext=[layer_label(layer) for layer in range(layers)],
        ticklabelstandoff=4,
        **edge,
    )
    declare_layers(figure, "y", layers)
    return figure


def _place(value: float) -> float:
    """Where a difference in nats is on the scale: 0 up to KL_FLOOR, 1 from KL_CEILING on, with its sign."""
    size = min(max(abs(value), KL_FLOOR), KL_CEILING)
    return math.copysign(math.log(size / KL_FLOOR) / math.log(KL_CEILING / KL_FLOOR), value)


def _targets(
    values: list[list[float]],
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
) -> go.Scatter:
    """Invisible marks that can be clicked."""
    cells = [(layer, head, value) for layer, row in enumerate(values) for head, value in enumerate(row)]
    return go.Scatter(
        x=[head for _, head, _ in cells],
        y=[layer for layer, _, _ in cells],
        mode="markers",
        marker={"symbol": "square", "size": 12, "opacity": 0},
        selected={"marker": {"opacity": 0}},
        unselected={"marker": {"opacity": 0}},
        customdata=[
            [
                layer,
                f"{layer_label(layer)}, head {head + 1}",
                fmt_change(value, unit="nats"),
                fmt_kl(first[layer][head]),
                fmt_kl(second[layer][head]),
            ]
            for layer, head, value in cells
        ],
        hovertemplate="<b>%{customdata[1]}</b><br>%{customdata[2]}"
        "<br>A %{customdata[3]}, B %{customdata[4]}<extra></extra>",
        showlegend=False,
    )


def _describe(values: list[list[float]]) -> str:
    cells = [(value, layer, head) for layer, row in enumerate(values) for head, value in enumerate(row)]
    largest, layer, head = max(cells, key=lambda cell: abs(cell[0]))
    further = sum(value > 0 for value, _, _ in cells)
    return (
        f"Attention KL of plan B minus plan A in {len(values)} layers by {len(values[0])} heads: B is further "
        f"from fp32 in {further} of {len(cells)}; the largest difference is {fmt_change(largest, unit='nats')} "
        f"in layer {layer + 1}, head {head + 1}."
    )
