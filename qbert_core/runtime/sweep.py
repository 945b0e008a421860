"""Many plans measured one after the other, with and without finetuning; a killed sweep goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qbert_core.allocation.experiments import Variant
from qbert_core.bert import BertConfig
from qbert_core.checkpoints import Checkpoint
from qbert_core.errors import InputError
from qbert_core.evaluation import Evaluation, Evaluator
from qbert_core.evaluation.paired import paired_difference
from qbert_core.quantization import ActivationRanges, Plan, plan_size, sites_of
from qbert_core.quantization.plan import FULL
from qbert_core.runtime.events import Events, Silent
from qbert_core.runtime.keeping import Keeping
from qbert_core.runtime.states import state_folder
from qbert_core.runtime.store import Store, UnitKey, unit_key
from qbert_core.runtime.store.upkeep import training_home
from qbert_core.tasks import Examples, Task
from qbert_core.training import Recipe, TrainingResult, discard_state, finetune

PACE = 0.5  # seconds between two reports from inside a row


class Train(Protocol):
    """What `training.finetune` is."""

    def __call__(
        self,
        base: Checkpoint,
        task: Task,
        train: Examples,
        data: Examples,
        recipe: Recipe,
        events: Events | None = None,
        *,
        plan: Plan | None = None,
        resume: Path | None = None,
    ) -> TrainingResult: ...


@dataclass(frozen=True, eq=False)
class Finetuning:
    """Finetuning of every plan: a training a seed, each by `recipe` with that seed.

    A plan that quantizes nothing is finetuned in full precision by the same recipe: what the others gain
    by training more, not by training quantized, shows there.
    """

    train: Examples
    recipe: Recipe
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            given = ",".join(map(str, self.seeds)) or "none"
            raise InputError(f"seeds are {given}; expected one or more different ones, for example 0,1,2")
        for seed in self.seeds:  # a wrong one is told before hours of work
            replace(self.recipe, seed=seed)


@dataclass(frozen=True)
class Measurement:
    """A plan on all examples. Plain values, fit to be stored."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]  # 95 %
    main: str  # the task's main metric
    n: int
    grades: tuple[tuple[float, ...], ...]  # the task's, one an example, in the data's order
    predictions: tuple[Any, ...]
    attention_kl: tuple[tuple[float, ...], ...] | None  # layers x heads, nats
    losses: tuple[tuple[float, ...], ...] | None  # an example: sum in nats, what a mean counts; if asked for
    seconds: float

    @property
    def loss(self) -> float | None:
        """Nats, the mean over what the task's loss counts; None where nothing is counted, or not measured."""
        total, count = np.sum(self.losses, axis=0) if self.losses else (0.0, 0)
        return float(total / count) if count else None

    @property
    def interval(self) -> tuple[float, float]:
        """The main metric's."""
        return self.intervals[self.main]


@dataclass(frozen=True)
class Row:
    """One plan of an experiment beside the fp32 model."""

    experiment: str
    task: Task
    variant: Variant
    measured: Measurement
    baseline: Measurement
    config: BertConfig
    seed: int  # of the training where there was one, else of the bootstrap
    bootstrap_seed: int
    trained: Finetuning | None
    same_as: str | None  # the row before that holds the same plan, where there is one

    def to_json(self, whole: bool = True) -> dict[str, Any]:
        """A row of the command line's `sweep`; without `whole`, what a table or a chart needs of it."""
        plan, measured = self.variant.plan, self.measured
        size = plan_size(self.config, plan)
        kl = measured.attention_kl
        row: dict[str, Any] = {
            "experiment": self.experiment,
            "name": self.variant.name,
            "method": self.variant.method,
            "plan_digest": plan.digest,
            "same_as": self.same_as,
            "applied": applied(self.config, plan),
            "finetuned": self.trained is not None,
            "seed": self.seed,
            "epochs": self.trained and self.trained.recipe.epochs,
            "train_examples": self.trained and len(self.trained.train),
            "metrics": measured.metrics,
            "n": measured.n,
            "interval": measured.interval,
            "intervals": measured.intervals,
            "baseline": {
                **self.baseline.metrics,
                "interval": self.baseline.interval,
                "intervals": self.baseline.intervals,
            },
            "difference": asdict(
                paired_difference(self.task, self.baseline.grades, measured.grades, self.bootstrap_seed)
            ),
            "size_mb": size.size_mb,
            "weights_mb": size.weights_mb,
            "compression": size.compression,
            "effective_bits": size.effective_bits,
            "attention_kl_mean": None if kl is None else float(np.mean(kl)),
            "seconds": measured.seconds,
        }
        if measured.losses is not None:
            row |= {"loss": measured.loss, "baseline": {**row["baseline"], "loss": self.baseline.loss}}
        if whole:
            row |= {"plan": plan.to_json(), "attention_kl": kl, "predictions": measured.predictions}
        return row


