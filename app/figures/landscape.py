"""The loss around the trained weights, over the two directions in which it curves most.

What both pictures of it need: which part of the grid is known, and how far the axes go.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

from .blocks import known
from .palette import Palette, fmt_lambda, fmt_loss

SURFACE_HEIGHT = 420
"""Pixels; the contour lines have the same height and stand beside it."""
NOTHING_YET = "No landscape yet. Choose a layer and press Start: the loss around its weights appears here."


class Quantized(TypedDict):
    """Where a plan moves the layer, and what the loss is there.

    (x, y) is the displacement's projection onto the plane, `loss_at_projection` the loss at that point of
    the plane and `loss` the loss at the quantized weights themselves. `explained` is the share of the
    squared `distance` that lies in the plane.
    """

    plan: Any
    x: float
    y: float
    loss: float | None
    loss_at_projection: float | None
    distance: float
    explained: float


class Landscape(TypedDict):
    """What `qbert_core landscape` writes, as far as it is drawn; `loss` has a row per y, None: not known."""

    layer: int
    x: Sequence[float]
    y: Sequence[float]
    loss: Sequence[Sequence[float | None]]
    loss_at_zero: float | None
    eigenvalues: Sequence[float]
    normalise: str
    quantized: Quantized | None


class Grid(NamedTuple):
    """A grid without holes: `loss[i][j]` at (x[j], y[i])."""

    x: list[float]
    y: list[float]
    loss: list[list[float]]

    @property
    def drawable(self) -> bool:
        """Whether there is an area to draw."""
        return len(self.x) > 1 and len(self.y) > 1


def known_grid(landscape: Landscape) -> Grid:
    """The finest grid that is complete: all points, else 2^k + 1 a side, evenly spread; empty at first.

    Points arrive in that order, so the grid grows level by level, a few times in all, and a surface that
    somebody turns around is seldom drawn anew. Nothing is interpolated: what is drawn was measured.
    """
    loss = landscape["loss"]
    for rows, columns in zip(_levels(len(landscape["y"])), _levels(len(landscape["x"])), strict=False):
        if all(known(loss[i][j]) for i in rows for j in columns):
            return Grid(
                [landscape["x"][j] for j in columns],
                [landscape["y"][i] for i in rows],
                [[value for j in columns if known(value := loss[i][j])] for i in rows],
            )
    return Grid([], [], [])


def _levels(points: int) -> list[list[int]]:
    """Indices of an axis from fine to coarse: all, then 2^k + 1 of them, down to both ends."""
    last = points - 1
    halvings = range(math.ceil(math.log2(last)) if last > 1 else 0, -1, -1)
    return [sorted({round(i * last / 2**k) for i in range(2**k + 1)}) for k in halvings]


def measured_points(landscape: Landscape) -> list[tuple[float, float, float]]:
    """(x, y, loss) of every point that is known."""
    return [
        (x, y, value)
        for y, row in zip(landscape["y"], landscape["loss"], strict=True)
        for x, value in zip(landscape["x"], row, strict=True)
        if known(value)
    ]


def shown_losses(landscape: Landscape, grid: Grid) -> list[float]:
    """The losses drawn in the plane: what the colours must hold."""
    quantized = landscape["quantized"]
    extra = [landscape["loss_at_zero"], quantized["loss_at_projection"] if quantized else None]
    return [*(value for row in grid.loss for value in row), *filter(known, extra)]


def span(landscape: Landscape, axis: str) -> list[float]:
    """Range of the x or y axis: the grid, and the quantized point where that lies outside."""
    places = list(landscape["x"] if axis == "x" else landscape["y"])
    if landscape["quantized"]:
        places.append(landscape["quantized"]["x"] if axis == "x" else landscape["quantized"]["y"])
    low, high = min(places), max(places)
    margin = 0.03 * (high - low) or 1.0
    return [low - margin, high + margin]


def axis_title(landscape: Landscape, axis: str) -> str:
    """The direction with its eigenvalue, and the unit of the steps along it."""
    number, value = (1, landscape["eigenvalues"][0]) if axis == "x" else (2, landscape["eigenvalues"][1])
    unit = "" if landscape["normalise"] == "none" else ", filter-normalised"
    return f"Step along v{'₁₂'[number - 1]} (λ = {fmt_lambda(value)}{unit})"


def describe(landscape: Landscape, grid: Grid) -> str:
    """The landscape in one sentence."""
    lowest = min(value for row in grid.loss for value in row)
    highest = max(value for row in grid.loss for value in row)
    text = (
        f"Loss of layer {landscape['layer'] + 1} on {len(grid.x)} by {len(grid.y)} points along its two sharpest "
        f"directions: {fmt_loss(lowest)} to {fmt_loss(highest)} nats, {fmt_loss(landscape['loss_at_zero'])} at "
        "the trained weights"
    )
    quantized = landscape["quantized"]
    if quantized is None:
        return f"{text}."
    return (
        f"{text}; after quantization {fmt_loss(quantized['loss'])}, {fmt_loss(quantized['loss_at_projection'])} "
        "where that falls on the plane."
    )


def mark(name: str, symbol: str, colour: str, colours: Palette, size: int) -> dict[str, Any]:
    """Style of a point that stands out on every colour of the scale."""
    return {
        "name": name,
        "mode": "markers",
        "marker": {
            "symbol": symbol,
            "size": size,
            "color": colour,
            "line": {"width": 2, "color": colours.background},
        },
    }
