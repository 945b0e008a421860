"""How far a plan's metric or loss is from another model's, on the same examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qbert_core.tasks import Task, difference
from qbert_core.tasks.interval import bootstrap


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


def paired_loss(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], seed: int
) -> tuple[float, tuple[float, float]] | None:
    """By how much the mean loss of `after` exceeds that of `before`, nats, with its 95 % interval as above.

    Both are (sum, count) an example, in the same order; None where the task's loss counts nothing in them.
    """
    both = np.concatenate([np.array(before, dtype=float), np.array(after, dtype=float)], axis=1)
    if not both[:, [1, 3]].sum(0).all():
        return None

    def rise(sums: np.ndarray) -> np.ndarray:
        counts = np.maximum(sums[:, [1, 3]], 1)  # a resample may hold nothing that counts
        risen: np.ndarray = sums[:, 2] / counts[:, 1] - sums[:, 0] / counts[:, 0]
        return risen

    return float(rise(both.sum(0)[None])[0]), bootstrap(both, rise, seed=seed)
