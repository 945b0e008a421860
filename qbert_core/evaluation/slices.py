"""Which examples change their answer, and what kind of sentence they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qbert_core.tasks.interval import wilson


@dataclass(frozen=True)
class Flip:
    """An example whose answer the plan changed: right to wrong, wrong to right, or wrong otherwise."""

    index: int  # row in the data
    before: Any  # fp32's prediction
    after: Any
    was_right: bool
    is_right: bool


def flips(
    indices: Sequence[int],
    before: Sequence[Any],
    after: Sequence[Any],
    was_right: Sequence[bool],
    is_right: Sequence[bool],
) -> list[Flip]:
    """The examples with another prediction than fp32's, in the data's order."""
    changed = [
        Flip(i, b, a, w, r)
        for i, b, a, w, r in zip(indices, before, after, was_right, is_right, strict=True)
        if a != b
    ]
    return sorted(changed, key=lambda flip: flip.index)


@dataclass(frozen=True)
class Slice:
    """Share of right answers among examples of one kind, with Wilson's 95 % interval."""

    name: str
    right: int
    n: int
    interval: tuple[float, float]

    @property
    def accuracy(self) -> float:
        return self.right / self.n


def accuracy_by(kinds: Sequence[str], right: Sequence[bool]) -> list[Slice]:
    """Accuracy of each kind of example, by name."""
    slices = []
    for name in sorted(set(kinds)):
        hits = [r for kind, r in zip(kinds, right, strict=True) if kind == name]
        slices.append(Slice(name, sum(hits), len(hits), wilson(sum(hits), len(hits))))
    return slices
