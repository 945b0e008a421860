"""The two largest eigenpairs, on matrices whose spectrum is known and on dense Hessians."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from qbert_core.curvature import (
    BlockHessian,
    Eigenpair,
    LayerInputs,
    blocks_of,
    largest_eigenpair,
    random_start,
    two_largest_eigenpairs,
)
from qbert_core.curvature.eigen import Matvec
from qbert_core.curvature.eigenpairs import SEARCHES
from qbert_core.errors import InputError
from tests.core.test_curvature_eigen import distinct, matrix, repeated, tied
from tests.core.test_curvature_hvp import CASES, TOKENS, dense_hessian, models, random_examples


def starts(size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.stack([random_start(size, number, dtype) for number in (2 * seed, 2 * seed + 1)])


@given((distinct | repeated | tied).filter(lambda values: len(values) > 1), st.integers(0, 1000))
@example([0.0, 0.0], 0)
@example([3.0, 0.0], 0)
@example([0.0] * 7, 0)
@example([2.0] * 9, 1)  # equal eigenvalues
@example([-4.0, -4.0, 1.0, 0.5], 2)
@example([0.0] * 20 + [-5.0], 3)  # rank one: the second is 0
@example([1.0, -1.0], 4)
@example([7.0, -7.0, *np.linspace(-6.9, 6.9, 30)], 5)
@example([0.5] * 38 + [1.0, 0.9], 6)
@settings(deadline=None)
def test_both_magnitudes_their_signs_and_residuals_are_right(spectrum: list[float], seed: int) -> None:
    dense = matrix(spectrum, seed)
    n = len(spectrum)
    pairs = two_largest_eigenpairs(dense.matmul, starts(n, seed), tolerance=1e-6)
    largest = max(map(abs, spectrum))
    ordered = sorted(map(abs, spectrum), reverse=True)
    assert [abs(value) for value in pairs.values] == pytest.approx(ordered[:2], rel=1e-5, abs=1e-9 * largest)
    assert abs(pairs.values[0]) >= abs(pairs.values[1])
    for value in set(pairs.values):  # with this sign, and as often as it was found
        near = [v for v in spectrum if v == pytest.approx(value, rel=1e-5, abs=1e-9 * largest)]
        assert len(near) >= pairs.values.count(value)
    torch.testing.assert_close(pairs.vectors @ pairs.vectors.T, torch.eye(2, dtype=torch.float64))
    for value, vector, residual in zip(pairs.values, pairs.vectors, pairs.residuals, strict=True):
        error = float(torch.linalg.vector_norm(dense @ vector - value * vector))
        assert error == pytest.approx(residual * abs(value), rel=1e-6, abs=1e-12 * largest)
        assert error <= 1e-5 * abs(value) + 1e-12 * largest
        assert vector[vector.abs().argmax()] > 0


@pytest.mark.parametrize("head", list(CASES))
def test_a_layer_has_the_pairs_of_its_dense_hessian(
    tmp_path_factory: pytest.TempPathFactory, head: str
) -> None:
    folder: Path = tmp_path_factory.getbasetemp() / head
    checkpoint, _ = models(folder, head)
    inputs = LayerInputs(checkpoint, CASES[head], random_examples(head), TOKENS)
    for block in blocks_of(checkpoint.config):
        hessian, _ = dense_hessian(folder, head, block.layer)
        values, vectors = torch.linalg.eigh(hessian)
        top = values.abs().argsort(descending=True)[:2]
        operator = BlockHessian(inputs, block)
        pairs = two_largest_eigenpairs(operator.matvec, starts(operator.size), tolerance=1e-7)
        assert pairs.values == pytest.approx(values[top].tolist(), rel=1e-6)
        assert max(pairs.residuals) <= 2e-7
        assert pairs.products == operator.products
        torch.testing.assert_close(
            (pairs.vectors @ vectors[:, top]).abs(), torch.eye(2, dtype=torch.float64), atol=1e-6, rtol=0
        )


def test_a_coarse_first_pair_does_not_spoil_a_much_smaller_second() -> None:
    dense = matrix([100.0, 1.0, *np.linspace(-0.5, 0.5, 300)])
    for seed in range(10):
        pairs = two_largest_eigenpairs(dense.matmul, starts(302, seed), tolerance=0.05)
        assert pairs.values == pytest.approx([100.0, 1.0], rel=1e-2)
        assert max(pairs.residuals) <= 0.1


def test_a_first_pair_that_is_not_the_largest_does_not_push_out_the_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spectrum = [*(np.random.default_rng(0).normal(size=500) * 0.01), 12.0, -11.9, 11.5, 3.0]
    dense = matrix(spectrum)
    third = torch.linalg.eigh(dense).eigenvectors[:, -2]
    searches = []

    def unlucky(matvec: Matvec, start: Tensor, **options: Any) -> Eigenpair:
        """The first search ends on 11.5: its start holds nothing of larger eigenvectors."""
        searches.append(start)
        return largest_eigenpair(matvec, third if len(searches) == 1 else start, **options)

    monkeypatch.setattr("qbert_core.curvature.eigenpairs.largest_eigenpair", unlucky)
    pairs = two_largest_eigenpairs(dense.matmul, starts(len(spectrum)))
    assert len(searches) == 3  # 11.5, 12 and, only then, -11.9
    assert pairs.values == pytest.approx([12.0, -11.9], rel=1e-3)
    assert max(pairs.residuals) <= 0.01


@pytest.mark.parametrize("tolerance", [0.01, 0.001])
def test_rounded_products_search_and_exact_ones_measure(tolerance: float) -> None:
    dense = matrix([*np.linspace(-1, 1, 200), 12.0, -9.0])
    noise = torch.randn(202, 202, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rounded = dense + 0.03 * (noise + noise.T) / 202**0.5  # off by about one percent of |H|
    used = []

    def fast(v: Tensor) -> Tensor:
        used.append(v)
        return rounded @ v

    pairs = two_largest_eigenpairs(dense.matmul, starts(202), tolerance=tolerance, fast=fast)
    assert pairs.values == pytest.approx([12.0, -9.0], rel=tolerance**2)
    for value, vector, residual in zip(pairs.values, pairs.vectors, pairs.residuals, strict=True):
        error = float(torch.linalg.vector_norm(dense @ vector - value * vector))
        assert residual == pytest.approx(error / abs(value))
        assert residual <= 1.5 * tolerance
    assert bool(used) == (tolerance == 0.01)  # below, rounding would only mislead
    assert pairs.products > len(used)


def test_too_few_products_give_pairs_that_say_so() -> None:
    dense = matrix(list(np.linspace(-1, 1.01, 200)))
    pairs = two_largest_eigenpairs(dense.matmul, starts(200), max_products=4)
    assert pairs.products <= 4 * SEARCHES + SEARCHES
    assert min(pairs.residuals) > 0.01


def test_the_same_starts_give_the_same_pairs() -> None:
    dense = matrix(list(np.linspace(-1, 2, 40)))
    first, again = (two_largest_eigenpairs(dense.matmul, starts(40, 3)) for _ in range(2))
    assert first.values == again.values
    assert torch.equal(first.vectors, again.vectors)


def test_one_parameter_has_no_two_directions() -> None:
    with pytest.raises(InputError, match="a block of 1 parameter has no two directions"):
        two_largest_eigenpairs(matrix([2.0]).matmul, starts(1))


def test_float32_over_a_million_parameters_still_gives_six_digits() -> None:
    n = 1_000_000  # float32 norms and dot products of this many numbers are off in the fifth
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(n, 2, generator=generator, dtype=torch.float64)).Q.T
    values = torch.tensor([3.0, -2.0], dtype=torch.float64)

    def matvec(v: Tensor) -> Tensor:
        return (values * (axes @ v.double()) @ axes).float()

    pairs = two_largest_eigenpairs(matvec, starts(n, dtype=torch.float32))
    assert pairs.values == pytest.approx([3.0, -2.0], rel=1e-6)
    assert torch.linalg.vector_norm(pairs.vectors.double(), dim=1).tolist() == pytest.approx([1, 1], rel=1e-6)