def applied(config: BertConfig, plan: Plan) -> dict[str, Any]:
    """What a plan really does: distinct bits; distinct group counts of quantized sites, at most one group
    a row; bits of linear layers' inputs (32 where no linear layer is quantized); distinct bits a layer."""
    entries = plan.sites
    sites = sites_of(config)
    quantized = [site for site in sites if entries[site.name].quantized]
    linear = any(site.layer is not None for site in quantized)
    layers: list[set[int]] = [set() for _ in range(config.layers)]
    for site in sites:
        if site.layer is not None:
            layers[site.layer].add(entries[site.name].bits)
    return {
        "bits": sorted({entry.bits for entry in entries.values()}),
        "groups": sorted({min(entries[site.name].groups, site.rows) for site in quantized}),
        "activation_bits": plan.activation_bits if linear else FULL,
        "layer_bits": [sorted(bits) for bits in layers],
    }


def sweep(
    checkpoint: Checkpoint,
    task: Task,
    examples: Examples,
    ranges: ActivationRanges,
    experiment: str,
    variants: Sequence[Variant],
    store: Store,
    *,
    seed: int,
    attention: bool = False,
    losses: bool = False,
    finetuning: Finetuning | None = None,
    events: Events | None = None,
    warn: Callable[[str], None],
    train: Train = finetune,
) -> list[Row]:
    """Measure every variant on `examples`, then with `finetuning` every variant trained, seed by seed.

    The first variant must be the fp32 model: every row is compared with it. `ranges` are the frozen
    activation ranges of plans that are not finetuned. `seed` draws the bootstrap; nothing that is
    measured depends on it.

    A plan that comes twice is measured once. Each measurement goes to `store` when it is finished and is
    taken from there by the next sweep that asks for it; a training that was killed goes on from its
    state in a folder beside the store. A store that fails costs only the resuming: `warn` gets one line.

    With `attention` every row has its attention KL; a finetuned row always has. With `losses` every row
    that is not finetuned has its mean loss. `events` gets (rows done, rows in all, {"rows": .., "running":
    ..}), the rows without their heavy parts.

    Raises `Cancelled` when `events` says so, and what `train` and the evaluation raise.
    """
    events = events or Silent()
    kept = Keeping(store, "rows", warn)
    bench = Bench(checkpoint, task, examples, ranges, kept, attention=attention, losses=losses, train=train)
    seeds = finetuning.seeds if finetuning else ()
    total = len(variants) * (1 + len(seeds))
    rows: list[Row] = []
    light: list[dict[str, Any]] = []
    measured: dict[tuple[str, int | None], tuple[str, Measurement]] = {}
    for own_seed in (None, *seeds):
        trained = None
        if finetuning and own_seed is not None:
            trained = replace(finetuning, recipe=replace(finetuning.recipe, seed=own_seed))
        for variant in variants:
            events.check()
            key = (variant.plan.digest, own_seed)
            known = measured.get(key)
            if known is None:
                running = {"name": variant.name, "finetuned": trained is not None, "seed": own_seed}
                inside = Inside(events, len(rows), total, light, running)
                measured[key] = variant.name, bench.measure(variant.plan, trained, inside)
            rows.append(
                Row(
                    experiment=experiment,
                    task=task,
                    variant=variant,
                    measured=measured[key][1],
                    baseline=measured[variants[0].plan.digest, None][1],
                    config=checkpoint.config,
                    seed=seed if own_seed is None else own_seed,
                    bootstrap_seed=seed,
                    trained=trained,
                    same_as=known and known[0],
                )
            )
            light = [*light, rows[-1].to_json(whole=False)]
            events.progress(len(rows), total, {"rows": light, "running": None})
    return rows


class Inside:
    """Events of what happens inside a row, told as `running` beside the rows so far, twice a second."""

    def __init__(
        self, events: Events, done: int, total: int, rows: list[dict[str, Any]], running: dict[str, Any]
    ) -> None:
        self._events, self._done, self._total = events, done, total
        self._rows, self._running = rows, running
        self._last = 0.0

    def progress(self, done: int, total: int, partial: Any = None) -> None:
        now = time.monotonic()
        if now - self._last >= PACE:
            self._last = now
            running = {**self._running, "done": done, "total": total}
            self._events.progress(self._done, self._total, {"rows": self._rows, "running": running})

    def check(self) -> None:
        self._events.check()


