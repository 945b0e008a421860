"""The group quantizer, against the definition written out row by row in numpy."""

from __future__ import annotations

from itertools import pairwise

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


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
@pytest.mark.parametrize(
    ("rows", "columns", "groups"), [(3, 50_000, 1), (300, 400, 7), (5, 70_000, 5), (2000, 64, 128)]
)
def test_whatever_is_cut_for_the_cache_gives_the_same_bits(bits, rows, columns, groups):
    weight = np.random.default_rng(bits).standard_normal((rows, columns)).astype(np.float32)
    np.testing.assert_array_equal(
        fake_quantize(torch.from_numpy(weight), bits, groups).numpy(), by_definition(weight, bits, groups)
    )


def test_exact_halves_are_rounded_to_even():
    # 2 bits over [-1.5, 1.5]: scale 1, zero point round(1.5) = 2; 1.5 -> round(1.5) = 2 -> code 4 -> 3 -> 1
    assert fake_quantize(torch.tensor([[-1.5, -0.5, 0.5, 1.5]]), 2, 1).tolist() == [[-2, 0, 0, 1]]
    # 3 bits over [0, 7]: scale 1
    weight = torch.tensor([[0, 0.5, 1.5, 2.5, 3.5, 7]])
    assert fake_quantize(weight, 3, 1).tolist() == [[0, 0, 2, 2, 4, 7]]


@settings(deadline=None, max_examples=300)
@given(
    values=st.lists(st.floats(-(2.0**120), 2.0**120, width=32), min_size=1, max_size=24),
    bits=st.integers(1, 8),
    groups=st.integers(1, 30),
)
def test_denormal_and_huge_values_follow_the_definition_too(values, bits, groups):
    weight = np.array(values, dtype=np.float32).reshape(-1, 1)
    np.testing.assert_array_equal(
        fake_quantize(torch.from_numpy(weight), bits, groups).numpy(), by_definition(weight, bits, groups)
    )


@QUICK
@given(weight=weights(), bits=st.integers(1, 8), groups=st.integers(1, 60))
def test_every_groups_scale_and_zero_point_are_the_definitions(weight, bits, groups):
    ranges = group_ranges(torch.from_numpy(weight), bits, groups)
    assert ranges.levels == 2**bits - 1
    parts = np.array_split(weight, min(groups, len(weight)))  # numpy splits by the same rule
    for part, scale, zero in zip(parts, ranges.scale.numpy(), ranges.zero.numpy(), strict=True):
        low, high = min(part.min(), np.float32(0)), max(part.max(), np.float32(0))
        expected = np.float32(high - low) / np.float32(2**bits - 1)
        if expected == 0:  # nothing to quantize: any scale will do, as long as zero is code 0
            assert zero == 0
        else:
            assert scale == expected
            assert zero == np.rint(-low / expected)
            assert 0 <= zero <= 2**bits - 1


@QUICK
@given(weight=weights(), groups=st.integers(1, 60))
def test_the_step_of_every_group_falls_with_bits(weight, groups):
    w = torch.from_numpy(weight)
    used = torch.tensor([bool(part.any()) for part in np.array_split(weight, min(groups, len(weight)))])
    steps = [group_ranges(w, bits, groups).scale[used] for bits in range(1, 9)]
    for bits, (fewer, more) in enumerate(pairwise(steps), 1):
        torch.testing.assert_close(more, fewer * (2**bits - 1) / (2 ** (bits + 1) - 1))


@settings(deadline=None, max_examples=200)
@given(weight=weights(), bits=st.integers(1, 8), groups=st.integers(1, 60))
def test_quantizing_twice_moves_nothing_beyond_rounding_where_all_levels_span_the_range(weight, bits, groups):
    # the second pass sees a range of at most L steps; where it is all L, its step is the first one up to
    # fp32 rounding and every value a whole number of steps again
    once = fake_quantize(torch.from_numpy(weight), bits, groups)
    twice = fake_quantize(once, bits, groups).numpy()
    scales = group_ranges(torch.from_numpy(weight), bits, groups).scale.numpy()
    count = min(groups, len(weight))
    parts = zip(np.array_split(once.numpy(), count), np.array_split(twice, count), scales, strict=True)
    for first, second, scale in parts:
        span = max(first.max(), np.float32(0)) - min(first.min(), np.float32(0))
        if round(float(span / scale)) == 2**bits - 1:
            np.testing.assert_allclose(second, first, rtol=0, atol=float(scale) * 2**bits * 2.0**-21)


def test_groups_do_not_see_each_other_and_an_all_zero_one_stays_zero():
    w = torch.randn(10, 6, generator=torch.Generator().manual_seed(1))
    w[3:6] = 0  # the second of four groups: 3 + 3 + 2 + 2 rows
    before = fake_quantize(w, 2, 4)
    assert not before[3:6].any()
    w[0, 0] = 1e6
    after = fake_quantize(w, 2, 4)
    assert torch.equal(after[3:], before[3:])
    assert not torch.equal(after[:3], before[:3])


def test_a_transposed_weight_is_quantized_by_its_own_rows():
    w = torch.randn(6, 9, generator=torch.Generator().manual_seed(2))
    assert torch.equal(fake_quantize(w.t(), 3, 5), fake_quantize(w.t().contiguous(), 3, 5))


@pytest.mark.parametrize("clip", [99.9, 95.0, 60.0])
def test_clipped_values_land_on_the_narrower_grid_and_zero_stays_zero(clip):
    w = torch.randn(9, 80, generator=torch.Generator().manual_seed(6)).abs() + 0.5
    w[:, 0] = 0
    w[4, 7] = 1000
    before = w.clone()
    made = fake_quantize(w, 4, 2, clip)
    scale = group_ranges(w, 4, 2, clip).scale
    assert torch.equal(w, before)
    assert not made[:, 0].any()
    for rows, step in ((slice(0, 5), scale[0]), (slice(5, 9), scale[1])):
        expected = torch.clamp(torch.round(w[rows] / step), 0, 15) * step
        torch.testing.assert_close(made[rows], expected, rtol=1e-6, atol=0)
