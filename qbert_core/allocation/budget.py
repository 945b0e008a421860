"""The plan of least predicted harm under a size budget, and all of them: the Pareto frontier.

Every unit (a layer, half a layer, a weight matrix) gets one of several widths. A width has a size in
bytes and a predicted harm; both add up over the units, so this is a multiple-choice knapsack. It is
solved exactly by keeping, unit after unit, every partial sum that no other one beats in both (Nemhauser
and Ullmann 1969): what remains at the end is the whole frontier, for every budget at once. Units of equal
shape make equal sizes, so few sums remain: some thousands for 24 layers and four widths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qbert_core.errors import InputError


@dataclass(frozen=True)
class Choice:
    """A width a unit may get: its size in bytes, and the harm predicted (0 or more)."""

    bits: int
    bytes: int
    harm: float


@dataclass(frozen=True)
class Unit:
    """What gets its bits together, by its block's name. A unit with one choice is locked."""

    name: str
    choices: tuple[Choice, ...]


class Frontier:
    """Every assignment that no other one beats in both size and harm.

    `sizes` (ascending, bytes) and `harms` (descending) are aligned; `bits(i)` says what each unit gets.
    Raises `InputError` for a unit without choices, or with a harm below 0 or not finite.
    """

    def __init__(self, units: Sequence[Unit]) -> None:
        self.units = tuple(units)
        self.sizes: NDArray[np.int64] = np.zeros(1, np.int64)
        self.harms: NDArray[np.float64] = np.zeros(1)
        self._steps: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []  # (sum before, choice) a sum
        for unit in units:
            self._add(unit)

    def __len__(self) -> int:
        return len(self.sizes)

    def best(self, budget: float) -> int:
        """The assignment of least harm whose size in bytes is at most `budget`; `InputError` when none is."""
        index = int(np.searchsorted(self.sizes, budget, side="right")) - 1
        if index < 0:
            raise InputError(f"a budget of {budget:g} bytes is below the smallest size, {self.sizes[0]}")
        return index

    def bits(self, index: int) -> dict[str, int]:
        """Unit -> bits, in the units' order."""
        found: dict[str, int] = {}
        for unit, (before, chosen) in zip(reversed(self.units), reversed(self._steps), strict=True):
            found[unit.name] = unit.choices[chosen[index]].bits
            index = int(before[index])
        return dict(reversed(found.items()))

    def __iter__(self) -> Iterator[tuple[int, float, dict[str, int]]]:
        """(bytes, harm, unit -> bits), smallest first."""
        for index in range(len(self)):
            yield int(self.sizes[index]), float(self.harms[index]), self.bits(index)

    def _add(self, unit: Unit) -> None:
        harms = np.array([choice.harm for choice in unit.choices])
        if not len(harms) or not np.isfinite(harms).all() or harms.min() < 0:
            raise InputError(f"{unit.name}: harms {harms.tolist()}; expected one or more finite ones from 0")
        extra = np.array([choice.bytes for choice in unit.choices], np.int64)
        sizes = (self.sizes[:, None] + extra).ravel()
        total = (self.harms[:, None] + harms).ravel()
        order = np.lexsort((total, sizes))
        least = np.minimum.accumulate(total[order])
        keep = order[np.concatenate([[True], total[order][1:] < least[:-1]])]
        self.sizes, self.harms = sizes[keep], total[keep]
        self._steps.append((keep // len(extra), keep % len(extra)))
