"""The eigenvalue of largest magnitude, with its sign, of a symmetric matrix known by its products."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Matvec = Callable[[Tensor], Tensor]

BASIS_VECTORS = 64
BASIS_BYTES = 2**31
GAP = 0.01  # relative: how much larger an eigenvalue must be to count as missed ...
RISK = 1e-3  # ... and the probability with which one may have been
ROUNDED_FROM = 0.006  # tolerance below which rounded products only mislead: they are off by about this


@dataclass(frozen=True, eq=False)
class Eigenpair:
    """H vector = value vector, up to `residual`."""

    value: float
    vector: Tensor = field(repr=False)  # (n,), norm 1
    residual: float  # |H vector - value vector| / |value|, measured by an exact product of its own
    products: int  # in all
    converged: bool  # residual <= tolerance
    risk: float  # probability, at most, that an eigenvalue larger by GAP (or the tolerance) was missed
    rounded: int = 0  # of the products, those in fast arithmetic


def random_start(
    size: int, seed: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """(size,) standard normal numbers, the same for the same seed on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=dtype).to(device)


def largest_eigenpair(
    matvec: Matvec,
    start: Tensor,  # (n,), not zero; drawn at random, or the risk means nothing
    *,
    tolerance: float = 0.01,
    max_products: int = 200,
    basis_vectors: int = BASIS_VECTORS,
    fast: Matvec | None = None,
) -> Eigenpair:
    """Lanczos with full reorthogonalisation and thick restart (Wu and Simon 2000), stopped by what it
    can prove.

    Lanczos sees both ends of the spectrum at once, which power iteration does not: where +a and -b
    of nearly equal size compete, the Rayleigh quotient of a power iterate settles between them, on
    no eigenvalue at all. A small residual says that SOME eigenvalue is near, not that it is the
    largest: a random start can hold so little of the top eigenvector that the second one converges
    first. So the iteration stops only when

    - the residual of the larger end is at most `tolerance` relative to it,
    - the other end is smaller by more than its error bound, or as well converged, and
    - the risk is at most `RISK` that an eigenvalue larger by `GAP` (or `tolerance`) was missed: the
      basis vectors' recurrence bounds how much of its eigenvector the start can have held, and so
      little is improbable for a random start (Hochstenbach 2013, "Probabilistic upper bounds for the
      matrix two-norm").

    `value` is the Rayleigh quotient of the returned vector, and its residual is measured by a
    product of its own. `fast` may give the same products rounded: they find the vector, `matvec`
    measures it, and improves it where rounding left it short of the tolerance.

    The basis holds at most `basis_vectors` vectors and about `BASIS_BYTES`. After `max_products`
    products the best pair so far is returned, with the residual it has.
    """
    if not 0 < tolerance < 1 or max_products < 2:
        raise ValueError(f"tolerance {tolerance} must be in (0, 1), max_products {max_products} at least 2")
    rows = min(basis_vectors, BASIS_BYTES // (start.numel() * start.element_size()))
    rows = min(start.numel(), max(8, rows))
    gap = max(GAP, tolerance)
    rounded = 0
    search, target = matvec, tolerance
    if fast is not None and tolerance >= ROUNDED_FROM:
        search, target = fast, tolerance / 2  # rounding takes its share of the tolerance
    krylov = _Krylov(start, rows)
    risk = 1.0
    products = 0
    while True:
        krylov.expand(search)
        products += 1
        rounded += search is fast
        if krylov.untouched:
            risk = min(risk, krylov.risk(gap))
        last = krylov.exhausted or products + 1 >= max_products
        if not last and not (krylov.settled(target) and (risk <= RISK or not krylov.untouched)):
            continue
        vector = krylov.dominant_vector()
        image = matvec(vector)
        products += 1
        value, residual = _quotient(vector, image)
        if residual <= tolerance or products + 1 >= max_products or (krylov.exhausted and search is matvec):
            return Eigenpair(value, vector, residual, products, residual <= tolerance, risk, rounded)
        if search is not matvec:  # go on from here with exact products; what was proved stays proved
            krylov, search, target = _Krylov(vector, rows), matvec, tolerance
            krylov.untouched = False
        else:
            target /= 2  # rounding made the estimate better than the truth


def _quotient(vector: Tensor, image: Tensor) -> tuple[float, float]:
    """Rayleigh quotient and relative residual of H vector = image, in double precision: sums over
    millions of numbers lose four digits in single."""
    v, hv = vector.double(), image.double()
    value = float((v @ hv) / (v @ v))
    error = float(torch.linalg.vector_norm(hv - value * v) / torch.linalg.vector_norm(v))
    if not error:
        return value, 0.0
    return value, error / abs(value) if value else math.inf


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
        self.untouched = True  # neither restarted nor started from anything but a random vector
        self.log_betas = 0.0  # sum of log beta since the start
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
            self.log_betas += math.log(beta)
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

    def risk(self, gap: float) -> float:
        """Probability, at most, that H has an eigenvalue larger in magnitude by `gap` than the Ritz values.

        With q the characteristic polynomial of the projection, |q(H) start| is the product of the betas.
        An eigenvector of value mu that the start holds with weight c contributes |q(mu) c| to it, so
        |c| <= product of betas / |q(mu)|; a random direction in n dimensions has |c| <= e with a
        probability of at most e sqrt(2 n / pi). |q| grows outside the Ritz values: mu at the gap is the
        worst case.
        """
        if self.exhausted:
            return 0.0
        size = (1 + gap) * float(np.abs(self.values).max())
        if size == 0:
            return 1.0
        direction = 0.5 * math.log(2 * len(self.next) / math.pi)
        sides = [
            direction + self.log_betas - float(np.log(np.abs(mu - self.values)).sum()) for mu in (size, -size)
        ]
        return float(min(1.0, sum(math.exp(min(side, 0.0)) for side in sides)))

    def dominant_vector(self) -> Tensor:
        """(n,), norm 1: the Ritz vector whose value has the largest magnitude."""
        coordinates = self.vectors[:, np.abs(self.values).argmax()]
        vector: Tensor = self._tensor(coordinates) @ self.basis[: self.size]
        vector /= torch.linalg.vector_norm(vector.double())
        return vector

    def _restart(self) -> None:
        """Keep the outermost Ritz vectors of both ends, a quarter of the basis, and the next vector."""
        self.untouched = False
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
