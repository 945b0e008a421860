"""The analysis over runs: draws, Omega, progress, cancel, resume, and its document."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_core.allocation import rank
from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature import (
    BlockSensitivity,
    LayerInputs,
    RunResult,
    Sensitivity,
    block_eigenpair,
    block_trace,
    blocks_of,
    draw,
    sensitivity,
)
from qbert_core.errors import Cancelled, InputError
from qbert_core.runtime.events import Silent
from qbert_core.tasks import TASKS, Examples

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


class Recorder(Silent):
    """Keeps what it is told; cancels at the `limit`-th check."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.checks = 0
        self.seen: list[tuple[int, int, Sensitivity]] = []

    def progress(self, done: int, total: int, partial: Any = None) -> None:
        self.seen.append((done, total, partial))

    def check(self) -> None:
        self.checks += 1
        if self.checks == self.limit:
            raise Cancelled


def timeless(result: Sensitivity) -> Sensitivity:
    return replace(result, seconds=0.0)


@given(st.integers(1, 300), st.floats(0.001, 1), st.integers(0, 2**31), st.integers(0, 20))
@settings(deadline=None)
def test_a_draw_is_so_many_different_examples(n: int, fraction: float, seed: int, run: int) -> None:
    chosen = draw(n, fraction, seed, run)
    assert len(chosen) == max(1, round(fraction * n))
    assert list(chosen) == sorted(set(map(int, chosen)))
    assert 0 <= chosen[0] <= chosen[-1] < n
    assert list(chosen) == list(draw(n, fraction, seed, run))


def test_draws_differ_between_runs_and_seeds_and_a_whole_one_is_everything() -> None:
    draws = [tuple(draw(100, 0.3, seed, run)) for seed in range(3) for run in range(3)]
    assert len(set(draws)) == 9
    assert list(draw(5, 1.0, 7, 3)) == [0, 1, 2, 3, 4]
    generator = np.random.default_rng([7, 2])  # the definition, so that others can draw the same rows
    assert list(draw(50, 0.1, 7, 2)) == sorted(generator.choice(50, 5, replace=False))


@pytest.mark.parametrize("granularity", ["layer", "module"])
def test_every_lambda_is_that_runs_eigenvalue(tiny: Checkpoint, examples: Examples, granularity: str) -> None:
    result = sensitivity(
        tiny, SST2, examples, runs=3, fraction=0.5, granularity=granularity, tolerance=0.001, seed=4
    )
    blocks = blocks_of(tiny.config, granularity)
    assert [(b.name, b.layer, b.kind) for b in result.blocks] == [(b.name, b.layer, b.kind) for b in blocks]
    for run in range(3):
        inputs = LayerInputs(tiny, SST2, examples.take(draw(len(examples), 0.5, 4, run)))
        for block, measured in zip(blocks, result.blocks, strict=True):
            pair = block_eigenpair(inputs, block, [99], 0.001)  # from another start
            assert measured.lambdas[run] == pytest.approx(pair.value, rel=1e-3)
            assert measured.residuals[run] <= 0.001
    assert (result.runs, result.examples, result.granularity) == (3, 6, granularity)
    assert (result.model, result.data) == (tiny.fingerprint, examples.fingerprint)
    assert result.hvp_count >= 3 * len(blocks) * 3


def test_omega_is_the_mean_and_the_population_spread() -> None:
    block = BlockSensitivity("bert.encoder.layer.0", 0, "layer", (-3.0, 1.0), (0.0, 0.0))
    assert (block.mean, block.std, block.omega) == (-1.0, 2.0, 3.0)


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(
    tiny: Checkpoint, examples: Examples
) -> None:
    first = sensitivity(tiny, SST2, examples, runs=2, fraction=0.4)
    again = sensitivity(tiny, SST2, examples, runs=2, fraction=0.4)
    other = sensitivity(tiny, SST2, examples, runs=2, fraction=0.4, seed=1)
    assert timeless(first) == timeless(again)
    assert first.blocks[0].lambdas != other.blocks[0].lambdas


def test_more_runs_leave_the_first_ones_as_they_were(tiny: Checkpoint, examples: Examples) -> None:
    two = sensitivity(tiny, SST2, examples, runs=2, fraction=0.4)
    three = sensitivity(tiny, SST2, examples, runs=3, fraction=0.4)
    assert [b.lambdas[:2] for b in three.blocks] == [b.lambdas for b in two.blocks]


def test_progress_fills_in_block_by_block(tiny: Checkpoint, examples: Examples) -> None:
    events = Recorder()
    result = sensitivity(tiny, SST2, examples, runs=2, fraction=0.4, events=events)
    assert [(done, total) for done, total, _ in events.seen] == [(i, 6) for i in range(1, 7)]
    shapes = [[len(b.lambdas) for b in partial.blocks] for _, _, partial in events.seen]
    assert shapes == [[1], [1, 1], [1, 1, 1], [2, 1, 1], [2, 2, 1], [2, 2, 2]]
    assert events.seen[-1][2] == result
    for _, _, partial in events.seen:
        json.dumps(partial.to_json(), allow_nan=False)


