"""A quantized linear layer in whole numbers, as a deployed model computes it.

With 8-bit inputs x = (p - u) s and weights w = (q - z) t (u, s of the tensor; z, t of the row's group),

    sum over columns of x w = s t (sum of (p - u)(q - z)),

and the sum is one of whole numbers: an int8 matrix product is exact where fp32 rounds, and on a CPU
with int8 instructions many times faster. int8 holds -128..127, so p is stored as a = p - 128 and the
weight codes as c = q - z - b with b = 0 up to 7 bits and b = 128 - z at 8; then

    (p - u)(q - z) = (a + 128 - u)(c + b)

and the correction is a number a row plus, at 8 bits, b times the sum of a.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from qbert_core.quantization.quantizer import centred_codes

# more columns could overflow a 32-bit sum; with a single one torch 2.13's product reads foreign memory
COLUMNS = range(2, 2**31 // 255**2)


@cache
def integer_products_available() -> bool:
    """Whether this torch multiplies int8 matrices on this CPU, and rightly."""
    a = torch.randint(-128, 128, (5, 48), dtype=torch.int8)
    b = torch.randint(-128, 128, (7, 48), dtype=torch.int8)
    try:
        return torch.equal(torch._int_mm(a, b.t()).long(), a.long() @ b.long().t())
    except (AttributeError, RuntimeError):
        return False


@cache
def integer_products_pay() -> bool:
    """Whether int8 products are also faster than fp32's: on a CPU with int8 instructions that torch uses.

    A fact of the hardware, not a timing, so that the same machine gives the same numbers. Without these
    instructions torch 2.13 takes some thirty times as long (`benchmarks.products`).
    """
    fast = torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported()
    return bool(fast) and integer_products_available()


@dataclass(frozen=True)
class InputCodes:
    """8-bit codes of a linear layer's input: a = p - 128 (tokens, columns) int8; x = (a + shift) scale."""

    codes: Tensor
    scale: float
    shift: int


def quantize_input(x: Tensor, scale: float, zero: float) -> InputCodes:
    """(.., columns) -> the codes p - 128 with p = clamp(round(x / scale) + zero, 0, 255)."""
    codes = (x.reshape(-1, x.shape[-1]) / scale).round_().clamp_(-zero, 255 - zero).add_(zero - 128)
    return InputCodes(codes.to(torch.int8), scale, 128 - int(zero))


@dataclass(frozen=True, eq=False)
class IntegerLinear:
    """One quantized weight: codes (rows, columns) int8, and a row's scale, offset b and sum of c + b."""

    codes: Tensor
    scale: Tensor  # (rows,) fp32
    offset: Tensor | None  # b (rows,) fp32; None where it is 0 throughout
    sums: Tensor  # (rows,) int32: sum over columns of q - z

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + 2 * self.scale.nbytes + self.sums.nbytes

    def __call__(self, x: InputCodes, bias: Tensor) -> Tensor:
        """(tokens, columns) codes -> (tokens, rows) fp32 outputs."""
        product = torch._int_mm(x.codes, self.codes.t())  # (tokens, rows) int32
        if self.offset is not None:
            total = x.codes.sum(1, dtype=torch.int32)
            product += total[:, None] * self.offset.to(torch.int32)
        product += self.sums * x.shift
        return torch.addcmul(bias, product.float(), self.scale * x.scale)


def integer_linear(weight: Tensor, bits: int, groups: int, clip: float) -> IntegerLinear:
    """A (rows, columns) weight quantized as `fake_quantize` does, kept as whole numbers."""
    codes, scale, zero = centred_codes(weight, bits, groups, clip)
    sums = codes.sum(1).to(torch.int32)  # whole numbers below 2^24: exact in fp32
    offset = None
    if bits == 8:
        offset = 128 - zero
        codes.sub_(offset[:, None])
    return IntegerLinear(codes.to(torch.int8), scale, offset, sums)
