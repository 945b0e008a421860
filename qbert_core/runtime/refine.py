"""A plan made better by measuring: a local search within its size, judged on examples it was not chosen on.

The best of many plans on some examples looks better there than it is. So a seeded half of the examples
chooses, and only the other half, which no choice has seen, says what the chosen plan is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qbert_core.allocation.assignment import bits_of, with_bits
from qbert_core.allocation.budget import Unit
from qbert_core.allocation.neighbours import Move, moves
from qbert_core.allocation.prediction import harm_of
from qbert_core.bert import BertConfig
from qbert_core.checkpoints import Checkpoint
from qbert_core.errors import InputError
from qbert_core.evaluation.paired import paired_difference, paired_loss
from qbert_core.quantization import ActivationRanges, Plan, plan_size
from qbert_core.quantization.size import MB
from qbert_core.runtime.events import Events, Silent
from qbert_core.runtime.keeping import Keeping
from qbert_core.runtime.store import Store
from qbert_core.runtime.sweep import Bench, Inside, Measurement
from qbert_core.tasks import Examples, Task

REFINED = " refined"  # after a plan's name


@dataclass(frozen=True)
class Try:
    """A plan that was measured on the choosing half; `accepted` when it was the best so far."""

    plan: Plan
    move: Move  # from the best before
    harm: float
    measured: Measurement
    accepted: bool

    def to_json(self, config: BertConfig) -> dict[str, Any]:
        """A row of the document's `tried`."""
        return {
            "name": self.plan.name,
            "plan_digest": self.plan.digest,
            "changes": [
                {"name": unit, "from": before, "to": after}
                for unit, (before, after) in self.move.changes.items()
            ],
            "size_mb": plan_size(config, self.plan).size_mb,
            "harm": self.harm,
            "metrics": self.measured.metrics,
            "loss": self.measured.loss,
            "accepted": self.accepted,
        }


@dataclass(frozen=True)
class Sides:
    """A plan on both halves: the one that chose, and the one that reports."""

    plan: Plan
    harm: float
    chosen_on: Measurement
    reported: Measurement

    def to_json(self, config: BertConfig) -> dict[str, Any]:
        """`start` or `end` of the document."""
        return {
            "plan": self.plan.to_json(),
            "plan_digest": self.plan.digest,
            "size_mb": plan_size(config, self.plan).size_mb,
            "harm": self.harm,
            "select": _numbers(self.chosen_on),
            "report": _numbers(self.reported),
        }


@dataclass(frozen=True)
class Refinement:
    """What the search found. `stopped`: tries (as many as allowed) or optimum (no move is better)."""

    config: BertConfig
    task: Task
    start: Sides
    end: Sides
    tried: tuple[Try, ...]
    allowed: int
    stopped: str
    budget_mb: float
    seed: int  # of the halves and of the bootstrap

    def to_json(self) -> dict[str, Any]:
        """`refine` of the command line's `allocate`; differences are the end's less the start's, on the
        reporting half."""
        before, after = self.start.reported, self.end.reported
        loss = paired_loss(before.losses or (), after.losses or (), self.seed)
        return {
            "allowed": self.allowed,
            "stopped": self.stopped,
            "budget_mb": self.budget_mb,
            "seed": self.seed,
            "n_select": self.start.chosen_on.n,
            "n_report": before.n,
            "start": self.start.to_json(self.config),
            "end": self.end.to_json(self.config),
            "difference": asdict(paired_difference(self.task, before.grades, after.grades, self.seed)),
            "loss_difference": None if loss is None else {"mean": loss[0], "interval": loss[1]},
            "tried": [one.to_json(self.config) for one in self.tried],
        }


