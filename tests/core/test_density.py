"""Lanczos quadrature and the curve against known spectra, a dense Hessian, and the document's promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.cli import main
from qbert_core.curvature import (
    BlockHessian,
    LayerInputs,
    Quadrature,
    Spectrum,
    TraceEstimate,
    block_named,
    blocks_of,
    draw,
    lanczos_quadrature,
    random_start,
    smeared,
    spectrum,
)
from qbert_core.errors import Cancelled, InputError
from qbert_core.runtime.events import Silent
from qbert_core.tasks import TASKS, Examples
from tests.dense import dense_hessian, random_examples
from tests.tiny import make_tiny

SST2 = TASKS["sst2"]
magnitudes = st.floats(1e-3, 1e3) | st.sampled_from([0.0, 1.0, 1e3])
eigenvalues = st.tuples(magnitudes, st.sampled_from([-1.0, 1.0])).map(lambda pair: pair[0] * pair[1])
distinct = st.lists(eigenvalues, min_size=1, max_size=40)
repeated = st.lists(st.tuples(eigenvalues, st.integers(1, 10)), min_size=1, max_size=4).map(
    lambda pairs: [value for value, times in pairs for _ in range(times)]
)


def matrix(values: list[float], seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    n = len(values)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    dense: NDArray[np.float64] = basis @ np.diag(values) @ basis.T
    return torch.tensor((dense + dense.T) / 2, dtype=dtype)


def start(n: int, seed: int = 0) -> Tensor:
    return random_start(n, seed, torch.float64)


@given(distinct | repeated, st.integers(1, 45), st.integers(0, 1000))
@example([0.0], 1, 0)
@example([0.0] * 7, 5, 0)
@example([2.0] * 9, 5, 1)
@example([0.0] * 20 + [-5.0], 10, 2)  # rank one
@example([1e3, *np.linspace(-1, 1, 30)], 20, 3)
@settings(deadline=None)
def test_a_quadrature_has_the_moments_of_its_probe(values: list[float], steps: int, seed: int) -> None:
    dense, v = matrix(values, seed), start(len(values), seed)
    found = lanczos_quadrature(dense.matmul, v, steps)
    nodes, weights = np.array(found.nodes), np.array(found.weights)
    size = max(map(abs, values))
    assert 1 <= len(nodes) == len(weights) <= min(steps, len(values))
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, rel=1e-12)
    assert (np.diff(nodes) >= 0).all()
    assert min(values) - 1e-9 * size <= nodes[0]
    assert nodes[-1] <= max(values) + 1e-9 * size
    w = v / v.norm()
    image = w.clone()
    for power in range(2 * min(steps, len(values))):
        if power > 2 * len(nodes) - 1:  # it ended early: then every moment is exact
            assert len(nodes) < min(steps, len(values))
        assert found.moment(power) == pytest.approx(float(w @ image), abs=1e-9 * size**power)
        image = dense @ image


def test_one_moment_more_is_not_promised() -> None:
    dense, v = matrix(list(np.linspace(-1, 1, 30))), start(30)
    found = lanczos_quadrature(dense.matmul, v, 3)
    w = v / v.norm()
    right = [float(w @ torch.linalg.matrix_power(dense, power) @ w) for power in range(7)]
    off = [abs(found.moment(power) - right[power]) for power in range(7)]
    assert max(off[:6]) < 1e-14
    assert off[6] > 1e-4


@given(distinct | repeated, st.integers(1, 45), st.integers(1, 4))
@example([0.0] * 3, 5, 2)
@example([-7.0] * 3, 5, 3)
@example([1e3, *[1e-3] * 30], 10, 2)
@settings(deadline=None)
def test_the_curve_integrates_to_one_and_leaves_no_node_out(
    values: list[float], steps: int, probes: int
) -> None:
    dense = matrix(values)
    found = [lanczos_quadrature(dense.matmul, start(len(values), p), steps) for p in range(probes)]
    curve = smeared(found)
    assert (np.diff(curve.x) > 0).all()
    assert len(curve.x) == len(curve.density) < 1000
    assert np.trapezoid(curve.density, curve.x) == pytest.approx(1, abs=1e-6)
    assert (curve.density >= 0).all()
    assert curve.x[0] < min(q.nodes[0] for q in found)
    assert curve.x[-1] > max(q.nodes[-1] for q in found)
    assert curve.sigma > np.diff(curve.x).max()
    mean = np.trapezoid(curve.x * curve.density, curve.x)  # smearing moves no mass on average
    assert mean == pytest.approx(np.mean([q.moment(1) for q in found]), abs=1e-8 * np.abs(curve.x).max())


def test_a_lone_outlier_stands_where_it_is_with_the_height_of_its_weight() -> None:
    values = [*np.random.default_rng(0).normal(size=499) * 0.01, 10.0]
    found = lanczos_quadrature(matrix(values).matmul, start(500), 60)
    curve = smeared([found])
    assert found.nodes[-1] == pytest.approx(10, rel=1e-12)
    height = found.weights[-1] / (curve.sigma * np.sqrt(2 * np.pi))
    assert np.interp(10, curve.x, curve.density) == pytest.approx(height, rel=0.05)
    assert np.interp(5, curve.x, curve.density) < 1e-12 * height


def test_the_zero_matrix_is_all_at_zero_after_one_product() -> None:
    found = lanczos_quadrature(torch.zeros(9, 9, dtype=torch.float64).matmul, start(9), 5)
    assert found == Quadrature((0.0,), (1.0,))
    curve = smeared([found, found])
    assert curve.sigma == 1 / 200
    assert np.trapezoid(curve.density, curve.x) == pytest.approx(1)
    assert curve.x[np.argmax(curve.density)] == pytest.approx(0, abs=curve.sigma)


def test_an_invariant_subspace_ends_the_iteration_with_its_eigenvalues() -> None:
    diagonal = torch.linspace(1, 50, 50, dtype=torch.float64)
    v = torch.zeros(50, dtype=torch.float64)
    v[[3, 20, 40]] = torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)
    found = lanczos_quadrature(diagonal.mul, v, 30)
    assert found.nodes == pytest.approx((4, 21, 41))
    assert found.weights == pytest.approx((1 / 9, 4 / 9, 4 / 9))


def test_a_matrix_smaller_than_the_steps_gives_all_its_eigenvalues() -> None:
    values = [-3.0, 0.5, 2.0, 7.0]
    found = lanczos_quadrature(matrix(values).matmul, start(4), 60)
    assert found.nodes == pytest.approx(values)


def test_no_eigenvalue_comes_twice_in_float32() -> None:
    values = torch.tensor([*np.geomspace(1e-3, 1.0, 300), 1e3], dtype=torch.float32)
    found = lanczos_quadrature(values.mul, random_start(301, 0), 60)
    assert sum(node > 900 for node in found.nodes) == 1
    assert found.nodes[-1] == pytest.approx(1e3, rel=1e-5)


def test_more_steps_than_memory_is_allowed_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qbert_core.curvature.basis.BASIS_BYTES", 50 * 8 * 10)
    with pytest.raises(InputError, match=r"30 vectors of 50 numbers .*; at most 10 fit into .* fewer steps"):
        lanczos_quadrature(torch.eye(50).matmul, start(50), 30)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, NDArray[np.float64]]:
    """A float64 model and the dense Hessian of its first layer, of random_examples()."""
    folder = make_tiny(
        tmp_path_factory.mktemp("density") / "tiny",
        layers=2, hidden=4, intermediate=6, positions=16, scale=0.5,
    )  # fmt: skip
    checkpoint = load_checkpoint(folder).to(torch.float64)
    return checkpoint, dense_hessian(folder, blocks_of(checkpoint.config)[0], random_examples())


@pytest.mark.parametrize("steps", [20, 60])
def test_over_many_probes_it_is_the_histogram_of_the_dense_hessian(
    known: tuple[Checkpoint, NDArray[np.float64]], steps: int
) -> None:
    values = np.linalg.eigvalsh(known[1])
    dense, probes, n = torch.tensor(known[1]), 300, len(values)
    found = [lanczos_quadrature(dense.matmul, start(n, p), steps) for p in range(probes)]
    for power in range(1, 5):
        moments = [q.moment(power) for q in found]
        off = np.mean(moments) - np.mean(values**power)
        assert abs(off) <= 4 * np.std(moments, ddof=1) / np.sqrt(probes)
    curve = smeared(found)
    steps_x, middle = np.diff(curve.x), (curve.density[1:] + curve.density[:-1]) / 2
    below = np.concatenate([[0], np.cumsum(middle * steps_x)])
    right = norm.cdf((curve.x[:, None] - values) / curve.sigma).mean(axis=1)
    # a probe's mass below x varies by at most sqrt(2 / (n + 2)) / 2; the grid adds a little
    assert np.abs(below - right).max() <= 3 * np.sqrt(2 / (n + 2) / probes) / 2 + 2e-3
    assert found[0].nodes[0] == pytest.approx(values[0], rel=1e-6)
    assert found[0].nodes[-1] == pytest.approx(values[-1], rel=1e-6)


def test_a_blocks_spectrum_is_that_of_its_dense_hessian(
    known: tuple[Checkpoint, NDArray[np.float64]],
) -> None:
    checkpoint, dense = known
    block = blocks_of(checkpoint.config)[0]
    n = len(dense)
    result = spectrum(
        checkpoint, SST2, random_examples(), block, fraction=1, steps=30, probes=12, trace_products=n
    )
    values = np.linalg.eigvalsh(dense)
    assert (result.name, result.layer, result.kind, result.parameters) == (block.name, 0, "layer", n)
    assert result.lowest == pytest.approx(values[0], rel=1e-6)
    assert result.highest == pytest.approx(values[-1], rel=1e-6)
    assert result.trace.value == pytest.approx(values.sum(), rel=1e-9)
    assert result.mean_eigenvalue == pytest.approx(values.mean(), rel=1e-9)
    for power in (1, 2):
        mean, std = result.moment(power)
        assert abs(mean - np.mean(values**power)) <= 4 * std / np.sqrt(12)
    assert result.hvp_count == n + 12 * 30


class Recorder(Silent):
    """Keeps what it is told; cancels at the `limit`-th check."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.checks = 0
        self.seen: list[tuple[int, int, Spectrum | None]] = []

    def progress(self, done: int, total: int, partial: Any = None) -> None:
        self.seen.append((done, total, partial))

    def check(self) -> None:
        self.checks += 1
        if self.checks == self.limit:
            raise Cancelled


