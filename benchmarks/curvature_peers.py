"""Peers of the curvature engine: power iteration as Q-BERT's authors and as PyHessian describe it.

Both work on transformers' `BertForSequenceClassification` (eager attention, eval mode) and on one block,
the parameters of an encoder layer. Where a thing could be done in two ways, they get the cheaper one:
only what the gradient is taken for is differentiated, and no library's bookkeeping is in the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from qbert_core.checkpoints import Checkpoint
from qbert_core.tasks import Examples, Task, collate

Inputs = dict[str, Tensor]  # one batch, as transformers' models take it, labels included
Product = Callable[[Tensor], Tensor]  # (n,) -> (n,): v -> Hv
Names = tuple[str, ...]  # a block's parameters in the order the model lists them

AUTHORS_CHANGE = 0.01  # where the authors stop: relative change of the eigenvalue
PYHESSIAN_CHANGE = 0.001
OWN_LIMIT = 100  # products at most: PyHessian's default; the authors get as many


@dataclass(frozen=True)
class Problem:
    """One draw: the largest eigenvalue, to a residual of `tolerance`, of each block's Hessian."""

    batches: list[Inputs]  # the mean is taken over the examples of all
    blocks: list[Names]
    seeds: list[int]  # of the random start vectors, one a block
    tolerance: float
    limit: int  # products a block at most

    @property
    def tokens(self) -> int:
        """Padded ones, each of which a product runs through."""
        return sum(batch["input_ids"].numel() for batch in self.batches)


@dataclass(frozen=True)
class Stop:
    """Where an engine was with one block when it stopped."""

    value: float
    residual: float  # |Hv - value v| / |value|
    products: int
    seconds: float
    reached: bool  # False: cut off by the limit


@dataclass(frozen=True)
class Solved:
    """All blocks of one draw: where the engine stops by itself, and where the residual is small enough."""

    own: list[Stop]
    accurate: list[Stop]


def load_model(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> nn.Module:
    """transformers' model of a checkpoint, no parameter of which asks for a gradient."""
    from transformers import BertForSequenceClassification

    model: nn.Module = BertForSequenceClassification.from_pretrained(
        checkpoint.folder, attn_implementation="eager", dtype=dtype
    )
    return model.eval().requires_grad_(False)


def inputs(task: Task, examples: Examples, indices: Sequence[int], width: int | None = None) -> Inputs:
    """The examples at `indices` as one batch, padded to the longest of them or to `width`."""
    batch = collate(task, examples, indices)
    more = (0, 0 if width is None else width - batch.input_ids.shape[1])
    ids, types = nn.functional.pad(batch.input_ids, more), nn.functional.pad(batch.token_type_ids, more)
    mask = (torch.arange(ids.shape[1]) < batch.lengths[:, None]).long()
    return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask, "labels": batch.targets}


def shares(batches: Sequence[Inputs]) -> list[float]:
    """What part of the examples each batch holds: the mean loss is the so weighted sum of the batches'."""
    total = sum(len(batch["labels"]) for batch in batches)
    return [len(batch["labels"]) / total for batch in batches]


def rebuilt(model: nn.Module, batches: Sequence[Inputs], names: Names) -> Product:
    """Hv with the forward pass and the gradient's graph made anew for every product."""
    leaves = _leaves(model, names)

    def product(v: Tensor) -> Tensor:
        directions = _like(v, leaves)
        terms = [
            torch.autograd.grad(_gradient(model, leaves, batch, share), list(leaves.values()), directions)
            for batch, share in zip(batches, shares(batches), strict=True)
        ]
        return sum(map(_flat, terms[1:]), _flat(terms[0]))

    return product


class Kept:
    """The gradient for the parameters `names`, with its graph, kept; products of blocks of them."""

    def __init__(self, model: nn.Module, batches: Sequence[Inputs], names: Names) -> None:
        self._leaves = _leaves(model, names)
        self._gradients = [
            dict(zip(names, _gradient(model, self._leaves, batch, share), strict=True))
            for batch, share in zip(batches, shares(batches), strict=True)
        ]

    def product(self, block: Names) -> Product:
        """H of the block alone: only its part of the gradient is differentiated, only for it."""
        leaves = {name: self._leaves[name] for name in block}

        def product(v: Tensor) -> Tensor:
            return self._differentiate(leaves, _like(v, leaves))

        return product

    def whole_product(self, block: Names) -> Product:
        """The same by a product of the whole Hessian with v, zero outside the block."""
        leaves = self._leaves
        inside = torch.cat([torch.full((leaf.numel(),), name in block) for name, leaf in leaves.items()])

        def product(v: Tensor) -> Tensor:
            wide = v.new_zeros(len(inside))
            wide[inside] = v
            return self._differentiate(leaves, _like(wide, leaves))[inside]

        return product

    def _differentiate(self, leaves: dict[str, Tensor], directions: list[Tensor]) -> Tensor:
        terms = [
            torch.autograd.grad(
                [gradient[name] for name in leaves], list(leaves.values()), directions, retain_graph=True
            )
            for gradient in self._gradients
        ]
        return sum(map(_flat, terms[1:]), _flat(terms[0]))


def start(model: nn.Module, names: Names, seed: int) -> Tensor:
    """(n,) standard normal numbers, n the size of the block."""
    parameters = [model.get_parameter(name) for name in names]
    n = sum(parameter.numel() for parameter in parameters)
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=parameters[0].dtype)


