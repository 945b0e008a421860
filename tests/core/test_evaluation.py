"""Incremental evaluation: transformers' own numbers, and bit for bit those of a full evaluation."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.errors import Cancelled, InputError
from qbert_core.evaluation import Evaluation, Evaluator, accuracy_by, calibration
from qbert_core.evaluation.attention import attention_kl
from qbert_core.evaluation.prefix import prefix_keys
from qbert_core.parallel import torch_threads
from qbert_core.quantization import (
    ActivationRanges,
    Plan,
    Quantizer,
    SitePlan,
    calibrate,
    fake_quantize,
    preset_named,
    presets,
    sites_of,
)
from qbert_core.runtime.events import Flag, Silent
from qbert_core.tasks import Examples, task_named
from qbert_core.tasks.sst2 import Sst2
from tests.tiny import WORDS, make_tiny

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
    model = transformers.BertForSequenceClassification.from_pretrained(
        tiny.folder, attn_implementation="eager"
    )
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


# --- 8-bit inputs, against transformers with hooks


def input_by_definition(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    scale = (np.float32(high) - np.float32(low)) / np.float32(255) or np.float32(1)
    zero = np.rint(np.float32(-low) / scale)
    p = np.clip(np.rint(x.numpy() / scale) + zero, 0, 255)
    return torch.from_numpy(((p - zero) * scale).astype(np.float32))


@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize("name", ["qbert-8", "qbert-4", "directq-3"])
def test_8_bit_inputs_are_measured_as_transformers_with_hooks_measures_them(
    tiny, examples, ranges, name, integers
):
    # an input on the border of two codes may fall to either side by rounding: hence the slack
    plan = preset_named(tiny.config, "sst2", name)
    living = evaluator(tiny, examples, ranges, integers=integers)
    ours = living.evaluate(plan)
    reference, quantized = (
        transformers.BertForSequenceClassification.from_pretrained(
            tiny.folder, attn_implementation="eager"
        ).eval()
        for _ in range(2)
    )
    modules = dict(quantized.named_modules())
    for site in sites_of(tiny.config):
        entry = plan.sites[site.name]
        modules[site.name].weight.data = fake_quantize(tiny.weights[site.parameter], entry.bits, entry.groups)
        if site.layer is not None:
            low, high = ranges.ranges[site.name]
            modules[site.name].register_forward_pre_hook(
                lambda _, args, low=low, high=high: (input_by_definition(args[0], low, high),)
            )
    divergence = []
    with torch.no_grad():
        for ids, prediction in zip(examples.input_ids, ours.predictions, strict=True):
            p = reference(torch.tensor([ids]), output_attentions=True)
            q = quantized(torch.tensor([ids]), output_attentions=True)
            assert prediction == int(q.logits.argmax()) or float(q.logits.diff().abs()) < 0.02
            pairs = zip(p.attentions, q.attentions, strict=True)
            divergence.append([entropy(a.numpy(), b.numpy(), axis=-1).mean(-1)[0] for a, b in pairs])
    np.testing.assert_allclose(ours.attention_kl, np.mean(divergence, axis=0), rtol=0.05, atol=1e-4)
    weights_only = living.evaluate(replace(plan, activation_bits=32)).attention_kl
    assert np.abs(np.array(ours.attention_kl) - weights_only).max() > 1e-5  # the inputs do matter


@pytest.mark.parametrize("integers", [True, False])
def test_only_the_inputs_of_quantized_linear_layers_are_quantized(tiny, ranges, integers):
    plan = preset_named(tiny.config, "sst2", "qbert-4")
    plan = plan.with_sites({s: SitePlan(32, 1) for s, _ in plan.entries if ".layer.1." in s})
    linear = Quantizer(tiny, ranges, integers=integers).model(plan).linear
    assert linear is not None
    for site in sites_of(tiny.config):
        if site.layer is None:
            continue
        weight, bias = tiny.weights[site.parameter], tiny.weights[f"{site.name}.bias"]
        x = 2 * torch.randn(2, 5, site.columns, generator=torch.Generator().manual_seed(1))  # some clamped
        found = linear(site.name, x)
        if site.layer == 1:
            assert torch.equal(found, torch.nn.functional.linear(x, weight, bias))
            continue
        entry = plan.sites[site.name]
        made = fake_quantize(weight, entry.bits, entry.groups).double()
        inputs = input_by_definition(x, *ranges.ranges[site.name]).double()
        expected = torch.nn.functional.linear(inputs, made, bias.double())
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
        untouched = torch.nn.functional.linear(x.double(), made, bias.double())
        assert float((untouched - expected).abs().max()) > 1e-3


def test_an_inputs_quantizer_is_the_weights_definition_and_an_unused_range_is_harmless():
    made = ActivationRanges({"both": (-1.5, 3.25), "positive": (0.0, 2.0), "unused": (0.0, 0.0)}, "", 0)
    for site, (low, high) in made.ranges.items():
        expected = np.float32(high - low) / np.float32(255) or np.float32(1)
        assert made.scale_and_zero(site) == (expected, np.rint(np.float32(-low) / expected))


def test_a_plan_that_leaves_inputs_alone_has_plain_linear_layers(tiny, ranges):
    plan = preset_named(tiny.config, "sst2", "qbert-4")
    assert Quantizer(tiny, ranges).model(replace(plan, activation_bits=32)).linear is None
    tables_only = plan.with_sites({s: SitePlan(32, 1) for s, _ in plan.entries if ".encoder." in s})
    assert Quantizer(tiny, ranges).model(tables_only).linear is None


# --- calibration


def test_calibration_takes_the_training_data_where_it_is_given_else_the_demos(
    tiny, examples, ranges, tmp_path
):
    path = tmp_path / "train.csv"
    examples.rows.to_csv(path, index=False)
    given = calibration(tiny, TASK, examples, str(path))
    assert (given.source, given.examples, given.digest) == (str(path), 60, ranges.digest)
    demo = calibration(tiny, TASK, examples, None)
    assert (demo.source, demo.examples) == ("demo train", 256)
    assert demo.digest != ranges.digest


def test_calibration_does_not_see_labels(tiny, examples, ranges):
    turned = TASK.examples(examples.rows.assign(label=1 - examples.rows["label"]), tiny, "turned")
    assert calibrate(tiny, TASK, turned).digest == ranges.digest


def test_calibration_can_be_cancelled(tiny, examples):
    with pytest.raises(Cancelled):
        calibrate(tiny, TASK, examples, CancelAfter(2))


# --- attention


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**20), lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_attention_kl_is_scipys_relative_entropy_over_the_real_positions(seed, lengths):
    width = max(lengths)
    generator = torch.Generator().manual_seed(seed)
    padding = torch.arange(width) >= torch.tensor(lengths)[:, None]
    p, q = (
        (torch.randn(len(lengths), 2, width, width, generator=generator) * 3).masked_fill(
            padding[:, None, None, :], torch.finfo(torch.float32).min
        )
        for _ in range(2)
    )
    found = attention_kl(torch.log_softmax(p, -1), q, torch.tensor(lengths))
    for i, length in enumerate(lengths):
        real = [s[i, :, :length, :length].double().softmax(-1).numpy() for s in (p, q)]
        np.testing.assert_allclose(found[i].numpy(), entropy(*real, axis=-1).mean(-1), rtol=1e-4, atol=1e-6)
    assert not attention_kl(torch.log_softmax(p, -1), p, torch.tensor(lengths)).any()


def test_attention_is_measured_afterwards_where_it_was_not(tiny, examples, ranges):
    living = evaluator(tiny, examples, ranges)
    plan = preset_named(tiny.config, "sst2", "qbert-3")
    first = living.evaluate(plan, attention=False)
    assert first.attention_kl is None
    assert living.evaluate(plan).layers_run == first.layers_total
    assert living.evaluate(plan, attention=False).layers_run == 0
    assert living.evaluate(plan).layers_run == 0


# --- incremental, to the last bit of the logits


class Exact(Sst2):
    """SST-2 whose predictions are the logits themselves."""

    def predict(self, logits, batch):
        return [tuple(row) for row in logits.tolist()]

    def correct(self, predictions, examples, indices):
        return [int(np.argmax(p)) == examples.targets[i] for p, i in zip(predictions, indices, strict=True)]


@settings(deadline=None, max_examples=25)
@given(
    steps=st.lists(
        st.tuples(
            st.integers(-1, 2),  # layer, or the embeddings
            st.sampled_from([1, 2, 4, 8, 32]),
            st.sampled_from([8, 32]),
            st.sampled_from([98.0, 100.0]),
            st.booleans(),  # attention
            st.none() | st.integers(0, 40),  # cancelled at this check
        ),
        min_size=1,
        max_size=7,
    ),
    cache=st.sampled_from([0, 12_000, 120_000, 2**30]),  # nothing, a batch or two, about half, everything
    integers=st.booleans(),
)
def test_logits_after_any_edits_are_those_of_a_fresh_evaluation_bit_for_bit(
    tiny, examples, ranges, steps, cache, integers
):
    some = examples.take(range(0, 60, 4))
    options = {"seed": 1, "tokens_per_batch": 48, "integers": integers}
    living = Evaluator(tiny, Exact(), some, ranges, cache_bytes=cache, **options)
    plan = preset_named(tiny.config, "sst2", "qbert-4")
    for layer, bits, activations, clip, attention, checks in steps:
        part = "bert.embeddings." if layer < 0 else f"bert.encoder.layer.{layer}."
        plan = plan.with_sites({s: SitePlan(bits, 3) for s, _ in plan.entries if s.startswith(part)})
        plan = replace(plan, activation_bits=activations, clip=clip)
        try:
            found = living.evaluate(
                plan, attention=attention, events=None if checks is None else CancelAfter(checks)
            )
        except Cancelled:
            continue  # what was kept until then serves the next edits
        fresh = Evaluator(tiny, Exact(), some, ranges, cache_bytes=0, **options)
        assert same(found, fresh.evaluate(plan, attention=attention))


def test_what_has_no_effect_runs_nothing(tiny, examples, ranges):
    living = evaluator(tiny, examples, ranges)
    plan = preset_named(tiny.config, "sst2", "qbert-4")
    living.evaluate(plan)
    query = "bert.encoder.layer.0.attention.self.query"
    for same_effect in (
        replace(plan, name="another name"),
        plan.with_sites({query: SitePlan(4, 10**6)}),  # above its rows: a group a row, as before
    ):
        assert living.evaluate(same_effect).layers_run == 0
    for other in (replace(plan, activation_bits=32), replace(plan, clip=99.0)):
        result = living.evaluate(other)
        assert result.layers_run == result.layers_total


def test_a_full_precision_prefix_is_the_references(tiny, examples, ranges):
    living = evaluator(tiny, examples, ranges)
    baseline = preset_named(tiny.config, "sst2", "baseline")
    for layer in (2, 1, 0):
        result = living.evaluate(edited(baseline, layer))
        assert result.layers_run == result.layers_total // 3 * (3 - layer)
        assert np.max(result.attention_kl[:layer], initial=0.0) == 0


@pytest.mark.parametrize("changes", [{"activation_bits": 8}, {"clip": 99.0}])
def test_settings_of_quantization_do_nothing_to_a_plan_that_quantizes_nothing(
    tiny, examples, ranges, changes
):
    plan = replace(preset_named(tiny.config, "sst2", "baseline"), **changes)
    result = evaluator(tiny, examples, ranges).evaluate(plan)
    assert result.flips == ()
    assert set(np.ravel(result.attention_kl)) == {0.0}
    assert result.layers_run == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_what_was_finished_before_a_cancel_is_not_run_again(tiny, examples, ranges, threads):
    class AfterTwoBatches(Flag):
        def progress(self, done, total, partial=None):
            if done == 2:
                self.cancel()

    living = evaluator(tiny, examples, ranges)
    plan = preset_named(tiny.config, "sst2", "qbert-2")
    with torch_threads(threads), pytest.raises(Cancelled):
        living.evaluate(plan, events=AfterTwoBatches())
    again = living.evaluate(plan)
    left = again.layers_total - 2 * 3
    # several threads may have finished more than the two that were counted
    assert again.layers_run == left if threads == 1 else 0 < again.layers_run <= left
    assert same(again, evaluator(tiny, examples, ranges).evaluate(plan))


def test_numbers_do_not_depend_on_how_many_threads_there_are(tiny, examples, ranges):
    plan, found = edited(preset_named(tiny.config, "sst2", "qbert-3"), 1), []
    for count in (1, 2, 5):
        with torch_threads(count):
            found.append(list(evaluator(tiny, examples, ranges).stream(plan, losses=True)))
    assert len(found[0]) > 3
    for other in found[1:]:
        assert len(other) == len(found[0])
        assert all(same(a, b) for a, b in zip(found[0], other, strict=True))
        assert all(np.array_equal(a.losses, b.losses) for a, b in zip(found[0], other, strict=True))


def test_keys_of_boundaries_name_exactly_what_lies_before_them(tiny):
    plan = preset_named(tiny.config, "sst2", "qbert-4")
    keys = prefix_keys(tiny.config, plan)

    def agreeing(other: Plan) -> list[bool]:
        return [a == b for a, b in zip(keys, prefix_keys(tiny.config, other), strict=True)]

    assert len(set(keys)) == 4
    for layer in range(3):
        assert agreeing(edited(plan, layer)) == [boundary <= layer for boundary in range(4)]
    assert agreeing(plan.with_sites({"bert.embeddings.position_embeddings": SitePlan(4, 2)})) == [False] * 4
    assert agreeing(replace(plan, activation_bits=32)) == [True, False, False, False]


# --- streaming


def test_a_suspended_stream_leaves_gradients_on_for_its_reader(tiny, examples, ranges):
    for _ in evaluator(tiny, examples, ranges).stream(preset_named(tiny.config, "sst2", "qbert-4")):
        assert torch.is_grad_enabled()


def test_a_stream_that_is_closed_half_way_lets_the_next_one_in(tiny, examples, ranges):
    living = evaluator(tiny, examples, ranges)
    plan = preset_named(tiny.config, "sst2", "qbert-4")
    stream = living.stream(plan)
    next(stream)
    stream.close()
    thread = threading.Thread(target=living.evaluate, args=(plan,), daemon=True)
    thread.start()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert same(living.evaluate(plan), evaluator(tiny, examples, ranges).evaluate(plan))


def test_progress_tells_every_batch_with_the_result_so_far(tiny, examples, ranges):
    class Listener(Silent):
        def __init__(self):
            self.told = []

        def progress(self, done, total, partial=None):
            self.told.append((done, total, partial))

    listener = Listener()
    result = evaluator(tiny, examples, ranges).evaluate(
        preset_named(tiny.config, "sst2", "qbert-4"), events=listener
    )
    batches = result.layers_total // 3
    assert [(done, total) for done, total, _ in listener.told] == [(i + 1, batches) for i in range(batches)]
    assert listener.told[-1][2] is result


def test_a_model_that_does_not_fit_the_task_is_refused(tmp_path, examples, ranges):
    other = load_checkpoint(make_tiny(tmp_path / "tagger", "token"))
    with pytest.raises(InputError, match="token head"):
        Evaluator(other, TASK, examples, ranges)


@pytest.mark.parametrize("name", ["baseline", "qbert-4", "qbert-8"])
def test_a_model_without_finite_logits_is_refused(tiny, examples, ranges, name):
    weights = {**tiny.weights}
    norm = "bert.encoder.layer.1.output.LayerNorm.weight"
    weights[norm] = weights[norm].sign() * 3e38
    huge = replace(tiny, weights=MappingProxyType(weights))
    with pytest.raises(InputError, match="finite"):
        evaluator(huge, examples, ranges).evaluate(preset_named(tiny.config, "sst2", name))


@pytest.mark.parametrize("integers", [True, False])
def test_layers_that_share_an_input_may_have_different_ranges_for_it(tiny, ranges, integers):
    query, key = (f"bert.encoder.layer.0.attention.self.{part}" for part in ("query", "key"))
    different = replace(ranges, ranges={**ranges.ranges, query: (-1.0, 1.0), key: (-3.0, 2.0)})
    plan = preset_named(tiny.config, "sst2", "qbert-4")
    x = 2 * torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0))
    both = Quantizer(tiny, different, integers=integers).model(plan).linear
    assert both is not None
    both(query, x)
    alone = Quantizer(tiny, different, integers=integers).model(plan).linear
    assert alone is not None
    assert torch.equal(both(key, x), alone(key, x))


def test_the_bytes_of_kept_states_are_counted_right_when_a_state_is_replaced(tiny, examples, ranges):
    living = evaluator(tiny, examples, ranges)
    for plan in presets(tiny.config, "sst2"):
        for attention in (False, True):
            living.evaluate(plan, attention=attention)
            held = sum(state.nbytes for state in living._states._states.values())
            assert living._states.nbytes == held
