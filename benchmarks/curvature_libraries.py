"""Peers of the curvature engine: two libraries, told what no user could know.

Both make the forward pass and the gradient's graph anew for every product. Each block gets the fewest
Lanczos steps that reach the accuracy (`curvature_peers.fewest_steps`), found out beforehand and not timed,
and both start where that was found out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.curvature_peers import Inputs, Problem, Product, Solved, Stop, load_model, shares, start
from qbert_core.checkpoints import Checkpoint

MODULES = {"hessian-eigenthings": "hessian_eigenthings", "curvlinops": "curvlinops"}
PACKAGES = {"hessian-eigenthings": "hessian-eigenthings", "curvlinops": "curvlinops-for-pytorch"}
INSTALL = "pip install -r requirements-bench.txt; pip install --no-deps -r requirements-nodeps.txt"


def missing() -> list[str]:
    """The libraries that are not installed."""
    return [name for name, module in MODULES.items() if find_spec(module) is None]


def versions() -> dict[str, str]:
    """Of those that are, and of transformers and scipy."""
    return {
        name: version(PACKAGES.get(name, name))
        for name in ("transformers", "scipy", *MODULES)
        if name not in missing()
    }


def model_for(name: str, checkpoint: Checkpoint) -> nn.Module:
    """A model that the library `name` may change."""
    model = load_model(checkpoint)
    return with_plain_layer_norm(model) if name == "curvlinops" else model


def eigenthings(model: nn.Module, problem: Problem, steps: Sequence[int], exact: Sequence[Product]) -> Solved:
    """hessian-eigenthings 1.x: `lanczos` on a `HessianOperator` with a parameter filter.

    It has no stopping rule: it makes as many steps as it is told. It averages the batches' losses, so
    that ragged batches need weights, which its loss function puts in.
    """
    from hessian_eigenthings.algorithms import lanczos
    from hessian_eigenthings.operators import HessianOperator

    batches = problem.batches
    data = [(batch, share * len(batches)) for batch, share in zip(batches, shares(batches), strict=True)]

    def loss(model: nn.Module, weighted: tuple[Inputs, float]) -> Tensor:
        batch, weight = weighted
        found: Tensor = model(**batch).loss
        return found * weight

    def solve(block: int) -> tuple[float, Tensor, int]:
        names = problem.blocks[block]
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
        operator = HessianOperator(model, data, loss, param_filter=lambda name, _: name in names)
        found = lanczos(operator, k=1, max_iter=steps[block], seed=problem.seeds[block])
        return float(found.eigenvalues[0]), found.eigenvectors[0], found.iterations

    return _solved(solve, exact)


def curvlinops(model: nn.Module, problem: Problem, steps: Sequence[int], exact: Sequence[Product]) -> Solved:
    """curvlinops' `HessianLinearOperator` with scipy's `eigsh` (ARPACK), a basis of `steps` vectors.

    ARPACK looks at its residuals whenever the basis is full; so many vectors make it stop at once. It
    begins at H times the start, which is one product more. `model` must come from
    `with_plain_layer_norm`.
    """
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import LinearOperator, eigsh

    data = [
        ({key: value for key, value in batch.items() if key != "labels"}, batch["labels"])
        for batch in problem.batches
    ]
    examples = sum(len(labels) for _, labels in data)

    def solve(block: int) -> tuple[float, Tensor, int]:
        parameters = [model.get_parameter(name) for name in problem.blocks[block]]
        hessian = HessianLinearOperator(
            _Logits(model),
            nn.CrossEntropyLoss(),
            parameters,
            data,
            check_deterministic=False,
            num_data=examples,
            batch_size_fn=lambda batch: len(batch["input_ids"]),
        )
        kind = np.dtype(str(parameters[0].dtype).removeprefix("torch."))
        products = _Counted(hessian.to_scipy(dtype=kind).matvec)
        first = start(model, problem.blocks[block], problem.seeds[block])
        values, vectors = eigsh(
            LinearOperator(hessian.shape, matvec=products, dtype=kind),
            k=1,
            which="LM",
            tol=problem.tolerance,
            ncv=max(2, steps[block]),
            v0=first.numpy(),
        )
        return float(values[0]), torch.from_numpy(vectors[:, 0].copy()), products.count

    return _solved(solve, exact)


def with_plain_layer_norm(model: nn.Module) -> nn.Module:
    """`model`, changed: LayerNorm written out in elementary operations.

    curvlinops 3.0 takes a Jacobian-vector product of the gradient inside `vmap`, and there torch 2.13
    gets the part that belongs to `torch.nn.LayerNorm`'s weight wrong (by 17 % of the whole product on a
    small BERT). Written out, the products are exact.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.LayerNorm):
                setattr(module, name, PlainLayerNorm(child))
    return model


class PlainLayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) weight + bias, over the last dimension."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        deviation = (centered.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return centered * deviation * self.weight + self.bias


class _Logits(nn.Module):
    """A batch to its logits: curvlinops takes models with one argument and one result."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Inputs) -> Tensor:
        logits: Tensor = self.model(**batch).logits
        return logits


class _Counted:
    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self.count = 0

    def __call__(self, v: Any) -> Any:
        self.count += 1
        return self._function(v)


def _solved(solve: Callable[[int], tuple[float, Tensor, int]], exact: Sequence[Product]) -> Solved:
    """Time `solve` of each block; what its result is worth is measured afterwards, by `exact` products."""
    stops = []
    for block, product in enumerate(exact):
        began = time.perf_counter()
        value, vector, products = solve(block)
        seconds = time.perf_counter() - began
        residual = float(torch.linalg.vector_norm(product(vector) - value * vector)) / abs(value)
        stops.append(Stop(value, residual, products, seconds, True))
    return Solved(stops, stops)