def refine(
    checkpoint: Checkpoint,
    task: Task,
    examples: Examples,
    ranges: ActivationRanges,
    start: Plan,
    units: Sequence[Unit],
    budget_mb: float,
    store: Store,
    *,
    tries: int,
    seed: int,
    events: Events | None = None,
    warn: Callable[[str], None],
) -> Refinement:
    """Improve `start` by moving bits between its `units`, never above `budget_mb`; at most `tries` plans are
    measured on the way.

    A step goes to the first neighbour (see `neighbours.moves`, in the order of predicted harm) that measures
    better on the choosing half: neither the task metric nor the mean loss worse, one of them better. The metric
    is what is asked for, but on some hundred examples one or two more right are noise: by the metric alone
    steps were taken that lost several points on the other half (benchmarks/README.md), with a loss that had
    risen clearly. Predicted harm decides only what is tried first. The reporting half measures `start` and the
    plan at the end, nothing else.

    Measurements go to `store`, so that a killed search goes on; one that fails costs only that, and `warn`
    gets a line. `events` gets (plans measured, plans at most, {"rows": tried so far, "running": ..}).

    Raises `InputError` for `tries` below 1, fewer than two examples, a start above the budget or with a unit
    whose sites differ in bits, and `Cancelled` when `events` says so.
    """
    events = events or Silent()
    config = checkpoint.config
    bits = bits_of(config, start, [unit.name for unit in units])
    room = _room(config, start, budget_mb)
    _check(tries, units, bits)
    choosing, reporting = halves(len(examples), seed)
    kept = Keeping(store, "measurements", warn)
    total, tried = tries + 3, list[Try]()
    rows: list[dict[str, Any]] = []

    def measured_by(half: NDArray[np.int64]) -> Callable[[Plan], Measurement]:
        bench = Bench(checkpoint, task, examples.take(half), ranges, kept, losses=True)
        done = 0 if half is choosing else total - 2

        def measure(plan: Plan) -> Measurement:
            nonlocal done
            found = bench.measure(plan, None, Inside(events, done, total, rows, {"name": plan.name}))
            done += 1
            return found

        return measure

    choose = measured_by(choosing)
    first = best = choose(start)
    seen = {start.digest}
    events.progress(1, total, {"rows": rows, "running": None})

    def step() -> Try | None:
        """Measure neighbours of the best until one is better; None where none is, or no try is left."""
        nonlocal rows
        for move in moves(units, bits, room):
            other = with_bits(config, start, move.applied(bits), f"try {len(tried) + 1}")
            if len(tried) == tries or other.digest in seen:
                continue
            events.check()
            seen.add(other.digest)
            found = choose(other)
            one = Try(other, move, harm_of(units, move.applied(bits)), found, _better(found, best))
            tried.append(one)
            rows = [*rows, one.to_json(config)]
            events.progress(1 + len(tried), total, {"rows": rows, "running": None})
            if one.accepted:
                return one
        return None

    while one := step():
        best, bits, room = one.measured, one.move.applied(bits), room - one.move.bytes
    stopped = "tries" if len(tried) == tries else "optimum"
    end = start if best is first else with_bits(config, start, bits, _named(start.name))
    report = measured_by(reporting)
    before, after = (
        Sides(plan, harm_of(units, bits_of(config, plan, bits)), chosen_on, report(plan))
        for plan, chosen_on in ((start, first), (end, best))
    )
    events.progress(total, total, {"rows": rows, "running": None})
    return Refinement(config, task, before, after, tuple(tried), tries, stopped, budget_mb, seed)


def halves(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The examples that choose and those that report, ascending; of an odd number one more reports."""
    if count < 2:
        raise InputError(f"{count} examples; refining needs two or more: one half chooses, the other reports")
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def _named(name: str) -> str:
    return name if name.endswith(REFINED) else name + REFINED


def _better(one: Measurement, other: Measurement) -> bool:
    now, before = (one.metrics[one.main], -_loss(one)), (other.metrics[other.main], -_loss(other))
    return now != before and now[0] >= before[0] and now[1] >= before[1]


def _loss(measured: Measurement) -> float:
    return 0.0 if measured.loss is None else measured.loss


def _room(config: BertConfig, start: Plan, budget_mb: float) -> int:
    size = plan_size(config, start).size_mb
    # in whole bytes: what a size in MB loses when it is written down is less
    room = round((budget_mb - size) * MB)
    if room < 0:
        raise InputError(
            f"a budget of {budget_mb:g} MB; the plan to start from, {start.name}, has {size:.2f} MB"
        )
    return room


def _check(tries: int, units: Sequence[Unit], bits: Mapping[str, int]) -> None:
    if tries < 1:
        raise InputError(f"tries is {tries}; expected 1 or more plans to measure")
    for unit in units:
        if bits.get(unit.name) not in {choice.bits for choice in unit.choices}:
            raise InputError(f"{unit.name}: the plan to start from gives its sites no width that it may have")


def _numbers(measured: Measurement) -> dict[str, Any]:
    return {
        "metrics": measured.metrics,
        "interval": measured.interval,
        "intervals": measured.intervals,
        "loss": measured.loss,
        "n": measured.n,
    }
