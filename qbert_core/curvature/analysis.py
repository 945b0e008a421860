"""What a sensitivity analysis computes, in units that need nothing of each other.

A unit is a (run, block) pair: its examples follow from (seed, run), its start vector from (seed, run, block).
Small runs compute a unit whole; large ones (`shards`) as products that are sums over fixed shards.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature.blocks import Block
from qbert_core.curvature.eigen import Eigenpair, largest_eigenpair, random_start
from qbert_core.curvature.hvp import BlockHessian, used_rows
from qbert_core.curvature.inputs import LayerInputs
from qbert_core.curvature.products import rounding_pays
from qbert_core.curvature.shards import (
    Partials,
    ShardedHessian,
    ShardStates,
    block_size,
    cut,
)
from qbert_core.curvature.trace import xtrace
from qbert_core.runtime.events import Events
from qbert_core.tasks import Examples, Task


class Hessian(Protocol):
    """What an eigenpair and a trace need of a block's Hessian."""

    @property
    def size(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    def matvec(self, v: Tensor, fast: bool = False) -> Tensor:
        """(n,) -> (n,): H v."""


@dataclass(frozen=True)
class BlockResult:
    """One block's eigenvalue on one draw of examples. Plain numbers, fit to be sent."""

    value: float
    residual: float
    products: int
    seconds: float
    risk: float
    rounded: int  # of the products
    trace: float | None = None
    trace_error: float | None = None


@dataclass(frozen=True)
class RunResult:
    """One run: every block's eigenvalue on one draw of examples. Plain numbers, fit to be stored."""

    run: int
    lambdas: tuple[float, ...]  # one a block, in the order of `blocks_of`
    residuals: tuple[float, ...]
    products: int
    seconds: float
    risks: tuple[float, ...] = ()
    rounded: int = 0  # of the products
    traces: tuple[float, ...] = ()  # where they were asked for
    trace_errors: tuple[float, ...] = ()

    @classmethod
    def of(cls, run: int, blocks: Sequence[BlockResult]) -> RunResult:
        """From the results of the first blocks, or of all."""
        return cls(
            run,
            tuple(block.value for block in blocks),
            tuple(block.residual for block in blocks),
            sum(block.products for block in blocks),
            sum(block.seconds for block in blocks),
            tuple(block.risk for block in blocks),
            sum(block.rounded for block in blocks),
            tuple(block.trace for block in blocks if block.trace is not None),
            tuple(block.trace_error for block in blocks if block.trace_error is not None),
        )


def draw(n: int, fraction: float, seed: int, run: int) -> NDArray[np.int64]:
    """Indices of run `run`'s examples, ascending: max(1, round(fraction n)) of n without replacement."""
    size = max(1, round(fraction * n))
    return np.sort(np.random.default_rng([seed, run]).choice(n, size, replace=False))


@dataclass(frozen=True, eq=False)
class Analysis:
    """What all units have in common."""

    checkpoint: Checkpoint
    task: Task
    examples: Examples
    blocks: tuple[Block, ...]
    fraction: float
    tolerance: float
    seed: int
    trace: int = 0  # products to spend on each block's trace
    shards: int = 1  # of a run; 1: whole

    @cached_property
    def rounds(self) -> bool:
        """Whether products may be rounded: a fact of the machine that asks, so that all workers do alike."""
        some = next(iter(self.checkpoint.weights.values()))
        return rounding_pays(some.device.type, some.dtype)

    def drawn(self, run: int) -> Examples:
        """The examples of a run."""
        return self.examples.take(draw(len(self.examples), self.fraction, self.seed, run))

    def inputs(self, run: int) -> LayerInputs:
        """A run's examples, none linearized yet."""
        return LayerInputs(self.checkpoint, self.task, self.drawn(run))

    def block(self, inputs: LayerInputs, run: int, index: int, events: Events | None) -> BlockResult:
        """Unit (run, index), whole."""
        return self.result(BlockHessian(inputs, self.blocks[index], events), run, index)

    def result(self, hessian: Hessian, run: int, index: int) -> BlockResult:
        """The numbers of unit (run, index) from its Hessian's products."""
        started = time.perf_counter()
        seed = [self.seed, run, index]
        pair = eigenpair(hessian, seed, self.tolerance, self.rounds)
        found = None
        if self.trace:
            found = xtrace(
                hessian.matvec, hessian.size, products=self.trace, seed=seed,
                dtype=hessian.dtype, device=hessian.device,
            )  # fmt: skip
        return BlockResult(
            pair.value,
            pair.residual,
            pair.products + (found.products if found else 0),
            time.perf_counter() - started,
            pair.risk,
            pair.rounded,
            found.value if found else None,
            found.error if found else None,
        )


class ShardedRun:
    """One run of an analysis, its examples in shards."""

    def __init__(self, analysis: Analysis, run: int) -> None:
        self.analysis, self.run = analysis, run
        self.examples = analysis.drawn(run)
        self.shards = cut(self.examples, analysis.shards)

    def rows(self, index: int) -> dict[str, Tensor]:
        """The rows of block `index`'s embedding tables that the run uses; nothing for other blocks."""
        block = self.analysis.blocks[index]
        if block.kind != "embedding":
            return {}
        return used_rows(LayerInputs(self.analysis.checkpoint, self.analysis.task, self.examples), block)

    def hessian(self, index: int, rows: Mapping[str, Tensor], partials: Partials) -> ShardedHessian:
        """The Hessian of block `index`, products' sums given by `partials`."""
        weights, block = self.analysis.checkpoint.weights, self.analysis.blocks[index]
        size = block_size({name: weights[name].shape for name in block.parameters}, block, rows)
        return ShardedHessian(block, size, next(iter(weights.values())), partials)

    def sums(
        self,
        states: ShardStates,
        index: int,
        shard: int,
        rows: Mapping[str, Tensor],
        v: Tensor,
        fast: bool,
        events: Events | None = None,
    ) -> tuple[Tensor, int]:
        """One shard's part of a product with block `index`'s Hessian."""
        analysis, block = self.analysis, self.analysis.blocks[index]

        def make(keep_bytes: int) -> LayerInputs:
            examples = self.examples.take(self.shards[shard])
            return LayerInputs(analysis.checkpoint, analysis.task, examples, keep_bytes=keep_bytes)

        return states.sums(make, (self.run, block.layer), shard, block, rows, v, fast, events)


def in_turn(analysis: Analysis, runs: Sequence[int], events: Events) -> Iterator[RunResult]:
    """Compute the runs here, one unit after the other: each run so far after every block."""
    states = ShardStates()
    for run in runs:
        results: list[BlockResult] = []
        unit = (
            _whole(analysis, run, events)
            if analysis.shards == 1
            else _in_shards(analysis, run, states, events)
        )
        for result in unit:
            results.append(result)
            yield RunResult.of(run, results)


def _whole(analysis: Analysis, run: int, events: Events) -> Iterator[BlockResult]:
    inputs = analysis.inputs(run)
    for index in range(len(analysis.blocks)):
        events.check()
        yield analysis.block(inputs, run, index, events)


def _in_shards(analysis: Analysis, run: int, states: ShardStates, events: Events) -> Iterator[BlockResult]:
    sharded = ShardedRun(analysis, run)
    for index in range(len(analysis.blocks)):
        rows = sharded.rows(index)

        def partials(
            v: Tensor, fast: bool, index: int = index, rows: dict[str, Tensor] = rows
        ) -> Iterator[tuple[Tensor, int]]:
            for shard in range(len(sharded.shards)):
                yield sharded.sums(states, index, shard, rows, v, fast, events)

        yield analysis.result(sharded.hessian(index, rows, partials), run, index)


def eigenpair(hessian: Hessian, seed: Sequence[int], tolerance: float, rounds: bool) -> Eigenpair:
    """The eigenpair of largest magnitude; `rounds`: rounded products may search for it."""
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    start = random_start(hessian.size, number, hessian.dtype, hessian.device)
    fast = partial(hessian.matvec, fast=True) if rounds else None
    return largest_eigenpair(hessian.matvec, start, tolerance=tolerance, fast=fast)


def block_eigenpair(
    inputs: LayerInputs, block: Block, seed: Sequence[int], tolerance: float, events: Events | None = None
) -> Eigenpair:
    """The eigenpair of largest magnitude of one block's Hessian over the examples in `inputs`."""
    hessian = BlockHessian(inputs, block, events)
    return eigenpair(hessian, seed, tolerance, hessian.has_fast)
