"""The landscape of a layer against transformers' own forward, dense Hessians, and linear algebra by numpy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qbert_core.checkpoints import Checkpoint
from qbert_core.cli import main
from qbert_core.curvature import (
    Block,
    Landscape,
    LayerInputs,
    blocks_of,
    draw,
    landscape,
    random_start,
    sensitivity,
)
from qbert_core.curvature.landscape import SHOWN_CHANGE, coarse_to_fine
from qbert_core.curvature.losses import MovedLayer
from qbert_core.curvature.plane import filter_normalised, flat, project
from qbert_core.errors import Cancelled, InputError
from qbert_core.quantization import Plan, fake_quantize, preset_named
from qbert_core.runtime.events import Silent
from qbert_core.tasks import TASKS, Examples
from tests.core.test_cli import fails, run
from tests.core.test_curvature_hvp import (
    CASES,
    TOKENS,
    dense_hessian,
    models,
    random_examples,
    transformers_loss,
)
from tests.tiny import make_tiny

SST2 = TASKS["sst2"]
SENTENCES = (
    "good", "a bad film", "so very slow and dull", "they like it", "clever", "the actor was great",
    "not a good script , not a great end", "funny", "i hate that john", "warm moving music", "awful",
    "she never made more",
)  # fmt: skip


@pytest.fixture(scope="module")
def examples(tiny: Checkpoint) -> Examples:
    table = pd.DataFrame({"sentence": SENTENCES, "label": [i % 2 for i in range(len(SENTENCES))]})
    return SST2.examples(table, tiny, "twelve sentences")


@pytest.fixture(scope="module")
def double(tiny: Checkpoint) -> Checkpoint:
    return tiny.to(torch.float64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="module", params=list(CASES))
def head(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Recorder(Silent):
    """Keeps what it is told; cancels at the `limit`-th check."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.checks = 0
        self.seen: list[tuple[int, int, Any]] = []

    def progress(self, done: int, total: int, partial: Any = None) -> None:
        self.seen.append((done, total, partial))

    def check(self) -> None:
        self.checks += 1
        if self.checks == self.limit:
            raise Cancelled


def layer_inputs(checkpoint: Checkpoint, head: str) -> LayerInputs:
    inputs = LayerInputs(checkpoint, CASES[head], random_examples(head), TOKENS)
    assert len({batch.input_ids.shape for batch in inputs.batches}) > 2  # ragged
    return inputs


def two_directions(block: Block, checkpoint: Checkpoint) -> Tensor:
    n = sum(checkpoint.weights[name].numel() for name in block.parameters)
    return torch.stack([random_start(n, seed, torch.float64) for seed in (0, 1)])


def at_point(loss: Callable[..., Tensor], block: Block, checkpoint: Checkpoint, flat: Tensor) -> Tensor:
    """`transformers_loss` with the block's parameters moved by `flat`."""
    values = [checkpoint.weights[name] for name in block.parameters]
    parts = torch.split(flat, [value.numel() for value in values])
    return loss({name: v + p.view_as(v) for name, v, p in zip(block.parameters, values, parts, strict=True)})


def loss_at(loss: Callable[..., Tensor], block: Block, checkpoint: Checkpoint, flat: Tensor) -> float:
    return float(at_point(loss, block, checkpoint, flat).detach())


def all_losses(moved: MovedLayer, points: list[Any]) -> list[float]:
    return [value for chunk in moved.losses(points) for value in chunk]


def plan_named(checkpoint: Checkpoint, name: str) -> Plan:
    return preset_named(checkpoint.config, "sst2", name)


def timeless(result: Landscape) -> Landscape:
    return replace(result, seconds=0.0)


POINTS = [(0.0, 0.0), (0.3, 0.0), (0.0, -0.4), (-0.2, 0.1), (1.0, 1.0), (0.05, -0.02), (-1.5, 2.0)]


def test_the_loss_off_the_trained_point_is_that_of_transformers(folder: Path, head: str) -> None:
    checkpoint, model = models(folder / head, head)
    inputs = layer_inputs(checkpoint, head)
    theirs = transformers_loss(model, head, random_examples(head))
    for block in blocks_of(checkpoint.config):
        directions = two_directions(block, checkpoint)
        found = all_losses(MovedLayer(inputs, block, directions), POINTS)
        for (a, b), loss in zip(POINTS, found, strict=True):
            expected = loss_at(theirs, block, checkpoint, a * directions[0] + b * directions[1])
            assert loss == pytest.approx(expected, abs=1e-10)
        assert len(set(found)) == len(POINTS)


