"""Quantization-aware finetuning: its forward pass is the evaluation's, its gradient the clamp's; it
learns; it goes on after a kill as if nothing had been; what it saves measures what it reported."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
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
from safetensors.torch import load_file, save_file

from qbert_core.bert import forward
from qbert_core.checkpoints import Checkpoint, load_base, load_checkpoint, save_checkpoint
from qbert_core.cli import main
from qbert_core.errors import Cancelled, InputError
from qbert_core.evaluation import Evaluator, calibration
from qbert_core.quantization import (
    ActivationRanges,
    Plan,
    Quantizer,
    SitePlan,
    calibrate,
    fake_quantize,
    group_ranges,
    preset_named,
    sites_of,
)
from qbert_core.quantization.quantizer import group_runs
from qbert_core.quantization.straight_through import (
    fake_quantize_input,
    fake_quantize_rows,
    fake_quantize_weight,
)
from qbert_core.quantization.trained import (
    FILE,
    TrainedQuantization,
    load_trained,
    parse_trained,
    save_trained,
)
from qbert_core.runtime.events import Silent
from qbert_core.runtime.states import held
from qbert_core.tasks import TASKS, Batch, Examples, collate, task_named
from qbert_core.training import Recipe, discard_state, finetune, recipe_for, steps
from qbert_core.training.quantized import TrainedPlan
from tests.tiny import WORDS, make_tiny

ROOT = Path(__file__).resolve().parents[2]
TASK = task_named("sst2")
GOOD = [
    "a great film",
    "good story",
    "i love it",
    "funny and warm",
    "a clever moving movie",
    "very good actor",
]
BAD = ["dull and slow", "an awful plot", "i hate it", "poor script", "boring cold film", "so bad"]
TABLE = pd.DataFrame({"sentence": (GOOD + BAD) * 4, "label": ([1] * 6 + [0] * 6) * 4})
RECIPE = Recipe(epochs=12, lr=3e-3, batch_size=8, seed=3, log_every=5, ema=0.9)
QUICK = settings(deadline=None, max_examples=60)

# --- the straight-through estimator


def inside(w: np.ndarray, bits: int, groups: int, clip: float) -> np.ndarray:
    """Where q_0 <= w <= q_max, group after group, from numpy's own percentiles, in steps of the scale."""
    result, start = np.empty(w.shape, dtype=bool), 0
    for count, rows in group_runs(len(w), groups):
        for _ in range(count):
            group = w[start : start + rows]
            low, high = np.percentile(group, [100 - clip, clip]).astype(np.float32)
            low, high = min(low, np.float32(0)), max(high, np.float32(0))
            scale = np.float32(high - low) / np.float32(2**bits - 1) or np.float32(1)
            zero = np.rint(-low / scale)
            steps = group / scale
            result[start : start + rows] = (-zero <= steps) & (steps <= 2**bits - 1 - zero)
            start += rows
    return result


@QUICK
@given(
    rows=st.integers(1, 30),
    columns=st.integers(1, 12),
    bits=st.integers(1, 8),
    groups=st.integers(1, 40),
    clip=st.sampled_from([100.0, 99.0, 90.0, 60.0]),
    seed=st.integers(0, 2**32),
    contiguous=st.booleans(),
)
def test_a_weights_gradient_is_that_of_the_clamp_and_its_value_the_fake_quantizers(
    rows, columns, bits, groups, clip, seed, contiguous
):
    generator = np.random.default_rng(seed)
    w, g = generator.standard_normal((2, rows, columns)).astype(np.float32)
    weight = torch.from_numpy(w if contiguous else w.T.copy()).requires_grad_()
    given_weight = weight if contiguous else weight.t()
    made = fake_quantize_weight(given_weight, bits, groups, clip)
    assert torch.equal(made, fake_quantize(torch.from_numpy(w), bits, groups, clip))
    made.backward(torch.from_numpy(g))
    gradient = weight.grad.numpy() if contiguous else weight.grad.numpy().T
    np.testing.assert_array_equal(gradient, g * inside(w, bits, groups, clip))


@pytest.mark.parametrize("groups", [1, 3])
def test_large_groups_take_the_other_path_to_the_same_gradient(groups):
    w, g = np.random.default_rng(0).standard_normal((2, 701, 300)).astype(np.float32)
    weight = torch.from_numpy(w).requires_grad_()
    fake_quantize_weight(weight, 2, groups, 98.0).backward(torch.from_numpy(g))
    expected = inside(w, 2, groups, 98.0)
    assert 0.01 < 1 - expected.mean() < 0.6
    np.testing.assert_array_equal(weight.grad.numpy(), g * expected)


def test_the_gradient_is_the_clamps_by_finite_differences():
    # the estimator is the true derivative of X' = clamp(X, q_0, q_max); away from its two kinks
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(8, 20, generator=generator, dtype=torch.float64)
    g = torch.randn(8, 20, generator=generator, dtype=torch.float64)
    ranges = group_ranges(w, 3, 4, 90.0)
    scale, zero = (v.double().repeat_interleave(2)[:, None] for v in (ranges.scale, ranges.zero))
    low, high = -zero * scale, (ranges.levels - zero) * scale
    near = torch.minimum((w - low).abs(), (w - high).abs()) < 1e-4
    assert near.sum() < 5
    step = 1e-6
    change = (w + step).clamp(low, high) - (w - step).clamp(low, high)
    weight = w.clone().requires_grad_()
    fake_quantize_weight(weight, 3, 4, 90.0).backward(g)
    expected = g * change / (2 * step)
    assert float((expected == 0).double().mean()) > 0.05
    torch.testing.assert_close(weight.grad[~near], expected[~near])


