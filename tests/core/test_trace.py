"""The trace estimator against its definition, exact traces, and a dense Hessian."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from qbert_core.checkpoints import load_checkpoint
from qbert_core.curvature import LayerInputs, TraceEstimate, block_trace, blocks_of, xtrace
from qbert_core.curvature.basis import seeded_vector
from qbert_core.errors import Cancelled, InputError
from qbert_core.runtime.events import Flag
from qbert_core.tasks import TASKS
from tests.dense import dense_hessian, random_examples
from tests.tiny import make_tiny

SPECTRA = {
    "flat": np.random.default_rng(0).normal(size=200),
    "outliers": np.concatenate([[10, -8, 5, 3], np.random.default_rng(1).normal(size=196) * 0.05]),
    "decaying": np.array([(-1) ** i * 0.8**i for i in range(200)]),
    "positive": np.arange(200) / 200,
}


def matrix(spectrum: NDArray[np.float64], seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    n = len(spectrum)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    dense = basis @ np.diag(spectrum) @ basis.T
    return torch.tensor((dense + dense.T) / 2, dtype=dtype)


def estimate(dense: Tensor, products: int, seed: int = 0) -> TraceEstimate:
    return xtrace(dense.matmul, len(dense), products=products, seed=[seed], dtype=dense.dtype)


def by_definition(dense: NDArray[np.float64], vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The leave-one-out estimates, each from a basis of its own; `vectors` (n, l)."""
    n, estimates = len(dense), []
    for i in range(vectors.shape[1]):
        q = scipy.linalg.orth(dense @ np.delete(vectors, i, axis=1))
        left = vectors[:, i] - q @ (q.T @ vectors[:, i])
        left *= np.sqrt(n - q.shape[1]) / np.linalg.norm(left)
        estimates.append(np.trace(q.T @ dense @ q) + left @ dense @ left)
    return np.array(estimates)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("products", [4, 11, 30])
def test_it_is_the_mean_of_the_leave_one_out_estimates(name: str, products: int) -> None:
    dense = matrix(SPECTRA[name])
    found = estimate(dense, products, seed=3)
    samples = products // 2
    vectors = np.stack(
        [seeded_vector(200, [3, 1 + i], torch.float64, "cpu").numpy() for i in range(samples)], axis=1
    )
    expected = by_definition(dense.numpy(), vectors)
    assert found.value == pytest.approx(expected.mean(), rel=1e-9)
    assert found.error == pytest.approx(expected.std(ddof=1) / np.sqrt(samples), rel=1e-6)
    assert found.products == 2 * samples


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("products", [10, 40])
def test_it_is_unbiased_and_its_error_is_the_right_size(name: str, products: int) -> None:
    spectrum = SPECTRA[name]
    dense = matrix(spectrum)
    found = [estimate(dense, products, seed) for seed in range(200)]
    off = np.array([one.value for one in found]) - spectrum.sum()
    assert abs(off.mean()) <= 4 * off.std(ddof=1) / np.sqrt(len(off))
    claimed = np.sqrt(np.mean([one.error**2 for one in found]))
    assert 1 / 1.5 <= np.sqrt(np.mean(off**2)) / claimed <= 1.5


def test_outliers_are_captured_instead_of_sampled() -> None:
    spectrum = SPECTRA["outliers"]
    dense = matrix(spectrum)
    off = np.array([estimate(dense, 20, seed).value for seed in range(100)]) - spectrum.sum()
    hutchinson = np.sqrt(2 * np.sum(spectrum**2) / 20)  # its standard deviation, normal vectors
    assert np.sqrt(np.mean(off**2)) < hutchinson / 5


@given(st.integers(0, 9), st.integers(0, 1000), st.sampled_from([torch.float32, torch.float64]))
@settings(deadline=None)
def test_a_rank_below_half_the_products_is_exact(rank: int, seed: int, dtype: torch.dtype) -> None:
    spectrum = np.zeros(120)
    spectrum[:rank] = np.random.default_rng(seed).normal(size=rank) * 10
    found = estimate(matrix(spectrum, seed, dtype), 20, seed)
    rounding = 1e4 * torch.finfo(dtype).eps * (np.abs(spectrum).max() + 1e-300)
    assert found.value == pytest.approx(spectrum.sum(), abs=rounding)
    assert found.error <= rounding
    assert found.products <= 20


