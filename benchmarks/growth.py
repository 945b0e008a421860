"""How the time of a full evaluation grows with layers, examples and sequence length.

Models of the demo's width with random weights, random token ids; every layer runs (an embedding
edit), attention is measured, the fp32 reference is held. The exponent is the slope of a straight line
through the logarithms: 1 is linear, 2 is quadratic.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.record import Sample, Table, begin, goal, parser, rounds, save, spread, values
from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.evaluation import Evaluator
from qbert_core.quantization import SitePlan, calibrate, preset_named
from qbert_core.tasks import Examples, task_named
from qbert_core.tasks.base import make_examples
from tests.tiny import make_tiny

CLAIM = "Time grows in proportion to layers and examples, and hardly faster than in proportion to length"
POSITION = "bert.embeddings.position_embeddings"
USUAL = {"layers": 6, "examples": 200, "length": 32}
FACTORS = {
    "layers": (2, 4, 6),
    "examples": (100, 200, 300, 400),
    "length": (16, 32, 64, 128),
}
LIMITS = {"layers": 1.1, "examples": 1.1, "length": 1.3}


def random_examples(number: int, length: int, vocabulary: int, seed: int) -> Examples:
    """Sentences of exactly `length` random tokens."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(5, vocabulary, (number, length)).tolist()
    labels = draw.integers(0, 2, number).tolist()
    return make_examples(ids, [[0] * length] * number, labels, pd.DataFrame({"label": labels}), "random")


@dataclass
class Point:
    """One size: an evaluator that holds the fp32 reference, measured with a new plan every time."""

    checkpoint: Checkpoint
    examples: Examples
    groups: count[int] = field(default_factory=lambda: count(100))

    def __post_init__(self) -> None:
        task = task_named("sst2")
        ranges = calibrate(self.checkpoint, task, self.examples)
        self.evaluator = Evaluator(self.checkpoint, task, self.examples, ranges)
        self.plan = preset_named(self.checkpoint.config, "sst2", "qbert-4")
        self.evaluator.evaluate(self.plan)

    def measure(self) -> dict[str, float]:
        plan = self.plan.with_sites({POSITION: SitePlan(8, next(self.groups))})
        began = time.perf_counter()
        result = self.evaluator.evaluate(plan)
        seconds = time.perf_counter() - began
        if result.layers_run != result.layers_total:
            raise SystemExit("a layer's states were found; the time would be too short")
        return {"seconds": seconds}


def points(folder: Path, seed: int, shrink: int) -> dict[str, Callable[[], dict[str, float]]]:
    models = {}
    for layers in FACTORS["layers"]:
        made = make_tiny(
            folder / f"layers-{layers}", layers=layers, heads=12, hidden=384, intermediate=1536, positions=512,
            seed=seed, scale=0.05,
        )  # fmt: skip
        models[layers] = load_checkpoint(made)
    made_points: dict[str, Callable[[], dict[str, float]]] = {}
    for factor, sizes in FACTORS.items():
        for size in sizes:
            chosen = {**USUAL, factor: size}
            model = models[chosen["layers"]]
            number = chosen["examples"] // shrink
            examples = random_examples(number, chosen["length"], model.config.vocabulary, seed)
            made_points[f"{factor} {size}"] = Point(model, examples).measure
    return made_points


def exponents(samples: list[Sample], factor: str) -> list[float]:
    """Slope of log time against log size, a round each."""
    sizes = np.log(FACTORS[factor])
    times = np.log([values(samples, f"{factor} {size}") for size in FACTORS[factor]])
    return [float(np.polyfit(sizes, column, 1)[0]) for column in times.T]


def tables(samples: list[Sample]) -> tuple[list[Table], list[dict[str, object]]]:
    rows, goals = [], []
    for factor, sizes in FACTORS.items():
        slope = spread(exponents(samples, factor))
        others = ", ".join(f"{USUAL[name]} {name}" for name in USUAL if name != factor)
        for size in sizes:
            first = size == sizes[0]
            times = spread(values(samples, f"{factor} {size}"))
            rows.append([f"{factor} ({others})" if first else "", size, times, slope if first else ""])
        goals.append(goal(f"Exponent of {factor}", slope, LIMITS[factor]))
    columns = ["what grows", "size", "seconds", "exponent"]
    return [{"title": "Full evaluation, 384 wide", "columns": columns, "rows": rows}], goals


def main() -> None:
    options = parser(__doc__, 5)
    options.add_argument(
        "--shrink", type=int, default=1, help="divide the numbers of examples, for a trial run"
    )
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        variants = points(Path(folder), arguments.seed, arguments.shrink)
        began = begin()
        samples = rounds(variants, arguments.repeats, seed=arguments.seed, patience=arguments.patience)
    made, goals = tables(samples)
    save("growth", CLAIM, arguments, began, samples, made, goals)


if __name__ == "__main__":
    main()