def test_a_weight_beyond_a_rounded_zero_point_gets_no_gradient():
    # range -0.9..1.1 at 2 bits: step 2/3, zero point round(1.35) = 1, so q_0 = -2/3 and q_max = 4/3
    weight = torch.tensor([[-0.9, -0.6, 0.0, 1.1]], requires_grad=True)
    made = fake_quantize_weight(weight, 2, 1)
    made.sum().backward()
    torch.testing.assert_close(made[0].detach(), torch.tensor([-2 / 3, -2 / 3, 0.0, 4 / 3]))
    assert weight.grad.tolist() == [[0.0, 1.0, 1.0, 1.0]]


@QUICK
@given(
    low=st.floats(-50, 0, width=32),
    high=st.floats(0, 50, width=32),
    seed=st.integers(0, 2**32),
)
def test_an_inputs_value_is_the_evaluations_and_its_gradient_the_clamps(low, high, seed):
    scale, zero = ActivationRanges({"x": (low, high)}, "", 1).scale_and_zero("x")
    generator = np.random.default_rng(seed)
    data, g = (generator.standard_normal((2, 3, 5, 7)) * 30).astype(np.float32)
    x = torch.from_numpy(data).requires_grad_()
    made = fake_quantize_input(x, scale, zero, 255)
    made.backward(torch.from_numpy(g))
    unrounded = data / np.float32(scale)
    codes = np.clip(np.rint(unrounded) + np.float32(zero), 0, 255)
    np.testing.assert_array_equal(made.detach().numpy(), (codes - np.float32(zero)) * np.float32(scale))
    np.testing.assert_array_equal(x.grad.numpy(), g * ((-zero <= unrounded) & (unrounded <= 255 - zero)))


@QUICK
@given(
    rows=st.integers(1, 30),
    bits=st.integers(1, 8),
    groups=st.integers(1, 40),
    clip=st.sampled_from([100.0, 90.0]),
    seed=st.integers(0, 2**32),
)
def test_rows_of_a_table_are_those_of_the_whole_tables_quantization(rows, bits, groups, clip, seed):
    generator = np.random.default_rng(seed)
    table = torch.from_numpy(generator.standard_normal((rows, 6)).astype(np.float32)).requires_grad_()
    chosen = torch.from_numpy(generator.choice(rows, generator.integers(1, rows + 1), replace=False))
    made = fake_quantize_rows(table, chosen, bits, groups, clip)
    whole = table.detach().clone().requires_grad_()
    all_rows = fake_quantize_weight(whole, bits, groups, clip)
    assert torch.equal(made, all_rows[chosen])
    g = torch.from_numpy(generator.standard_normal(made.shape).astype(np.float32))
    made.backward(g)
    all_rows[chosen].backward(g)
    assert torch.equal(table.grad, whole.grad)


# --- the model of a plan in training

TABLES: dict[str, pd.DataFrame] = {
    "sst2": TABLE.iloc[::3].reset_index(drop=True),
    "conll03": pd.DataFrame(
        {
            "tokens": [
                ["john", "loves", "paris"],
                ["mary", "lives", "in", "london", "now"],
                ["watching", "films"],
            ],
            "ner_tags": [["B-PER", "O", "B-LOC"], ["B-PER", "O", "O", "B-LOC", "O"], ["O", "O"]],
        }
    ),
    "squad": pd.DataFrame(
        {
            "context": ["john lives in paris .", "the film was made by mary ! " * 9],
            "question": ["where lives john ?", "who made it ?"],
            "answers": [
                {"text": ["paris"], "answer_start": [14]},
                {"text": ["mary"], "answer_start": [21]},
            ],
        }
    ),
}
HEADS = {"sst2": "sequence", "conll03": "token", "squad": "question"}


@pytest.fixture(scope="module", params=list(TABLES))
def case(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, str, Examples]:
    """A tiny model of each head, its task, and some data."""
    folder = tmp_path_factory.mktemp("heads") / request.param
    model = load_checkpoint(make_tiny(folder, HEADS[request.param]))
    return model, request.param, TASKS[request.param].examples(TABLES[request.param], model, "rows")


def some_plan(checkpoint: Checkpoint, seed: int, activation_bits: int, clip: float = 100.0) -> Plan:
    """Any mix: bits 1..8 or 32 a site, any group count."""
    generator = np.random.default_rng(seed)
    bits = generator.choice([1, 2, 3, 4, 8, 32], 99).tolist()
    groups = generator.integers(1, 40, 99).tolist()
    entries = tuple((s.name, SitePlan(bits[i], groups[i])) for i, s in enumerate(sites_of(checkpoint.config)))
    return Plan(f"mix-{seed}", activation_bits, entries, clip)