@pytest.fixture(scope="module")
def examples() -> Examples:
    return random_examples((3, 9, 4, 4, 7, 12, 3, 8, 5, 6))


def small(tiny: Checkpoint, examples: Examples, **options: Any) -> Spectrum:
    block = blocks_of(tiny.config, "site")[6]
    arguments = {"fraction": 0.4, "steps": 6, "probes": 2, "trace_products": 8, **options}
    return spectrum(tiny, SST2, examples, block, **arguments)


def test_it_is_computed_on_the_first_runs_draw(tiny: Checkpoint, examples: Examples) -> None:
    result = small(tiny, examples, seed=5, steps=40)
    assert result.examples == 4
    chosen = examples.take(draw(10, 0.4, 5, 0))
    hessian = BlockHessian(LayerInputs(tiny, SST2, chosen), blocks_of(tiny.config, "site")[6])
    dense = torch.stack([hessian.matvec(unit) for unit in torch.eye(hessian.size)])
    values = torch.linalg.eigvalsh(dense.double())
    assert float(values[0]) <= result.lowest + 1e-6
    assert result.highest == pytest.approx(float(values[-1]), rel=1e-3)
    assert abs(result.trace.value - float(values.sum())) <= 6 * result.trace.error


def test_every_product_is_progress_and_every_probe_a_partial_result(
    tiny: Checkpoint, examples: Examples
) -> None:
    events = Recorder()
    result = small(tiny, examples, events=events)
    assert {total for _, total, _ in events.seen} == {8 + 2 * 6}
    assert [done for done, _, partial in events.seen if partial is None] == list(range(1, 21))
    partials = [(done, partial) for done, _, partial in events.seen if partial]
    assert [(done, len(partial.quadratures)) for done, partial in partials] == [(14, 1), (20, 2)]
    assert partials[-1][1] == result
    for _, partial in partials:
        json.dumps(partial.to_json(), allow_nan=False)


