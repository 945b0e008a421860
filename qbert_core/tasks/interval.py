"""How far a measured number can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

RESAMPLES = 1000
CHUNK = 2**22  # drawn indices held at a time
Z95 = 1.959963984540054  # the 97.5 % point of the standard normal


def wilson(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927), 95 % by default.

    Raises ValueError unless 0 <= successes <= n and n > 0.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n} is not a proportion")
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # at 0 and n the bound is exactly 0 or 1; rounding must not move it inside
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def bootstrap(
    grades: np.ndarray, statistic: Callable[[np.ndarray], Any], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of the SUMS of `grades` (examples, k), by resampling examples.

    `statistic` maps sums (resamples, k) to (resamples,). The same grades and seed give the same interval;
    it always contains the value itself.
    """
    return bootstraps(grades, {"": statistic}, seed=seed, resamples=resamples)[""]


def bootstraps(
    grades: np.ndarray,
    statistics: Mapping[str, Callable[[np.ndarray], Any]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, tuple[float, float]]:
    """`bootstrap` of several statistics of the same grades, by name: the resamples are drawn once."""
    n = len(grades)
    generator = np.random.default_rng(seed)
    sums = []
    step = max(1, CHUNK // n)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = generator.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)
        sums.append(times @ grades)
    resampled, whole = np.concatenate(sums), grades.sum(0)[None]
    found = {}
    for name, statistic in statistics.items():
        value = float(statistic(whole)[0])
        low, high = np.percentile(statistic(resampled), [2.5, 97.5])
        found[name] = (min(float(low), value), max(float(high), value))
    return found
