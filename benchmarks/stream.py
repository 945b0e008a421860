"""One plan through the engine, timed."""

from __future__ import annotations

import time

from qbert_core.evaluation import Evaluation, Evaluator
from qbert_core.quantization import Plan


def timed_stream(
    evaluator: Evaluator, plan: Plan, *, attention: bool = True, began: float | None = None
) -> tuple[float, float, Evaluation]:
    """Seconds to the first partial result and to the last, counted from `began` (now), and the last."""
    began = time.perf_counter() if began is None else began
    results = evaluator.stream(plan, attention=attention)
    last = next(results)
    first = time.perf_counter() - began
    for partial in results:
        last = partial
    return first, time.perf_counter() - began, last
