"""One group under the quantizer, against the equations written out in numpy and float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qbert_core.errors import InputError
from qbert_core.quantization import errors_by_count, fake_quantize, group_anatomy, site_anatomy

MATRICES = arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 7)), elements=st.floats(-4, 4, width=32)
)


def quantized(part: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, float, int]:
    """Codes and values of one group: the equations of the paper, with scale and zero point in fp32 as
    they are stored, everything else in float64."""
    levels = 2**bits - 1
    low, high = min(part.min(), np.float32(0)), max(part.max(), np.float32(0))
    scale = np.float32(high - low) / np.float32(levels) or np.float32(1)
    zero = int(np.round(-low / scale))
    codes = np.clip(np.round(part / scale).astype(np.float64) + zero, 0, levels)
    return codes, (codes - zero) * float(scale), float(scale), zero


@settings(deadline=None, max_examples=60)
@given(MATRICES, st.integers(1, 8), st.integers(1, 12), st.data())
def test_a_group_is_quantized_by_the_papers_equations(
    weight: np.ndarray, bits: int, groups: int, data: st.DataObject
) -> None:
    split = np.array_split(weight, min(groups, len(weight)))  # numpy's too gives the first groups a row more
    group = data.draw(st.integers(0, len(split) - 1))
    found = group_anatomy(torch.from_numpy(weight), bits, groups, group)
    part = split[group]
    codes, values, scale, zero = quantized(part, bits)
    assert found.groups == len(split)
    assert found.rows == (sum(map(len, split[:group])), sum(map(len, split[: group + 1])))
    assert found.scale == pytest.approx(scale, rel=1e-6)
    assert found.zero == zero
    assert found.uses.tolist() == np.bincount(codes.astype(int).ravel(), minlength=2**bits).tolist()
    assert 0.0 in found.levels
    assert found.squared_error == pytest.approx(float(((values - part) ** 2).mean()), rel=1e-4, abs=1e-12)
    assert found.counts.sum() == part.size
    assert (found.lowest, found.highest) == (part.min(), part.max())


@settings(deadline=None, max_examples=40)
@given(MATRICES, st.integers(1, 8), st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_the_error_at_a_count_is_the_mean_over_all_groups(
    weight: np.ndarray, bits: int, counts: list[int]
) -> None:
    found = errors_by_count(torch.from_numpy(weight), bits, counts)
    for count, error in zip(counts, found, strict=True):
        parts = np.array_split(weight, min(count, len(weight)))
        total = sum(((quantized(part, bits)[1] - part) ** 2).sum() for part in parts)
        assert error == pytest.approx(total / weight.size, rel=1e-4, abs=1e-12)


def test_an_error_is_that_of_each_width() -> None:
    weight = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    at = [group_anatomy(weight, bits, 3, 1).squared_error for bits in range(1, 9)]
    assert group_anatomy(weight, 4, 3, 1).errors == tuple(at)
    assert at == sorted(at, reverse=True)


@pytest.mark.parametrize(
    ("bits", "groups", "group", "said"),
    [(9, 1, 0, "bits 9; expected 1..8"), (4, 0, 0, "at least 1"), (4, 3, 3, "0 to 2"), (4, 9, -1, "0 to 3")],
)
def test_what_is_not_there_is_said(bits: int, groups: int, group: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        group_anatomy(torch.ones(4, 2), bits, groups, group)


def test_a_count_below_one_is_said() -> None:
    with pytest.raises(InputError, match="group count 0; expected at least 1"):
        errors_by_count(torch.ones(4, 2), 4, (1, 0))


@settings(deadline=None, max_examples=60)
@given(MATRICES, st.integers(1, 8), st.integers(1, 12))
def test_a_site_has_numpys_range_and_variance_and_the_papers_error(
    weight: np.ndarray, bits: int, groups: int
) -> None:
    found = site_anatomy(torch.from_numpy(weight), bits, groups)
    parts = np.array_split(weight, min(groups, len(weight)))
    total = sum(((quantized(part, bits)[1] - part) ** 2).sum() for part in parts)
    assert (found.lowest, found.highest) == (weight.min(), weight.max())
    variance = float(weight.astype(np.float64).var())
    assert found.variance == pytest.approx(variance, rel=1e-5, abs=1e-11)
    assert found.squared_error == pytest.approx(total / weight.size, rel=1e-4, abs=1e-12)
    if found.variance:
        assert found.relative_error == found.squared_error / found.variance


def test_a_site_that_is_left_alone_has_no_error() -> None:
    found = site_anatomy(torch.tensor([[1.0, -3.0], [0.5, 2.0]]), 32, 7)
    assert (found.squared_error, found.relative_error, found.lowest, found.highest) == (0, 0, -3, 2)


def test_a_site_of_one_number_has_no_relative_error() -> None:
    assert math.isnan(site_anatomy(torch.full((3, 2), 0.25), 4, 1).relative_error)


def test_narrowed_ranges_count_in_a_sites_error() -> None:
    weight = torch.randn(40, 30, generator=torch.Generator().manual_seed(1))
    error = float((fake_quantize(weight, 3, 4, 99.0) - weight).double().square().mean())
    assert site_anatomy(weight, 3, 4, 99.0).squared_error == pytest.approx(error, rel=1e-6)
    assert site_anatomy(weight, 3, 4).squared_error != pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize(("bits", "groups", "said"), [(9, 1, "bits 9; expected 1..8"), (4, 0, "at least 1")])
def test_what_no_site_can_have_is_said(bits: int, groups: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        site_anatomy(torch.ones(4, 2), bits, groups)
