"""The eigenvalue of largest magnitude, with its sign, of a symmetric matrix known by its products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Matvec = Callable[[Tensor], Tensor]

BASIS_VECTORS = 64
BASIS_BYTES = 2**31


@dataclass(frozen=True, eq=False)
class Eigenpair:
    """H vector = value vector, up to `residual`."""

    value: float
    vector: Tensor = field(repr=False)  # (n,), norm 1
    residual: float  # |H vector - value vector| / |value|, measured by a product of its own
    products: int
    converged: bool  # residual <= tolerance


def random_start(
    size: int, seed: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """(size,) standard normal numbers, the same for the same seed on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=dtype).to(device)


def largest_eigenpair(
    matvec: Matvec,
    start: Tensor,  # (n,), not zero
    *,
    tolerance: float = 0.01,
    max_products: int = 200,
    basis_vectors: int = BASIS_VECTORS,
) -> Eigenpair:
    """Lanczos with full reorthogonalisation and thick restart (Wu and Simon 2000).

    Lanczos sees both ends of the spectrum at once, which power iteration does not: where +a and -b
    of nearly equal size compete, the Rayleigh quotient of a power iterate settles between them, on
    no eigenvalue at all. Here the iteration stops only when the residual of the larger end is at
    most `tolerance` relative to it AND the other end is either smaller by more than its error
    bound or as well converged. `value` is the Rayleigh quotient of the returned vector.

    The basis holds at most `basis_vectors` vectors and about `BASIS_BYTES`. After `max_products`
    products the best pair so far is returned, with the residual it has.
    """
    if not 0 < tolerance < 1 or max_products < 2:
        raise ValueError(f"tolerance {tolerance} must be in (0, 1), max_products {max_products} at least 2")
    rows = min(basis_vectors, BASIS_BYTES // (start.numel() * start.element_size()))
    krylov = _Krylov(start, min(start.numel(), max(8, rows)))
    target = tolerance
    products = 0
    while True:
        krylov.expand(matvec)
        products += 1
        last = krylov.exhausted or products + 1 >= max_products
        if not last and not krylov.settled(target):
            continue
        vector = krylov.dominant_vector()
        image = matvec(vector)
        products += 1
        value = float(vector @ image)
        error = float(torch.linalg.vector_norm(image - value * vector))
        residual = error / abs(value) if error else 0.0
        if last or residual <= tolerance:
            return Eigenpair(value, vector, residual, products, residual <= tolerance)
        target /= 2  # rounding made the estimate better than the truth


class _Krylov:
    """An orthonormal basis V (k x n), the projection V H V^T (k x k), and the next basis vector.

    H V^T = V^T (V H V^T) + beta next e_k^T, before and after a restart, so the Ritz pair
    (theta, V^T s) has the residual |beta s_k|. Both ends of the Ritz spectrum lie inside H's.
    """

    def __init__(self, start: Tensor, rows: int) -> None:
        self.basis = start.new_empty((rows, start.numel()))
        self.projection = np.zeros((rows, rows))
        self.size = 0
        self.next = start / torch.linalg.vector_norm(start)
        self.exhausted = False  # the basis spans an invariant subspace: its Ritz values are exact
        self.values: NDArray[np.float64] = np.zeros(0)  # ascending
        self.vectors: NDArray[np.float64] = np.zeros((0, 0))  # columns, coordinates in the basis
        self.errors: NDArray[np.float64] = np.zeros(0)

    def expand(self, matvec: Matvec) -> None:
        if self.size == len(self.basis):
            self._restart()
        k = self.size
        self.basis[k] = self.next
        w = matvec(self.next)
        length = float(torch.linalg.vector_norm(w))
        known = self.basis[: k + 1]
        column = known @ w
        w = w - column @ known
        again = known @ w  # a second pass removes what rounding left of the first
        w -= again @ known
        self.projection[: k + 1, k] = self.projection[k, : k + 1] = (column + again).double().cpu().numpy()
        beta = float(torch.linalg.vector_norm(w))
        self.size = k + 1
        self.exhausted = self.size == w.numel() or beta <= 10 * torch.finfo(w.dtype).eps * length
        if not self.exhausted:
            self.next = w / beta
        self.values, self.vectors = np.linalg.eigh(self.projection[: self.size, : self.size])
        self.errors = np.abs(beta * self.vectors[-1])

    def settled(self, target: float) -> bool:
        """Whether the largest Ritz value is converged and is certain to be the largest."""
        if self.size < 2:
            return False
        first, other = (-1, 0) if self.values[-1] >= -self.values[0] else (0, -1)
        size = abs(self.values[first])
        certain = abs(self.values[other]) + self.errors[other] <= size
        return bool(self.errors[first] <= target * size and (certain or self.errors[other] <= target * size))

    def dominant_vector(self) -> Tensor:
        """(n,), norm 1: the Ritz vector whose value has the largest magnitude."""
        coordinates = self.vectors[:, np.abs(self.values).argmax()]
        vector: Tensor = self._tensor(coordinates) @ self.basis[: self.size]
        vector /= torch.linalg.vector_norm(vector)
        return vector

    def _restart(self) -> None:
        """Keep the outermost Ritz vectors of both ends, a quarter of the basis, and the next vector."""
        side = max(1, self.size // 8)
        kept = [*range(side), *range(self.size - side, self.size)]
        rotation = self._tensor(self.vectors[:, kept].T)
        for columns in torch.split(self.basis, 2**18, dim=1):  # in place: a second basis may not fit
            columns[: len(kept)] = rotation @ columns
        self.projection[:] = 0.0
        self.projection[range(len(kept)), range(len(kept))] = self.values[kept]
        self.size = len(kept)

    def _tensor(self, array: NDArray[np.float64]) -> Tensor:
        return torch.tensor(array, dtype=self.basis.dtype, device=self.basis.device)
