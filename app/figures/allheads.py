"""All heads of a layer side by side, each as a small map over the same tokens."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from .attention import WINDOW, attention_bar, one_sided, two_sided
from .frame import empty_figure, frame
from .marks import outline_box
from .palette import SMALL_SIZE, Palette, colours_for, fmt_kl

Shown = Literal["fp32", "plan", "difference"]

COLUMNS = 6
_LEFT, _RIGHT, _TOP, _BOTTOM = 4, 96, 4, 8
_DIGITS = 4  # of an attention: a small map shows colours only
_ROW = 168  # pixels of a row of maps, with the line above each
_ACROSS, _DOWN = 1.08, 1.2  # from a map to the next; a map is 1 wide and 1 high
_NOTHING_YET = "No attention yet. Choose a sentence: all heads of the layer appear here."


def all_heads(
    before: ArrayLike,
    after: ArrayLike,
    kl: Sequence[float],
    *,
    shown: Shown,
    selected: int,
    dark: bool,
    start: int = 0,
) -> go.Figure:
    """A small map a head, with the colours `attention_maps` has: 0 to 1, and -1 to 1 for differences.

    A click selects the nearest map, whose `customdata` starts with the 0-based head.

    Args:
        before, after: (heads, T, T), the attention of fp32 and of the plan.
        kl: what each head's attention moved on these tokens, in nats.
        shown: which of the two, or the plan's minus fp32's.
        selected: 0-based head to outline.
        start: the first of at most `WINDOW` tokens shown, as queries and as keys.
    """
    fp32, plan = np.asarray(before, float), np.asarray(after, float)
    if not fp32.size:
        return empty_figure(_NOTHING_YET, dark=dark, height=all_heads_height(COLUMNS))
    heads, window = len(fp32), slice(start, start + WINDOW)
    values = {"fp32": fp32, "plan": plan, "difference": plan - fp32}[shown][:, window, window]
    colours = colours_for(dark)
    worst = int(np.argmax(kl))
    figure = frame(
        "all-heads", dark=dark, height=all_heads_height(heads), margin=(_LEFT, _RIGHT, _TOP, _BOTTOM),
        alt=f"Attention of {heads} heads, {shown}, among {values.shape[1]} tokens; the head that moved most is "
        f"{worst + 1}, by {fmt_kl(kl[worst])} nats.",
    )  # fmt: skip
    for head in range(heads):
        _map(figure, head, values[head], colours, difference=shown == "difference")
        _title(figure, head, kl[head], colours, chosen=head == selected)
    outline_box(figure, *_place(selected), colours)
    figure.add_trace(_targets(kl))
    rows = _place(heads - 1)[1] / _DOWN + 1
    plain = {"visible": False, "fixedrange": True}
    figure.update_xaxes(**plain, range=[-0.02, (COLUMNS - 1) * _ACROSS + 1.02])
    figure.update_yaxes(**plain, range=[(rows - 1) * _DOWN + 1.02, 1 - _DOWN])
    figure.update_layout(clickmode="event+select", hoverdistance=200, dragmode=False)
    return figure


def all_heads_height(heads: int) -> int:
    """Pixels of a figure of so many heads."""
    return _TOP + _BOTTOM + _ROW * -(-heads // COLUMNS)


def _place(head: int) -> tuple[float, float]:
    """The upper left corner of a head's map."""
    row, column = divmod(head, COLUMNS)
    return column * _ACROSS, row * _DOWN


def _map(figure: go.Figure, head: int, values: np.ndarray, colours: Palette, *, difference: bool) -> None:
    left, top = _place(head)
    cell = 1 / len(values)
    figure.add_trace(
        go.Heatmap(
            z=values.round(_DIGITS).tolist(),
            x0=left + cell / 2,
            dx=cell,
            y0=top + cell / 2,
            dy=cell,
            zmin=-1 if difference else 0,
            zmax=1,
            colorscale=two_sided(colours.order) if difference else one_sided(colours.bits[:-1]),
            hoverinfo="skip",
            showscale=head == 0,
            colorbar=attention_bar(colours, difference=difference)
            | {"len": 0.9, "y": 0.5, "yanchor": "middle"},
            name=f"head {head + 1}",
        )
    )


def _title(figure: go.Figure, head: int, kl: float, colours: Palette, *, chosen: bool) -> None:
    left, top = _place(head)
    name = f"<b>{head + 1}</b>" if chosen else str(head + 1)
    figure.add_annotation(
        text=f"{name}: {fmt_kl(kl)}", x=left, xanchor="left", y=top, yanchor="bottom", showarrow=False,
        font={"size": SMALL_SIZE, "color": colours.ink if chosen else colours.muted},
    )  # fmt: skip


def _targets(kl: Sequence[float]) -> go.Scatter:
    corners = [_place(head) for head in range(len(kl))]
    clear = {"marker": {"opacity": 0}}
    return go.Scatter(
        x=[left + 0.5 for left, _ in corners],
        y=[top + 0.5 for _, top in corners],
        mode="markers",
        marker={"symbol": "square", "size": 60, "opacity": 0},
        selected=clear,
        unselected=clear,
        customdata=[[head, fmt_kl(value, unit=True)] for head, value in enumerate(kl)],
        hovertemplate="<b>Head %{text}</b><br>KL %{customdata[1]} on this text<extra></extra>",
        text=[str(head + 1) for head in range(len(kl))],
        showlegend=False,
    )