def everything(task: str, examples: Examples) -> Batch:
    return collate(TASKS[task], examples, range(len(examples.lengths)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("activation_bits", [8, 32])
@pytest.mark.parametrize("clip", [100.0, 95.0])
def test_forward_it_is_the_evaluations_model_to_the_last_bit(case, seed, activation_bits, clip):
    model, task, examples = case
    plan = some_plan(model, seed, activation_bits, clip)
    ranges = calibrate(model, TASKS[task], examples)
    batch = everything(task, examples)
    quantized = Quantizer(model, ranges, integers=False).model(plan)
    expected = forward(
        quantized.weights, model.config, batch.input_ids, batch.token_type_ids, batch.lengths,
        linear=quantized.linear,
    )  # fmt: skip
    trained = TrainedPlan(model.config, plan, 0.9, ranges.ranges)
    found = trained.forward(model.weights, batch, training=False)
    assert torch.equal(found, expected)
    whole = forward(model.weights, model.config, batch.input_ids, batch.token_type_ids, batch.lengths)
    assert not torch.equal(found, whole)


def test_backward_a_weight_gets_the_gradient_of_its_quantized_value_where_it_is_not_clamped(case):
    model, task, examples = case
    model = model.to(torch.float64)
    plan = some_plan(model, 5, 32, 95.0)
    batch = everything(task, examples)
    weights = {name: w.clone().requires_grad_() for name, w in model.weights.items()}
    trained = TrainedPlan(model.config, plan, 0.9, {})
    total, _ = TASKS[task].loss(trained.forward(weights, batch, training=False), batch)
    total.backward()

    leaves, masks = dict(weights), {}
    for site in sites_of(model.config):
        entry, w = plan.sites[site.name], model.weights[site.parameter]
        if entry.quantized:
            leaves[site.parameter] = fake_quantize(w, entry.bits, entry.groups, plan.clip)
            ranges = group_ranges(w, entry.bits, entry.groups, plan.clip)
            sizes = [rows for count, rows in group_runs(len(w), entry.groups) for _ in range(count)]
            scale, zero = (
                v.repeat_interleave(torch.tensor(sizes))[:, None] for v in (ranges.scale, ranges.zero)
            )
            masks[site.parameter] = (w / scale >= -zero) & (w / scale <= ranges.levels - zero)
    leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in leaves.items()}
    logits = forward(leaves, model.config, batch.input_ids, batch.token_type_ids, batch.lengths)
    expected, _ = TASKS[task].loss(logits, batch)
    expected.backward()
    assert sum(float((~mask).sum()) for mask in masks.values()) > 100
    for name, weight in weights.items():
        gradient = leaves[name].grad * masks.get(name, 1)
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-9, atol=1e-12)


def test_the_gradient_of_what_is_not_quantized_is_the_losss_own_by_finite_differences(case):
    model, task, examples = case
    model = model.to(torch.float64)
    plan = some_plan(model, 6, 32)
    batch = everything(task, examples)
    trained = TrainedPlan(model.config, plan, 0.9, {})
    quantized = {s.parameter for s in sites_of(model.config) if plan.sites[s.name].quantized}
    generator = torch.Generator().manual_seed(0)
    direction = {
        name: torch.randn(w.shape, generator=generator, dtype=torch.float64)
        for name, w in model.weights.items()
        if name not in quantized
    }

    def loss(step: float) -> torch.Tensor:
        moved = {n: w + step * direction[n] if n in direction else w for n, w in model.weights.items()}
        return TASKS[task].loss(trained.forward(moved, batch, training=False), batch)[0]

    weights = {name: w.clone().requires_grad_() for name, w in model.weights.items()}
    TASKS[task].loss(trained.forward(weights, batch, training=False), batch)[0].backward()
    slope = sum(float((weights[name].grad * d).sum()) for name, d in direction.items())
    step = 1e-6
    assert slope == pytest.approx(float(loss(step) - loss(-step)) / (2 * step), rel=1e-6)


# --- input ranges


def one_at_a_time(model: Checkpoint, examples: Examples) -> list[dict[str, tuple[float, float]]]:
    """calibrate() of each example alone: nothing is padded there."""
    return [dict(calibrate(model, TASK, examples.take([i])).ranges) for i in range(len(examples))]


def test_input_ranges_are_a_moving_average_over_batches_of_what_real_tokens_reach(tiny):
    sentences = [" ".join(WORDS[12 + 3 * i : 13 + 3 * i + i % 5]) for i in range(10)]
    examples = TASK.examples(pd.DataFrame({"sentence": sentences, "label": [0, 1] * 5}), tiny, "rows")
    full = preset_named(tiny.config, "sst2", "baseline")
    plan = replace(full, activation_bits=8)  # inputs are watched, nothing is rounded
    trained = TrainedPlan(tiny.config, plan, 0.75, {})
    alone = one_at_a_time(tiny, examples)
    expected: dict[str, tuple[float, float]] = {}
    for chosen in ([0, 1, 2, 3], [4, 5], [6, 7, 8]):
        batch = collate(TASK, examples, chosen)
        assert int(batch.lengths.min()) < batch.input_ids.shape[1]  # padded
        trained.forward(tiny.weights, batch, training=False, observe=True)
        for site in alone[0]:
            low = min(alone[i][site][0] for i in chosen)
            high = max(alone[i][site][1] for i in chosen)
            old = expected.get(site, (low, high))
            expected[site] = (0.75 * old[0] + 0.25 * low, 0.75 * old[1] + 0.25 * high)
        for site, ends in expected.items():
            assert trained.ranges[site] == pytest.approx(ends, rel=1e-4, abs=1e-5)
    for layer in range(tiny.config.layers):
        own = f"bert.encoder.layer.{layer}.attention.self."
        assert trained.ranges[own + "query"] == trained.ranges[own + "key"] == trained.ranges[own + "value"]
    kept = dict(trained.ranges)
    trained.forward(tiny.weights, collate(TASK, examples, [9]), training=False)
    assert trained.ranges == kept


