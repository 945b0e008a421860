"""Random assignments of bits to ask how well a prediction ranks: of all sizes, and several of every size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qbert_core.allocation.budget import Unit

ALIKE = 5  # assignments of equal size that are drawn together
EVEN = 0.5  # at 1 all mixes are as likely; below, those that favour some widths, and so the extreme sizes
TRIES = 50  # draws for every assignment that is wanted: a small model has few different ones


def random_bits(
    units: Sequence[Unit], count: int, seed: int, known: Sequence[dict[str, int]] = ()
) -> list[dict[str, int]]:
    """At most `count` different assignments, unit -> bits, none of them among `known`; fewer where the model
    has no more, or hardly more.

    The mix of widths is drawn, too (a Dirichlet distribution with parameters `EVEN`), so that all sizes are met;
    drawing each unit's width evenly would give nearly equal sizes. Of each mix up to `ALIKE` assignments
    come, which hand the same widths to other units of the same shape: equal in size to the byte.
    """
    generator = np.random.default_rng(seed)
    seen = {tuple(bits[unit.name] for unit in units) for bits in known}
    found: list[dict[str, int]] = []
    shapes = [tuple((choice.bits, choice.bytes) for choice in unit.choices) for unit in units]
    places = [
        np.array([place for place, own in enumerate(shapes) if own == shape])
        for shape in dict.fromkeys(shapes)
    ]
    for _ in range(-(-TRIES * count // ALIKE)):
        drawn = _mix(units, generator)
        for _ in range(ALIKE):
            for alike in places:
                drawn[alike] = generator.permutation(drawn[alike])
            key = tuple(int(width) for width in drawn)
            if key not in seen and len(found) < count:
                seen.add(key)
                found.append({unit.name: width for unit, width in zip(units, key, strict=True)})
        if len(found) == count:
            break
    return found


def _mix(units: Sequence[Unit], generator: np.random.Generator) -> NDArray[np.int64]:
    """A width for every unit, from one random mix of all widths."""
    widths = sorted({choice.bits for unit in units for choice in unit.choices})
    shares = dict(zip(widths, generator.dirichlet(np.full(len(widths), EVEN)), strict=True))
    drawn = np.zeros(len(units), np.int64)
    for place, unit in enumerate(units):
        own = np.array([shares[choice.bits] for choice in unit.choices])
        drawn[place] = generator.choice([choice.bits for choice in unit.choices], p=own / own.sum())
    return drawn