class Bench:
    """Measures plans of one checkpoint, each once for ever."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        task: Task,
        examples: Examples,
        ranges: ActivationRanges,
        kept: Keeping,
        *,
        attention: bool = False,
        losses: bool = False,
        train: Train = finetune,
    ) -> None:
        self._checkpoint, self._task, self._examples, self._ranges = checkpoint, task, examples, ranges
        self._kept, self._attention, self._losses, self._train = kept, attention, losses, train
        self._evaluator: Evaluator | None = None  # not before something has to be computed

    def measure(self, plan: Plan, trained: Finetuning | None, events: Events) -> Measurement:
        """The plan as it is, or `trained`; from the store where it was measured before."""
        prints = {
            "model": self._checkpoint.fingerprint,
            "data": self._examples.fingerprint,
            "plan": plan.digest,
        }
        settings: dict[str, Any] = {
            "task": self._task.name,
            "finetuning": trained and {"train": trained.train.fingerprint, **asdict(trained.recipe)},
        }
        # a training is not repeated because attention is asked for later: it always has it
        attention = self._attention or trained is not None
        if self._losses and trained is None:
            settings["losses"] = True
        key = unit_key(
            "graded-measurement", **prints, **settings, ranges=self._ranges.digest, attention=attention
        )
        measured = self._kept.get(key, _measurement)
        if measured is None:
            started = time.perf_counter()
            if trained is None:
                found = self._evaluate(plan, events)
                measured = self._measurement(found, time.perf_counter() - started)
                self._kept.put(key, asdict(measured), measured.seconds)
            else:
                with self._folder(unit_key("sweep-training", **prints, **settings)) as folder:
                    found = self._resume(plan, trained, folder, events)
                    measured = self._measurement(found, time.perf_counter() - started)
                    self._kept.put(key, asdict(measured), measured.seconds)
                    if folder:
                        discard_state(folder)
        return measured

    @contextmanager
    def _folder(self, key: UnitKey) -> Iterator[Path | None]:
        """For the state of this training; None where none can be made, or another process trains it."""
        with ExitStack() as stack:
            folder = None
            try:
                home = training_home(self._kept.store)
                folder = stack.enter_context(state_folder(home, key.digest[:32]))
            except OSError as error:
                self._kept.complain(error)
            yield folder

    def _resume(self, plan: Plan, trained: Finetuning, folder: Path | None, events: Events) -> Evaluation:
        resumed = folder is not None and any(folder.iterdir())
        try:
            return self._train_and_evaluate(plan, trained, folder, events)
        except InputError:
            if folder is None or not resumed:
                raise
            # a state of no use (damaged, of another device) must not block the row for ever
            discard_state(folder)
            return self._train_and_evaluate(plan, trained, folder, events)

    def _evaluate(self, plan: Plan, events: Events) -> Evaluation:
        if self._evaluator is None:  # one for all plans: they share what they have in common
            self._evaluator = Evaluator(self._checkpoint, self._task, self._examples, self._ranges)
        return self._evaluator.evaluate(plan, attention=self._attention, losses=self._losses, events=events)

    def _train_and_evaluate(
        self, plan: Plan, trained: Finetuning, folder: Path | None, events: Events
    ) -> Evaluation:
        self._evaluator = None  # plans without training come first; its memory is needed now
        quantized = any(entry.quantized for entry in plan.sites.values())
        result = self._train(
            self._checkpoint,
            self._task,
            trained.train,
            self._examples,
            trained.recipe,
            events,
            plan=plan if quantized else None,
            resume=folder,
        )
        ranges = result.ranges or self._ranges
        evaluator = Evaluator(  # for one plan: nothing to keep for the next
            result.checkpoint, self._task, self._examples, ranges, cache_bytes=0, reference=self._checkpoint
        )
        return evaluator.evaluate(plan, events=events)

    def _measurement(self, found: Evaluation, seconds: float) -> Measurement:
        return Measurement(
            metrics=dict(found.score.metrics),
            intervals=dict(found.score.intervals),
            main=found.score.main,
            n=found.score.n,
            grades=tuple(map(tuple, found.grades.tolist())),
            predictions=found.predictions,
            attention_kl=found.attention_kl,
            losses=None if found.losses is None else tuple(map(tuple, found.losses.tolist())),
            seconds=seconds,
        )


def _measurement(fields: Any) -> Measurement:
    kl, losses = fields["attention_kl"], fields.get("losses")
    return Measurement(
        metrics=dict(fields["metrics"]),
        intervals={name: (low, high) for name, (low, high) in fields["intervals"].items()},
        main=fields["main"],
        n=fields["n"],
        grades=tuple(tuple(grade) for grade in fields["grades"]),
        predictions=tuple(fields["predictions"]),
        attention_kl=None if kl is None else tuple(tuple(row) for row in kl),
        losses=None if losses is None else tuple(tuple(row) for row in losses),
        seconds=fields["seconds"],
    )
