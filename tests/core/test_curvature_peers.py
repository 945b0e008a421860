"""The benchmark's peers compute what they claim: dense Hessians, scipy and matrices known beforehand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from benchmarks.curvature_libraries import with_plain_layer_norm
from benchmarks.curvature_peers import (
    Inputs,
    Kept,
    Names,
    Problem,
    authors,
    fewest_steps,
    lanczos,
    load_model,
    power_iteration,
    pyhessian,
    rebuilt,
    start,
)
from qbert_core.checkpoints import load_checkpoint
from tests.tiny import make_tiny

BLOCKS = 2
LENGTHS = (7, 3, 5, 2, 6)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    folder = make_tiny(
        tmp_path_factory.mktemp("peers") / "tiny",
        layers=BLOCKS,
        hidden=4,
        intermediate=6,
        positions=16,
        scale=0.5,
    )
    return load_model(load_checkpoint(folder), torch.float64)


@pytest.fixture(scope="module")
def blocks(model: nn.Module) -> list[Names]:
    names = [name for name, _ in model.named_parameters()]
    return [
        tuple(name for name in names if name.startswith(f"bert.encoder.layer.{layer}."))
        for layer in range(BLOCKS)
    ]


@pytest.fixture(scope="module")
def dense(model: nn.Module, blocks: list[Names]) -> list[Tensor]:
    """Of the mean loss, sentence by sentence without padding."""
    sentences = [batch(row) for row in range(len(LENGTHS))]

    def hessian(names: Names) -> Tensor:
        values = [model.get_parameter(name) for name in names]

        def loss(flat: Tensor) -> Tensor:
            parts = torch.split(flat, [value.numel() for value in values])
            weights = {
                name: part.view_as(value) for name, part, value in zip(names, parts, values, strict=True)
            }
            logits = [torch.func.functional_call(model, weights, (), s).logits for s in sentences]
            return F.cross_entropy(torch.cat(logits), torch.cat([s["labels"] for s in sentences]))

        return torch.autograd.functional.hessian(
            loss, torch.cat([v.reshape(-1) for v in values]), vectorize=True
        )

    return [hessian(names) for names in blocks]


def batch(*rows: int) -> Inputs:
    """Random sentences, the same for the same row, padded to the longest of them."""
    width = max(LENGTHS[row] for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.zeros(len(rows), dtype=torch.long)
    for place, row in enumerate(rows):
        length = LENGTHS[row]
        ids[place, :length] = torch.randint(5, 60, (length,), generator=torch.Generator().manual_seed(row))
        mask[place, :length] = 1
        labels[place] = row % 2
    return {"input_ids": ids, "token_type_ids": 0 * ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("way", ["rebuilt", "kept", "whole"])
@pytest.mark.parametrize(
    "batches", [[batch(0, 1, 2, 3, 4)], [batch(0, 4, 2), batch(3, 1)]], ids=["one batch", "two"]
)
def test_products_are_the_dense_hessians(
    model: nn.Module, blocks: list[Names], dense: list[Tensor], way: str, batches: list[Inputs]
) -> None:
    everything = tuple(name for name, _ in model.named_parameters())
    for names, hessian in zip(blocks, dense, strict=True):
        kept = Kept(model, batches, everything)
        ways = {
            "rebuilt": rebuilt(model, batches, names),
            "kept": kept.product(names),
            "whole": kept.whole_product(names),
        }
        v = start(model, names, 1)
        expected = hessian @ v
        for _ in range(2):  # a kept graph is good for more than one product
            assert (ways[way](v) - expected).norm() <= 1e-10 * expected.norm()


@pytest.mark.parametrize(
    "solve",
    [authors, lambda m, p: pyhessian(m, p, whole=True), lambda m, p: pyhessian(m, p, whole=False)],
    ids=["authors", "PyHessian", "PyHessian, cut"],
)
def test_an_accurate_stop_has_the_residual_it_says(
    model: nn.Module, blocks: list[Names], dense: list[Tensor], solve: Callable[..., object]
) -> None:
    problem = Problem([batch(0, 1, 2, 3, 4)], blocks, [3, 4], tolerance=0.001, limit=5000)
    solved = solve(model, problem)
    for stop, own, hessian in zip(solved.accurate, solved.own, dense, strict=True):
        assert stop.reached
        assert stop.residual <= 0.001
        # of a symmetric matrix, an eigenvalue is that near
        distance = (torch.linalg.eigvalsh(hessian) - stop.value).abs().min()
        assert distance <= stop.residual * abs(stop.value) * (1 + 1e-9)
        assert own.products <= 100


def diagonal(*values: float) -> Callable[[Tensor], Tensor]:
    return lambda v: torch.tensor(values, dtype=v.dtype) * v


def test_power_iteration_finds_the_largest_magnitude_with_its_sign() -> None:
    first = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    own, accurate = power_iteration(
        diagonal(-3.0, 1.0, 2.0, 0.5), first, change=1e-3, tolerance=1e-6, limit=100
    )
    assert accurate.value == pytest.approx(-3, abs=1e-9)
    assert own.value == pytest.approx(-3, rel=1e-2)
    assert own.products < accurate.products
    assert own.seconds <= accurate.seconds


def test_the_published_stop_can_be_on_no_eigenvalue_and_the_accurate_one_goes_on() -> None:
    # from (1, 1), the k-th Rayleigh quotient of diag(1, -r) is (1 - r^(2k - 1)) / (1 + r^(2k - 2)):
    # near 0 and, relatively, hardly changing once its slope is below 1 % of it
    r = 0.99
    own, accurate = power_iteration(
        diagonal(1.0, -r), torch.ones(2, dtype=torch.float64), change=0.01, tolerance=0.01, limit=2000
    )
    expected = [(1 - r ** (2 * k - 1)) / (1 + r ** (2 * k - 2)) for k in range(1, own.products + 1)]
    assert own.value == pytest.approx(expected[-1], rel=1e-9)
    assert abs(expected[-1] - expected[-2]) <= 0.01 * expected[-2]
    assert abs(expected[-2] - expected[-3]) > 0.01 * expected[-3]
    assert own.reached
    assert own.residual > 0.5
    assert accurate.reached
    assert accurate.value == pytest.approx(1, rel=1e-3)


def test_what_the_limit_cut_off_says_so() -> None:
    _, accurate = power_iteration(
        diagonal(1.0, -0.99), torch.ones(2, dtype=torch.float64), change=0.01, tolerance=0.01, limit=7
    )
    assert accurate.products == 7
    assert not accurate.reached
    assert accurate.residual > 0.01


SPECTRUM = np.concatenate([np.linspace(-1.5, 1, 296), [1.9, 2.0, -2.1, 2.3]])


def arpack(first: Tensor, tolerance: float, vectors: int) -> tuple[float, int]:
    """The eigenvalue of diag(SPECTRUM) that scipy finds, and its products."""
    calls = []

    def matvec(v: np.ndarray) -> np.ndarray:
        calls.append(v)
        return SPECTRUM * v.reshape(-1)

    operator = LinearOperator((300, 300), matvec=matvec, dtype=np.float64)
    values, _ = eigsh(operator, k=1, which="LM", tol=tolerance, ncv=vectors, v0=first.numpy())
    return float(values[0]), len(calls)


@pytest.mark.parametrize("tolerance", [0.1, 0.01, 1e-4])
def test_scipy_needs_the_told_steps_and_no_more(tolerance: float) -> None:
    first = torch.randn(300, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    matrix, _ = lanczos(diagonal(*SPECTRUM), first, 50)
    # in the Krylov basis, where `first` is the first unit vector; ARPACK begins at H times it
    steps = fewest_steps(matrix.mv, matrix[0], 49, tolerance)
    assert 2 < steps < 49
    value, products = arpack(first, tolerance, steps)
    assert products == steps + 1
    assert value == pytest.approx(2.3, rel=tolerance)
    value, products = arpack(first, tolerance, steps - 1)
    assert products > steps + 1 or abs(value - 2.3) > tolerance * 2.3


def test_the_told_steps_are_not_fooled_by_a_smaller_eigenvalue() -> None:
    # the largest is hardly in the start vector, so that at first -2.1 looks like the largest
    first = torch.ones(300, dtype=torch.float64)
    first[299] = 1e-7
    matrix = diagonal(*SPECTRUM)
    steps = fewest_steps(matrix, first, 60, 0.01)
    early, beyond = lanczos(matrix, first, steps)
    fooled = 0
    for size in range(1, steps):
        values, vectors = torch.linalg.eigh(early[:size, :size])
        largest = values.abs().argmax()
        residual = beyond[size - 1] * vectors[-1, largest].abs()
        fooled += bool(residual <= 0.01 * values[largest].abs())
    assert fooled
    assert float(torch.linalg.eigvalsh(early).max()) == pytest.approx(2.3, rel=1e-3)


def test_layer_norm_written_out_is_the_same_function() -> None:
    torch.manual_seed(0)
    norm = nn.Sequential(nn.LayerNorm(5, eps=1e-3)).double()
    nn.init.normal_(norm[0].weight)
    nn.init.normal_(norm[0].bias)
    x = torch.randn(3, 2, 5, dtype=torch.float64)
    expected = norm(x)
    written_out = with_plain_layer_norm(norm)
    assert not isinstance(written_out[0], nn.LayerNorm)
    assert torch.allclose(written_out(x), expected, rtol=1e-12, atol=1e-12)
