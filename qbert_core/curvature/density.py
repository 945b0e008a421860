"""Where the eigenvalues of a symmetric matrix known by its products lie: stochastic Lanczos quadrature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qbert_core.curvature.basis import Basis
from qbert_core.curvature.eigen import Matvec

SMEARING = 1 / 200  # sigma of the curve, as a share of the range of the nodes
POINTS_A_SIGMA = 4
MARGIN = 6  # sigmas that the curve goes beyond the outermost nodes: 2e-9 of the mass are outside


@dataclass(frozen=True)
class Quadrature:
    """Gauss quadrature of one probe v, |v| = 1: v . f(H) v = sum of weights f(nodes).

    With k nodes that is exact for polynomials f of degree up to 2k - 1, for all f where the
    iteration ended because v's Krylov space was complete. The outermost nodes lie inside H's
    spectrum and are what Lanczos knows of its ends.
    """

    nodes: tuple[float, ...]  # ascending
    weights: tuple[float, ...]  # none negative, sum 1

    def moment(self, power: int) -> float:
        """v . H^power v. Over random v its mean is tr(H^power) / n."""
        return float(np.dot(self.weights, np.power(self.nodes, power)))


def lanczos_quadrature(matvec: Matvec, start: Tensor, steps: int) -> Quadrature:
    """Golub and Welsch's rule by at most `steps` Lanczos steps, one product each, from `start` (n,).

    Every vector is orthogonalised against all before it, so no eigenvalue appears twice (a ghost).
    The iteration ends early where the space is invariant: after n steps at the latest, after one
    for H = 0. Memory: `steps` vectors of n numbers and a few more; `InputError` where they exceed
    `basis.BASIS_BYTES`.
    """
    size = start.numel()
    steps = min(steps, size)
    basis = Basis(steps, size, start.dtype, start.device)
    basis.extend(start, 0.0)
    diagonal, beside = np.zeros(steps), np.zeros(steps)
    largest = 0.0  # a lower bound of |H|, against which a remainder is rounding or not
    for k in range(steps):
        image = matvec(basis[k])
        largest = max(largest, float(torch.linalg.vector_norm(image)))
        coefficients, beside[k] = basis.extend(image, 10 * torch.finfo(start.dtype).eps * largest)
        diagonal[k] = coefficients[k]
        if beside[k] == 0:
            break
    used = k + 1
    off = beside[: used - 1]
    tridiagonal = np.diag(diagonal[:used]) + np.diag(off, 1) + np.diag(off, -1)
    nodes, vectors = np.linalg.eigh(tridiagonal)
    return Quadrature(tuple(nodes.tolist()), tuple((vectors[0] ** 2).tolist()))


@dataclass(frozen=True)
class Curve:
    """The density of eigenvalues, smeared by a Gaussian of standard deviation `sigma`; integral 1."""

    x: NDArray[np.float64]  # (points,) evenly spaced
    density: NDArray[np.float64]  # (points,) per unit of x
    sigma: float


def smeared(quadratures: Sequence[Quadrature]) -> Curve:
    """Mean of the probes' measures, each node a Gaussian of its weight (Ghorbani, Krishnan and Xiao 2019).

    The grid reaches beyond every node and is finer than `sigma`, so it holds a lone outlier, whose
    weight is of the order of 1/n, as well as the bulk. Where all nodes are (nearly) one, sigma is a
    share of their size instead of their range; where all are 0, of 1.
    """
    nodes = np.concatenate([quadrature.nodes for quadrature in quadratures])
    weights = np.concatenate([quadrature.weights for quadrature in quadratures]) / len(quadratures)
    width = max(nodes.max() - nodes.min(), 1e-3 * np.abs(nodes).max())
    sigma = SMEARING * (width if width > np.finfo(np.float32).tiny else 1.0)
    low, high = nodes.min() - MARGIN * sigma, nodes.max() + MARGIN * sigma
    x = np.linspace(low, high, 1 + int(np.ceil(POINTS_A_SIGMA * (high - low) / sigma)))
    bells = np.exp(-(((x[:, None] - nodes) / sigma) ** 2) / 2) / (sigma * np.sqrt(2 * np.pi))
    return Curve(x, bells @ weights, float(sigma))
