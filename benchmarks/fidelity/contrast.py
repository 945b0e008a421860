"""Sums of metrics of several plans, and how sure they are: examples and training seeds resampled together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qbert_core.tasks import Task

RESAMPLES = 2000
Key = tuple[str, bool]  # a plan's name in the experiments, whether it was finetuned


@dataclass(frozen=True, eq=False)
class Measured:
    """Grades of every plan on the same examples: (seeds, examples, numbers a grade); one seed where
    nothing was trained."""

    task: Task
    grades: Mapping[Key, NDArray[np.float64]]

    @property
    def n(self) -> int:
        """Examples."""
        return int(next(iter(self.grades.values())).shape[1])

    def value(self, key: Key) -> float:
        """The main metric, mean over the seeds."""
        return self.contrast({key: 1.0})[0]

    def contrast(self, weights: Mapping[Key, float], seed: int = 0) -> tuple[float, tuple[float, float]]:
        """The weighted sum of the plans' main metrics, and its 95 % percentile bootstrap interval.

        A resample draws the examples once for all plans, and the seeds once for all trained ones, so what
        plans have in common does not widen the interval. KeyError names a plan that was not measured.
        """
        chosen = {key: self.grades[key] for key in weights}
        generator = np.random.default_rng(seed)
        n = self.n
        times = np.stack([np.bincount(generator.integers(n, size=n), minlength=n) for _ in range(RESAMPLES)])
        most = max(len(seeds) for seeds in chosen.values())
        drawn = generator.integers(most, size=(RESAMPLES, most))
        value, values = 0.0, np.zeros(RESAMPLES)
        for key, seeds in chosen.items():
            by_seed = np.stack([self.task.main(times @ grades, n) for grades in seeds], axis=1)
            exact = [float(self.task.main(grades.sum(0)[None], n)[0]) for grades in seeds]
            value += weights[key] * float(np.mean(exact))
            if len(seeds) == 1:
                values += weights[key] * by_seed[:, 0]
            elif len(seeds) == most:
                values += weights[key] * np.take_along_axis(by_seed, drawn, axis=1).mean(1)
            else:
                raise ValueError(f"{key} has {len(seeds)} seeds, others {most}")
        low, high = np.percentile(values, [2.5, 97.5])
        return value, (min(float(low), value), max(float(high), value))
