"""Orthonormal vectors grown one at a time, in bounded memory; and seeded random vectors to start them from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qbert_core.curvature.eigen import random_start
from qbert_core.errors import InputError

BASIS_BYTES = 2**32  # 60 vectors of a BERT-large layer take 3.0 GB


def seeded_vector(size: int, seed: Sequence[int], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """(size,) standard normal numbers; another sequence of the same length gives other numbers."""
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return random_start(size, number, dtype, device)


def require_room(vectors: int, size: int, dtype: torch.dtype) -> None:
    """Raise `InputError` where a basis of so many vectors would take more than `BASIS_BYTES`."""
    vector_bytes = size * dtype.itemsize
    most = BASIS_BYTES // vector_bytes
    if vectors > most:
        raise InputError(
            f"{vectors} vectors of {size} numbers would take {vectors * vector_bytes / 1e9:.1f} GB of memory; "
            f"at most {most} fit into {BASIS_BYTES / 1e9:.1f} GB, ask for fewer steps or products"
        )


class Basis:
    """Orthonormal q_1 .. q_k (n,), k at most `capacity`.

    Memory is touched only as vectors come. Raises `InputError` as `require_room` does.
    """

    def __init__(self, capacity: int, size: int, dtype: torch.dtype, device: torch.device | str) -> None:
        require_room(capacity, size, dtype)
        self._rows = torch.empty((capacity, size), dtype=dtype, device=device)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Tensor:
        return self.vectors[index]

    @property
    def vectors(self) -> Tensor:
        """(k, n)"""
        return self._rows[: self._size]

    def coordinates(self, w: Tensor) -> NDArray[np.float64]:
        """(k,): q_j . w"""
        return _numbers(self.vectors @ w)

    def extend(self, w: Tensor, negligible: float) -> tuple[NDArray[np.float64], float]:
        """Gram-Schmidt: `w` = sum of c_j q_j + beta q, returns c (k,) and beta.

        q becomes the next vector unless beta is at most `negligible`, which is rounding and no
        direction; beta is then 0. A second pass removes what rounding left of the first (Giraud,
        Langou and Rozloznik 2005: twice is enough).
        """
        known = self.vectors
        first = known @ w
        rest = w - first @ known
        second = known @ rest
        rest -= second @ known
        beta = float(torch.linalg.vector_norm(rest))
        if beta <= negligible:
            beta = 0.0
        elif self._size < len(self._rows):
            torch.div(rest, beta, out=self._rows[self._size])
            self._size += 1
        return _numbers(first + second), beta


def _numbers(values: Tensor) -> NDArray[np.float64]:
    return np.asarray(values.double().cpu().numpy(), dtype=np.float64)