@pytest.mark.parametrize(("stacked", "kept"), [(1, 2**30), (80, 2**30), (10**6, 0), (80, 6000)])
def test_neither_the_stacking_nor_what_is_kept_changes_a_loss(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stacked: int, kept: int
) -> None:
    checkpoint, _ = models(folder / "token", "token")
    block = blocks_of(checkpoint.config)[0]
    directions = two_directions(block, checkpoint)
    expected = all_losses(MovedLayer(layer_inputs(checkpoint, "token"), block, directions), POINTS)
    monkeypatch.setattr("qbert_core.curvature.losses.STACKED", stacked)
    monkeypatch.setattr("qbert_core.curvature.losses.KEPT_BYTES", kept)
    moved = MovedLayer(layer_inputs(checkpoint, "token"), block, directions)
    sizes = [len(chunk) for chunk in moved.losses(POINTS)]
    assert sizes == {1: [1] * 7, 80: [2, 2, 2, 1], 10**6: [7]}[stacked]
    assert len(moved._kept) == {0: 0, 6000: 1, 2**30: 3}[kept]
    assert all_losses(moved, POINTS) == pytest.approx(expected, abs=1e-12)


def test_the_expansion_is_that_of_the_dense_hessian_and_of_transformers_gradient(
    folder: Path, head: str
) -> None:
    checkpoint, model = models(folder / head, head)
    loss = transformers_loss(model, head, random_examples(head))
    for block in blocks_of(checkpoint.config):
        directions = two_directions(block, checkpoint)
        found = MovedLayer(layer_inputs(checkpoint, head), block, directions).expansion()
        where = torch.zeros(directions.shape[1], dtype=torch.float64, requires_grad=True)
        there = at_point(loss, block, checkpoint, where)
        (gradient,) = torch.autograd.grad(there, where)
        hessian, _ = dense_hessian(folder / head, head, block.layer)
        assert found.loss == pytest.approx(float(there.detach()), abs=1e-12)
        assert found.gradient == pytest.approx((directions @ gradient).tolist(), rel=1e-9, abs=1e-12)
        torch.testing.assert_close(
            torch.tensor(found.curvature, dtype=torch.float64), directions @ hessian @ directions.T
        )


def test_examples_without_any_label_have_no_loss(folder: Path) -> None:
    checkpoint, _ = models(folder / "token", "token")
    examples = random_examples("token")
    unlabelled = replace(examples, targets=[[-100] * len(target) for target in examples.targets])
    block = blocks_of(checkpoint.config)[0]
    moved = MovedLayer(
        LayerInputs(checkpoint, CASES["token"], unlabelled), block, two_directions(block, checkpoint)
    )
    for ask in (moved.expansion, lambda: all_losses(moved, POINTS)):
        with pytest.raises(InputError, match="no label"):
            ask()


matrices = st.tuples(st.integers(1, 5), st.integers(2, 30), st.integers(0, 1000)).map(
    lambda drawn: np.random.default_rng(drawn[2]).normal(size=(drawn[0], drawn[1]))
)


@given(matrices, st.integers(0, 1000))
@settings(deadline=None)
def test_a_projection_is_the_least_squares_fit(directions: Any, seed: int) -> None:
    displacement = np.random.default_rng([1, seed]).normal(size=directions.shape[1])
    point, share = project(torch.tensor(displacement), torch.tensor(directions))
    fit = np.linalg.lstsq(directions.T, displacement)[0] @ directions  # of minimal norm where k > n
    assert np.array(point) @ directions == pytest.approx(fit, abs=1e-6)
    assert share == pytest.approx(fit @ fit / (displacement @ displacement), abs=1e-6)


