"""Incremental, progressive evaluation of plans on one data set.

Incremental: the states at every layer boundary are kept for the fp32 reference and for recent plans;
an edit at layer k starts from the state in front of layer k and runs only layers k..L. Batches never
change, so the numbers are bit for bit those of a full evaluation.

Progressive: batches hold windows of like length and come in a seeded random order; after a batch
there is an `Evaluation` of the examples all of whose windows were seen. The order does not depend on the
plan, so partial results of two plans are over the same examples.

Parallel: each batch is computed by one thread, as many batches at a time as there are threads; they are
counted in their order, so the numbers depend neither on how many threads there are nor on which was faster.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qbert_core.bert import embed, encoder_layer, head, padding_mask
from qbert_core.checkpoints import Checkpoint
from qbert_core.errors import Cancelled, InputError
from qbert_core.evaluation.attention import attention_kl
from qbert_core.evaluation.inspection import Inspection, inspect
from qbert_core.evaluation.losses import window_losses
from qbert_core.evaluation.prefix import prefix_keys
from qbert_core.evaluation.result import Evaluation
from qbert_core.evaluation.slices import flips
from qbert_core.evaluation.states import State, StateCache
from qbert_core.parallel import in_order
from qbert_core.quantization import (
    ActivationRanges,
    GroupAnatomy,
    Plan,
    Quantizer,
    SiteAnatomy,
    errors_by_count,
    errors_by_width,
    group_anatomy,
    plan_size,
    preset_named,
    site_anatomy,
    sites_of,
)
from qbert_core.runtime.events import Events, Silent
from qbert_core.tasks import Batch, Examples, Task, collate, length_batches
from qbert_core.tasks.typed import typed

TOKENS_PER_BATCH = 512  # about 70 ms of a 6-layer, 384-wide model on two cores: the pace of first numbers
CACHE_BYTES = 2 * 2**30
MAX_RESULTS = 100  # partial ones of an evaluation: putting one together costs time, too


@dataclass(frozen=True, eq=False)
class _Reference:
    """The fp32 model on one batch."""

    states: list[State]  # layers + 1
    log_attention: list[Tensor]  # a layer: (B, heads, T, T)
    outputs: list[Any]  # what the task reads from the logits of each window

    @property
    def nbytes(self) -> int:
        return sum(s.nbytes for s in self.states) + sum(a.nbytes for a in self.log_attention)


class Evaluator:
    """Measures plans of one checkpoint on one data set. One evaluation at a time (a lock sees to it).

    Baseline, flips and attention KL compare with the checkpoint itself in fp32, or with `reference`: a
    finetuned checkpoint is compared with the one it came from.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        task: Task,
        examples: Examples,
        ranges: ActivationRanges,
        *,
        seed: int = 0,
        cache_bytes: int = CACHE_BYTES,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        integers: bool | None = None,
        reference: Checkpoint | None = None,
    ) -> None:
        task.check_model(checkpoint.config)
        if reference is not None and reference.config != checkpoint.config:
            raise InputError(f"{reference.name} and {checkpoint.name} differ in shape or labels")
        self.checkpoint = checkpoint
        self.reference = reference or checkpoint
        self.task = task
        self.examples = examples
        self.ranges = ranges
        self.seed = seed
        self._quantizer = Quantizer(checkpoint, ranges, integers=integers)
        self._reference_plan = preset_named(checkpoint.config, checkpoint.task, "baseline")
        chosen = length_batches(examples.lengths, tokens_per_batch)
        self._batches = [collate(task, examples, c) for c in chosen]
        self._order = np.random.default_rng(seed).permutation(len(chosen))
        self._references: dict[int, _Reference] = {}
        self._reference_bytes = 0
        self._cache_bytes = cache_bytes
        self._states = StateCache(cache_bytes // 2)
        self._kept_batches = self._that_fit(cache_bytes // 2)
        self._lock, self._reference_lock = threading.Lock(), threading.Lock()

    def evaluate(
        self, plan: Plan, *, attention: bool = True, losses: bool = False, events: Events | None = None
    ) -> Evaluation:
        """Measure `plan` on every example."""
        *_, last = self.stream(plan, attention=attention, losses=losses, events=events)
        return last

    @torch.no_grad()  # as a decorator: it is off again while the reader has its turn
    def stream(
        self, plan: Plan, *, attention: bool = True, losses: bool = False, events: Events | None = None
    ) -> Iterator[Evaluation]:
        """Measure `plan`, yielding an `Evaluation` after a batch, `MAX_RESULTS` at most; the last one is
        complete. With `losses` it has every example's loss, too.

        Raises `Cancelled` between layers when `events` says so; what was computed until then is
        kept and found by the next evaluation.
        """
        events = events or Silent()
        with self._lock:
            started = time.perf_counter()
            size = plan_size(self.checkpoint.config, plan)
            run = _Run(self, plan, attention, losses, events)
            total = len(self._order)
            pace = -(-total // MAX_RESULTS)
            with closing(in_order(run.measure, (int(index) for index in self._order))) as measured:
                for done, batch in enumerate(measured, 1):
                    events.check()  # the batches that come next may be there already
                    run.count(batch)
                    if (done % pace and done < total) or not run.answered:
                        events.progress(done, total)
                        continue
                    result = run.result(size, time.perf_counter() - started)
                    events.progress(done, total, result)
                    yield result

    def inspect(
        self,
        plan: Plan,
        example: int | Mapping[str, str],
        *,
        layers: Collection[int] | None = None,
        events: Events | None = None,
    ) -> Inspection:
        """Both models on one example of the data, or on one that is typed: text by column. Waits for no
        evaluation under way. `layers` are those whose attention to keep, all when None."""
        events = events or Silent()
        row, examples = (
            (example, self.examples)
            if isinstance(example, int)
            else (0, typed(self.task, self.checkpoint, example))
        )
        model = self._quantizer.model(plan)
        return inspect(self.task, self.reference, model, plan, examples, row, layers=layers, events=events)

    def group_anatomy(self, site: str, bits: int, groups: int, group: int) -> GroupAnatomy:
        """One group of a site's weights under the quantizer; `InputError` for what is not there."""
        return group_anatomy(self._weight(site), bits, groups, group)

    def errors_by_count(self, site: str, bits: int, counts: Sequence[int]) -> tuple[float, ...]:
        """The mean squared error of a site's weights split into each of `counts` groups."""
        return errors_by_count(self._weight(site), bits, counts)

    def errors_by_width(self, site: str, groups: int, widths: Sequence[int]) -> tuple[float, ...]:
        """The mean squared error of a site's weights, in `groups` groups, at each of `widths` bits."""
        return errors_by_width(self._weight(site), groups, widths)

    def site_anatomy(self, site: str, bits: int, groups: int, clip: float) -> SiteAnatomy:
        """A whole site's weights under the quantizer; `InputError` for what is not there."""
        return site_anatomy(self._weight(site), bits, groups, clip)

    def _weight(self, name: str) -> Tensor:
        """A site's weights, (rows, columns)."""
        for site in sites_of(self.checkpoint.config):
            if site.name == name:
                return self.checkpoint.weights[site.parameter]
        raise InputError(f"the model has no site {name!r:.80}")

    def _that_fit(self, capacity: int) -> set[int]:
        """Batches whose states at all boundaries fit together: keeping more would only push out
        others before they are used again."""
        config = self.checkpoint.config
        kept: set[int] = set()
        for index in self._order:
            batch = self._batches[int(index)]
            capacity -= batch.input_ids.numel() * config.hidden * 4 * (config.layers + 1)
            if capacity < 0:
                break
            kept.add(int(index))
        return kept

    def _reference(self, index: int, check: Callable[[], None]) -> _Reference:
        """The fp32 model on a batch: kept while memory allows, else computed again."""
        kept = self._references.get(index)
        if kept is not None:
            return kept
        checkpoint, batch = self.reference, self._batches[index]
        weights, config = checkpoint.weights, checkpoint.config
        mask = padding_mask(batch.lengths, batch.input_ids.shape[1], torch.float32)
        hidden = embed(weights, config, batch.input_ids, batch.token_type_ids)
        zero = hidden.new_zeros(0, len(batch), config.heads)
        states, log_attention = [State(hidden, zero)], []
        for layer in range(config.layers):
            check()
            hidden, scores = encoder_layer(weights, config, layer, hidden, mask)
            log_attention.append(torch.log_softmax(scores, -1))
            states.append(State(hidden, hidden.new_zeros(layer + 1, len(batch), config.heads)))
        outputs = self.task.predict(_finite(head(weights, config, hidden), "the fp32 model"), batch)
        reference = _Reference(states, log_attention, outputs)
        with self._reference_lock:
            if self._reference_bytes + reference.nbytes <= self._cache_bytes // 2:
                self._reference_bytes += reference.nbytes
                self._references[index] = reference
        return reference


def _finite(logits: Tensor, model: str) -> Tensor:
    if not torch.isfinite(logits).all():
        raise InputError(f"{model} does not give finite logits on this data; its weights are too large")
    return logits


class _Run:
    """One evaluation under way: what it has seen so far."""

    def __init__(
        self, evaluator: Evaluator, plan: Plan, attention: bool, losses: bool, events: Events
    ) -> None:
        self._e = evaluator
        self._plan = plan
        self._attention = attention
        # (sum, count) of each example's windows seen so far
        self._losses = np.zeros((len(evaluator.examples), 2)) if losses else None
        self._events = events
        config = evaluator.checkpoint.config
        self._config = config
        self._keys = prefix_keys(config, plan)
        self._reference_keys = prefix_keys(config, evaluator._reference_plan)
        model = evaluator._quantizer.model(plan)
        self._weights, self._linear = model.weights, model.linear
        self._owners = evaluator.examples.owners
        self._missing = np.diff(evaluator.examples.first)  # windows of each example not seen yet
        self._outputs: dict[int, tuple[Any, Any]] = {}  # window -> fp32's and the plan's, until all are there
        self._answers: dict[int, tuple[_Answer, _Answer]] = {}  # example -> fp32's and the plan's
        self._windows = 0
        self._kl = torch.zeros(config.layers, config.heads, dtype=torch.float64)
        self._layers_run = self._layers_total = 0

    @torch.no_grad()  # which holds for the thread it is in
    def measure(self, index: int, stopped: threading.Event) -> _Measured:
        """Run one batch from the deepest boundary whose state is known. Several may run at a time."""

        def check() -> None:
            if stopped.is_set():
                raise Cancelled
            self._events.check()

        check()
        batch = self._e._batches[index]
        reference = self._e._reference(index, check)
        start, state = self._known(index, reference)
        if state is None:
            hidden = embed(self._weights, self._config, batch.input_ids, batch.token_type_ids)
            state = State(hidden, hidden.new_zeros(0, len(batch), self._config.heads))
            self._keep(index, 0, state)
        mask = padding_mask(batch.lengths, batch.input_ids.shape[1], torch.float32)
        for layer in range(start, self._config.layers):
            check()
            hidden, scores = encoder_layer(
                self._weights, self._config, layer, state.hidden, mask, linear=self._linear
            )
            kl = None
            if self._attention and state.kl is not None:
                own = attention_kl(reference.log_attention[layer], scores, batch.lengths)
                kl = torch.cat([state.kl, own[None]])
            state = State(hidden, kl)
            self._keep(index, layer + 1, state)
        logits = _finite(head(self._weights, self._config, state.hidden), f"plan {self._plan.name}")
        task = self._e.task
        losses = None if self._losses is None else window_losses(task, logits, batch)
        return _Measured(batch, reference.outputs, task.predict(logits, batch), losses, state.kl, start)

    def _known(self, index: int, reference: _Reference) -> tuple[int, State | None]:
        own = self._e.reference is self._e.checkpoint
        for boundary in range(self._config.layers, -1, -1):
            if own and self._keys[boundary] == self._reference_keys[boundary]:
                return boundary, reference.states[boundary]
            state = self._e._states.get(index, self._keys[boundary])
            if state is not None and (state.kl is not None or not self._attention):
                return boundary, state
        return 0, None

    def _keep(self, index: int, boundary: int, state: State) -> None:
        if index in self._e._kept_batches:
            self._e._states.put(index, self._keys[boundary], state)

    def count(self, measured: _Measured) -> None:
        """Add a batch. In the order of the batches: sums of floating-point numbers depend on it."""
        batch = measured.batch
        self._layers_run += self._config.layers - measured.start
        self._layers_total += self._config.layers
        self._windows += len(batch)
        if self._losses is not None:
            for window, loss in zip(batch.indices, measured.losses, strict=True):
                self._losses[self._owners[window]] += loss
        for window, *both in zip(batch.indices, measured.before, measured.after, strict=True):
            self._outputs[window] = (both[0], both[1])
            example = int(self._owners[window])
            self._missing[example] -= 1
            if not self._missing[example]:
                self._answer(example)
        if self._attention:
            assert measured.kl is not None
            self._kl += measured.kl.double().sum(1)

    def _answer(self, example: int) -> None:
        task, examples = self._e.task, self._e.examples
        seen = [self._outputs.pop(window) for window in examples.windows(example)]
        before, after = (task.answer(outputs, examples, example) for outputs in zip(*seen, strict=True))
        self._answers[example] = (
            _Answer(before, task.grade(before, examples, example)),
            _Answer(after, task.grade(after, examples, example)),
        )

    @property
    def answered(self) -> int:
        """Examples all of whose windows were seen."""
        return len(self._answers)

    def result(self, size: Any, seconds: float) -> Evaluation:
        """The evaluation of the examples so far, in the data's order."""
        task = self._e.task
        indices = sorted(self._answers)
        before, after = zip(*(self._answers[i] for i in indices), strict=True)
        grades, baseline_grades = (np.array([a.grade for a in side]) for side in (after, before))
        kl = (self._kl / self._windows).tolist() if self._attention else None
        return Evaluation(
            plan=self._plan,
            size=size,
            score=task.score(grades),
            baseline=task.score(baseline_grades),
            grades=grades,
            baseline_grades=baseline_grades,
            losses=None if self._losses is None else self._losses[indices],
            indices=tuple(indices),
            predictions=tuple(a.answer for a in after),
            flips=tuple(
                flips(
                    indices,
                    [b.answer for b in before],
                    [a.answer for a in after],
                    [b.right for b in before],
                    [a.right for a in after],
                )
            ),
            attention_kl=None if kl is None else tuple(tuple(row) for row in kl),
            total=len(self._e.examples),
            layers_run=self._layers_run,
            layers_total=self._layers_total,
            seconds=seconds,
        )


@dataclass(frozen=True, eq=False)
class _Measured:
    """What one batch has come to."""

    batch: Batch
    before: list[Any]  # what the task reads from fp32's logits of each window
    after: list[Any]  # from the plan's
    losses: Any  # (sum, count) of each window, where they were asked for
    kl: Tensor | None  # (layers, B, heads)
    start: int  # the first layer that was run


@dataclass(frozen=True)
class _Answer:
    """One model's answer to one example."""

    answer: Any
    grade: tuple[float, ...]

    @property
    def right(self) -> bool:
        return self.grade[0] == 1