@pytest.mark.parametrize("freeze", [0.0, 0.25, 1.0])
def test_input_ranges_stay_as_they_are_after_their_share_of_the_steps(
    base, examples, plan, freeze, monkeypatch
):
    seen: list[dict[str, tuple[float, float]]] = []
    original = TrainedPlan.forward

    def watched(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        seen.append(dict(self.ranges))
        return result

    monkeypatch.setattr(TrainedPlan, "forward", watched)
    found = finetune(base, TASK, examples, examples, replace(RECIPE, epochs=2, freeze=freeze), plan=plan)
    moving = max(1, round(freeze * 12))
    assert len(seen) == 12
    assert all(a != b for a, b in pairwise(seen[:moving]))
    assert all(later == seen[moving - 1] for later in seen[moving:])
    assert dict(found.ranges.ranges) == seen[-1]
    assert (found.ranges.source, found.ranges.examples) == ("toy", 48)
    assert set(seen[-1]) == {s.name for s in sites_of(base.config) if s.layer is not None}
    assert all(low <= 0 <= high for low, high in seen[-1].values())


# --- training


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny model finetuned in full precision until it tells the sentences apart."""
    folder = make_tiny(tmp_path_factory.mktemp("base") / "base")
    fresh = load_base(folder, "sequence", ("negative", "positive"), seed=0)
    data = TASK.examples(TABLE, fresh, "toy")
    made = finetune(fresh, TASK, data, data, RECIPE).checkpoint
    saved = tmp_path_factory.mktemp("base") / "finetuned"
    save_checkpoint(made, saved, torch.float32)
    return load_checkpoint(saved)


@pytest.fixture(scope="module")
def examples(base: Checkpoint) -> Examples:
    return TASK.examples(TABLE, base, "toy")


@pytest.fixture(scope="module")
def plan(base: Checkpoint) -> Plan:
    """2 bits everywhere, one range a matrix, 8-bit activations."""
    tables = {site.name: SitePlan(2, 1) for site in sites_of(base.config) if site.layer is None}
    return preset_named(base.config, "sst2", "directq-2").with_sites(tables, "all-2")


def test_at_2_bits_it_beats_the_same_plan_without_finetuning(base, examples, plan):
    before = Evaluator(base, TASK, examples, calibrate(base, TASK, examples)).evaluate(plan)
    assert before.baseline.metrics["accuracy"] == 1.0
    assert before.score.metrics["accuracy"] < 0.9
    found = finetune(base, TASK, examples, examples, RECIPE, plan=plan)
    assert found.score.metrics["accuracy"] > before.score.metrics["accuracy"] + 0.1
    losses = [point["loss"] for point in found.curve]
    assert losses[-1] < 0.5 * losses[0]
    again = Evaluator(found.checkpoint, TASK, examples, found.ranges).evaluate(plan, attention=False)
    assert found.score == again.score
    # the optimizer's weights are kept, not what the quantizer makes of them
    weight = found.checkpoint.weights["bert.encoder.layer.0.output.dense.weight"]
    assert len(weight.unique()) > 4


def test_a_plan_that_quantizes_nothing_trains_as_full_precision_does(base, examples):
    nothing = preset_named(base.config, "sst2", "baseline")
    short = replace(RECIPE, epochs=1)
    plain = finetune(base, TASK, examples, examples, short)
    found = finetune(base, TASK, examples, examples, short, plan=nothing)
    for name, weight in plain.checkpoint.weights.items():
        torch.testing.assert_close(found.checkpoint.weights[name], weight)
    assert found.score == plain.score
    assert found.ranges is None
    assert plain.ranges is None


def test_a_plan_with_fp32_activations_has_no_ranges(base, examples, plan):
    found = finetune(
        base, TASK, examples, examples, replace(RECIPE, epochs=1), plan=replace(plan, activation_bits=32)
    )
    assert found.ranges is None


def test_every_head_trains(case):
    model, task, data = case
    plan = preset_named(model.config, task, "qbert-4")
    found = finetune(model, TASKS[task], data, data, Recipe(epochs=2, batch_size=2, lr=1e-3), plan=plan)
    assert found.curve[-1]["step"] == 2 * -(-len(data.lengths) // 2)
    assert set(found.score.metrics) <= set(found.curve[-1])
    again = Evaluator(found.checkpoint, TASKS[task], data, found.ranges).evaluate(plan, attention=False)
    assert found.score == again.score


def test_the_same_seed_gives_the_same_weights_and_ranges(base, examples, plan):
    short = replace(RECIPE, epochs=1)
    first, second = (finetune(base, TASK, examples, examples, short, plan=plan) for _ in range(2))
    assert first.ranges == second.ranges
    assert all(torch.equal(w, second.checkpoint.weights[n]) for n, w in first.checkpoint.weights.items())
    other = finetune(base, TASK, examples, examples, replace(short, seed=4), plan=plan)
    assert other.ranges != first.ranges


class Listener(Silent):
    """Keeps what is reported; cancels before step `stop`."""

    def __init__(self, stop: int = -1) -> None:
        self.reports: list[tuple[int, int, dict[str, float]]] = []
        self.checks = 0
        self.stop = stop

    def progress(self, done, total, partial=None):
        self.reports.append((done, total, partial))

    def check(self):
        self.checks += 1
        if self.checks == self.stop:
            raise Cancelled


def test_progress_tells_step_epoch_loss_rate_time_left_and_the_metric_after_each_epoch(base, examples, plan):
    listener = Listener()
    recipe = replace(RECIPE, epochs=2, log_every=4)
    found = finetune(base, TASK, examples, examples, recipe, listener, plan=plan)
    assert [(done, total) for done, total, _ in listener.reports] == [(n, 12) for n in (4, 6, 8, 12)]
    assert [partial for *_, partial in listener.reports] == found.curve
    for done, _, partial in listener.reports:
        assert {"step", "epoch", "loss", "lr", "eta_seconds"} <= set(partial)
        assert partial["step"] == done
        assert partial["epoch"] == done / 6
        assert ("accuracy" in partial) == (done in (6, 12))
        assert partial["eta_seconds"] >= 0
    assert found.curve[-1]["eta_seconds"] == 0
    assert listener.checks >= 12


def test_where_steps_are_slow_points_come_by_time(base, examples, plan, monkeypatch):
    monkeypatch.setattr(steps, "POINT_SECONDS", 0.0)
    found = finetune(base, TASK, examples, examples, replace(RECIPE, epochs=1, log_every=1000), plan=plan)
    assert [point["step"] for point in found.curve] == [1, 2, 3, 4, 5, 6]


def test_it_diverges_with_the_same_clear_line_and_leaves_no_state(base, examples, plan, tmp_path):
    with pytest.raises(InputError, match=r"finite.*try a lower lr"):
        finetune(
            base, TASK, examples, examples, replace(RECIPE, epochs=2, lr=1e38), plan=plan,
            resume=tmp_path / "state",
        )  # fmt: skip
    assert not (tmp_path / "state").exists()


def test_averaging_and_a_plan_for_another_model_are_refused(base, examples, plan, tiny):
    with pytest.raises(InputError, match=r"average is 0\.5; with a plan"):
        finetune(base, TASK, examples, examples, replace(RECIPE, average=0.5), plan=plan)
    deeper = replace(tiny.config, layers=4)
    other = preset_named(deeper, "sst2", "qbert-4")
    with pytest.raises(InputError, match="for another model"):
        finetune(base, TASK, examples, examples, RECIPE, plan=other)


@pytest.mark.parametrize(
    "value", [{"ema": -0.1}, {"ema": math.nan}, {"freeze": 1.1}, {"freeze": -1}], ids=str
)
def test_settings_of_the_ranges_out_of_range_are_refused(value):
    with pytest.raises(InputError, match=next(iter(value))):
        replace(RECIPE, **value)


def test_recipes_are_the_papers():
    # lr, batch, epochs, warm-up: full precision, then quantization-aware
    table = {
        "sst2": ((2e-5, 32, 3, 0.1), (2e-5, 32, 3, 0.1)),
        "mnli": ((2e-5, 32, 3, 0.1), (2e-5, 32, 3, 0.1)),
        "conll03": ((5e-5, 32, 5, 0.4), (2e-5, 32, 3, 0.1)),
        "squad": ((3e-5, 12, 2, 0.1), (3e-5, 12, 1, 0.1)),
    }
    assert set(table) == set(TASKS)
    for task, both in table.items():
        for quantized, expected in zip((False, True), both, strict=True):
            recipe = recipe_for(task, quantized)
            assert (recipe.lr, recipe.batch_size, recipe.epochs, recipe.warmup) == expected
    with pytest.raises(InputError, match="no recipe for task 'mrpc'"):
        recipe_for("mrpc", True)


# --- going on after an interruption


@pytest.mark.parametrize("average", [None, 0.0, 0.8], ids=["plan", "plain", "average"])
@pytest.mark.parametrize("stops", [(1,), (4, 5), (7, 3, 8), (17,)], ids=str)
def test_a_training_that_was_cancelled_goes_on_to_the_same_weights(
    base, examples, plan, tmp_path, stops, average
):
    recipe = replace(RECIPE, epochs=3, average=average or 0.0)
    own = plan if average is None else None
    undisturbed = finetune(base, TASK, examples, examples, recipe, plan=own)
    state = tmp_path / "state"
    for stop in stops:
        torch.manual_seed(stop)  # another process's generator is elsewhere
        with pytest.raises(Cancelled):
            finetune(base, TASK, examples, examples, recipe, Listener(stop), plan=own, resume=state)
    found = finetune(base, TASK, examples, examples, recipe, plan=own, resume=state)
    for name, weight in undisturbed.checkpoint.weights.items():
        assert torch.equal(found.checkpoint.weights[name], weight), name
    assert found.ranges == undisturbed.ranges
    assert found.score == undisturbed.score
    without_time = [
        [{k: v for k, v in point.items() if k != "eta_seconds"} for point in r.curve]
        for r in (found, undisturbed)
    ]
    assert without_time[0] == without_time[1]
    # finished, and asked again: the same at once
    again = finetune(base, TASK, examples, examples, recipe, Listener(), plan=own, resume=state)
    assert again.score == found.score
    assert all(torch.equal(w, again.checkpoint.weights[n]) for n, w in found.checkpoint.weights.items())
    assert len(list(state.iterdir())) == 1  # one state, however often it was written
    discard_state(state)
    assert not state.exists()


def test_a_gradient_that_is_never_clipped_has_a_state_too(base, examples, plan, tmp_path):
    recipe = replace(RECIPE, epochs=1, clip_norm=math.inf)
    undisturbed = finetune(base, TASK, examples, examples, recipe, plan=plan)
    with pytest.raises(Cancelled):
        finetune(base, TASK, examples, examples, recipe, Listener(4), plan=plan, resume=tmp_path)
    found = finetune(base, TASK, examples, examples, recipe, plan=plan, resume=tmp_path)
    for name, weight in undisturbed.checkpoint.weights.items():
        assert torch.equal(found.checkpoint.weights[name], weight)


SCRIPT = """
import sys
from pathlib import Path
import pandas as pd
import torch
from qbert_core.checkpoints import load_checkpoint
from qbert_core.quantization import preset_named
from qbert_core.runtime.events import Silent
from qbert_core.tasks import task_named
from qbert_core.training import Recipe
import qbert_core.training.finetune
module = sys.modules["qbert_core.training.finetune"]
module.STATE_SECONDS, module.STATE_SHARE = 0.0, 1e9  # after every step

class Steps(Silent):
    def progress(self, done, total, partial=None):
        print(done, flush=True)

folder, data, state, out = sys.argv[1:]
torch.set_num_threads(1)
base, task = load_checkpoint(folder), task_named("sst2")
examples = task.examples(pd.read_csv(data), base, "toy")
recipe = Recipe(epochs=8, lr=3e-3, batch_size=8, seed=3, log_every=1, ema=0.9)
plan = preset_named(base.config, "sst2", "directq-2")
found = module.finetune(base, task, examples, examples, recipe, Steps(), plan=plan, resume=Path(state))
from safetensors.torch import save_file
save_file({n: w.contiguous() for n, w in found.checkpoint.weights.items()}, out)
"""


def test_a_training_that_was_killed_goes_on_to_the_same_weights(base, tmp_path):
    folder, data = tmp_path / "model", tmp_path / "data.csv"
    save_checkpoint(base, folder, torch.float32)
    TABLE.to_csv(data, index=False)

    def start(state: str, out: str) -> subprocess.Popen[str]:
        arguments = [str(folder), str(data), str(tmp_path / state), str(tmp_path / out)]
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    whole = start("none", "whole.safetensors")
    total = [int(line) for line in whole.stdout]
    assert whole.wait() == 0
    assert total == list(range(1, 49))
    reached = 0
    for kill_at in sorted(np.random.default_rng().integers(2, 46, 2)):
        process = start("state", "killed.safetensors")
        for line in process.stdout:
            if int(line) >= max(kill_at, reached + 1):
                process.send_signal(signal.SIGKILL)
                break
        assert process.wait() == -signal.SIGKILL
        rest = [int(line) for line in process.stdout]
        reached = max([reached, int(line), *rest])
        process.stdout.close()
    last = start("state", "killed.safetensors")
    rest = [int(line) for line in last.stdout]
    assert last.wait() == 0
    assert not rest or rest[0] >= reached  # the last state is at most a step old
    weights = [load_file(tmp_path / name) for name in ("whole.safetensors", "killed.safetensors")]
    assert all(torch.equal(w, weights[1][name]) for name, w in weights[0].items())


def test_the_state_of_another_training_is_refused_by_naming_what_differs(base, examples, plan, tmp_path):
    state = tmp_path / "state"
    recipe = replace(RECIPE, epochs=1)
    with pytest.raises(Cancelled):
        finetune(base, TASK, examples, examples, recipe, Listener(3), plan=plan, resume=state)
    fewer = examples.take(range(40))
    moved = replace(base, fingerprint="other")
    four = preset_named(base.config, "sst2", "qbert-4")
    for differs, call in {
        "recipe": lambda: finetune(
            base, TASK, examples, examples, replace(recipe, lr=1e-3), plan=plan, resume=state
        ),
        "train": lambda: finetune(base, TASK, fewer, examples, recipe, plan=plan, resume=state),
        "data": lambda: finetune(base, TASK, examples, fewer, recipe, plan=plan, resume=state),
        "plan": lambda: finetune(base, TASK, examples, examples, recipe, plan=four, resume=state),
        "base": lambda: finetune(moved, TASK, examples, examples, recipe, plan=plan, resume=state),
    }.items():
        with pytest.raises(InputError, match=f"another training, with another {differs}; start over"):
            call()
    # and it was left alone
    finetune(base, TASK, examples, examples, recipe, plan=plan, resume=state)


@pytest.mark.parametrize("broken", ["cut", "text", "metadata", "tensors"])
def test_a_broken_state_is_refused_in_a_line(base, examples, plan, tmp_path, broken):
    recipe, folder = replace(RECIPE, epochs=1), tmp_path / "state"
    with pytest.raises(Cancelled):
        finetune(base, TASK, examples, examples, recipe, Listener(3), plan=plan, resume=folder)
    path = folder / "state.safetensors"
    if broken == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    elif broken == "text":
        path.write_text("nothing of the kind")
    elif broken == "metadata":
        save_file(load_file(path), path)
    else:
        save_file({"weight": torch.zeros(3)}, path, metadata={"training": json.dumps({"schema": 1})})
    with pytest.raises(InputError, match="start over"):
        finetune(base, TASK, examples, examples, recipe, plan=plan, resume=folder)


# --- quantization.json


@st.composite
def quantizations(draw: st.DrawFn, checkpoint: Checkpoint) -> TrainedQuantization:
    activation_bits = draw(st.sampled_from([8, 32]))
    plan = some_plan(
        checkpoint, draw(st.integers(0, 2**32)), activation_bits, draw(st.sampled_from([100.0, 99.5]))
    )
    if activation_bits == 32 and draw(st.booleans()):
        return TrainedQuantization(plan, None)
    low, high = st.floats(-1e38, 0), st.floats(0, 1e38)
    names = [site.name for site in sites_of(checkpoint.config) if site.layer is not None]
    ranges = {name: (draw(low), draw(high)) for name in names}
    source = draw(st.text(max_size=50))
    return TrainedQuantization(
        plan, ActivationRanges(MappingProxyType(ranges), source, draw(st.integers(1, 10**9)))
    )


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_what_was_trained_for_reads_back_to_the_last_bit(tiny, tmp_path_factory, data):
    trained = data.draw(quantizations(tiny))
    folder = tmp_path_factory.mktemp("q")
    save_trained(trained, folder)
    back = load_trained(folder, tiny.config)
    assert back.plan == trained.plan
    if trained.ranges is None:
        assert back.ranges is None
    else:
        assert dict(back.ranges.ranges) == dict(trained.ranges.ranges)
        assert (back.ranges.source, back.ranges.examples) == (trained.ranges.source, trained.ranges.examples)
        assert back.ranges.digest == trained.ranges.digest
    assert [path.name for path in folder.iterdir()] == [FILE]


def document(tiny: Checkpoint) -> dict[str, Any]:
    names = [site.name for site in sites_of(tiny.config) if site.layer is not None]
    ranges = ActivationRanges(dict.fromkeys(names, (-1.0, 2.0)), "rows", 3)
    return json.loads(json.dumps(TrainedQuantization(some_plan(tiny, 0, 8), ranges).to_json()))


SITE = "bert.encoder.layer.1.intermediate.dense"


def ends(value: Any) -> Any:
    return lambda d: d["activations"]["ranges"].update({SITE: value})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(schema=2), "schema 2; this version reads 1"),
        (lambda d: d.pop("plan"), "expected {"),
        (lambda d: d.pop("activations"), "expected {"),
        (lambda d: d.update(activations=None), "no ranges are given"),
        (lambda d: d.update(activations=[]), "activations: expected"),
        (lambda d: d["plan"]["sites"].pop(SITE), "no entry for 1 of the model's sites"),
        (lambda d: d["activations"].update(examples=0), "expected a count from 1"),
        (lambda d: d["activations"].update(examples=True), "expected a count from 1"),
        (lambda d: d["activations"].update(source=3), "source is not a text"),
        (lambda d: d["activations"]["ranges"].pop(SITE), "1 of this model's 18 linear layers have none"),
        (lambda d: d["activations"]["ranges"].update(more=[-1, 1]), "1 others do"),
        (ends([-1, math.nan]), "finite"),
        (ends([-math.inf, 1]), "finite"),
        (ends([-1, 10**400]), "finite"),
        (ends([-3e38, 3e38]), "finite"),
        (ends([-1]), "expected .low, high."),
        (ends("wide"), "expected .low, high."),
        (ends([False, True]), "expected .low, high."),
        (ends([0.5, 1.0]), "0 must lie in it"),
        (ends([1.0, -1.0]), "0 must lie in it"),
    ],
)  # fmt: skip
def test_a_wrong_quantization_json_is_refused_by_naming_what_is_wrong(tiny, change, says):
    wrong = document(tiny)
    assert parse_trained(wrong, tiny.config, "q.json").ranges is not None
    change(wrong)
    with pytest.raises(InputError, match=f"q.json: .*{says}"):
        parse_trained(wrong, tiny.config, "q.json")


def test_a_huge_or_unreadable_quantization_json_is_refused(tiny, tmp_path):
    assert load_trained(tmp_path, tiny.config) is None
    (tmp_path / FILE).write_text("{")
    with pytest.raises(InputError, match="not readable as JSON"):
        load_trained(tmp_path, tiny.config)
    (tmp_path / FILE).write_text("[" * 100_000)
    with pytest.raises(InputError, match="not readable as JSON"):
        load_trained(tmp_path, tiny.config)
    (tmp_path / FILE).write_text(" " * (5 * 2**20))
    with pytest.raises(InputError, match="more than the"):
        load_trained(tmp_path, tiny.config)


def test_a_checkpoints_own_ranges_are_taken_unless_training_data_is_given(tiny, tmp_path):
    save_checkpoint(tiny, tmp_path / "model", torch.float32)
    model = load_checkpoint(tmp_path / "model")
    examples = TASK.examples(TABLE, model, "rows")
    TABLE.to_csv(tmp_path / "train.csv", index=False)
    trained = parse_trained(document(tiny), tiny.config, "q.json")
    save_trained(trained, tmp_path / "model")
    assert calibration(model, TASK, examples, None) == trained.ranges
    given_data = calibration(model, TASK, examples, str(tmp_path / "train.csv"))
    assert given_data.digest == calibrate(model, TASK, examples).digest
    (tmp_path / "model" / FILE).write_text("{}")
    with pytest.raises(InputError, match="expected"):
        calibration(model, TASK, examples, None)


# --- the command line


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    assert code == 0, captured.err
    made = json.loads(captured.out)
    assert isinstance(made, dict)
    return made


@pytest.fixture
def finetuned(base: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A finetuned model's folder, and data that it finds hard at few bits."""
    monkeypatch.setenv("QBERT_HOME", str(tmp_path / "home"))
    save_checkpoint(base, tmp_path / "model", torch.float32)
    generator = np.random.default_rng(0)
    words = [word for word in WORDS if word.isalpha()]
    noise = [" ".join(generator.choice(words, 3)) for _ in TABLE.index]
    mixed = [f"{sentence} {tail}" for sentence, tail in zip(TABLE["sentence"], noise, strict=True)]
    TABLE.assign(sentence=mixed).to_csv(tmp_path / "data.csv", index=False)
    return str(tmp_path / "model"), str(tmp_path / "data.csv")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_saved_evaluates_to_what_was_reported(capsys, finetuned, tmp_path, dtype):
    model, data = finetuned
    common, save = ["--task", "sst2", "--data", data], str(tmp_path / "saved")
    finetuning = [
        "finetune", model, *common, "--train", data, "--save", save, "--dtype", dtype, "--epochs", "3",
        "--lr", "1e-3", "--batch-size", "8",
    ]  # fmt: skip
    made = run(capsys, *finetuning, "--plan", "qbert-2")
    assert made["epochs"] == 3
    assert made["recipe"]["weight_decay"] == 0.01
    found = run(capsys, "evaluate", save, *common, "--plan", "trained")
    assert found["metrics"] == made["metrics"]
    assert found["interval"] == made["interval"]
    assert found["plan"] == made["plan"]
    assert found["plan_digest"] == made["plan_digest"]
    assert found["model"] == made["fingerprint"]
    assert found["calibration"] == {**found["calibration"], "source": data, "examples": 48}
    named = run(capsys, "evaluate", save, *common, "--plan", "qbert-2")
    assert named["predictions"] == found["predictions"]
    before = run(capsys, "evaluate", model, *common, "--plan", "qbert-2", "--train", data)
    assert made["before"] == {
        **before["metrics"], "interval": before["interval"], "intervals": before["intervals"]
    }  # fmt: skip
    assert made["baseline"] == before["baseline"]
    report = json.loads((tmp_path / "saved" / "training.json").read_text())
    assert report["curve"] == made["curve"]
    assert {"step", "epoch", "loss", "lr", "eta_seconds", "accuracy"} == set(made["curve"][-1])
    assert not (tmp_path / "saved" / ".training").exists()
    # full precision into the same folder: the plan and its ranges are gone
    run(capsys, *finetuning)
    assert not (tmp_path / "saved" / FILE).exists()
    assert main(["evaluate", save, *common, "--plan", "trained"]) == 2
    assert "was not trained for a plan" in capsys.readouterr().err


def test_the_same_command_goes_on_and_fresh_starts_over(capsys, finetuned, tmp_path, monkeypatch):
    model, data = finetuned
    command = [
        "finetune", model, "--task", "sst2", "--data", data, "--train", data, "--plan", "directq-2",
        "--epochs", "3", "--lr", "1e-3", "--batch-size", "8", "--save",
    ]  # fmt: skip
    whole = run(capsys, *command, str(tmp_path / "whole"))

    learned: list[int] = []
    original = steps.Training.learn

    def learn(self, batch):
        if len(learned) == 8:
            raise KeyboardInterrupt
        learned.append(self.step)
        original(self, batch)

    monkeypatch.setattr(steps.Training, "learn", learn)
    assert main([*command, str(tmp_path / "cut")]) == 130
    monkeypatch.undo()
    monkeypatch.setenv("QBERT_HOME", str(tmp_path / "home"))
    assert (tmp_path / "cut" / ".training").is_dir()
    capsys.readouterr()
    assert main([*command, str(tmp_path / "cut"), "--seed", "5"]) == 2
    assert "another recipe; start over (--fresh)" in capsys.readouterr().err
    found = run(capsys, *command, str(tmp_path / "cut"))
    assert found["fingerprint"] == whole["fingerprint"]
    assert found["metrics"] == whole["metrics"]
    assert [point["loss"] for point in found["curve"]] == [point["loss"] for point in whole["curve"]]
    fresh = run(capsys, *command, str(tmp_path / "cut"), "--seed", "5", "--fresh")
    assert fresh["fingerprint"] != whole["fingerprint"]


def test_two_finetunings_do_not_write_into_one_folder_at_once(capsys, finetuned, tmp_path):
    model, data = finetuned
    command = [
        "finetune", model, "--task", "sst2", "--data", data, "--train", data, "--epochs", "1", "--save",
    ]  # fmt: skip
    save = tmp_path / "saved"
    save.mkdir()
    with held(save):  # as a process does that trains there
        assert main([*command, str(save), "--fresh"]) == 2
        assert "another finetuning writes there" in capsys.readouterr().err
        assert list(save.iterdir()) == []
        run(capsys, *command, str(tmp_path / "beside"))
    run(capsys, *command, str(save))


def test_a_folder_where_nothing_can_be_locked_is_trained_in_all_the_same(capsys, finetuned, tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    model, data = finetuned
    monkeypatch.setattr("fcntl.flock", no_locks)
    made = run(
        capsys, "finetune", model, "--task", "sst2", "--data", data, "--train", data, "--epochs", "1",
        "--save", str(tmp_path / "saved"),
    )  # fmt: skip
    assert made["epochs"] == 1


def test_a_wrong_plan_is_one_line(capsys, finetuned, tmp_path):
    model, data = finetuned
    command = [
        "finetune",
        model,
        "--task",
        "sst2",
        "--data",
        data,
        "--train",
        data,
        "--save",
        str(tmp_path / "s"),
    ]
    for options, says in {
        ("--plan", "qbert-5"): "presets are",
        ("--plan", "trained"): "was not trained for a plan",
        ("--plan", "qbert-2", "--average", "0.5"): "with a plan the last weights are the result",
        ("--plan", "qbert-2", "--freeze", "2"): "freeze is 2",
    }.items():
        assert main([*command, *options]) == 2
        assert says in capsys.readouterr().err
