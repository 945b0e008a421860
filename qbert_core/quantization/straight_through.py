"""Fake quantizers that gradients pass through, for quantization-aware training.

Q-BERT (section "Quantization process") rounds X' = clamp(X, q_0, q_max), q_0 and q_max being the
smallest and largest value the quantizer can represent: here -zero * scale and (L - zero) * scale.
Rounding has no useful derivative; the straight-through estimator (Bengio et al. 2013) takes that of
the identity, so that what remains is the derivative of the clamp:

    dX_q / dX = 1 where q_0 <= X <= q_max, else 0.

As the zero point is a whole number, q_0 may lie up to half a step inside the range that it was made
from: a weight out there is rounded to q_0 and gets no gradient. Ranges are constants to the gradient.
The values are those of `fake_quantize` and of `simulate`'s input quantizer to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from qbert_core.quantization.quantizer import clamp_, group_ranges, pieces, rounded, row_ranges


def fake_quantize_weight(weight: Tensor, bits: int, groups: int, clip: float = 100.0) -> Tensor:
    """`fake_quantize` of a (rows, columns) weight, with the straight-through gradient."""
    return _weight(weight, bits, groups, clip)


def fake_quantize_rows(
    table: Tensor,  # (rows, columns)
    rows: Tensor,  # (n,) whole numbers, each at most once
    bits: int,
    groups: int,
    clip: float = 100.0,
) -> Tensor:  # (n, columns)
    """The given rows of `fake_quantize(table)`: the ranges are the whole table's, only these are rounded.

    The gradient flows to these rows.
    """
    ranges = group_ranges(table.detach(), bits, groups, clip)
    scale, zero = (by_row[rows, None] for by_row in row_ranges(ranges, len(table), groups))
    chosen = torch.nn.functional.embedding(rows, table)
    return _clamped(chosen, scale, -zero, ranges.levels - zero)


def fake_quantize_input(x: Tensor, scale: float, zero: float, levels: int) -> Tensor:
    """An input of any shape quantized and dequantized with one fixed range."""
    return _clamped(x, scale, -zero, levels - zero)


class _Weight(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: int, groups: int, clip: float) -> Tensor:
        weight = weight.detach().contiguous()
        ctx.save_for_backward(weight)  # no copy, where a mask would be a byte a weight
        ctx.ranges, ctx.groups = group_ranges(weight, bits, groups, clip), groups
        return rounded(weight, ctx.ranges, groups, dequantize=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        result = torch.empty_like(weight)
        for (w, g, out), (scale, low, high) in pieces(
            (weight, gradient.contiguous(), result), ctx.ranges, ctx.groups
        ):
            steps = torch.div(w, scale, out=out)
            inside = steps.eq_(clamp_(steps.clone(), low, high))  # 1 or 0: a mask of booleans is slower
            inside.mul_(g)
        return result, None, None, None


class _Clamped(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Any, low: Any, high: Any) -> Tensor:
        steps = x / scale
        clamped = clamp_(steps.clone(), low, high)
        ctx.save_for_backward(clamped == steps)  # booleans: a float each would be a second activation
        return clamped.round_().mul_(scale)  # the bounds are whole: rounding after the clamp is the same

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None, None


# with the types that torch leaves out
_weight: Callable[[Tensor, int, int, float], Tensor] = _Weight.apply
_clamped: Callable[[Tensor, Any, Any, Any], Tensor] = _Clamped.apply
