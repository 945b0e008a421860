"""How well predicted harm ranks what is measured: the plans to ask it of, and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qbert_core.allocation.assignment import with_bits
from qbert_core.allocation.budget import Frontier
from qbert_core.allocation.experiments import Variant, baseline
from qbert_core.allocation.prediction import harm_of, perturbed_units, predictors
from qbert_core.allocation.sampling import random_bits
from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature import Sensitivity
from qbert_core.errors import InputError
from qbert_core.evaluation.ranks import (
    NEAR,
    RESAMPLES,
    Agreement,
    halves_agreement,
    nearly_equal,
    resampled_agreements,
)
from qbert_core.quantization import Plan, plan_size
from qbert_core.runtime.events import Events
from qbert_core.runtime.sweep import Row
from qbert_core.tasks import Task

POINTS = 12  # of the frontier, at sizes spread evenly
FEWEST = 5  # plans whose ranks can be compared
SIZE = "size"  # a predictor, the second control: the smaller the worse


@dataclass(frozen=True)
class Study:
    """Plans to measure, the fp32 model first, and what is predicted of the others: plan digest -> predictor ->
    harm, whose unit is nats for `omega`, `mean` and `trace`, half a squared weight for `perturbation`, and MB,
    negative, for `size`."""

    variants: tuple[Variant, ...]
    predicted: Mapping[str, Mapping[str, float]]


def study(
    checkpoint: Checkpoint,
    task: Task,
    sensitivity: Sensitivity,
    start: Plan,
    bits: Sequence[int],
    count: int,
    seed: int,
) -> Study:
    """`POINTS` plans from the frontier of least harm as Omega predicts it (`frontier-..`), and `count` random
    ones (`random-..`, see `random_bits`): every block of the sensitivity gets one of the widths `bits`, all
    else is as in `start`.

    Raises `InputError` for a count below 1, widths that are not 1..8 or 32, and a model with fewer than
    `FEWEST` such plans, and a sensitivity of other layers.
    """
    if count < 1:
        raise InputError(f"{count} random plans; expected 1 or more, for example 60")
    config = checkpoint.config
    layers = sorted({block.layer for block in sensitivity.blocks if block.layer >= 0})
    if layers != list(range(config.layers)):
        raise InputError(f"the sensitivity is of layers {layers}; the model has 0..{config.layers - 1}")
    units = perturbed_units(checkpoint, start, {block.name: bits for block in sensitivity.blocks})
    judged = predictors(checkpoint, sensitivity, units)
    best = _spread(Frontier(judged["omega"]))
    variants, predicted = [baseline(config, task.name)], dict[str, dict[str, float]]()

    def add(method: str, number: int, chosen: Mapping[str, int]) -> None:
        plan = with_bits(config, start, chosen, f"{method}-{number}")
        harms = {name: harm_of(own, chosen) for name, own in judged.items()}
        predicted[plan.digest] = {**harms, SIZE: -plan_size(config, plan).size_mb}
        variants.append(Variant(method, plan))

    for number, chosen in enumerate(best, 1):
        add("frontier", number, chosen)
    for number, chosen in enumerate(random_bits(units, count, seed, best), 1):
        add("random", number, chosen)
    if len(predicted) < FEWEST:
        given = ",".join(map(str, bits))
        raise InputError(
            f"{len(units)} blocks with bits {given} make {len(predicted)} plans; ranking needs {FEWEST} or more"
        )
    return Study(tuple(variants), predicted)


class Told:
    """Events of the sweep, with what is predicted of each row."""

    def __init__(self, events: Events, made: Study) -> None:
        self._events, self._made = events, made

    def progress(self, done: int, total: int, partial: Any = None) -> None:
        rows = [with_prediction(row, self._made) for row in partial["rows"]]
        self._events.progress(done, total, {**partial, "rows": rows})

    def check(self) -> None:
        self._events.check()


def with_prediction(row: Mapping[str, Any], made: Study) -> dict[str, Any]:
    """The row of a sweep with `predicted`; None for the fp32 model, which is the measure and not among them."""
    return {**row, "predicted": made.predicted.get(row["plan_digest"])}


def ranks(
    made: Study, rows: Sequence[Row], *, seed: int, resamples: int = RESAMPLES, events: Events | None = None
) -> dict[str, Any]:
    """How well every predictor ranks the measured plans, by the task's metric and by the mean loss: the `ranks`
    of the command line's `sweep --frontier`.

    `rows` are the sweep's of `made.variants`, with losses. Numbers are those of `evaluation.ranks`, null where
    they are not defined; `halves` says how well half the examples rank the plans as the other half does.
    """
    plans = [row for row in rows if row.variant.plan.digest in made.predicted]
    task, examples = plans[0].task, plans[0].measured.n
    said = {
        name: np.array([made.predicted[row.variant.plan.digest][name] for row in plans])
        for name in made.predicted[plans[0].variant.plan.digest]
    }
    sizes = -said[SIZE]

    # of half the examples it makes a number half as large: the ranks are the same
    def damage(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return -task.main(sums, examples)

    def loss(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        means: NDArray[np.float64] = sums[:, 0] / np.maximum(sums[:, 1], 1)
        return means

    found: list[dict[str, Any]] = []
    ceilings = []
    for target, parts, measured in (
        (task.metric, [row.measured.grades for row in plans], damage),
        ("loss", [row.measured.losses for row in plans], loss),
    ):
        sums = np.array(parts, dtype=float)
        agreed = resampled_agreements(
            said, sums, measured, sizes, seed=seed, resamples=resamples, events=events
        )
        for name, statistics in agreed.items():
            if name == SIZE:  # it has nothing to say of plans of one size
                statistics = {
                    **statistics,
                    "near": Agreement(None, None),
                    "near_right": Agreement(None, None),
                }
            numbers = {key: asdict(value) for key, value in statistics.items()}
            found.append({"predictor": name, "target": target, **numbers})
        ceilings.append({"target": target, **halves_agreement(sums, measured, sizes, seed=seed)})
    return {
        "plans": len(plans),
        "examples": examples,
        "near": NEAR,
        "near_pairs": int(nearly_equal(sizes).sum()) // 2,
        "resamples": resamples,
        "resampled": "plans and examples",
        "seed": seed,
        "rows": found,
        "halves": ceilings,
    }


def _spread(frontier: Frontier) -> list[dict[str, int]]:
    """The best assignments of sizes spread evenly from the smallest to the largest."""
    sizes = np.linspace(frontier.sizes[0], frontier.sizes[-1], POINTS)
    return [frontier.bits(index) for index in sorted({frontier.best(size) for size in sizes})]
