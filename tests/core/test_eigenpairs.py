"""The two largest eigenpairs, on matrices whose spectrum is known and on dense Hessians."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from qbert_core.curvature import (
    BlockHessian,
    LayerInputs,
    blocks_of,
    largest_eigenpair,
    random_start,
    two_largest_eigenpairs,
)
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


def test_a_first_pair_that_is_not_the_largest_does_not_push_out_the_second() -> None:
    random = np.random.default_rng(0)
    # at one percent a search may end on 11.5; deflating only that and 12 would leave -11.9 unseen
    spectrum = [*(random.normal(size=1000) * 0.01), 12.0, -11.9, 11.5, 3.0]
    dense = matrix(spectrum, dtype=torch.float32)
    alone = largest_eigenpair(dense.matmul, starts(len(spectrum), dtype=torch.float32)[0])
    assert alone.converged
    assert alone.value == pytest.approx(11.5, rel=1e-2)  # so it happens here
    pairs = two_largest_eigenpairs(dense.matmul, starts(len(spectrum), dtype=torch.float32))
    assert pairs.values == pytest.approx([12.0, -11.9], rel=1e-3)
    assert max(pairs.residuals) <= 0.015
    assert pairs.vectors.dtype == torch.float32


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
