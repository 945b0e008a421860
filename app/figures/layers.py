"""The layer axis: a layer has the same place in every figure, whatever it is cut into."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from .palette import layer_label

LEFT, RIGHT = 76, 18
"""Margins (pixels) of the figures that share the layer axis, so that they line up one under the other."""

_FILLED = 0.84  # of a layer's width; the rest is the gap to the next layer
_EVERY_LABEL = 16  # more layers than this: label every second one


def slots(layers: Sequence[int]) -> list[tuple[float, float]]:
    """Centre and width, in layers, of each item on the layer axis.

    Items of the same 0-based layer share its width in the order given:

    >>> [(round(centre, 2), round(width, 2)) for centre, width in slots([0, 1, 1])]
    [(0.0, 0.84), (0.79, 0.42), (1.21, 0.42)]
    """
    shares = Counter(layers)
    seen: Counter[int] = Counter()
    places = []
    for layer in layers:
        width = _FILLED / shares[layer]
        places.append((layer - _FILLED / 2 + (seen[layer] + 0.5) * width, width))
        seen[layer] += 1
    return places


def layer_axis(layers: int, *, embedding: bool = False) -> dict[str, Any]:
    """Axis settings for layers 0 .. layers - 1, labelled L1 .. from left to right.

    With `embedding` there is a slot for the embedding tables, layer -1, left of L1.
    """
    step = 1 if layers <= _EVERY_LABEL else 2
    labelled = [*([-1] if embedding else []), *range(0, layers, step)]
    return {
        "range": [-1.5 if embedding else -0.5, layers - 0.5],
        "tickvals": labelled,
        "ticktext": [layer_label(layer) for layer in labelled],
        "ticklabelstandoff": 4,
        "showgrid": False,
        "showline": False,
        "fixedrange": True,
    }


def pixels_per_layer(slots: int) -> float:
    """Width of a slot of the layer axis in the narrowest column the figures are made for (640 pixels)."""
    return (640 - LEFT - RIGHT) / slots