@given(matrices, st.lists(st.floats(-5, 5), min_size=5, max_size=5))
@settings(deadline=None)
def test_a_displacement_in_the_plane_is_explained_whole(directions: Any, coefficients: list[float]) -> None:
    k, n = directions.shape
    inside = np.array(coefficients[:k]) @ directions
    point, share = project(torch.tensor(inside), torch.tensor(directions))
    assert share == pytest.approx(1, abs=1e-6)
    if k <= n:
        assert point == pytest.approx(coefficients[:k], abs=1e-4)
    if k < n:
        outside = np.linalg.svd(directions)[2][-1]  # orthogonal to every direction
        point, share = project(torch.tensor(outside), torch.tensor(directions))
        assert point == pytest.approx([0.0] * k, abs=1e-6)
        assert share == pytest.approx(0, abs=1e-9)


def test_parallel_directions_still_have_a_projection() -> None:
    d = torch.tensor([3.0, 4.0])
    (a, b), share = project(torch.tensor([6.0, 8.0]), torch.stack([d, d]))
    assert a + b == pytest.approx(2)
    assert share == pytest.approx(1)
    assert project(torch.zeros(2), torch.stack([d, d])) == ((0.0, 0.0), 1.0)


@pytest.mark.parametrize("layer", [0, 2])
def test_filter_normalised_rows_are_as_long_as_the_weights_rows(double: Checkpoint, layer: int) -> None:
    block = blocks_of(double.config)[layer]
    direction = two_directions(block, double)[0]
    hole = double.weights[block.parameters[0]].shape[1]
    direction[:hole] = 0  # the query's first row: no direction to scale
    scaled = filter_normalised(block, direction, double.weights)
    sizes = [double.weights[name].numel() for name in block.parameters]
    parts = zip(torch.split(direction, sizes), torch.split(scaled, sizes), strict=True)
    for name, (before, after) in zip(block.parameters, parts, strict=True):
        weight = double.weights[name]
        if weight.dim() == 1:
            assert not after.any()
            continue
        first = 1 if name == block.parameters[0] else 0
        for row in range(first, len(weight)):
            own, new = before.view_as(weight)[row], after.view_as(weight)[row]
            assert float(new.norm()) == pytest.approx(float(weight[row].norm()))
            assert float(own @ new) == pytest.approx(float(own.norm() * new.norm()))  # the same way
        assert not after.view_as(weight)[:first].any()
        assert torch.isfinite(after).all()


@given(st.integers(3, 60))
def test_every_point_comes_once_and_ever_finer_grids_become_complete(steps: int) -> None:
    order = coarse_to_fine(steps)
    assert sorted(order) == [(i, j) for i in range(steps) for j in range(steps)]
    assert set(order[:4]) == {(i, j) for i in (0, steps - 1) for j in (0, steps - 1)}
    sizes = []
    for level in range(10):
        finer = {round(i * (steps - 1) / 2**level) for i in range(2**level + 1)}
        sizes.append(len(finer))
        assert set(order[: len(finer) ** 2]) == {(i, j) for i in finer for j in finer}
        gaps = np.diff(sorted(finer))
        assert max(gaps) - min(gaps) <= 1  # evenly spread
    assert sizes[-1] == steps


def eigenvectors(hessian: Tensor) -> tuple[Tensor, Tensor]:
    """The two eigenpairs of largest magnitude by LAPACK, largest entries positive."""
    values, vectors = torch.linalg.eigh(hessian)
    top = values.abs().argsort(descending=True)[:2]
    chosen = vectors[:, top].T
    return values[top], chosen * torch.stack([v[v.abs().argmax()].sign() for v in chosen])[:, None]


def unchecked(head: str) -> Any:
    """The head's task, for a model of any shape."""
    return type(head, (type(CASES[head]),), {"check_model": lambda self, config: None})()


@pytest.fixture(scope="module")
def dense(folder: Path, head: str) -> tuple[Landscape, Checkpoint, Callable[..., Tensor], Tensor]:
    """A landscape of layer 1 in float64, with the loss and the Hessian by transformers."""
    checkpoint, model = models(folder / head, head)
    hessian, _ = dense_hessian(folder / head, head, 1)
    result = landscape(
        checkpoint,
        unchecked(head),
        random_examples(head),
        1,
        plan_named(checkpoint, "qbert-3"),
        steps=5,
        fraction=1,
        tolerance=1e-8,
    )
    return result, checkpoint, transformers_loss(model, head, random_examples(head)), hessian


