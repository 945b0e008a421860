"""How far a plan's share of right answers is from the fp32 model's, on the same examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """Share of examples answered right: the second model's minus the first one's.

    `interval` holds it with 95 %: a percentile bootstrap over examples (Efron 1979). An example keeps
    both its answers in a resample, so what both models find hard does not widen the interval.
    """

    mean: float
    interval: tuple[float, float]
    gained: int  # examples wrong before and right after
    lost: int  # right before and wrong after


def paired_difference(before: Sequence[bool], after: Sequence[bool], seed: int) -> Difference:
    """Compare two models on the same examples, in the same order.

    Only three things can happen to an example (-1, 0, +1), so a resample of n examples is a draw of
    three counts from a multinomial. Raises ValueError for unequal lengths or no examples.
    """
    if not before:
        raise ValueError("no examples to compare on")
    pairs = list(zip(before, after, strict=True))
    n = len(pairs)
    gained = sum(not b and a for b, a in pairs)
    lost = sum(b and not a for b, a in pairs)
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(n, [gained / n, lost / n, (n - gained - lost) / n], size=RESAMPLES)
    low, high = np.quantile((counts[:, 0] - counts[:, 1]) / n, (0.025, 0.975))
    return Difference((gained - lost) / n, (float(low), float(high)), gained, lost)
