"""What measuring a plan gives."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from qbert_core.evaluation.slices import Flip
from qbert_core.quantization import Plan, PlanSize
from qbert_core.tasks import Score


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A plan measured on the first `n` examples of a random order, `total` when it is complete.

    `baseline` is the fp32 model on the same examples, so that the difference is a paired one.
    `layers_run` counts (batch, layer) units that really ran for this plan, `layers_total` those a
    full evaluation runs.
    """

    plan: Plan
    size: PlanSize
    score: Score
    baseline: Score
    indices: tuple[int, ...] = field(repr=False)  # examples measured so far, sorted
    predictions: tuple[Any, ...] = field(repr=False)  # beside indices
    grades: np.ndarray = field(repr=False)  # (n, numbers a grade) of the predictions, as the task gives them
    baseline_grades: np.ndarray = field(repr=False)
    losses: np.ndarray | None = field(repr=False)  # (n, 2) the plan's: sum in nats, what a mean counts
    flips: tuple[Flip, ...] = field(repr=False)
    attention_kl: tuple[tuple[float, ...], ...] | None = field(repr=False)  # layers x heads, nats
    total: int
    layers_run: int
    layers_total: int
    seconds: float

    @property
    def n(self) -> int:
        return self.score.n

    @property
    def complete(self) -> bool:
        return self.n == self.total

    def to_json(self) -> dict[str, Any]:
        """The `evaluate` document of the command line."""
        return {
            "metrics": self.score.metrics,
            "baseline": self.baseline.to_json(),
            "n": self.n,
            "interval": self.score.interval,
            "intervals": self.score.intervals,
            "size_mb": self.size.size_mb,
            "weights_mb": self.size.weights_mb,
            "compression": self.size.compression,
            "effective_bits": self.size.effective_bits,
            "attention_kl": self.attention_kl,
            "flips": [asdict(flip) for flip in self.flips],
            "predictions": self.predictions,
            "plan": self.plan.to_json(),
            "plan_digest": self.plan.digest,
            "layers_run": self.layers_run,
            "layers_total": self.layers_total,
            "seconds": self.seconds,
        }