def test_the_surface_is_transformers_loss_over_the_dense_eigenvectors(dense: Any) -> None:
    result, checkpoint, loss, hessian = dense
    block = blocks_of(checkpoint.config)[1]
    values, vectors = eigenvectors(hessian)
    assert result.eigenvalues == pytest.approx(values.tolist(), rel=1e-7)
    assert max(result.residuals) <= 1e-8
    for row, y in enumerate(result.y):
        for column, x in enumerate(result.x):
            expected = loss_at(loss, block, checkpoint, x * vectors[0] + y * vectors[1])
            assert result.loss[row][column] == pytest.approx(expected, abs=1e-7)
    assert result.loss[2][2] == pytest.approx(result.loss_at_zero, abs=1e-12)


def test_the_curvature_along_the_axes_is_the_eigenvalues(dense: Any) -> None:
    result, checkpoint, loss, hessian = dense
    block = blocks_of(checkpoint.config)[1]
    _, vectors = eigenvectors(hessian)
    assert result.curvature[0][0] == pytest.approx(result.eigenvalues[0], rel=1e-9)
    assert result.curvature[1][1] == pytest.approx(result.eigenvalues[1], rel=1e-9)
    assert result.curvature[0][1] == pytest.approx(0, abs=1e-7 * abs(result.eigenvalues[0]))
    step = 1e-4
    for vector, value, slope in zip(vectors, result.eigenvalues, result.gradient, strict=True):
        ahead, here, behind = (loss_at(loss, block, checkpoint, s * vector) for s in (step, 0.0, -step))
        assert (ahead - 2 * here + behind) / step**2 == pytest.approx(value, rel=1e-4)
        assert (ahead - behind) / (2 * step) == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_the_quantized_point_is_the_plans_displacement_seen_from_the_plane(dense: Any) -> None:
    result, checkpoint, loss, hessian = dense
    block = blocks_of(checkpoint.config)[1]
    _, vectors = eigenvectors(hessian)
    changes = {
        name: fake_quantize(weight, 3, 128) - weight
        for name, weight in ((name, checkpoint.weights[name]) for name in block.parameters)
        if weight.dim() == 2
    }
    assert len(changes) == 6
    displacement = flat(block, changes, checkpoint.weights)
    found = result.quantized
    assert (found.plan, found.plan_digest) == ("qbert-3", plan_named(checkpoint, "qbert-3").digest)
    assert (found.x, found.y) == pytest.approx(tuple((vectors @ displacement).tolist()), abs=1e-7)
    assert found.distance == pytest.approx(float(displacement.norm()))
    inside = found.x**2 + found.y**2
    assert found.explained == pytest.approx(inside / found.distance**2, rel=1e-6)
    assert 0 < found.explained < 1
    assert found.loss == pytest.approx(loss_at(loss, block, checkpoint, displacement), abs=1e-12)
    onto = found.x * vectors[0] + found.y * vectors[1]
    assert found.loss_at_projection == pytest.approx(loss_at(loss, block, checkpoint, onto), abs=1e-7)
    assert abs(found.loss - found.loss_at_projection) > 1e-6  # two different questions


def test_a_plan_that_leaves_the_layer_alone_moves_nothing(double: Checkpoint, examples: Examples) -> None:
    found = landscape(double, SST2, examples, 1, plan_named(double, "baseline"), steps=3).quantized
    assert (found.x, found.y, found.distance, found.explained) == (0, 0, 0, 1)
    assert found.loss == found.loss_at_projection


@pytest.mark.parametrize("normalise", ["none", "filter"])
def test_near_the_trained_point_the_quadratic_is_the_loss_to_third_order(
    double: Checkpoint, examples: Examples, normalise: str
) -> None:
    plan = plan_named(double, "qbert-4")
    worst = []
    for span in (1e-2, 5e-3):
        if normalise == "filter":
            span /= 10
        result = landscape(
            double, SST2, examples, 1, plan, steps=5, span=span, normalise=normalise, fraction=1
        )
        gaps = np.abs(np.array(result.loss) - np.array(result.quadratic))
        assert gaps.max() < 0.02 * np.ptp(np.array(result.loss))
        worst.append(gaps.max())
    assert worst[0] / worst[1] == pytest.approx(8, rel=0.2)