def power_iteration(
    product: Product, v: Tensor, *, change: float, tolerance: float, limit: int
) -> tuple[Stop, Stop]:
    """v <- Hv / |Hv|, value = v . Hv: where the value changes by less than `change`, relatively, and
    where |Hv - value v| <= `tolerance` |value|.

    One iteration serves both: Hv is there, so the residual costs no product. The first stop is made by
    `OWN_LIMIT` products at the latest, the second by `limit`.
    """
    own = accurate = None
    v = v / torch.linalg.vector_norm(v)
    before = float("nan")
    began = time.perf_counter()
    for products in range(1, max(limit, OWN_LIMIT) + 1):
        image = product(v)
        value = float(v @ image)
        residual = float(torch.linalg.vector_norm(image - value * v)) / abs(value)
        here = Stop(value, residual, products, time.perf_counter() - began, True)
        settled = abs(value - before) <= change * abs(before)
        if own is None and (settled or products == OWN_LIMIT):
            own = replace(here, reached=settled)
        if accurate is None and (residual <= tolerance or products == limit):
            accurate = replace(here, reached=residual <= tolerance)
        if own and accurate:
            return own, accurate
        before = value
        v = image / torch.linalg.vector_norm(image)
    raise AssertionError("both stops are made within the limits")


def authors(model: nn.Module, problem: Problem) -> Solved:
    """As Q-BERT (Shen et al. 2020) and HAWQ (Dong et al. 2019) describe it.

    A layer at a time, from a random vector; every iteration takes the loss of the batch, the layer's
    gradient g with its graph, and Hv = d(g . v)/dw; it ends when the eigenvalue changes by less than 1 %.
    """
    stops = []
    for names, seed in zip(problem.blocks, problem.seeds, strict=True):
        product = rebuilt(model, problem.batches, names)
        stops.append(_power_iteration(product, start(model, names, seed), AUTHORS_CHANGE, problem))
    return Solved([own for own, _ in stops], [accurate for _, accurate in stops])


def pyhessian(model: nn.Module, problem: Problem, *, whole: bool) -> Solved:
    """As PyHessian (Yao et al. 2019) describes it.

    The gradient of the batch's loss for all the model's parameters is taken once, with its graph, and
    every iteration differentiates g . v again; it ends when the eigenvalue changes by less than 0.1 %,
    or after 100 iterations. The paper knows one Hessian, the whole model's. Its product with a vector
    that is zero outside a layer, cut to that layer, is the product of the layer's own Hessian: with
    `whole`, that is what an iteration costs. Without, only the layer's part of the gradient is
    differentiated, and only for the layer: what a user gets who rewrites the product.

    The graph is made once a draw; its time is the first block's.
    """
    began = time.perf_counter()
    kept = Kept(model, problem.batches, tuple(name for name, _ in model.named_parameters()))
    made = time.perf_counter() - began
    stops = []
    for names, seed in zip(problem.blocks, problem.seeds, strict=True):
        product = kept.whole_product(names) if whole else kept.product(names)
        pair = _power_iteration(product, start(model, names, seed), PYHESSIAN_CHANGE, problem)
        stops.append([replace(stop, seconds=stop.seconds + made) for stop in pair])
        made = 0.0
    return Solved([own for own, _ in stops], [accurate for _, accurate in stops])


def lanczos(product: Product, v: Tensor, steps: int) -> tuple[Tensor, list[float]]:
    """(steps, steps), float64: H in the Krylov basis begun at v; and what is left over after each step."""
    basis = [v / torch.linalg.vector_norm(v)]
    matrix = torch.zeros(steps, steps, dtype=torch.float64)
    beyond = []
    for step in range(steps):
        image = product(basis[-1])
        matrix[step, step] = float(basis[-1] @ image)
        for _ in range(2):  # once more, for what rounding left
            for known in basis:
                image = image - (known @ image) * known
        beyond.append(float(torch.linalg.vector_norm(image)))
        if step + 1 < steps:
            matrix[step, step + 1] = matrix[step + 1, step] = beyond[-1]
            basis.append(image / beyond[-1])
    return matrix, beyond


def fewest_steps(product: Product, v: Tensor, most: int, tolerance: float) -> int:
    """From how many products Lanczos, begun at v, has the eigenvalue of largest magnitude to `tolerance`.

    A residual alone would not do: early on, it can be small at an eigenvalue that is not the largest.
    What `most` products find is taken for the truth; they are also the answer where fewer are not enough.
    """
    matrix, beyond = lanczos(product, v, most)
    values = torch.linalg.eigvalsh(matrix)
    truth = float(values[values.abs().argmax()])
    for steps in range(1, most):
        values, vectors = torch.linalg.eigh(matrix[:steps, :steps])
        largest = int(values.abs().argmax())
        value = float(values[largest])
        residual = beyond[steps - 1] * abs(float(vectors[-1, largest]))
        # a little less than asked for: rounding must not undo it
        if residual <= 0.98 * tolerance * abs(value) and abs(value - truth) <= tolerance * abs(truth):
            return steps
    return most


def _leaves(model: nn.Module, names: Names) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach().requires_grad_() for name in names}


def _gradient(model: nn.Module, leaves: dict[str, Tensor], batch: Inputs, share: float) -> tuple[Tensor, ...]:
    loss = functional_call(model, leaves, (), batch).loss * share
    return torch.autograd.grad(loss, list(leaves.values()), create_graph=True)


def _like(v: Tensor, leaves: dict[str, Tensor]) -> list[Tensor]:
    parts = torch.split(v, [leaf.numel() for leaf in leaves.values()])
    return [part.view_as(leaf) for part, leaf in zip(parts, leaves.values(), strict=True)]


def _flat(terms: Sequence[Tensor]) -> Tensor:
    return torch.cat([term.reshape(-1) for term in terms])


def _power_iteration(product: Product, first: Tensor, change: float, problem: Problem) -> tuple[Stop, Stop]:
    return power_iteration(product, first, change=change, tolerance=problem.tolerance, limit=problem.limit)
