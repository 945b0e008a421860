"""A run too large for one piece: its examples in fixed shards, its products sums of the shards' products.

The shards follow from the data and the model alone, never from who computes them, and their sums are added
in their order in double precision. So one process and a hundred workers give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qbert_core.bert import BertConfig
from qbert_core.curvature.blocks import Block
from qbert_core.curvature.hvp import BlockHessian, mean_product
from qbert_core.curvature.inputs import LINEARIZED_BYTES, LayerInputs
from qbert_core.errors import InputError
from qbert_core.runtime.events import Events
from qbert_core.tasks import Examples

# Work is real tokens x encoder parameters; 1e10 of it is 0.75 s of a product of the first layer on one core
# (benchmarks/scaling.py).
WHOLE_WORK = 1e10  # up to here an eigenpair is one task: some fifteen products
SHARD_WORK = (2e10, 1.3e11)  # least and most of a shard: a product's task of about 1 to 10 s
SHARDS = 1024  # at most, while shards are below the most: each costs a vector sent and one received

Partials = Callable[[Tensor, bool], Iterable[tuple[Tensor, int]]]  # v, fast -> each shard's sums, in order


def shards_of_a_run(config: BertConfig, examples: Examples, fraction: float) -> int:
    """Shards of a run that draws `fraction` of `examples`; 1: the run is computed whole.

    The same number for every run, from the mean length.
    """
    parameters = config.layers * sum(map(math.prod, config.encoder_shapes(0).values()))
    work = float(examples.lengths.sum()) * fraction * parameters
    if work <= WHOLE_WORK:
        return 1
    least, most = SHARD_WORK
    return math.ceil(work / min(most, max(least, work / SHARDS)))


def cut(examples: Examples, shards: int) -> list[NDArray[np.int64]]:
    """Indices of each shard's examples: sorted by length, then cut into parts of about equal tokens.

    Every example is in exactly one part, and no part is empty (there may be fewer parts than asked for).
    """
    tokens = np.bincount(examples.owners, weights=examples.lengths, minlength=len(examples))
    order = np.argsort(-tokens, kind="stable")
    middle = np.cumsum(tokens[order]) - tokens[order] / 2
    part = np.minimum((middle * shards / max(1.0, tokens.sum())).astype(np.int64), shards - 1)
    return [np.sort(order[part == index]) for index in range(shards) if (part == index).any()]


class ShardedHessian:
    """`BlockHessian` of a run whose shards are multiplied elsewhere: `partials` gives their sums in order."""

    def __init__(self, block: Block, size: int, like: Tensor, partials: Partials) -> None:
        self.block, self.size = block, size
        self.dtype, self.device = like.dtype, like.device
        self._partials = partials

    def matvec(self, v: Tensor, fast: bool = False) -> Tensor:
        """(n,) -> (n,): H v. Raises `InputError` as `BlockHessian.matvec` does."""
        total = torch.zeros_like(v, dtype=torch.float64)
        count = 0
        for sums, terms in self._partials(v, fast):
            total += sums
            count += terms
        return mean_product(total, count, self.block).to(v.dtype)


class ShardStates:
    """The linearized shards one process keeps: as many as fit, first come, first kept.

    What is kept is only ever time saved: a shard is linearized anew for every block, from that block's layer
    up, so that its numbers do not depend on what the process did before.
    """

    def __init__(self, keep_bytes: int = LINEARIZED_BYTES, places: int = 1) -> None:
        """`places`: (run, layer) pairs worked on at the same time, that share the bytes."""
        self._share = keep_bytes // places
        self._places = places
        self._kept: dict[tuple[int, int], dict[int, LayerInputs]] = {}

    def sums(
        self,
        make: Callable[[int], LayerInputs],  # the bytes it may keep -> a shard, not linearized yet
        place: tuple[int, int],  # run, and the layer from which on the shard is linearized
        shard: int,
        block: Block,
        rows: Mapping[str, Tensor],
        v: Tensor,
        fast: bool,
        events: Events | None,
    ) -> tuple[Tensor, int]:
        """`BlockHessian.sums` of one shard."""
        if place not in self._kept:
            while len(self._kept) >= self._places:
                self._kept.pop(next(iter(self._kept)))
            self._kept[place] = {}
        kept = self._kept[place]
        inputs = kept.get(shard)
        if inputs is None:
            inputs = make(max(0, self._share - sum(other.linearized_bytes for other in kept.values())))
        result = BlockHessian(inputs, block, events, rows).sums(v, fast)
        if inputs.linearized_bytes:
            kept[shard] = inputs
        return result


def check_shards(shards: int | None) -> None:
    """Raise `InputError` unless `shards` is None or at least 1."""
    if shards is not None and shards < 1:
        raise InputError(f"shards is {shards}; expected at least 1")


def block_size(shapes: Mapping[str, Sequence[int]], block: Block, rows: Mapping[str, Tensor]) -> int:
    """Parameters of a block, of tables those in `rows`."""
    return sum(
        (len(rows[name]) if name in rows else shapes[name][0]) * math.prod(shapes[name][1:])
        for name in block.parameters
    )
