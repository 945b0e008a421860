"""Two plans, one above the other: where they give a layer other bits or groups."""

from collections.abc import Sequence
from dataclasses import replace

import plotly.graph_objects as go

from .bits import Cell, SiteBits, layer_cells, table_cells
from .frame import empty_figure, frame
from .layers import LEFT, RIGHT, layer_axis
from .marks import declare_layers
from .palette import SMALL_SIZE, TEXT_SIZE, Palette, colours_for, ink_on, with_alpha

_TOP, _BOTTOM, _ROW, _TALL = 30, 6, 26, 0.86
_PLACES = {2: (6.4, 5.4), 1: (3.9, 2.9), 0: (1.4, 0.4)}  # a plan's row -> where A's and B's are
_LOW, _HIGH = -0.1, 7.0  # ends of that axis
_EMBEDDING = (2.15 - _LOW) / (_HIGH - _LOW)  # share of the height below the layers' rows
_LABELS = {2: "Attention", 1: "FFN", 0: "Emb."}
_HEIGHT = _TOP + _BOTTOM + round(_ROW * 7.1)
_FADED = 0.3  # opacity of what both plans have
_NOTHING_YET = "No plans. Choose two: where they differ appears here."


def bits_pair(first: Sequence[SiteBits], second: Sequence[SiteBits], *, dark: bool) -> go.Figure:
    """The bits of plans A and B, A above B for attention, FFN and embedding tables, L1 at the left.

    Where the two differ, both cells are outlined and in full colour and their numbers are bold; what they
    have in common is faded. Where only the group counts differ the cells say them: "4/128" is 4 bits, 128
    groups. Colours are those of `bits_strip`.

    Raises ValueError for plans of other sites.
    """
    if [site.name for site in first] != [site.name for site in second]:
        raise ValueError("two plans of different sites")
    if not first:
        return empty_figure(_NOTHING_YET, dark=dark, height=_HEIGHT)
    colours = colours_for(dark)
    layers = 1 + max((site.layer for site in first if site.layer is not None), default=0)
    differ = {a.name for a, b in zip(first, second, strict=True) if _effect(a) != _effect(b)}
    figure = frame(
        "bits-pair",
        dark=dark,
        height=_HEIGHT,
        margin=(LEFT, RIGHT, _TOP, _BOTTOM),
        alt=_describe(first, second, differ),
    )
    for place, (plan, other) in enumerate(((first, second), (second, first))):
        cells = [*table_cells(plan, layers), *layer_cells(plan, layers)]
        marked = [not differ.isdisjoint(cell.sites) for cell in cells]
        same_bits = {a.name for a, b in zip(plan, other, strict=True) if a.bits == b.bits}
        groups = {site.name: site.groups for site in plan}
        texts = [
            _text(cell, groups) if mark and same_bits.issuperset(cell.sites) else cell.text
            for cell, mark in zip(cells, marked, strict=True)
        ]
        drawn = [replace(cell, text=text) for cell, text in zip(cells, texts, strict=True)]
        figure.add_trace(_bars(drawn, marked, place, colours))
    figure.update_layout(barmode="overlay", dragmode=False)
    figure.update_xaxes(side="top", **layer_axis(layers))
    declare_layers(figure, "x", layers, bottom=_EMBEDDING)
    figure.update_yaxes(
        range=[_LOW, _HIGH],
        tickvals=[y for pair in _PLACES.values() for y in pair],
        ticktext=[f"{_LABELS[row]} {plan}" if plan == "A" else plan for row in _PLACES for plan in "AB"],
        ticklabelstandoff=4,
        showgrid=False,
        fixedrange=True,
    )
    return figure


def _effect(site: SiteBits) -> tuple[int, int]:
    """What a plan does to a site: groups say nothing where it is not quantized."""
    return site.bits, 0 if site.bits == 32 else site.groups


def _text(cell: Cell, groups: dict[str, int]) -> str:
    """Bits and groups, where the bits alone would look the same."""
    counts = {groups[name] for name in cell.sites}
    if len(counts) > 1 or not cell.text:
        return cell.text
    count = counts.pop()
    return f"{cell.text}/{count}" if cell.row else f"{cell.text}, {count} group{'' if count == 1 else 's'}"


def _bars(cells: Sequence[Cell], marked: Sequence[bool], place: int, colours: Palette) -> go.Bar:
    fills = [colours.bit(cell.bits) for cell in cells]
    return go.Bar(
        x=[cell.left + cell.width / 2 for cell in cells],
        y=[_TALL] * len(cells),
        base=[_PLACES[cell.row][place] - _TALL / 2 for cell in cells],
        width=[cell.width for cell in cells],
        name="AB"[place],
        marker={
            "color": [
                fill if mark else with_alpha(fill, _FADED) for fill, mark in zip(fills, marked, strict=True)
            ],
            "line": {
                "width": [2.5 if mark else 1 for mark in marked],
                "color": [colours.ink if mark else colours.grid for mark in marked],
            },
        },
        text=[
            f"<b>{cell.text}</b>" if mark and cell.text else cell.text
            for cell, mark in zip(cells, marked, strict=True)
        ],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        constraintext="none",
        textfont={
            "size": [TEXT_SIZE if cell.width > 0.5 else SMALL_SIZE for cell in cells],
            "color": [
                ink_on(fill) if mark else colours.muted for fill, mark in zip(fills, marked, strict=True)
            ],
        },
        customdata=[
            [f"Plan {'AB'[place]}: {cell.title}", cell.detail, "" if mark else "<br>the same in both"]
            for cell, mark in zip(cells, marked, strict=True)
        ],
        hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}%{customdata[2]}<extra></extra>",
        showlegend=False,
    )


def _describe(first: Sequence[SiteBits], second: Sequence[SiteBits], differ: set[str]) -> str:
    if not differ:
        return f"Plans A and B give all {len(first)} weights the same bits and groups."
    bits = sum(a.bits != b.bits for a, b in zip(first, second, strict=True))
    return f"Plans A and B differ in {len(differ)} of {len(first)} weights, in {bits} of them by their bits."
