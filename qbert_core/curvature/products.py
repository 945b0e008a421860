"""Matrix products in two precisions: as the numbers are, or rounded to bfloat16 where that is faster."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def rounding_pays(device: str, dtype: torch.dtype) -> bool:
    """Whether the machine multiplies bfloat16 matrices much faster than `dtype` ones.

    A fact of the hardware, not a timing, so that the same machine gives the same numbers.
    """
    if dtype != torch.float32:
        return False
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


class Operand:
    """A matrix that takes part in several products; rounded once, when first needed."""

    def __init__(self, exact: Tensor, flipped: Operand | None = None) -> None:
        self.exact = exact
        self._flipped = flipped  # what this is the transpose of, sharing memory
        self._rounded: Tensor | None = None

    @property
    def rounded(self) -> Tensor:
        if self._rounded is None:
            flipped = self._flipped
            self._rounded = flipped.rounded.t() if flipped is not None else self.exact.bfloat16()
        return self._rounded

    @property
    def t(self) -> Operand:
        """The transposed matrix."""
        return self._flipped or Operand(self.exact.t(), self)


def times(a: Operand, b: Operand, fast: bool) -> Tensor:
    """a @ b in the precision of the operands, or, `fast`, with both rounded to bfloat16 and the sums
    rounded once more: about 0.4 % a number, errors that average out over a long product."""
    if not fast:
        return a.exact @ b.exact
    return (a.rounded @ b.rounded).to(a.exact.dtype)