def test_filter_normalised_axes_keep_the_eigenvalues_and_change_the_plane(
    double: Checkpoint, examples: Examples
) -> None:
    plan = plan_named(double, "qbert-4")
    plain = landscape(double, SST2, examples, 0, plan, steps=3)
    scaled = landscape(double, SST2, examples, 0, plan, steps=3, normalise="filter")
    assert (plain.normalise, scaled.normalise) == ("none", "filter")
    assert scaled.eigenvalues == plain.eigenvalues
    assert scaled.quantized.loss == plain.quantized.loss
    assert scaled.quantized.distance == plain.quantized.distance
    assert scaled.x[-1] < plain.x[-1]  # a unit is now the length of the weights
    # the plane it spans is another one, so the second derivatives are not the eigenvalues scaled
    assert abs(scaled.curvature[0][1]) > 1e-3 * abs(scaled.curvature[0][0])


def test_the_default_span_shows_the_quantized_point_and_the_curvature(
    double: Checkpoint, examples: Examples
) -> None:
    fine = landscape(double, SST2, examples, 0, plan_named(double, "qbert-8"), steps=3)
    bend = (2 * SHOWN_CHANGE / max(map(abs, fine.eigenvalues))) ** 0.5
    assert fine.x[-1] == pytest.approx(bend, rel=1e-2)
    assert max(abs(fine.quantized.x), abs(fine.quantized.y)) < fine.x[-1] / 1.25
    # weights ten times as large, behind a LayerNorm all the same: the plan moves them ten times as far
    name = "bert.encoder.layer.0.output.dense.weight"
    weights = MappingProxyType({**double.weights, name: 300 * double.weights[name]})
    rough = landscape(
        replace(double, weights=weights), SST2, examples, 0, plan_named(double, "directq-2"), steps=3
    )
    x, y = rough.quantized.x, rough.quantized.y
    bend = (2 * SHOWN_CHANGE / max(map(abs, rough.eigenvalues))) ** 0.5
    assert rough.x[-1] == pytest.approx(max(bend, 1.25 * abs(x), 1.25 * abs(y)), rel=1e-2)


def test_a_loss_that_does_not_depend_on_the_layer_is_flat(double: Checkpoint, examples: Examples) -> None:
    name = "classifier.weight"
    weights = MappingProxyType({**double.weights, name: torch.zeros_like(double.weights[name])})
    result = landscape(
        replace(double, weights=weights), SST2, examples, 0, plan_named(double, "qbert-4"), steps=3
    )
    assert (result.eigenvalues, result.residuals) == ((0, 0), (0, 0))
    assert np.array(result.loss) == pytest.approx(result.loss_at_zero, abs=1e-12)
    block = blocks_of(double.config)[0]
    length = sum(float(double.weights[p].norm()) ** 2 for p in block.parameters) ** 0.5
    assert result.x[-1] == pytest.approx(length)  # curvature sets no scale, so the weights do


@pytest.mark.parametrize("steps", [3, 4, 7])
def test_the_axes_are_symmetric_and_as_asked(tiny: Checkpoint, examples: Examples, steps: int) -> None:
    result = landscape(tiny, SST2, examples, 2, plan_named(tiny, "qbert-4"), steps=steps, span=0.3)
    assert result.x == result.y
    assert (len(result.x), result.x[0], result.x[-1]) == (steps, -0.3, 0.3)
    assert result.x == tuple(-x for x in reversed(result.x))
    assert np.diff(result.x) == pytest.approx([0.6 / (steps - 1)] * (steps - 1))
    assert (0.0 in result.x) == (steps % 2 == 1)
    assert [len(row) for row in result.loss] == [steps] * steps
    assert (result.layer, result.evaluations) == (2, steps**2 + 3)