def test_a_cancelled_analysis_goes_on_where_it_stopped(tiny: Checkpoint, examples: Examples) -> None:
    whole = Recorder()
    expected = sensitivity(tiny, SST2, examples, runs=3, fraction=0.4, events=whole)
    stored: dict[int, RunResult] = {}

    def store(result: RunResult) -> None:
        stored[result.run] = result

    stopping = Recorder(limit=int(whole.checks * 0.8))
    with pytest.raises(Cancelled):
        sensitivity(tiny, SST2, examples, runs=3, fraction=0.4, events=stopping, on_run=store)
    assert sorted(stored) == [0, 1]
    assert stopping.checks == stopping.limit  # nothing went on after it

    resumed = Recorder()
    result = sensitivity(
        tiny, SST2, examples, runs=3, fraction=0.4, events=resumed, finished=dict(stored), on_run=store
    )
    assert timeless(result) == timeless(expected)
    assert sorted(stored) == [0, 1, 2]
    assert [done for done, _, _ in resumed.seen] == [6, 7, 8, 9]
    assert resumed.checks < whole.checks / 2  # the first two runs were not computed again


def test_finished_runs_are_taken_as_they_are(tiny: Checkpoint, examples: Examples) -> None:
    made_up = {run: RunResult(run, (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), 5, 2.0) for run in range(4)}
    result = sensitivity(tiny, SST2, examples, runs=2, finished=made_up)
    assert [b.lambdas for b in result.blocks] == [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]
    assert (result.hvp_count, result.seconds) == (10, 4.0)
    with pytest.raises(ValueError, match="does not have the 6 blocks"):
        sensitivity(tiny, SST2, examples, runs=2, granularity="module", finished=made_up)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": 0}, "runs is 0; expected at least 1"),
        ({"fraction": 0.0}, "fraction is 0.0; expected more than 0"),
        ({"fraction": 1.5}, "fraction is 1.5"),
        ({"fraction": float("nan")}, "fraction is nan"),
        ({"tolerance": 0.0}, "tolerance is 0.0; expected more than 0"),
        ({"tolerance": 1.0}, "tolerance is 1.0"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
        ({"granularity": "neuron"}, "'neuron' is not known; expected one of layer, module, site"),
    ],
)
def test_settings_out_of_range_are_refused(
    tiny: Checkpoint, examples: Examples, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        sensitivity(tiny, SST2, examples, **options)


def test_no_examples_and_an_unfit_model_are_refused(tiny: Checkpoint, examples: Examples) -> None:
    with pytest.raises(InputError, match="no training examples"):
        sensitivity(tiny, SST2, examples.take([]))
    other = replace(tiny, config=replace(tiny.config, labels=("a", "b", "c")))
    with pytest.raises(InputError, match="2 labels"):
        sensitivity(other, SST2, examples)


def test_the_document_round_trips_and_has_the_promised_keys(tiny: Checkpoint, examples: Examples) -> None:
    result = sensitivity(tiny, SST2, examples, runs=2, fraction=0.4, granularity="site", seed=3)
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert Sensitivity.from_json(document) == result
    assert list(document) == [
        "blocks", "runs", "examples", "seconds", "hvp_count", "stopped",
        "seed", "fraction", "tolerance", "granularity", "model", "data", "hvp_rounded", "shards", "stability",
    ]  # fmt: skip
    assert list(document["blocks"][0]) == [
        "name", "layer", "kind", "lambdas", "residuals", "risks", "mean", "std", "omega",
    ]  # fmt: skip
    lambdas = document["blocks"][7]["lambdas"]
    assert document["blocks"][7]["omega"] == pytest.approx(abs(np.mean(lambdas)) + np.std(lambdas, ddof=0))
    assert (document["granularity"], document["stopped"], document["seed"]) == ("site", "runs", 3)


def test_a_document_with_the_promised_keys_alone_is_enough() -> None:
    document = good_document()
    for key in ("seed", "fraction", "tolerance", "granularity", "model", "data"):
        document.pop(key)
    read = Sensitivity.from_json(document)
    assert (read.granularity, read.seed, read.model) == ("layer", None, None)
    assert [b.omega for b in read.blocks] == [3.0, 2.0]


def good_document() -> dict[str, Any]:
    rows = ((-3.0, 1.0), (2.0, 2.0))
    blocks = tuple(
        BlockSensitivity(f"bert.encoder.layer.{i}", i, "layer", row, (0.001, 0.002))
        for i, row in enumerate(rows)
    )
    document = Sensitivity(blocks, 2, 10, 1.5, 30, "runs", 0, 0.1, 0.01, "abc", "def").to_json()
    return dict(json.loads(json.dumps(document)))


def first_block(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["blocks"][0].update(changes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d.pop("blocks"), "sensitivity: blocks is missing"),
        (lambda d: d.pop("runs"), "sensitivity: runs is missing"),
        (lambda d: d.update(blocks=[]), "blocks is empty"),
        (lambda d: d.update(blocks={"a": 1}), "blocks is .*expected a list"),
        (lambda d: d.update(blocks=[3]), "sensitivity block 0: expected a JSON object, found 3"),
        (lambda d: d.update(runs=3), r"block 0: lambdas is .*expected 3 finite numbers"),
        (lambda d: d.update(runs=True), "runs is True; expected a whole number"),
        (lambda d: d.update(runs="2"), "runs is '2'"),
        (lambda d: d.update(stopped="late"), "stopped is 'late'; expected one of runs, stable"),
        (lambda d: d.update(stopped=["runs"]), "stopped is"),
        (lambda d: d.update(seconds=float("nan")), "seconds is nan; expected a finite number"),
        (lambda d: d.update(hvp_count=-1), "hvp_count is -1"),
        (lambda d: d.update(model=7), "model is 7; expected a text"),
        (first_block(layer=-1), "block 0: layer is -1"),
        (first_block(layer=0.0), "block 0: layer is 0.0"),
        (first_block(kind="head"), "block 0: kind is 'head'"),
        (first_block(kind="ffn"), "of kind layer and smaller ones are mixed"),
        (first_block(name="bert.encoder.layer.1"), "two blocks have the same name"),
        (first_block(lambdas=[1.0, None]), "block 0: lambdas"),
        (first_block(lambdas=[1.0, float("inf")]), "block 0: lambdas"),
        (first_block(lambdas=[1.0, 10**400]), "block 0: lambdas"),
        (first_block(residuals=[0.1]), "block 0: residuals"),
        (first_block(omega=9.0), "block 0: omega is 9.0, its lambdas give 3.0"),
    ],
)
def test_a_damaged_document_is_refused_in_one_line(
    damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    document = good_document()
    Sensitivity.from_json(document)
    damage(document)
    with pytest.raises(InputError, match=message) as caught:
        Sensitivity.from_json(document)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("document", [None, [], "x", 3])
def test_what_is_no_object_is_refused(document: object) -> None:
    with pytest.raises(InputError, match="expected a JSON object"):
        Sensitivity.from_json(document)


def test_in_float64_the_analysis_is_the_same(tiny: Checkpoint, examples: Examples) -> None:
    single = sensitivity(tiny, SST2, examples, runs=1, fraction=1, tolerance=0.001)
    double = sensitivity(tiny.to(torch.float64), SST2, examples, runs=1, fraction=1, tolerance=0.001)
    for a, b in zip(single.blocks, double.blocks, strict=True):
        assert a.lambdas[0] == pytest.approx(b.lambdas[0], rel=1e-3)


def test_traces_are_those_of_each_block_and_run(tiny: Checkpoint, examples: Examples) -> None:
    found = sensitivity(tiny, SST2, examples, runs=2, fraction=0.5, seed=4, trace=12)
    plain = sensitivity(tiny, SST2, examples, runs=2, fraction=0.5, seed=4)
    assert [b.lambdas for b in found.blocks] == [b.lambdas for b in plain.blocks]
    assert found.hvp_count == plain.hvp_count + 2 * 3 * 12
    for index, block in enumerate(found.blocks):
        for run in range(2):
            inputs = LayerInputs(tiny, SST2, examples.take(draw(len(examples), 0.5, 4, run)))
            expected = block_trace(inputs, blocks_of(tiny.config)[index], [4, run, index], 12)
            assert block.traces is not None
            assert block.traces[run] == pytest.approx(expected.value, rel=1e-3)
        assert block.trace == pytest.approx(np.mean(block.traces))
    assert Sensitivity.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert plain.blocks[0].trace is None
    assert "trace" not in plain.to_json()["blocks"][0]
    with pytest.raises(InputError, match="trace is 3; expected 0"):
        sensitivity(tiny, SST2, examples, trace=3)


def test_the_rule_of_hawq_v2_needs_and_uses_the_traces(tiny: Checkpoint, examples: Examples) -> None:
    found = sensitivity(tiny, SST2, examples, runs=1, fraction=0.5, trace=12)
    lost = {0: 1.0, 1: 3.0, 2: 2.0}
    scores = {b.layer: (b.trace or 0) * lost[b.layer] for b in found.blocks}
    ranked = rank(found, "trace-perturbation", lost)
    assert dict(ranked) == pytest.approx(scores)
    assert [s for _, s in ranked] == sorted(scores.values(), reverse=True)
    with pytest.raises(InputError, match="--trace 20"):
        rank(sensitivity(tiny, SST2, examples, runs=1, fraction=0.5), "trace-perturbation", lost)
