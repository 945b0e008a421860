"""The group quantizer, against the definition written out row by row in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_core.quantization import fake_quantize, group_ranges
from qbert_core.quantization.quantizer import group_runs

QUICK = settings(deadline=None, max_examples=120)


def by_definition(weight: np.ndarray, bits: int, groups: int) -> np.ndarray:
    """architecture.md, "Weight range", one group after the other, float32 throughout."""
    rows = len(weight)
    count = min(groups, rows)
    sizes = [rows // count + (1 if g < rows % count else 0) for g in range(count)]
    levels = np.float32(2**bits - 1)
    out, start = np.empty_like(weight), 0
    for size in sizes:
        w = weight[start : start + size]
        low, high = min(w.min(), np.float32(0)), max(w.max(), np.float32(0))
        scale = np.float32(high - low) / levels
        if scale == 0:
            out[start : start + size] = 0
        else:
            zero = np.rint(-low / scale)
            q = np.clip(np.rint(w / scale) + zero, 0, levels)
            out[start : start + size] = (q - zero) * scale
        start += size
    return out


@st.composite
def weights(draw: st.DrawFn) -> np.ndarray:
    rows, columns = draw(st.integers(1, 40)), draw(st.integers(1, 12))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["normal", "positive", "negative", "constant", "zeros", "outliers", "ties"]))
    w = generator.standard_normal((rows, columns))
    if kind == "positive":
        w = np.abs(w) + 0.5
    elif kind == "negative":
        w = -np.abs(w) - 0.5
    elif kind == "constant":
        w[:] = w[0, 0]
    elif kind == "zeros":
        w[generator.random(rows) < 0.6] = 0
    elif kind == "outliers":
        w[generator.random((rows, columns)) < 0.02] *= 1000
    elif kind == "ties":
        w = generator.integers(-8, 8, (rows, columns)) / 2
    return (w * 10.0 ** draw(st.integers(-6, 6))).astype(np.float32)


@QUICK
@given(weight=weights(), bits=st.integers(1, 8), groups=st.integers(1, 60))
def test_every_value_is_the_definitions_to_the_last_bit(weight, bits, groups):
    ours = fake_quantize(torch.from_numpy(weight), bits, groups).numpy()
    np.testing.assert_array_equal(ours, by_definition(weight, bits, groups))


@pytest.mark.parametrize("groups", [1, 3, 7])
def test_large_groups_take_the_other_path_to_the_same_bits(groups):
    weight = np.random.default_rng(0).standard_normal((701, 300)).astype(np.float32)
    np.testing.assert_array_equal(
        fake_quantize(torch.from_numpy(weight), 3, groups).numpy(), by_definition(weight, 3, groups)
    )


@QUICK
@given(weight=weights(), bits=st.integers(1, 8), groups=st.integers(1, 60))
def test_zero_stays_zero_errors_stay_within_half_a_step_and_levels_within_the_bits(weight, bits, groups):
    w = torch.from_numpy(weight)
    before = w.clone()
    made = fake_quantize(w, bits, groups)
    assert torch.equal(w, before)
    assert bool((made[w == 0] == 0).all())
    scale = group_ranges(w, bits, groups).scale
    start, g = 0, 0
    for count, size in group_runs(len(w), groups):
        for _ in range(count):
            part, result = w[start : start + size], made[start : start + size]
            # half a step, and the last bits of w, of the scale and of their product; the zero point's own
            # rounding can push the ends of the range half a step further
            assert float((part - result).abs().max()) <= float(scale[g]) * (1 + 1e-3)
            inside = (result > result.min()) & (result < result.max())
            if inside.any():
                assert float((part - result)[inside].abs().max()) <= float(scale[g]) * (0.5 + 1e-3)
            assert len(result.unique()) <= 2**bits
            start, g = start + size, g + 1


def test_more_bits_make_the_mean_squared_error_smaller():
    w = torch.randn(96, 64, generator=torch.Generator().manual_seed(3))
    for groups in (1, 12, 96):
        errors = [float((w - fake_quantize(w, bits, groups)).square().mean()) for bits in range(1, 9)]
        assert errors == sorted(errors, reverse=True)


def test_finer_groups_make_the_mean_squared_error_smaller_on_rows_of_different_size():
    w = torch.randn(96, 64, generator=torch.Generator().manual_seed(4)) * torch.logspace(-1, 1, 96)[:, None]
    errors = [float((w - fake_quantize(w, 4, groups)).square().mean()) for groups in (1, 4, 24, 96)]
    assert errors == sorted(errors, reverse=True)


@QUICK
@given(rows=st.integers(1, 500), groups=st.integers(1, 600))
def test_rows_are_split_as_evenly_as_possible_larger_groups_first(rows, groups):
    sizes = [size for count, size in group_runs(rows, groups) for _ in range(count)]
    assert sum(sizes) == rows
    assert len(sizes) == min(rows, groups)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1
    assert sizes.count(sizes[0]) == (rows % len(sizes) or len(sizes))


def test_a_group_count_below_one_is_refused():
    for groups in (0, -3):
        with pytest.raises(ValueError, match="at least 1"):
            group_runs(10, groups)


def test_clipping_narrows_the_range_to_percentiles():
    w = torch.randn(8, 1000, generator=torch.Generator().manual_seed(5))
    for groups in (1, 4):
        ranges = group_ranges(w, 4, groups, clip=99.0)
        low, high = np.percentile(w.view(groups, -1).numpy(), [1, 99], axis=1)
        np.testing.assert_allclose(ranges.scale.numpy(), (high - low) / 15, rtol=1e-6)
    clipped = fake_quantize(w, 4, 1, clip=99.0)
    assert float(clipped.max()) < float(w.max())
    assert torch.equal(fake_quantize(w, 4, 1, clip=100.0), fake_quantize(w, 4, 1))