def test_the_draw_and_the_eigenvalue_are_those_of_a_sensitivity_analysis(
    tiny: Checkpoint, examples: Examples
) -> None:
    options: dict[str, Any] = {"fraction": 0.5, "seed": 3, "tolerance": 1e-3}
    analysis = sensitivity(tiny, SST2, examples, runs=1, **options)
    for layer in range(3):
        result = landscape(tiny, SST2, examples, layer, plan_named(tiny, "qbert-4"), steps=3, **options)
        assert result.eigenvalues[0] == pytest.approx(analysis.blocks[layer].lambdas[0], rel=2e-3)
        assert max(result.residuals) <= 1.5e-3
    chosen = examples.take(draw(len(examples), 0.5, 3, 0))
    whole = landscape(tiny, SST2, chosen, 2, plan_named(tiny, "qbert-4"), steps=3, fraction=1)
    assert whole.loss_at_zero == pytest.approx(result.loss_at_zero, rel=1e-6)
    assert (result.examples, result.seed, result.fraction, result.tolerance) == (6, 3, 0.5, 1e-3)
    assert (result.model, result.data) == (tiny.fingerprint, examples.fingerprint)


def test_the_same_seed_gives_the_same_numbers_and_the_checkpoint_stays(
    tiny: Checkpoint, examples: Examples
) -> None:
    before = {name: weight.clone() for name, weight in tiny.weights.items()}
    plan = plan_named(tiny, "qbert-2")
    first = landscape(tiny, SST2, examples, 1, plan, steps=3, fraction=0.4)
    again = landscape(tiny, SST2, examples, 1, plan, steps=3, fraction=0.4)
    other = landscape(tiny, SST2, examples, 1, plan, steps=3, fraction=0.4, seed=1)
    assert timeless(first) == timeless(again)
    assert other.eigenvalues != first.eigenvalues
    for name, weight in tiny.weights.items():
        assert torch.equal(weight, before[name])
        assert not weight.requires_grad


def test_progress_counts_products_then_fills_the_grid(
    tiny: Checkpoint, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qbert_core.curvature.losses.STACKED", 100)
    events = Recorder()
    result = landscape(tiny, SST2, examples, 0, plan_named(tiny, "qbert-4"), steps=7, events=events)
    units = [(done, total) for done, total, _ in events.seen]
    assert units[-1] == (result.hvp_count + 49, result.hvp_count + 49)
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(units))
    assert units[: result.hvp_count] == [(i, i + 49) for i in range(1, result.hvp_count + 1)]
    partials = [partial for _, _, partial in events.seen if partial is not None]
    assert len(partials) == len(units) - result.hvp_count
    assert partials[-1] == result
    filled = [sum(value is not None for row in p.loss for value in row) for p in partials]
    assert filled[0] == 0
    assert filled == sorted(filled)
    assert len(filled) > 3
    for partial, known in zip(partials, filled, strict=True):
        assert partial.evaluations == known + 3
        document = json.loads(json.dumps(partial.to_json(), allow_nan=False))
        assert Landscape.from_json(document) == partial
        for mine, last in zip(partial.loss, result.loss, strict=True):
            assert all(a is None or a == b for a, b in zip(mine, last, strict=True))


