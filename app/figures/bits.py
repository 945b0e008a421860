"""A plan at a glance: the bits of every weight, layer by layer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from .blocks import table_name
from .frame import empty_figure, frame, safe
from .layers import LEFT, RIGHT, layer_axis, pixels_per_layer
from .marks import declare_layers
from .palette import SMALL_SIZE, TEXT_SIZE, Palette, colours_for, ink_on, layer_label

_ROWS = {"attention": (2, "Attention"), "ffn": (1, "FFN"), "embedding": (0, "Embedding")}
_TOP, _BOTTOM, _ROW = 30, 6, 34
_HEIGHT = _TOP + _BOTTOM + 3 * _ROW
_CELL = 0.94  # of a layer's width
_TALL = 0.84  # of a row's height
_NOTHING_YET = "No plan. Choose a preset: the bits of every layer appear here."


@dataclass(frozen=True)
class SiteBits:
    """What a plan says of one site; `layer` is 0-based, None for an embedding table."""

    name: str
    kind: str
    layer: int | None
    bits: int
    groups: int


@dataclass(frozen=True)
class Cell:
    """One rectangle: its left end and width in layers, its row (2 attention, 1 FFN, 0 embedding), its sites."""

    left: float
    width: float
    row: int
    bits: int
    text: str
    title: str
    detail: str
    sites: tuple[str, ...]


def bits_strip(sites: Sequence[SiteBits], *, dark: bool, layers: int | None = None) -> go.Figure:
    """Bits by colour and number: attention and FFN of every layer, L1 at the left, then the embedding tables.

    Sites of the same layer and kind with the same bits are one cell; where they differ the cell is divided in
    the order of the sites. A colour belongs to a bit width, whatever the plan.

    Args:
        layers: how many the model has; by default as many as the sites need.
    """
    if not sites:
        return empty_figure(_NOTHING_YET, dark=dark, height=_HEIGHT)
    colours = colours_for(dark)
    count = layers or 1 + max((site.layer for site in sites if site.layer is not None), default=0)
    cells = [*table_cells(sites, count), *layer_cells(sites, count)]
    alt = _describe(sites, count)
    figure = frame("bits-strip", dark=dark, height=_HEIGHT, margin=(LEFT, RIGHT, _TOP, _BOTTOM), alt=alt)
    figure.add_trace(_bars(cells, colours))
    figure.update_layout(barmode="overlay", dragmode=False)
    figure.update_xaxes(side="top", **layer_axis(count))
    declare_layers(figure, "x", count, bottom=1 / 3)
    figure.update_yaxes(
        range=[-0.5, 2.5],
        tickvals=[row for row, _ in _ROWS.values()],
        ticktext=[title for _, title in _ROWS.values()],
        ticklabelstandoff=4,
        showgrid=False,
        fixedrange=True,
    )
    return figure


def layer_cells(sites: Sequence[SiteBits], layers: int) -> Iterable[Cell]:
    for layer in range(layers):
        for kind in ("attention", "ffn"):
            here = [site for site in sites if site.layer == layer and site.kind == kind]
            title = f"{layer_label(layer)} {_ROWS[kind][1]}"
            yield from _divide(here, kind, title, layer - _CELL / 2, _CELL, pixels_per_layer(layers))


def table_cells(sites: Sequence[SiteBits], layers: int) -> Iterable[Cell]:
    tables = [site for site in sites if site.kind == "embedding"]
    pitch = layers / max(len(tables), 1)
    gap = 1 - _CELL
    for index, site in enumerate(tables):
        name = table_name(site.name)
        yield Cell(
            left=-0.5 + index * pitch + gap / 2,
            width=pitch - gap,
            row=_ROWS["embedding"][0],
            bits=site.bits,
            text=f"{name} · {_bits(site.bits)}",
            title=f"Embedding: {name}",
            detail=_detail([site]),
            sites=(site.name,),
        )


def _divide(
    sites: Sequence[SiteBits], kind: str, title: str, left: float, width: float, layer_pixels: float
) -> Iterable[Cell]:
    """One cell for sites that agree on their bits, one a site where they do not."""
    parts = [sites] if len({site.bits for site in sites}) == 1 else [[site] for site in sites]
    share = width / max(len(parts), 1)
    for index, part in enumerate(parts):
        bits = part[0].bits
        fits = share * layer_pixels >= 0.62 * SMALL_SIZE * len(str(bits))
        yield Cell(
            left=left + index * share,
            width=share,
            row=_ROWS[kind][0],
            bits=bits,
            text=str(bits) if fits else "",
            title=title,
            detail=_detail(part),
            sites=tuple(site.name for site in part),
        )


def _bars(cells: Sequence[Cell], colours: Palette) -> go.Bar:
    fills = [colours.bit(cell.bits) for cell in cells]
    return go.Bar(
        x=[cell.left + cell.width / 2 for cell in cells],
        y=[_TALL] * len(cells),
        base=[cell.row - _TALL / 2 for cell in cells],
        width=[cell.width for cell in cells],
        marker={"color": fills, "line": {"width": 1, "color": colours.line}},
        text=[cell.text for cell in cells],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        constraintext="none",
        textfont={
            "size": [TEXT_SIZE if cell.width > 0.5 else SMALL_SIZE for cell in cells],
            "color": [ink_on(fill) for fill in fills],
        },
        customdata=[[cell.title, cell.detail] for cell in cells],
        hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>",
        showlegend=False,
    )


def _detail(sites: Sequence[SiteBits]) -> str:
    return "<br>".join(
        f"{safe(site.name)}: {_bits(site.bits)}"
        + ("" if site.bits == 32 else f", {_plural(site.groups, 'group')}")
        for site in sites
    )


def _bits(bits: int) -> str:
    return "fp32" if bits == 32 else _plural(bits, "bit")


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _describe(sites: Sequence[SiteBits], layers: int) -> str:
    widths = ", ".join(str(bits) for bits in sorted({site.bits for site in sites}))
    return f"Bits of {len(sites)} weights in {layers} layers and the embedding; widths used: {widths}."
