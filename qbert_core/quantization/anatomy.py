"""What the quantizer does to the weights of a site: one group looked at closely, and the error of all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from qbert_core.errors import InputError
from qbert_core.quantization.plan import FULL
from qbert_core.quantization.quantizer import centred_codes, fake_quantize, group_runs

WIDTHS = range(1, 9)  # bits
BINS = 160


@dataclass(frozen=True, eq=False)
class GroupAnatomy:
    """One group of a weight under the quantizer (equations: `quantizer`).

    `counts` are the weights in equal bins between `edges`, and `uses` those that are rounded to each
    level; both sum to the number of weights in the group.
    """

    rows: tuple[int, int]  # first row, and the one after the last
    groups: int  # that were applied: at most one a row
    bits: int
    scale: float
    zero: int
    lowest: float  # weight
    highest: float
    errors: tuple[float, ...]  # mean of (w' - w)^2 at 1, 2 .. 8 bits
    edges: np.ndarray = field(repr=False)  # (bins + 1,)
    counts: np.ndarray = field(repr=False)  # (bins,)
    uses: np.ndarray = field(repr=False)  # (2^bits,)

    @property
    def levels(self) -> np.ndarray:
        """The values w' = (q - zero) * scale that a weight can have, (2^bits,) ascending."""
        levels: np.ndarray = (np.arange(2**self.bits) - self.zero) * self.scale
        return levels

    @property
    def squared_error(self) -> float:
        """Mean of (w' - w)^2 over the group."""
        return self.errors[self.bits - 1]

    @property
    def nbytes(self) -> int:
        """Of the arrays: what keeping it costs."""
        return self.edges.nbytes + self.counts.nbytes + self.uses.nbytes


@dataclass(frozen=True)
class SiteAnatomy:
    """A whole weight under the quantizer: its range, and means over all of its numbers."""

    lowest: float
    highest: float
    variance: float  # of the weights, around their mean
    squared_error: float  # mean of (w' - w)^2; 0 for a weight that is not quantized

    @property
    def relative_error(self) -> float:
        """The squared error over the variance; NaN for a weight that is the same number throughout."""
        return self.squared_error / self.variance if self.variance else math.nan


def group_anatomy(weight: Tensor, bits: int, groups: int, group: int, bins: int = BINS) -> GroupAnatomy:
    """Group `group`, from 0, of a (rows, columns) weight that is split into `groups`.

    Raises `InputError` for bits other than 1..8, a count below 1 or a group that is not there.
    """
    _check(bits, groups)
    first, end, applied = _rows(len(weight), groups, group)
    part = weight[first:end].contiguous()
    # a group's range depends on its own rows alone, so it is quantized as a matrix of one group
    codes, scale, zero = centred_codes(part, bits, 1)
    uses = torch.bincount((codes + zero[:, None]).to(torch.int64).ravel(), minlength=2**bits)
    counts, edges = np.histogram(part.cpu().numpy(), bins=bins)
    return GroupAnatomy(
        rows=(first, end),
        groups=applied,
        bits=bits,
        scale=float(scale[0]),
        zero=int(zero[0]),
        lowest=float(part.min()),
        highest=float(part.max()),
        errors=tuple(squared_error(part, width, 1) for width in WIDTHS),
        edges=edges,
        counts=counts,
        uses=uses.cpu().numpy(),
    )


def errors_by_count(weight: Tensor, bits: int, counts: Sequence[int]) -> tuple[float, ...]:
    """The mean of (w' - w)^2 over a whole (rows, columns) weight split into each of `counts` groups.

    Raises `InputError` for bits other than 1..8 or a count below 1.
    """
    for count in counts:
        _check(bits, count)
    return tuple(squared_error(weight, bits, count) for count in counts)


def errors_by_width(weight: Tensor, groups: int, widths: Sequence[int]) -> tuple[float, ...]:
    """The mean of (w' - w)^2 over a whole (rows, columns) weight in `groups` groups, at each of `widths` bits.

    Raises `InputError` for bits other than 1..8 or a count below 1.
    """
    for width in widths:
        _check(width, groups)
    return tuple(squared_error(weight, width, groups) for width in widths)


def site_anatomy(weight: Tensor, bits: int, groups: int, clip: float = 100.0) -> SiteAnatomy:
    """A (rows, columns) weight at `bits` (32: left as it is), split into `groups`, ranges narrowed to the
    percentile `clip`.

    Raises `InputError` for bits other than 1..8 or 32, or a count below 1.
    """
    if bits != FULL:
        _check(bits, groups)
    centred = weight - weight.mean()
    rest = float(centred.mean(dtype=torch.float64))  # fp32's rounding of the mean
    return SiteAnatomy(
        lowest=float(weight.min()),
        highest=float(weight.max()),
        variance=float(centred.square_().mean(dtype=torch.float64)) - rest**2,
        squared_error=0.0 if bits == FULL else squared_error(weight, bits, groups, clip),
    )


def squared_error(weight: Tensor, bits: int, groups: int, clip: float = 100.0) -> float:
    """Mean of (w' - w)^2, summed in float64."""
    moved = fake_quantize(weight, bits, groups, clip).sub_(weight)
    return float(moved.square_().mean(dtype=torch.float64))


def _rows(rows: int, groups: int, group: int) -> tuple[int, int, int]:
    """First row, the one after the last, and how many groups there are."""
    sizes = [size for count, size in group_runs(rows, groups) for _ in range(count)]
    if not 0 <= group < len(sizes):
        raise InputError(
            f"group {group} is not there; {groups} groups of {rows} rows are 0 to {len(sizes) - 1}"
        )
    first = sum(sizes[:group])
    return first, first + sizes[group], len(sizes)


def _check(bits: int, groups: int) -> None:
    if bits not in WIDTHS:
        raise InputError(f"bits {bits}; expected 1..8")
    if groups < 1:
        raise InputError(f"group count {groups}; expected at least 1")