def test_a_cancel_takes_effect_at_any_time(tiny: Checkpoint, examples: Examples) -> None:
    def run(events: Recorder) -> None:
        landscape(tiny, SST2, examples, 0, plan_named(tiny, "qbert-4"), steps=3, fraction=0.3, events=events)

    whole = Recorder()
    run(whole)
    for limit in np.linspace(1, whole.checks, 12).astype(int):
        stopping = Recorder(int(limit))
        with pytest.raises(Cancelled):
            run(stopping)
        assert stopping.checks == limit
        assert len(stopping.seen) <= len(whole.seen)


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        (-1, {}, r"layer is -1; the model has 0\.\.2"),
        (3, {}, r"layer is 3; the model has 0\.\.2"),
        (0, {"steps": 2}, "steps is 2; expected 3 to 201"),
        (0, {"steps": 10**6}, "steps is 1000000; expected 3 to 201"),
        (0, {"span": 0.0}, "span is 0.0; expected a finite number above 0"),
        (0, {"span": -1.0}, "span is -1.0"),
        (0, {"span": float("nan")}, "span is nan"),
        (0, {"span": float("inf")}, "span is inf"),
        (0, {"normalise": "layer"}, "normalise is 'layer'; expected one of none, filter"),
        (0, {"fraction": 0.0}, "fraction is 0.0"),
        (0, {"fraction": float("nan")}, "fraction is nan"),
        (0, {"tolerance": 1.0}, "tolerance is 1.0"),
        (0, {"tolerance": float("nan")}, "tolerance is nan"),
        (0, {"seed": -1}, "seed is -1"),
        (0, {"span": 1e35, "steps": 3}, "the loss at x = .* is nan; give a smaller span"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(
    tiny: Checkpoint, examples: Examples, layer: int, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        landscape(tiny, SST2, examples, layer, plan_named(tiny, "qbert-4"), **options)
    assert "\n" not in str(caught.value)


def test_no_examples_and_an_unfit_model_are_refused(tiny: Checkpoint, examples: Examples) -> None:
    plan = plan_named(tiny, "qbert-4")
    with pytest.raises(InputError, match="no training examples"):
        landscape(tiny, SST2, examples.take([]), 0, plan)
    other = replace(tiny, config=replace(tiny.config, labels=("a", "b", "c")))
    with pytest.raises(InputError, match="2 labels"):
        landscape(other, SST2, examples, 0, plan)


@pytest.fixture(scope="module")
def document(tiny: Checkpoint, examples: Examples) -> str:
    result = landscape(tiny, SST2, examples, 1, plan_named(tiny, "qbert-4"), steps=3, seed=2)
    return json.dumps(result.to_json(), allow_nan=False)


def test_the_document_round_trips_and_has_the_promised_keys(document: str) -> None:
    read = json.loads(document)
    result = Landscape.from_json(read)
    assert json.loads(json.dumps(result.to_json())) == read
    assert list(read) == [
        "layer", "x", "y", "loss", "loss_at_zero", "gradient", "curvature", "eigenvalues", "residuals",
        "normalise", "quantized", "examples", "evaluations", "seconds", "hvp_count",
        "seed", "fraction", "tolerance", "model", "data",
    ]  # fmt: skip
    assert list(read["quantized"]) == [
        "plan", "plan_digest", "x", "y", "loss", "loss_at_projection", "distance", "explained",
    ]  # fmt: skip
    for key in ("seed", "fraction", "tolerance", "model", "data"):
        read.pop(key)
    least = Landscape.from_json(read)
    assert (least.seed, least.model, least.loss) == (None, None, result.loss)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d.pop("loss"), "landscape: loss is missing"),
        (lambda d: d["loss"].pop(), "loss is .*expected 3 x 3 finite numbers"),
        (lambda d: d["loss"][1].append(1.0), "expected 3 x 3 finite numbers"),
        (lambda d: d["loss"].__setitem__(0, "abc"), "expected 3 x 3 finite numbers"),
        (lambda d: d["loss"].__setitem__(0, None), "expected 3 x 3 finite numbers"),
        (lambda d: d["loss"][0].__setitem__(0, float("nan")), "expected 3 x 3 finite numbers"),
        (lambda d: d["loss"][0].__setitem__(0, [1.0]), "expected 3 x 3 finite numbers"),
        (lambda d: d.update(x=[0.0, 0.0, 1.0]), "x is .*ascending"),
        (lambda d: d.update(x=[None, 0.0, 1.0]), "x is .*finite numbers"),
        (lambda d: d.update(x=[1.0]), "x is .*at least 2 numbers"),
        (lambda d: d.update(y=3), "y is 3; expected a list"),
        (lambda d: d.update(gradient=[1.0]), "gradient is .*expected 2 finite"),
        (lambda d: d.update(curvature=[1.0, 2.0]), "curvature is .*expected 2 x 2 finite"),
        (lambda d: d.update(eigenvalues=None), "eigenvalues is None"),
        (lambda d: d.update(residuals=["a", "b"]), "residuals is"),
        (lambda d: d.update(normalise="row"), "normalise is 'row'; expected one of none, filter"),
        (lambda d: d.update(quantized=None), "landscape quantized: expected a JSON object"),
        (lambda d: d["quantized"].pop("explained"), "landscape quantized: explained is missing"),
        (lambda d: d["quantized"].update(loss="low"), "landscape quantized: loss is 'low'"),
        (lambda d: d.update(layer=-1), "layer is -1"),
        (lambda d: d.update(examples=0), "examples is 0"),
    ],
)
def test_a_damaged_document_is_refused_in_one_line(
    document: str, damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    read = json.loads(document)
    damage(read)
    with pytest.raises(InputError, match=message) as caught:
        Landscape.from_json(read)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QBERT_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A landscape command on a random model and twelve sentences."""
    folder = tmp_path_factory.mktemp("landscape")
    data = folder / "data.csv"
    data.write_text("sentence,label\n" + "".join(f'"{s}",{i % 2}\n' for i, s in enumerate(SENTENCES)))
    model = str(make_tiny(folder / "model"))
    return ["landscape", model, "--task", "sst2", "--train", str(data), "--layer", "1", "--steps", "3"]


def test_the_command_writes_the_landscape(capsys: Any, command: list[str], tmp_path: Path) -> None:
    first = run(capsys, *command)
    assert (first["layer"], first["normalise"], first["quantized"]["plan"]) == (1, "none", "qbert-4")
    assert (len(first["x"]), len(first["y"]), len(first["loss"]), first["examples"]) == (3, 3, 3, 1)
    assert (first["seed"], first["fraction"], first["tolerance"]) == (0, 0.1, 0.01)

    options = ["--span", "0.2", "--normalise", "filter", "--plan", "directq-2", "--seed", "4"]
    more = ["--limit", "10", "--fraction", "0.5", "--tolerance", "0.001", "--out", str(tmp_path / "l.json")]
    assert main([*command, *options, *more]) == 0
    assert capsys.readouterr().out == ""
    result = Landscape.from_json(json.loads((tmp_path / "l.json").read_text()))
    assert result.x == (-0.2, 0.0, 0.2)
    assert (result.normalise, result.quantized.plan, result.seed) == ("filter", "directq-2", 4)
    assert (result.examples, result.fraction, result.tolerance) == (5, 0.5, 0.001)


def test_a_plan_may_be_a_file_or_what_allocate_writes(
    capsys: Any, command: list[str], tmp_path: Path
) -> None:
    by_name = run(capsys, *command, "--plan", "qbert-2")
    plans = run(capsys, "presets", command[1])["plans"]
    plan = next(plan for plan in plans if plan["name"] == "qbert-2")
    for document in (plan, {"plan": plan, "why": []}):
        path = tmp_path / "plan.json"
        path.write_text(json.dumps(document))
        assert run(capsys, *command, "--plan", str(path))["quantized"] == by_name["quantized"]


def test_progress_for_a_program_carries_the_grid_so_far(
    capsys: Any, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QBERT_PROGRESS", "json")
    monkeypatch.setattr("qbert_core.curvature.losses.STACKED", 1)
    assert main(command) == 0
    captured = capsys.readouterr()
    final = json.loads(captured.out)
    lines = [json.loads(line) for line in captured.err.splitlines()]
    products, grids = lines[: final["hvp_count"]], lines[final["hvp_count"] :]
    assert all(line["partial"] is None for line in products)
    assert len(grids) == 10
    for known, line in enumerate(grids):
        assert (line["done"], line["total"]) == (final["hvp_count"] + known, final["hvp_count"] + 9)
        partial = Landscape.from_json(line["partial"])
        assert sum(value is not None for row in partial.loss for value in row) == known
    assert grids[-1]["partial"] == final
    corners = grids[4]["partial"]["loss"]
    assert [[value is not None for value in row] for row in corners] == [
        [True, False, True],
        [False, False, False],
        [True, False, True],
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "3"], "layer is 3; the model has 0..2"),
        (["--layer", "-1"], "layer is -1"),
        (["--layer", "one"], "invalid int value: 'one'"),
        (["--steps", "2"], "steps is 2; expected 3 to 201"),
        (["--span", "0"], "span is 0.0"),
        (["--span", "nan"], "span is nan"),
        (["--normalise", "layer"], "invalid choice: 'layer'"),
        (["--fraction", "2"], "fraction is 2.0"),
        (["--plan", "qbert-5"], "no such preset"),
        (["--seed", "-1"], "expected a whole number"),
        (["--train", "missing.csv"], "missing.csv: no such file"),
        (["--task", "sst3"], "task 'sst3' is not known"),
    ],
    ids=" ".join,
)
def test_wrong_input_is_one_line(capsys: Any, command: list[str], options: list[str], message: str) -> None:
    assert message in fails(capsys, *command, *options)
