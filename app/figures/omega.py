"""What the eigenvalues add up to: Omega of every block, its rank, and who gets more bits."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from .blocks import HEIGHT, BlockSensitivity, has_embedding, known, layer_count, samples, sheet, title
from .frame import empty_figure, nice_limit, safe
from .layers import pixels_per_layer, slots
from .palette import SMALL_SIZE, Palette, colours_for, fmt_omega

_RANKS_WHEN_NARROW = 10
_NOTHING_YET = "No sensitivity yet. Press Start: the layers are ranked here, first draft after the first run."


@dataclass(frozen=True)
class _Bar:
    block: BlockSensitivity
    centre: float
    width: float
    mean: float  # |mean|
    std: float
    rank: int
    high: bool

    @property
    def omega(self) -> float:
        return self.mean + self.std


def omega_bars(
    blocks: Sequence[BlockSensitivity],
    *,
    dark: bool,
    high: AbstractSet[str] | None = None,
    layers: int | None = None,
    embedding: bool = False,
) -> go.Figure:
    """Omega = |mean| + standard deviation of each block, stacked, in layer order, with its rank on top.

    A bar's `customdata` ends with its 0-based layer.

    Args:
        high: names of the blocks that the ranking would give more bits: hatched and outlined.
        layers: how many the model has, so that a layer has its place before its block is there.
        embedding: keep a slot for embedding tables before the first of them is there.
    """
    bars = _ranked(blocks, high or frozenset())
    if not bars:
        return empty_figure(_NOTHING_YET, dark=dark, height=HEIGHT)
    colours = colours_for(dark)
    embedding = embedding or has_embedding(blocks)
    figure = sheet("omega-bars", blocks, layers=layers, embedding=embedding, dark=dark, alt=_describe(bars))
    for name, heights, colour in (
        ("|mean|", [bar.mean for bar in bars], colours.hand),
        ("std", [bar.std for bar in bars], colours.spread),
    ):
        figure.add_trace(_stack(bars, heights, colour, colours))
        figure.add_trace(_key(name, {"color": colour}))
    if any(bar.high for bar in bars):
        figure.add_trace(_key("more bits proposed", {"color": colours.hand, **_hatch([True], colours)}))
    slot_pixels = pixels_per_layer(layer_count(blocks, layers) + embedding)
    figure.add_trace(_rank_numbers(bars, slot_pixels, colours))
    figure.update_layout(
        barmode="stack", legend_traceorder="normal", clickmode="event+select", dragmode=False
    )
    top = nice_limit(1.06 * bar.omega for bar in bars)  # room for the rank above the tallest bar
    figure.update_yaxes(title_text="Ω = |mean λ| + std λ", range=[0, top])
    return figure


def _ranked(blocks: Sequence[BlockSensitivity], high: AbstractSet[str]) -> list[_Bar]:
    """Bars in the blocks' order; the rank counts from the largest Omega, equal ones in layer order."""
    places = slots([block["layer"] for block in blocks])
    complete = [
        (block, place, abs(block["mean"]), block["std"])
        for block, place in zip(blocks, places, strict=True)
        if known(block["mean"]) and known(block["std"])
    ]
    order = sorted(range(len(complete)), key=lambda i: (-complete[i][2] - complete[i][3], i))
    ranks = {index: rank for rank, index in enumerate(order, 1)}
    return [
        _Bar(block, *place, mean, std, rank=ranks[index], high=block["name"] in high)
        for index, (block, place, mean, std) in enumerate(complete)
    ]


def _stack(bars: Sequence[_Bar], heights: Sequence[float], colour: str, colours: Palette) -> go.Bar:
    return go.Bar(
        x=[bar.centre for bar in bars],
        y=list(heights),
        width=[bar.width * 0.86 for bar in bars],
        showlegend=False,
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": 1}},
        marker={"color": colour, **_hatch([bar.high for bar in bars], colours)},
        customdata=[
            [
                title(bar.block),
                safe(bar.block["name"]),
                bar.rank,
                fmt_omega(bar.omega),
                fmt_omega(bar.mean),
                fmt_omega(bar.std),
                _runs(len(samples(bar.block))) + (", more bits proposed" if bar.high else ""),
                bar.block["layer"],
            ]
            for bar in bars
        ],
        hovertemplate="<b>%{customdata[0]}: rank %{customdata[2]}</b>"
        "<br>Ω = %{customdata[4]} + %{customdata[5]} = %{customdata[3]}"
        "<br>%{customdata[6]}<br>%{customdata[1]}<extra></extra>",
    )


def _hatch(hatched: Sequence[bool], colours: Palette) -> dict[str, Any]:
    """Outline and hatching: a difference that needs no colour."""
    return {
        "line": {"width": [2 if h else 0 for h in hatched], "color": colours.ink},
        "pattern": {
            "shape": ["/" if h else "" for h in hatched],
            "fillmode": "overlay",
            "size": 6,
            "solidity": 0.25,
            "fgcolor": colours.background,
        },
    }


def _key(name: str, marker: Mapping[str, Any]) -> go.Bar:
    """A legend entry; a trace's own would look like its first bar, hatched or not."""
    return go.Bar(x=[None], y=[None], name=name, marker=dict(marker))


def _rank_numbers(bars: Sequence[_Bar], layer_pixels: float, colours: Palette) -> go.Scatter:
    """Every rank where there is room for two digits, the first ten where there is not."""
    narrow = min(bar.width for bar in bars) * layer_pixels < 1.3 * SMALL_SIZE
    numbered = [bar for bar in bars if not narrow or bar.rank <= _RANKS_WHEN_NARROW]
    return go.Scatter(
        x=[bar.centre for bar in numbered],
        y=[bar.omega for bar in numbered],
        mode="text",
        text=[str(bar.rank) for bar in numbered],
        textposition="top center",
        textfont={"size": SMALL_SIZE, "color": colours.ink},
        unselected={"textfont": {"color": colours.ink}},  # else a click on a bar fades them
        hoverinfo="skip",
        showlegend=False,
        cliponaxis=False,
    )


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"


def _describe(bars: Sequence[_Bar]) -> str:
    first = next(bar for bar in bars if bar.rank == 1)
    highest = f"{title(first.block)} with {fmt_omega(first.omega)}"
    return f"Sensitivity of {len(bars)} blocks; the highest is {highest}."
