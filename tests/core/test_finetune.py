"""Finetuning: it learns, it repeats, it averages what it says."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType

import pandas as pd
import pytest
import torch

from qbert_core.checkpoints import Checkpoint, load_base
from qbert_core.errors import Cancelled, InputError
from qbert_core.runtime.events import Flag, Silent
from qbert_core.tasks import Examples, task_named
from qbert_core.training import Recipe, average, finetune
from qbert_core.training.finetune import _linear, measure
from tests.tiny import make_tiny

TASK = task_named("sst2")
GOOD = ["a great film", "good story", "i love it", "funny and warm", "a clever moving movie", "very good actor"]
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
