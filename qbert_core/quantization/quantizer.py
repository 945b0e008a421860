"""The uniform asymmetric group quantizer (Q-BERT, section "Quantization process").

A group is a run of consecutive output rows with one range [min(w, 0), max(w, 0)], so that 0 is
exact. With L = 2^bits - 1:

    scale = (max - min) / L        zero = round(-min / scale)
    q = clamp(round(w / scale) + zero, 0, L)        w' = (q - zero) * scale

rounding half to even. Since round(w / scale) and zero are whole numbers far below 2^24, fp32 adds
them exactly, and w' = clamp(round(w / scale), -zero, L - zero) * scale gives the same bits in fewer
passes over memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Elements quantized at a time: small enough to stay in the second-level cache over the four passes.
CHUNK = 1 << 16


@dataclass(frozen=True, eq=False)
class GroupRanges:
    """One (scale, zero point) a group, groups in row order; both (groups,) fp32, zero whole."""

    scale: Tensor
    zero: Tensor
    levels: int  # 2^bits - 1


def group_runs(rows: int, groups: int) -> list[tuple[int, int]]:
    """Split `rows` into `groups` as evenly as possible: [(number of groups, rows in each), ...].

    The first `rows mod groups` groups have one row more; a count above `rows` means a row a group.
    Raises ValueError for a count below 1.

    >>> group_runs(10, 4)
    [(2, 3), (2, 2)]
    """
    if groups < 1:
        raise ValueError(f"group count {groups}; expected at least 1")
    small, larger = divmod(rows, min(groups, rows))
    runs = [(larger, small + 1), (min(groups, rows) - larger, small)]
    return [run for run in runs if run[0]]


def group_ranges(weight: Tensor, bits: int, groups: int, clip: float = 100.0) -> GroupRanges:
    """The scale and zero point of every group of a (rows, columns) weight.

    `clip` below 100 narrows each group's range to its (100 - clip)th and clip-th percentiles.
    """
    levels = 2**bits - 1
    lows, highs = [], []
    for view in _group_views(weight, groups):
        if clip < 100:
            low, high = _percentiles(view, clip)
        else:
            low, high = (
                view.amin(1),
                view.amax(1),
            )  # aminmax along a dimension is not vectorised: 8 times slower
        lows.append(low)
        highs.append(high)
    low = torch.cat(lows).clamp_(max=0)
    high = torch.cat(highs).clamp_(min=0)
    scale = (high - low) / levels
    scale[scale == 0] = 1  # an all-zero group: every w / 1 rounds to 0
    return GroupRanges(scale, torch.round(-low / scale), levels)


def fake_quantize(weight: Tensor, bits: int, groups: int, clip: float = 100.0) -> Tensor:
    """What `weight` (rows, columns) becomes after quantizing and dequantizing, in a new tensor.

    `bits` 1..8; the cost is one pass for the ranges and one for the values, whatever the number of
    groups.
    """
    weight = weight.contiguous()
    return rounded(weight, group_ranges(weight, bits, groups, clip), groups, dequantize=True)


def centred_codes(
    weight: Tensor, bits: int, groups: int, clip: float = 100.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The whole numbers q - zero of every weight (rows, columns), and each row's scale and zero (rows,).

    All fp32; `codes * scale[:, None]` is `fake_quantize` to the last bit.
    """
    weight = weight.contiguous()
    ranges = group_ranges(weight, bits, groups, clip)
    codes = rounded(weight, ranges, groups, dequantize=False)
    return codes, *row_ranges(ranges, len(weight), groups)


def row_ranges(ranges: GroupRanges, rows: int, groups: int) -> tuple[Tensor, Tensor]:
    """The scale and zero point of every row of a weight with so many rows, both (rows,)."""
    sizes = torch.cat([torch.full((count,), size) for count, size in group_runs(rows, groups)])
    sizes = sizes.to(ranges.scale.device)
    return ranges.scale.repeat_interleave(sizes), ranges.zero.repeat_interleave(sizes)


def rounded(weight: Tensor, ranges: GroupRanges, groups: int, *, dequantize: bool) -> Tensor:
    """clamp(round(w / scale), -zero, L - zero), times scale where `dequantize`."""
    result = torch.empty_like(weight)
    for (source, out), (scale, low, high) in pieces((weight, result), ranges, groups):
        torch.div(source, scale, out=out)
        clamp_(out.round_(), low, high)
        if dequantize:
            out.mul_(scale)
    return result


def clamp_(x: Tensor, low: Any, high: Any) -> Tensor:
    """`x.clamp_`, five times faster where the bounds are tensors: torch vectorises that in two steps only."""
    if isinstance(low, Tensor):
        return torch.minimum(torch.maximum(x, low, out=x), high, out=x)
    return x.clamp_(low, high)


Bounds = tuple[Any, Any, Any]  # scale, -zero, L - zero: numbers, or one a row of the piece, (n, 1)


def pieces(
    tensors: Sequence[Tensor], ranges: GroupRanges, groups: int
) -> Iterator[tuple[list[Tensor], Bounds]]:
    """Cut contiguous (rows, columns) tensors of one shape alike into views of at most `CHUNK` elements
    (on a CPU, where its cache counts), each with the scale and bounds that hold in it."""
    chunk = CHUNK if tensors[0].device.type == "cpu" else tensors[0].numel() + 1
    done = 0
    for views in zip(*(_group_views(tensor, groups) for tensor in tensors), strict=True):
        count, width = views[0].shape
        scale = ranges.scale[done : done + count, None]
        low = -ranges.zero[done : done + count, None]
        high = low + ranges.levels
        done += count
        if width >= chunk:  # few large groups: cut inside a group, its range is a number
            for g in range(count):
                bounds = (float(scale[g]), float(low[g]), float(high[g]))
                for start in range(0, width, chunk):
                    yield [view[g, start : start + chunk] for view in views], bounds
        else:
            step = max(1, chunk // width)
            for start in range(0, count, step):
                cut = slice(start, start + step)
                yield [view[cut] for view in views], (scale[cut], low[cut], high[cut])


def _group_views(weight: Tensor, groups: int) -> list[Tensor]:
    """The weight as (groups, elements a group) views, one for each size of group."""
    views, start = [], 0
    for count, rows in group_runs(weight.shape[0], groups):
        views.append(weight[start : start + count * rows].view(count, rows * weight.shape[1]))
        start += count * rows
    return views


def _percentiles(view: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    # numpy: torch.quantile refuses more than 2^24 elements, a word embedding table has more
    low, high = np.percentile(view.cpu().numpy(), [100 - clip, clip], axis=1).astype(np.float32)
    return torch.from_numpy(low).to(view.device), torch.from_numpy(high).to(view.device)
