"""Incremental evaluation: transformers' own numbers, and bit for bit those of a full evaluation."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_core.checkpoints import Checkpoint
from qbert_core.errors import Cancelled
from qbert_core.evaluation import Evaluation, Evaluator, accuracy_by
from qbert_core.quantization import (
    ActivationRanges,
    Plan,
    SitePlan,
    calibrate,
    fake_quantize,
    preset_named,
    presets,
    sites_of,
)
from qbert_core.runtime.events import Silent
from qbert_core.tasks import Examples, task_named
from tests.tiny import WORDS

TASK = task_named("sst2")


@pytest.fixture(scope="module")
def examples(tiny: Checkpoint) -> Examples:
    generator = np.random.default_rng(0)
    words = [word for word in WORDS if word.isalpha()]
    sentences = [" ".join(generator.choice(words, generator.integers(1, 30))) for _ in range(60)]
    return TASK.examples(
        pd.DataFrame({"sentence": sentences, "label": generator.integers(0, 2, 60)}), tiny, "made up"
    )


@pytest.fixture(scope="module")
def ranges(tiny: Checkpoint, examples: Examples) -> ActivationRanges:
    return calibrate(tiny, TASK, examples)


def evaluator(tiny: Checkpoint, examples: Examples, ranges: ActivationRanges, **options: int) -> Evaluator:
    return Evaluator(tiny, TASK, examples, ranges, **{"tokens_per_batch": 128, **options})


def same(a: Evaluation, b: Evaluation) -> bool:
    """Everything measured, to the last bit."""
    return (
        a.score == b.score
        and a.baseline == b.baseline
        and a.predictions == b.predictions
        and a.flips == b.flips
        and a.attention_kl == b.attention_kl
        and a.indices == b.indices
    )


def test_calibrated_ranges_are_those_transformers_modules_see(tiny, examples, ranges):
    model = transformers.BertForSequenceClassification.from_pretrained(tiny.folder, attn_implementation="eager")
    model.eval()
    seen: dict[str, list[float]] = {}
    for name, module in model.named_modules():
        if name.startswith("bert.encoder.layer.") and isinstance(module, torch.nn.Linear):

            def look(_: object, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
                low, high = seen.setdefault(name, [0.0, 0.0])
                seen[name] = [min(low, float(inputs[0].min())), max(high, float(inputs[0].max()))]

            module.register_forward_pre_hook(look)
    with torch.no_grad():
        for ids in examples.input_ids:  # one sentence at a time: nothing is padded
            model(torch.tensor([ids]))
    assert set(seen) == set(ranges.ranges)
    for name, (low, high) in ranges.ranges.items():
        assert [low, high] == pytest.approx(seen[name], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["qbert-4", "directq-3", "qbert-mp-2-4"])
def test_a_plan_gives_what_transformers_gives_with_the_quantized_weights(tiny, examples, ranges, name):
    plan = replace(preset_named(tiny.config, "sst2", name), activation_bits=32)
    ours = evaluator(tiny, examples, ranges).evaluate(plan)

    def load() -> transformers.BertForSequenceClassification:
        model = transformers.BertForSequenceClassification.from_pretrained(
            tiny.folder, attn_implementation="eager"
        )
        return model.double().eval()

    reference, quantized = load(), load()
    state = quantized.state_dict()
    for site in sites_of(tiny.config):
        entry = plan.sites[site.name]
        state[site.parameter].copy_(fake_quantize(tiny.weights[site.parameter], entry.bits, entry.groups))
    divergence, predictions, before = [], [], []
    with torch.no_grad():
        for ids in examples.input_ids:
            p = reference(torch.tensor([ids]), output_attentions=True)
            q = quantized(torch.tensor([ids]), output_attentions=True)
            predictions.append(int(q.logits.argmax()))
            before.append(int(p.logits.argmax()))
            layers = zip(p.attentions, q.attentions, strict=True)
            # (heads, queries, keys): over keys, then the mean over query positions
            divergence.append(torch.stack([(a * (a / b).log()).sum(-1).mean(-1)[0] for a, b in layers]))
    assert list(ours.predictions) == predictions
    right = np.array(predictions) == np.array(examples.targets)
    assert ours.score.metrics["accuracy"] == right.mean()
    expected = torch.stack(divergence).mean(0)
    torch.testing.assert_close(torch.tensor(ours.attention_kl).double(), expected, rtol=1e-3, atol=1e-6)

    changed = [i for i, (a, b) in enumerate(zip(before, predictions, strict=True)) if a != b]
    assert [flip.index for flip in ours.flips] == changed
    for flip in ours.flips:
        assert (flip.before, flip.after) == (before[flip.index], predictions[flip.index])
        assert flip.was_right == (before[flip.index] == examples.targets[flip.index])
        assert flip.is_right == bool(right[flip.index])


def test_the_baseline_diverges_nowhere_and_runs_nothing(tiny, examples, ranges):
    result = evaluator(tiny, examples, ranges).evaluate(preset_named(tiny.config, "sst2", "baseline"))
    assert result.flips == ()
    assert result.score == result.baseline
    assert set(np.ravel(result.attention_kl)) == {0.0}
    assert result.layers_run == 0


class CancelAfter(Silent):
    """Raises Cancelled at the `checks`-th check."""

    def __init__(self, checks: int) -> None:
        self.left = checks

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Cancelled


edits = st.lists(
    st.tuples(
        st.integers(0, 20),  # site
        st.sampled_from([1, 2, 3, 4, 8, 32]),
        st.sampled_from([1, 3, 128]),
        st.sampled_from(["edit", "edit", "undo", "activations", "preset", "cancel", "no attention"]),
        st.integers(0, 30),
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=25)
@given(steps=edits, cache=st.sampled_from([0, 100_000, 2**30]))
def test_after_any_edits_the_result_is_that_of_a_fresh_full_evaluation(tiny, examples, ranges, steps, cache):
    living = evaluator(tiny, examples, ranges, cache_bytes=cache)
    known = presets(tiny.config, "sst2")
    sites = sites_of(tiny.config)
    history = [known[6]]
    for site, bits, groups, kind, number in steps:
        plan = history[-1]
        if kind == "undo" and len(history) > 1:
            history.pop()
            plan = history[-1]
        elif kind == "activations":
            plan = replace(plan, activation_bits=40 - plan.activation_bits)
        elif kind == "preset":
            plan = known[number % len(known)]
        else:
            plan = plan.with_sites({sites[site].name: SitePlan(bits, groups)})
        history.append(plan)
        if kind == "cancel":
            try:
                living.evaluate(plan, events=CancelAfter(number))
            except Cancelled:
                continue
        attention = kind != "no attention"
        fresh = evaluator(tiny, examples, ranges, cache_bytes=0)
        assert same(living.evaluate(plan, attention=attention), fresh.evaluate(plan, attention=attention))


def edited(plan: Plan, layer: int) -> Plan:
    return plan.with_sites({f"bert.encoder.layer.{layer}.output.dense": SitePlan(2, 128)})


def test_an_edit_at_a_layer_runs_only_the_layers_from_it_on(tiny, examples, ranges):
    living = evaluator(tiny, examples, ranges)
    plan = preset_named(tiny.config, "sst2", "qbert-4")
    first = living.evaluate(plan)
    assert first.layers_run == first.layers_total
    batches = first.layers_total // 3
    for layer in range(3):
        result = living.evaluate(edited(plan, layer))
        assert result.layers_run == batches * (3 - layer)
        assert result.layers_total == first.layers_total
    assert living.evaluate(plan).layers_run == 0  # everything is still known


def test_an_embedding_edit_runs_everything_and_a_classifier_has_nothing_to_edit(tiny, examples, ranges):
    living = evaluator(tiny, examples, ranges)
    plan = preset_named(tiny.config, "sst2", "qbert-4")
    living.evaluate(plan)
    result = living.evaluate(plan.with_sites({"bert.embeddings.word_embeddings": SitePlan(4, 1)}))
    assert result.layers_run == result.layers_total


def test_partial_results_grow_over_the_same_examples_for_every_plan(tiny, examples, ranges):
    living = evaluator(tiny, examples, ranges)
    first = list(living.stream(preset_named(tiny.config, "sst2", "qbert-4")))
    second = list(living.stream(preset_named(tiny.config, "sst2", "directq-2")))
    assert len(first) > 3
    assert [r.indices for r in first] == [r.indices for r in second]
    assert all(set(a.indices) < set(b.indices) for a, b in pairwise(first))
    assert [r.complete for r in first] == [False] * (len(first) - 1) + [True]
    assert first[-1].indices == tuple(range(60))
    for partial in first:
        chosen = [examples.targets[i] == p for i, p in zip(partial.indices, partial.predictions, strict=True)]
        assert partial.score.metrics["accuracy"] == pytest.approx(np.mean(chosen))
        assert partial.score.interval[0] <= partial.score.metrics["accuracy"] <= partial.score.interval[1]


def test_the_order_of_batches_depends_on_the_seed_alone(tiny, examples, ranges):
    plan = preset_named(tiny.config, "sst2", "qbert-4")

    def order(seed: int) -> list[tuple[int, ...]]:
        return [r.indices for r in evaluator(tiny, examples, ranges, seed=seed).stream(plan)]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_evaluating_changes_no_weight(tiny, examples, ranges):
    before = {name: w.clone() for name, w in tiny.weights.items()}
    living = evaluator(tiny, examples, ranges)
    for plan in presets(tiny.config, "sst2"):
        living.evaluate(plan)
    assert all(torch.equal(before[name], w) for name, w in tiny.weights.items())


def test_two_threads_may_share_an_evaluator(tiny, examples, ranges):
    living = evaluator(tiny, examples, ranges)
    plans = presets(tiny.config, "sst2")
    results: dict[str, Evaluation] = {}

    def work(mine: list[Plan]) -> None:
        for plan in mine:
            results[plan.name] = living.evaluate(plan)

    threads = [threading.Thread(target=work, args=(plans[i::2],)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for plan in plans:
        assert same(results[plan.name], evaluator(tiny, examples, ranges).evaluate(plan))


def test_kept_states_stay_within_their_bytes(tiny, examples, ranges):
    cache = 300_000
    living = evaluator(tiny, examples, ranges, cache_bytes=cache)
    for plan in presets(tiny.config, "sst2"):
        living.evaluate(plan)
        assert living._states.nbytes <= cache // 2
        assert living._reference_bytes <= cache // 2


def test_real_sentences_give_what_the_checkpoints_readme_measured(shared: Path):
    """The table beside the checkpoint is over the whole dev set; the even half must lie near it."""
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.tasks.data import read_table

    checkpoint = load_checkpoint(shared / "checkpoints" / "minilm-sst2")
    table = read_table(shared / "data" / "sst2" / "validation_even.parquet")
    data = TASK.examples(table, checkpoint, "even")
    living = Evaluator(checkpoint, TASK, data, ActivationRanges({}, "none", 0))
    for name, accuracy, divergence in (("qbert-4", 0.897, 0.092), ("directq-4", 0.602, 0.867)):
        result = living.evaluate(replace(preset_named(checkpoint.config, "sst2", name), activation_bits=32))
        assert result.score.interval[0] <= accuracy <= result.score.interval[1]
        assert np.mean(result.attention_kl) == pytest.approx(divergence, rel=0.05)


def test_accuracy_by_kind_counts_every_example_once():
    slices = accuracy_by(["b", "a", "b", "b"], [True, False, False, True])
    assert [(s.name, s.right, s.n) for s in slices] == [("a", 0, 1), ("b", 2, 3)]
    assert slices[1].accuracy == pytest.approx(2 / 3)
    assert slices[1].interval[0] < 2 / 3 < slices[1].interval[1]
