"""How far a plan's metric is from the fp32 model's, on the same examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qbert_core.tasks import Task, difference


@dataclass(frozen=True)
class Difference:
    """The task's main metric: the second model's minus the first one's.

    `interval` holds it with 95 %: a percentile bootstrap over examples (Efron 1979). An example keeps
    both its answers in a resample, so what both models find hard does not widen the interval.
    """

    mean: float
    interval: tuple[float, float]
    gained: int  # examples wrong before and right (as a whole) after
    lost: int  # right before and wrong after


def paired_difference(
    task: Task, before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], seed: int
) -> Difference:
    """Compare two models by the task's grades of their answers to the same examples, in the same order.

    Raises ValueError for unequal lengths or no examples.
    """
    if not len(before) or len(before) != len(after):
        raise ValueError(f"{len(before)} and {len(after)} answers; expected as many, at least one")
    first, second = np.array(before, dtype=float), np.array(after, dtype=float)
    mean, interval = difference(task, first, second, seed=seed)
    was, is_now = first[:, 0] == 1, second[:, 0] == 1
    return Difference(mean, interval, int((~was & is_now).sum()), int((was & ~is_now).sum()))