def test_a_rank_of_half_the_products_is_one_too_many() -> None:
    # without vector i the images span one dimension less than H has
    dense = matrix(np.array([*range(1, 11), *[0.0] * 110]))
    found = estimate(dense, 20)
    assert 1e-6 < abs(found.value - 55) < 4 * found.error
    assert estimate(dense, 22).value == pytest.approx(55, rel=1e-12)


def test_the_zero_matrix_has_trace_zero() -> None:
    assert estimate(torch.zeros(50, 50), 20) == TraceEstimate(0.0, 0.0, 10)


@pytest.mark.parametrize("n", [1, 3, 20])
def test_where_as_many_products_give_the_diagonal_the_trace_is_exact(n: int) -> None:
    dense = matrix(np.random.default_rng(n).normal(size=n))
    found = estimate(dense, 20)
    assert found.value == pytest.approx(float(dense.trace()), rel=1e-12)
    assert (found.error, found.products) == (0.0, n)


def test_a_diagonal_matrix_is_no_special_case() -> None:
    diagonal = torch.tensor(SPECTRA["decaying"])
    off = [
        xtrace(diagonal.mul, 200, products=20, seed=[s], dtype=torch.float64).value - float(diagonal.sum())
        for s in range(100)
    ]
    assert abs(np.mean(off)) <= 4 * np.std(off, ddof=1) / 10


def test_float32_agrees_with_float64_on_the_same_vectors() -> None:
    spectrum = np.concatenate([[1e3, -500], np.random.default_rng(0).normal(size=998)])
    dense = matrix(spectrum, dtype=torch.float32)
    found = estimate(dense, 20)
    vectors = [seeded_vector(1000, [0, 1 + i], torch.float32, "cpu").double().numpy() for i in range(10)]
    expected = by_definition(dense.double().numpy(), np.stack(vectors, axis=1))
    assert found.value == pytest.approx(expected.mean(), abs=0.02 * found.error)
    assert found.error == pytest.approx(expected.std(ddof=1) / np.sqrt(10), rel=0.02)


def test_the_seed_fixes_the_estimate() -> None:
    dense = matrix(SPECTRA["flat"])
    assert estimate(dense, 10, seed=1) == estimate(dense, 10, seed=1)
    assert estimate(dense, 10, seed=1) != estimate(dense, 10, seed=2)


@pytest.mark.parametrize("products", [-1, 0, 3])
def test_too_few_products_are_refused(products: int) -> None:
    with pytest.raises(InputError, match=f"products is {products}; a trace needs at least 4"):
        estimate(torch.eye(50), products)


def test_more_vectors_than_memory_is_allowed_for_are_refused_before_any_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qbert_core.curvature.basis.BASIS_BYTES", 100 * 4 * 7)

    def never(v: Tensor) -> Tensor:
        raise AssertionError

    with pytest.raises(InputError, match=r"10 vectors of 100 numbers would take .*; at most 7 fit into"):
        xtrace(never, 100, products=20, seed=[0])
    assert xtrace(torch.ones(100).mul, 100, products=14, seed=[0]).products == 14


def test_a_blocks_trace_is_that_of_its_dense_hessian(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "tiny", layers=2, hidden=4, intermediate=6, positions=16, scale=0.5)
    checkpoint = load_checkpoint(folder).to(torch.float64)
    examples = random_examples()
    inputs = LayerInputs(checkpoint, TASKS["sst2"], examples, 18)
    block = blocks_of(checkpoint.config)[0]
    right = float(np.trace(dense_hessian(folder, block, examples)))
    exact = block_trace(inputs, block, [0], products=1000)
    assert exact.value == pytest.approx(right, rel=1e-9)
    assert exact.error == 0
    found = [block_trace(inputs, block, [0, seed], products=20) for seed in range(24)]
    values = np.array([one.value for one in found])
    assert abs(values.mean() - right) <= 4 * values.std(ddof=1) / np.sqrt(len(values))
    claimed = np.sqrt(np.mean([one.error**2 for one in found]))
    assert 1 / 2 <= np.sqrt(np.mean((values - right) ** 2)) / claimed <= 2
    assert block_trace(inputs, block, [0, 7], products=20) == found[7]


def test_a_blocks_trace_can_be_cancelled(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(make_tiny(tmp_path / "tiny"))
    inputs = LayerInputs(checkpoint, TASKS["sst2"], random_examples())
    events = Flag()
    events.cancel()
    with pytest.raises(Cancelled):
        block_trace(inputs, blocks_of(checkpoint.config)[0], [0], events=events)
