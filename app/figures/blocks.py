"""A block of the Hessian analysis and the sheet on which blocks are drawn, layer by layer."""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypedDict, TypeGuard

import plotly.graph_objects as go

from .frame import frame, safe
from .layers import LEFT, RIGHT, layer_axis
from .marks import declare_layers
from .palette import colours_for, layer_label

HEIGHT = 340
_TOP, _BOTTOM = 36, 34


class BlockSensitivity(TypedDict):
    """One block (a layer, half a layer or a site) as `qbert_core sensitivity` writes it.

    `layer` is 0-based, -1 for an embedding table; a number that is not known yet is None or NaN.
    """

    name: str
    layer: int
    kind: str
    lambdas: Sequence[float | None]
    residuals: Sequence[float | None]
    mean: float | None
    std: float | None
    omega: float | None


class Sample(NamedTuple):
    """One finished run: its 0-based number, the eigenvalue, and |Hv - lambda v| / |lambda| (NaN: unknown)."""

    run: int
    value: float
    residual: float


def samples(block: BlockSensitivity) -> list[Sample]:
    """The finished runs of a block."""
    residuals = dict(enumerate(block["residuals"]))
    found = []
    for run, value in enumerate(block["lambdas"]):
        if known(value):
            residual = residuals.get(run)
            found.append(Sample(run, value, residual if known(residual) else math.nan))
    return found


def known(value: float | None) -> TypeGuard[float]:
    """Whether a number is there."""
    return value is not None and math.isfinite(value)


def title(block: BlockSensitivity) -> str:
    """A block's short name: "L3" for a whole layer, "L3 attention" for a part of it, "Emb word"."""
    label = layer_label(block["layer"])
    if block["kind"] == "embedding":
        return f"{label} {table_name(block['name'])}"
    return label if block["kind"] == "layer" else f"{label} {block['kind']}"


def table_name(name: str) -> str:
    """An embedding table in a word or two: "bert.embeddings.token_type_embeddings" -> "token type"."""
    return safe(name.rsplit(".", 1)[-1].removesuffix("_embeddings").replace("_", " "))


def has_embedding(blocks: Sequence[BlockSensitivity]) -> bool:
    """Whether any block is an embedding table."""
    return any(block["layer"] < 0 for block in blocks)


def layer_count(blocks: Sequence[BlockSensitivity], layers: int | None) -> int:
    """`layers` where the caller knows it, else as many as the blocks need."""
    return layers or 1 + max(block["layer"] for block in blocks)


def sheet(
    name: str,
    blocks: Sequence[BlockSensitivity],
    *,
    layers: int | None,
    embedding: bool,
    dark: bool,
    alt: str,
) -> go.Figure:
    """Layer axis and zero line; faint lines between layers where a layer holds several blocks."""
    colours = colours_for(dark)
    count = layer_count(blocks, layers)
    figure = frame(name, dark=dark, height=HEIGHT, margin=(LEFT, RIGHT, _TOP, _BOTTOM), alt=alt)
    figure.update_xaxes(**layer_axis(count, embedding=embedding))
    declare_layers(figure, "x", count)
    figure.update_yaxes(
        fixedrange=True,
        nticks=7,
        zeroline=True,
        zerolinecolor=colours.line,
        zerolinewidth=1.5,
        ticklabelstandoff=4,
    )
    if len({block["layer"] for block in blocks}) < len(blocks):
        for edge in range(0 if embedding else 1, count):
            figure.add_vline(x=edge - 0.5, line={"width": 1, "color": colours.grid}, layer="below")
    return figure