def test_a_probe_that_ends_early_does_not_leave_the_progress_behind(
    tiny: Checkpoint, examples: Examples
) -> None:
    # a constant loss: the head's weights are zero, so no block has curvature
    weights = {name: torch.zeros_like(w) if "classifier" in name else w for name, w in tiny.weights.items()}
    events = Recorder()
    result = small(replace(tiny, weights=weights), examples, events=events)
    assert [q.nodes for q in result.quadratures] == [(0.0,), (0.0,)]
    assert (result.trace.value, result.trace.error, result.hvp_count) == (0, 0, 4 + 2)
    assert events.seen[-1][:2] == (20, 20)
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert Spectrum.from_json(document) == result


def test_a_cancel_takes_effect(tiny: Checkpoint, examples: Examples) -> None:
    whole = Recorder()
    small(tiny, examples, events=whole)
    stopping = Recorder(limit=whole.checks // 2)
    with pytest.raises(Cancelled):
        small(tiny, examples, events=stopping)
    assert stopping.checks == stopping.limit


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(
    tiny: Checkpoint, examples: Examples
) -> None:
    first, again, other = (replace(small(tiny, examples, seed=s), seconds=0.0) for s in (1, 1, 2))
    assert first == again
    assert first.trace != other.trace
    assert first.quadratures != other.quadratures
    assert first.quadratures[0] != first.quadratures[1]
    more = small(tiny, examples, seed=1, probes=3)
    assert more.quadratures[:2] == first.quadratures


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.0}, "fraction is 0.0; expected more than 0"),
        ({"fraction": float("nan")}, "fraction is nan"),
        ({"steps": 0}, "steps is 0; expected at least 1"),
        ({"probes": 0}, "probes is 0; expected at least 1"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
        ({"trace_products": 3}, "products is 3; a trace needs at least 4"),
    ],
)
def test_settings_out_of_range_are_refused(
    tiny: Checkpoint, examples: Examples, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        small(tiny, examples, **options)


def test_what_does_not_fit_is_refused_before_any_product(
    tiny: Checkpoint, examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="no training examples"):
        small(tiny, examples.take([]))
    monkeypatch.setattr("qbert_core.curvature.basis.BASIS_BYTES", 256 * 4 * 20)
    events = Recorder()
    with pytest.raises(InputError, match=r"60 vectors of 256 numbers .* at most 20 fit"):
        small(tiny, examples, steps=60, events=events)
    assert not events.seen


def test_a_block_is_found_by_its_name_at_any_granularity(tiny: Checkpoint) -> None:
    for granularity in ("layer", "module", "site"):
        for block in blocks_of(tiny.config, granularity):
            assert block_named(tiny.config, block.name) == block
    with pytest.raises(InputError, match=r"block 'bert.encoder.layer.3' is not known; .* I from 0 to 2"):
        block_named(tiny.config, "bert.encoder.layer.3")


def test_the_document_round_trips_and_has_the_promised_keys(tiny: Checkpoint, examples: Examples) -> None:
    result = small(tiny, examples, seed=3)
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert Spectrum.from_json(document) == result
    assert list(document) == [
        "block", "nodes", "weights", "x", "density", "sigma", "lowest", "highest", "moments", "trace",
        "mean_eigenvalue", "examples", "probes", "steps", "seconds", "hvp_count", "seed", "fraction", "model",
        "data",
    ]  # fmt: skip
    assert document["block"] == {
        "name": "bert.encoder.layer.0.attention.output.dense",
        "layer": 0,
        "kind": "attention",
        "parameters": 256,
    }
    assert list(document["trace"]) == ["value", "error", "products"]
    assert document["mean_eigenvalue"] == pytest.approx(document["trace"]["value"] / 256)
    first = [np.dot(w, n) for n, w in zip(document["nodes"], document["weights"], strict=True)]
    assert document["moments"]["first"] == pytest.approx({"mean": np.mean(first), "std": np.std(first)})
    assert (document["seed"], document["fraction"], document["hvp_count"]) == (3, 0.4, 20)


def good_document() -> dict[str, Any]:
    quadratures = (Quadrature((-1.0, 3.0), (0.25, 0.75)), Quadrature((2.0,), (1.0,)))
    result = Spectrum(
        "bert.encoder.layer.0", 0, "layer", 8, quadratures, TraceEstimate(4.0, 0.5, 20), 10, 2, 5, 1.5
    )
    return dict(json.loads(json.dumps(result.to_json())))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d.pop("nodes"), "spectrum: nodes is missing"),
        (lambda d: d.pop("trace"), "spectrum: trace is missing"),
        (lambda d: d.update(nodes=[], weights=[]), "expected both of the same, at least 1"),
        (lambda d: d["nodes"].pop(), "nodes of 1 and weights of 2 probes"),
        (lambda d: d.update(nodes=3), "nodes is 3; expected a list"),
        (lambda d: d["nodes"].__setitem__(0, 3), "probe 0: nodes is 3; expected a list"),
        (lambda d: d["nodes"].__setitem__(0, []), "probe 0: nodes is .* expected finite numbers"),
        (lambda d: d["nodes"].__setitem__(0, [1.0, None]), "probe 0: nodes"),
        (lambda d: d["nodes"].__setitem__(0, [3.0, -1.0]), "probe 0: nodes is .* one a weight, ascending"),
        (lambda d: d["nodes"].__setitem__(1, [1.0, 2.0]), "probe 1: nodes is .* one a weight, ascending"),
        (lambda d: d["weights"].__setitem__(0, [-0.5, 1.5]), "probe 0: weights is .* no negative number"),
        (lambda d: d["weights"].__setitem__(0, [0.5, 0.6]), "probe 0: weights is .* a sum of 1"),
        (lambda d: d.update(block="x"), "spectrum block: expected a JSON object"),
        (lambda d: d["block"].update(kind="head"), "spectrum block: kind is 'head'"),
        (lambda d: d["block"].update(parameters=0), "spectrum block: parameters is 0"),
        (lambda d: d["trace"].update(products=0), "spectrum trace: products is 0"),
        (lambda d: d["trace"].update(error="no"), "spectrum trace: error is 'no'"),
        (lambda d: d.update(probes=1), "probes is 1; expected a whole number of at least 2"),
        (lambda d: d.update(steps=1), "steps is 1; expected a whole number of at least 2"),
        (lambda d: d.update(lowest=-2.0), "lowest is -2.0, the other numbers give -1.0"),
        (lambda d: d.update(mean_eigenvalue=9.0), "mean_eigenvalue is 9.0, the other numbers give 0.5"),
    ],
)
def test_a_damaged_document_is_refused_in_one_line(
    damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    document = good_document()
    Spectrum.from_json(document)
    damage(document)
    with pytest.raises(InputError, match=message) as caught:
        Spectrum.from_json(document)
    assert "\n" not in str(caught.value)


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QBERT_HOME", str(tmp_path / "home"))


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    data = tmp_path / "data.csv"
    rows = [
        f"{s},{i % 2}" for i, s in enumerate(["a great film", "dull and slow", "warm", "awful music"] * 5)
    ]
    data.write_text("sentence,label\n" + "\n".join(rows) + "\n")
    model = str(make_tiny(tmp_path / "model"))
    return ["density", model, "--task", "sst2", "--train", str(data), "--steps", "5", "--probes", "2"]


def test_the_command_writes_the_document_and_partial_ones(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QBERT_PROGRESS", "json")
    name = "bert.encoder.layer.1.ffn"
    assert main([*command, "--block-name", name, "--fraction", "0.5", "--seed", "4"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    found = Spectrum.from_json(document)
    assert (found.name, found.kind, found.examples, found.seed) == (name, "ffn", 10, 4)
    assert (found.steps, found.probes, found.fraction) == (5, 2, 0.5)
    events = [json.loads(line) for line in captured.err.splitlines()]
    partials = [Spectrum.from_json(event["partial"]) for event in events if event["partial"]]
    assert [len(partial.quadratures) for partial in partials] == [1, 2]
    assert partials[-1] == found
    assert events[-1]["done"] == events[-1]["total"] == 40 + 2 * 5


def test_the_command_takes_a_layer_by_its_number(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--layer", "2", "--limit", "8", "--fraction", "1"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["block"]["name"], document["examples"]) == ("bert.encoder.layer.2", 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "3"], "error: block 'bert.encoder.layer.3' is not known; expected"),
        (["--layer", "-1"], "error: block 'bert.encoder.layer.-1' is not known"),
        (["--block-name", "pooler"], "error: block 'pooler' is not known"),
        (["--layer", "0", "--steps", "0"], "error: steps is 0; expected at least 1"),
        (["--layer", "0", "--probes", "0"], "error: probes is 0; expected at least 1"),
        ([], "error: one of the arguments --layer --block-name is required"),
        (["--layer", "0", "--block-name", "x"], "error: argument --block-name: not allowed with"),
    ],
)
def test_the_command_refuses_in_one_line(
    command: list[str], capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    try:
        code = main([*command, *options])
    except SystemExit as stop:  # argparse's way
        code = int(str(stop.code))
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
