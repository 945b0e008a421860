"""Measured plans as points, and which of them no other plan beats."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

PlanKind = Literal["baseline", "preset", "hand", "allocated"]


@dataclass(frozen=True)
class PlanPoint:
    """One measured plan.

    `metric`, `low`, `high` are fractions (the value and its 95 % interval) over `n` examples; `partial` says
    that `n` is not yet all of them.
    """

    digest: str
    name: str
    size_mb: float
    metric: float
    low: float
    high: float
    n: int
    kind: PlanKind = "hand"
    partial: bool = False

    @property
    def measured(self) -> bool:
        """Whether there is anything to draw."""
        return math.isfinite(self.size_mb) and math.isfinite(self.metric)


def pareto(points: Iterable[PlanPoint]) -> list[PlanPoint]:
    """The plans no other plan beats, from the smallest to the largest.

    A plan is beaten when another is no larger and no worse, and smaller or better. Plans measured on part of
    the examples take no part: their metric may still move. Equal plans stay together.
    """
    complete = [point for point in points if point.measured and not point.partial]
    frontier: list[PlanPoint] = []
    for point in sorted(complete, key=lambda p: (p.size_mb, -p.metric, p.digest)):
        best = frontier[-1] if frontier else None
        equal = best is not None and (point.size_mb, point.metric) == (best.size_mb, best.metric)
        if best is None or equal or point.metric > best.metric:
            frontier.append(point)
    return frontier
