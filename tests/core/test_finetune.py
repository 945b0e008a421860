"""Finetuning: it learns, it repeats, it averages what it says."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.optimizer import register_optimizer_step_post_hook

from qbert_core.checkpoints import Checkpoint, load_base, load_checkpoint, save_checkpoint
from qbert_core.errors import Cancelled, InputError
from qbert_core.runtime.events import Flag, Silent
from qbert_core.tasks import Examples, task_named
from qbert_core.training import Recipe, average, finetune
from qbert_core.training.measure import measure
from qbert_core.training.steps import _epoch, _linear
from tests.tiny import make_tiny

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


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = make_tiny(tmp_path_factory.mktemp("base") / "base", layers=2, scale=0.2)
    return load_base(folder, "sequence", ("negative", "positive"), seed=0)


@pytest.fixture(scope="module")
def examples(base: Checkpoint) -> Examples:
    table = pd.DataFrame({"sentence": (GOOD + BAD) * 4, "label": ([1] * 6 + [0] * 6) * 4})
    return TASK.examples(table, base, "toy")


RECIPE = Recipe(epochs=12, lr=3e-3, batch_size=8, seed=3, log_every=5)


def test_it_learns_sentences_that_can_be_told_apart(base, examples):
    before = measure(base, TASK, examples).metrics["accuracy"]
    result = finetune(base, TASK, examples, examples, RECIPE)
    assert result.score.metrics["accuracy"] == 1.0
    assert before < 0.9
    losses = [point["loss"] for point in result.curve if "loss" in point]
    assert losses[-1] < 0.3 * losses[0]
    assert result.curve[-1]["accuracy"] == 1.0


def test_the_same_seed_gives_the_same_weights_and_another_one_others(base, examples):
    short = replace(RECIPE, epochs=1)
    first, second = (finetune(base, TASK, examples, examples, short).checkpoint.weights for _ in range(2))
    other = finetune(base, TASK, examples, examples, replace(short, seed=4)).checkpoint.weights
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_the_base_is_left_alone(base, examples):
    kept = {name: w.clone() for name, w in base.weights.items()}
    finetune(base, TASK, examples, examples, replace(RECIPE, epochs=1))
    assert all(torch.equal(kept[name], base.weights[name]) for name in kept)


def test_averaging_takes_the_mean_over_the_last_steps(base, examples):
    # at a learning rate of 0 after the first step nothing moves, so any mean is the weights themselves;
    # at a real one the mean lies elsewhere
    still = replace(RECIPE, epochs=1, lr=0.0)
    plain = finetune(base, TASK, examples, examples, still).checkpoint.weights
    mean = finetune(base, TASK, examples, examples, replace(still, average=1.0)).checkpoint.weights
    for name, weight in plain.items():
        torch.testing.assert_close(mean[name], weight)
    moving = replace(RECIPE, epochs=1)
    last = finetune(base, TASK, examples, examples, moving).checkpoint.weights
    mean = finetune(base, TASK, examples, examples, replace(moving, average=1.0)).checkpoint.weights
    name = "classifier.weight"
    assert not torch.equal(mean[name], last[name])
    # between where it began and where it ended, for a run that goes one way
    assert float((mean[name] - base.weights[name]).norm()) < float((last[name] - base.weights[name]).norm())


def test_the_rate_rises_over_the_warm_up_and_falls_to_zero():
    rates = [_linear(step, 100, 0.1) for step in range(101)]
    assert max(rates) == 1.0
    assert rates.index(1.0) in (9, 10)
    assert rates[100] == 0.0
    assert rates[0] == pytest.approx(0.1)
    assert all(a <= b for a, b in pairwise(rates[:10]))
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert _linear(0, 10, 0.0) == 1.0


def test_it_can_be_cancelled_between_steps(base, examples):
    flag = Flag()

    class Stop(Silent):
        def progress(self, done, total, partial=None):
            flag.cancel()

        def check(self):
            flag.check()

    with pytest.raises(Cancelled):
        finetune(base, TASK, examples, examples, RECIPE, Stop())


def test_the_average_of_models_is_the_mean_of_their_weights(base):
    moved = replace(base, weights=MappingProxyType({name: w + 1 for name, w in base.weights.items()}))
    mean = average([base, moved])
    for name, weight in base.weights.items():
        torch.testing.assert_close(mean.weights[name], weight + 0.5)
    wider = replace(base, config=replace(base.config, labels=("a", "b", "c")))
    with pytest.raises(InputError, match="differ in shape or labels"):
        average([base, wider])


def test_a_fresh_head_is_drawn_from_its_seed_and_a_pooler_in_the_base_is_kept(tmp_path):
    folder = make_tiny(tmp_path / "base")
    first, again, other = (load_base(folder, "sequence", ("a", "b", "c"), seed) for seed in (0, 0, 1))
    assert torch.equal(first.weights["classifier.weight"], again.weights["classifier.weight"])
    assert not torch.equal(first.weights["classifier.weight"], other.weights["classifier.weight"])
    assert torch.equal(first.weights["bert.pooler.dense.weight"], other.weights["bert.pooler.dense.weight"])
    assert float(first.weights["classifier.bias"].abs().max()) == 0
    assert 0.005 < float(first.weights["classifier.weight"].std()) < 0.05


@pytest.fixture
def seen():
    """The optimizer's rate and parameters after each of its steps, as torch's own hook tells them."""
    steps: list[tuple[float, list[torch.Tensor]]] = []

    def look(optimizer, args, kwargs):
        groups = optimizer.param_groups
        steps.append((groups[0]["lr"], [p.detach().clone() for g in groups for p in g["params"]]))

    handle = register_optimizer_step_post_hook(look)
    yield steps
    handle.remove()


def as_the_optimizer_holds_them(weights):
    return [w for w in weights.values() if w.ndim == 2] + [w for w in weights.values() if w.ndim < 2]


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_the_result_is_the_mean_of_the_weights_of_the_last_share_of_steps(base, examples, seen, share):
    recipe = replace(RECIPE, epochs=2, average=share)
    found = finetune(base, TASK, examples, examples, recipe)
    assert len(seen) == 12  # two epochs of 48 sentences, 8 a batch
    last = [parameters for _, parameters in seen[round(12 * (1 - share)) :]]
    for mine, *theirs in zip(as_the_optimizer_holds_them(found.checkpoint.weights), *last, strict=True):
        torch.testing.assert_close(mine, torch.stack(theirs).mean(0))
    assert found.score == measure(found.checkpoint, TASK, examples)


def test_without_averaging_the_result_is_the_last_step(base, examples, seen):
    found = finetune(base, TASK, examples, examples, replace(RECIPE, epochs=1))
    for mine, theirs in zip(as_the_optimizer_holds_them(found.checkpoint.weights), seen[-1][1], strict=True):
        assert torch.equal(mine, theirs)
        assert not mine.requires_grad


def test_the_rate_follows_the_schedule_and_never_exceeds_the_one_asked_for(base, examples, seen):
    found = finetune(base, TASK, examples, examples, replace(RECIPE, epochs=3, warmup=0.3, log_every=1))
    rates = [rate for rate, _ in seen]
    assert rates == pytest.approx([RECIPE.lr * _linear(step, 18, 0.3) for step in range(18)])
    assert max(rates) == RECIPE.lr
    assert 0 < rates[-1] <= RECIPE.lr / 12  # the last step still moves, the next would not
    logged = [point["lr"] for point in found.curve if "lr" in point]
    assert logged == pytest.approx(rates)


@settings(deadline=None)
@given(steps=st.integers(1, 300), warmup=st.floats(0, 1))
def test_the_schedule_rises_to_its_peak_and_falls_to_zero_for_any_length(steps, warmup):
    rates = [_linear(step, steps, warmup) for step in range(steps + 1)]
    assert all(0 < rate <= 1 for rate in rates[:-1])
    assert rates[-1] == 0
    peak = rates.index(max(rates))
    assert all(a <= b + 1e-12 for a, b in pairwise(rates[: peak + 1]))
    assert all(a >= b - 1e-12 for a, b in pairwise(rates[peak:]))
    assert abs(peak - warmup * steps) <= 1


def test_weight_decay_is_on_matrices_only(base, examples):
    # without a gradient's pull AdamW only shrinks: lr 1, decay 0.5, and a loss that is flat
    recipe = replace(RECIPE, epochs=1, batch_size=len(examples), lr=1e-8, weight_decay=0.5e8, warmup=0.0)
    made = finetune(base, TASK, examples, examples, recipe).checkpoint.weights
    for name, weight in base.weights.items():
        expected = weight * 0.5 if weight.ndim == 2 else weight
        torch.testing.assert_close(made[name], expected, rtol=1e-5, atol=1e-6)


def test_every_example_is_seen_once_an_epoch(base, examples):
    batches = _epoch(examples.lengths, 7, np.random.default_rng(0))
    assert sorted(np.concatenate(batches)) == list(range(len(examples)))
    assert sorted(map(len, batches)) == [6] + [7] * 6
    again = _epoch(examples.lengths, 7, np.random.default_rng(0))
    assert [b.tolist() for b in again] == [b.tolist() for b in batches]
    other = _epoch(examples.lengths, 7, np.random.default_rng(1))
    assert [b.tolist() for b in other] != [b.tolist() for b in batches]


def test_what_is_saved_measures_exactly_what_was_reported(base, examples, tmp_path):
    found = finetune(base, TASK, examples, examples, replace(RECIPE, epochs=2, average=0.5))
    save_checkpoint(found.checkpoint, tmp_path / "saved", torch.float32)
    back = load_checkpoint(tmp_path / "saved")
    assert all(torch.equal(w, back.weights[name]) for name, w in found.checkpoint.weights.items())
    assert measure(back, TASK, examples) == found.score


def test_what_is_reported_is_what_transformers_measures(base, examples, tmp_path):
    found = finetune(base, TASK, examples, examples, replace(RECIPE, epochs=1))
    save_checkpoint(found.checkpoint, tmp_path / "saved", torch.float32)
    model = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        predictions = [int(model(torch.tensor([ids])).logits.argmax()) for ids in examples.input_ids]
    right = np.mean(np.array(predictions) == np.array(examples.targets))
    assert found.score.metrics["accuracy"] == pytest.approx(right)


@pytest.mark.parametrize(
    "value",
    [
        {"epochs": 0}, {"epochs": -1}, {"batch_size": 0}, {"batch_size": -2}, {"seed": -1}, {"lr": -1.0},
        {"lr": float("nan")}, {"lr": float("inf")}, {"weight_decay": -1.0}, {"warmup": -0.1}, {"warmup": 1.5},
        {"warmup": float("nan")}, {"average": -1.0}, {"average": 2.0},
    ],
    ids=str,
)  # fmt: skip
def test_a_recipe_out_of_range_is_refused_by_naming_the_value(base, examples, value):
    with pytest.raises(InputError, match=next(iter(value))):
        finetune(base, TASK, examples, examples, replace(RECIPE, **{"epochs": 1, **value}))


def test_a_finetuning_that_diverges_is_refused(base, examples):
    with pytest.raises(InputError, match="finite"):
        finetune(base, TASK, examples, examples, replace(RECIPE, epochs=1, lr=1e38))
