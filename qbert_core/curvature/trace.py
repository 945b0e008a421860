"""The trace of a symmetric matrix known by its products, estimated, with the estimate's error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qbert_core.curvature.basis import Basis, seeded_vector
from qbert_core.curvature.blocks import Block
from qbert_core.curvature.eigen import Matvec
from qbert_core.curvature.hvp import BlockHessian
from qbert_core.curvature.inputs import LayerInputs
from qbert_core.errors import InputError
from qbert_core.runtime.events import Events

PRODUCTS = 40


@dataclass(frozen=True)
class TraceEstimate:
    """tr H = value, give or take error."""

    value: float
    error: float  # estimated standard error; 0 where every diagonal entry was computed
    products: int


def block_trace(
    inputs: LayerInputs,
    block: Block,
    seed: Sequence[int],
    products: int = PRODUCTS,
    events: Events | None = None,
) -> TraceEstimate:
    """The trace of one block's Hessian over the examples in `inputs`; `events` can cancel it."""
    hessian = BlockHessian(inputs, block, events)
    return xtrace(
        hessian.matvec, hessian.size, products=products, seed=seed, dtype=inputs.dtype, device=inputs.device
    )


def xtrace(
    matvec: Matvec,
    size: int,  # n
    *,
    products: int = PRODUCTS,
    seed: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> TraceEstimate:
    """XTrace (Epperly, Tropp and Webber 2024) of a symmetric H, definite or not.

    Half of the products are Hw_1 .. Hw_l of random vectors, half are with an orthonormal basis of
    those images. Each w_i gives the estimate

        t_i = tr(P H) + w_i . (I - P) H (I - P) w_i      P: projection onto the span of Hw_j, j != i

    whose first term is exact and whose second is unbiased, as w_i and P are independent: what is
    large in H is captured, what is left is sampled. `value` is their mean, `error` their standard
    deviation (n - 1) over the square root of l, the authors' estimate. Each (I - P) w_i is scaled to
    the length sqrt(n - rank P), the authors' recommended ("improved", resphered) variant. H of rank
    below l is found exactly.

    At most `products` are used, fewer where the images are dependent; where n would do, the diagonal
    is computed instead. Memory: l vectors of n numbers and a few more; `InputError` where they exceed
    `basis.BASIS_BYTES`, or `products` is below 4.
    """
    if products < 4:
        raise InputError(f"products is {products}; a trace needs at least 4")
    if products >= size:
        return TraceEstimate(_diagonal_sum(matvec, size, dtype, device), 0.0, size)
    samples = products // 2

    def vector(index: int) -> Tensor:  # made again when needed: holding them would double the memory
        return seeded_vector(size, [*seed, 1 + index], dtype, device)

    basis = Basis(samples, size, dtype, device)
    images: NDArray[np.float64] = np.zeros((samples, samples))  # Q^T H W, upper triangular where independent
    quadratic = np.zeros(samples)  # w_i . H w_i
    for i in range(samples):
        w = vector(i)
        image = matvec(w)
        quadratic[i] = _dot(w, image)
        negligible = 10 * torch.finfo(dtype).eps * float(torch.linalg.vector_norm(image))
        known, beta = basis.extend(image, negligible)
        images[: len(known), i] = known
        if beta:
            images[len(known), i] = beta
    rank = len(basis)
    projected: NDArray[np.float64] = np.zeros((rank, rank))  # Q^T H Q
    for j in range(rank):
        projected[:, j] = basis.coordinates(matvec(basis[j]))
    projected = (projected + projected.T) / 2  # the products' rounding is not symmetric
    estimates = np.zeros(samples)
    for i in range(samples):
        w = vector(i)
        left_out = _span(np.delete(images[:rank], i, axis=1), dtype)  # P = Q U U^T Q^T
        core = left_out.T @ projected @ left_out
        inside = left_out.T @ basis.coordinates(w)
        cross = float(inside @ (left_out.T @ images[:rank, i]))  # w . P H w
        outside = quadratic[i] - 2 * cross + float(inside @ core @ inside)  # w . (I - P) H (I - P) w
        length = _dot(w, w) - float(inside @ inside)  # |(I - P) w|^2
        estimates[i] = np.trace(core) + (size - len(core)) * outside / length
    error = float(np.std(estimates, ddof=1)) / samples**0.5
    return TraceEstimate(float(np.mean(estimates)), error, samples + rank)


def _span(columns: NDArray[np.float64], dtype: torch.dtype) -> NDArray[np.float64]:
    """An orthonormal basis, as columns, of what `columns` span beyond the rounding of `dtype`."""
    vectors, values, _ = np.linalg.svd(columns, full_matrices=False)
    cutoff = max(columns.shape) * torch.finfo(dtype).eps * values.max(initial=0.0)
    return np.asarray(vectors[:, values > cutoff])


def _diagonal_sum(matvec: Matvec, size: int, dtype: torch.dtype, device: torch.device | str) -> float:
    total = 0.0
    for index in range(size):
        unit = torch.zeros(size, dtype=dtype, device=device)
        unit[index] = 1
        total += float(matvec(unit)[index])
    return total


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.sum(a * b, dtype=torch.float64))
