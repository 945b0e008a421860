"""The two eigenpairs of largest magnitude of a symmetric matrix known by its products."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from qbert_core.curvature.eigen import Matvec, largest_eigenpair
from qbert_core.errors import InputError

SEARCHES = 4  # at most; more than two where early ones ended on an eigenvalue that is not the largest


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """H vectors[i] = values[i] vectors[i], up to residuals[i]; the larger magnitude first."""

    values: tuple[float, float]
    vectors: Tensor = field(repr=False)  # (2, n), orthonormal; the largest entry of each is positive
    residuals: tuple[float, float]  # |H v - value v| / |value|; 0 for a value that is 0 to rounding
    products: int  # in all, with `fast` too


def two_largest_eigenpairs(
    matvec: Matvec,
    starts: Tensor,  # (2, n), linearly independent
    *,
    tolerance: float = 0.01,
    max_products: int = 200,
    fast: Matvec | None = None,
) -> Eigenpairs:
    """Deflation, then Rayleigh-Ritz (Parlett, The Symmetric Eigenvalue Problem, 5.1 and 11.3).

    With V the pairs found so far, the next is the largest of P H P, P = I - V V^T, sought from a
    start orthogonal to V; a Krylov space of H alone holds one vector of each eigenspace and would
    miss an equal eigenvalue. Of eigenvalues closer than the tolerance the first found need not be
    the largest, so the search ends with a pair that is not the largest so far: two searches as a
    rule, of at most `max_products` products each. The vectors are then rotated in their span so
    that v_i . H v_j = 0, which removes to first order what the errors of earlier pairs did to later
    ones. Values and residuals come from products of the span with H itself. `fast` may give the
    same products rounded, to search with.

    Raises `InputError` for n below 2.
    """
    n = starts.shape[1]
    if n < 2:
        raise InputError(f"a block of {n} parameter has no two directions; choose one with at least 2")
    rounding = torch.finfo(starts.dtype).eps
    found = starts[:0]  # (pairs, n), orthonormal
    largest, products = 0.0, 0

    def deflated(product: Matvec, v: Tensor) -> Tensor:
        image = _without(found, product(_without(found, v)))
        # what is left of a matrix of low rank is rounding, in which there is nothing to find
        if torch.linalg.vector_norm(image) <= 4 * rounding * largest:
            return torch.zeros_like(image)
        return image

    while len(found) < min(n, SEARCHES):
        start = _without(found, starts[min(len(found), 1)])
        pair = largest_eigenpair(
            partial(deflated, matvec),
            start,
            tolerance=tolerance,
            max_products=max_products,
            fast=fast and partial(deflated, fast),
        )
        products += pair.products
        found = torch.linalg.qr(torch.cat([found, pair.vector[None]]).T).Q.T
        if len(found) > 1 and abs(pair.value) <= (1 + tolerance) * largest:
            break
        largest = max(largest, abs(pair.value))
    # in double precision: a float32 dot product over a layer's parameters is off by some 1e-4
    basis = torch.linalg.qr(found.double().T).Q.T
    images = torch.stack([matvec(v).double() for v in basis.to(starts.dtype)])

    rayleigh = basis @ images.T
    values, rotation = torch.linalg.eigh((rayleigh + rayleigh.T) / 2)
    order = values.abs().argsort(descending=True)[:2]
    values, rotation = values[order], rotation[:, order].T
    vectors, images = rotation @ basis, rotation @ images
    lengths = torch.linalg.vector_norm(images, dim=1)
    values = values.where(lengths > 32 * rounding * lengths.max(), 0)
    errors = torch.linalg.vector_norm(images - values[:, None] * vectors, dim=1)
    residuals = (errors / values.abs()).where(values != 0, 0)
    vectors = vectors * vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()
    return Eigenpairs(
        values=(float(values[0]), float(values[1])),
        vectors=vectors.to(starts.dtype),
        residuals=(float(residuals[0]), float(residuals[1])),
        products=products + len(found),
    )


def _without(vectors: Tensor, v: Tensor) -> Tensor:
    """v less its components along orthonormal `vectors` (k, n)."""
    return v - (vectors @ v) @ vectors
