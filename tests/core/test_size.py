"""Sizes, against the paper's arithmetic and a count of our own."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_core.bert import BertConfig
from qbert_core.quantization import Plan, SitePlan, fp32_size, plan_size, preset_named, presets, sites_of
from qbert_core.quantization.plan import BITS, uniform_plan
from qbert_core.quantization.presets import map_layers


def bert_base(vocabulary: int = 30522) -> BertConfig:
    return BertConfig("sequence", ("a", "b"), 12, 12, 768, 3072, vocabulary, 512, 2)


TINY = BertConfig("sequence", ("a", "b"), 2, 2, 8, 12, 30, 10, 2)
# reference/q-bert.md, "Sizes of BERT-base", marked as arithmetic: preset -> total, without embedding
PAPER = {
    "baseline": (415.38, 324.46),
    "qbert-8": (103.85, 81.11),
    "qbert-4": (63.29, 40.56),
    "qbert-3": (53.15, 30.42),
    "qbert-2": (43.01, 20.28),
    "qbert-mp-2-3": (48.08, 25.35),
    "qbert-mp-2-4": (53.15, 30.42),
}


@pytest.mark.parametrize(("name", "sizes"), PAPER.items())
def test_weights_mb_is_the_papers_table(name, sizes):
    total = plan_size(bert_base(), preset_named(bert_base(), "sst2", name)).weights_mb
    embedding = 23_835_648 * (32 if name == "baseline" else 8) / 8 / 2**20
    assert round(total, 2) == sizes[0]
    assert round(total - embedding, 2) == sizes[1]


def test_weights_mb_with_five_and_four_high_layers_and_the_cased_vocabulary():
    assert (
        round(plan_size(bert_base(), preset_named(bert_base(), "mnli", "qbert-mp-2-4")).weights_mb, 2)
        == 51.46
    )
    assert (
        round(plan_size(bert_base(), preset_named(bert_base(), "mnli", "qbert-mp-2-3")).weights_mb, 2)
        == 46.39
    )
    cased = bert_base(28996)
    assert round(plan_size(cased, preset_named(cased, "conll03", "qbert-4")).weights_mb, 2) == 62.17


def test_fp32_size_counts_every_parameter_once():
    config = bert_base()
    size = fp32_size(config)
    assert size["total"] == size["embedding"] + size["encoder"]
    everything = sum(math.prod(shape) for shape in config.shapes().values()) * 4 / 2**20
    assert math.isclose(size["total"] + size["unquantized"], everything)
    assert round(size["total"], 2) == 415.38


@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_size_mb_is_what_must_be_stored(data):
    entries = tuple(
        (site.name, SitePlan(data.draw(st.sampled_from(BITS)), data.draw(st.integers(1, 40))))
        for site in sites_of(TINY)
    )
    size = plan_size(TINY, Plan("p", 8, entries))
    stored, params = 0, 0
    by_name = dict(entries)
    for name, shape in (TINY.embedding_shapes() | TINY.encoder_shapes(0) | TINY.encoder_shapes(1)).items():
        n = math.prod(shape)
        params += n
        entry = by_name.get(name.removesuffix(".weight"))
        if entry is None or name.endswith(".bias") or entry.bits == 32:
            stored += 4 * n
        else:
            stored += -(-n * entry.bits // 8) + 5 * min(entry.groups, shape[0])
    assert math.isclose(size.size_mb, stored / 2**20)
    assert math.isclose(size.embedding_mb + size.encoder_mb, size.size_mb)
    assert math.isclose(size.compression, 4 * params / stored)
    assert math.isclose(size.effective_bits, 8 * stored / params)


@pytest.mark.parametrize("layers", [1, 2, 3, 5, 6, 12, 24])
def test_mixed_precision_scales_with_the_depth(layers):
    high = map_layers((4, 5, 6, 7, 8, 9), layers)
    assert len(high) == round(6 * layers / 12)
    assert high == sorted(set(high))
    assert all(0 <= j < layers for j in high)


def test_mixed_precision_is_the_papers_at_twelve_layers_and_doubled_at_twenty_four():
    for paper in ((3, 4, 5, 7, 8, 9), (4, 5, 6, 7, 8), (2, 3, 4, 5)):
        assert map_layers(paper, 12) == [p - 1 for p in paper]
        assert map_layers(paper, 24) == sorted(j for p in paper for j in (2 * p - 2, 2 * p - 1))
    assert map_layers((4, 5, 6, 7, 8, 9), 6) == [1, 2, 3]


def test_presets_hold_the_papers_bits():
    plans = {plan.name: plan for plan in presets(bert_base(), "sst2")}
    assert list(plans)[:5] == ["baseline", "directq-8", "directq-4", "directq-3", "directq-2"]
    bits = {
        layer: plans["qbert-mp-2-3"].sites[f"bert.encoder.layer.{layer}.output.dense"].bits
        for layer in range(12)
    }
    assert [layer + 1 for layer, b in bits.items() if b == 3] == [4, 5, 6, 7, 8, 9]
    assert set(bits.values()) == {2, 3}
    for plan in plans.values():
        quantized = plan.name != "baseline"
        assert plan.activation_bits == (8 if quantized else 32)
        word = plan.sites["bert.embeddings.word_embeddings"]
        assert word.bits == (8 if quantized else 32)
        assert word.groups == (128 if plan.name.startswith("qbert") else 1)


def test_a_uniform_plan_at_32_bits_is_the_model_itself():
    plan = uniform_plan(sites_of(TINY), "x", bits=32, groups=5, embedding_bits=32, activation_bits=32)
    size = plan_size(TINY, plan)
    assert size.effective_bits == 32
    assert size.compression == 1
    assert plan.digest == preset_named(TINY, "sst2", "baseline").digest


# Q-BERT's appendix, as the reference states it: task -> 1-based layers with 3 (2/3 MP) and 4 bits (2/4 MP)
APPENDIX = {
    "sst2": ({4, 5, 6, 7, 8, 9}, {3, 4, 5, 7, 8, 9}),
    "mnli": ({5, 6, 7, 8}, {4, 5, 6, 7, 8}),
    "conll03": ({2, 3, 4, 5}, {4, 5, 6, 7, 8}),
    "squad": ({4, 5, 6, 7, 8, 9}, {4, 5, 6, 7, 8}),
}


@pytest.mark.parametrize("task", APPENDIX)
def test_mixed_presets_are_the_papers_appendix_for_every_task(task):
    plans = {plan.name: plan for plan in presets(bert_base(), task)}
    for name, high, layers in zip(("qbert-mp-2-3", "qbert-mp-2-4"), (3, 4), APPENDIX[task], strict=True):
        for site in sites_of(bert_base()):
            entry = plans[name].sites[site.name]
            expected = 8 if site.layer is None else high if site.layer + 1 in layers else 2
            assert (entry.bits, entry.groups) == (expected, 128), (name, site.name)


@pytest.mark.parametrize("task", APPENDIX)
def test_uniform_presets_have_one_width_and_the_methods_groups(task):
    for plan in presets(bert_base(), task):
        method, _, bits = plan.name.partition("-")
        if method not in ("directq", "qbert") or not bits.isdigit():
            continue
        found = {(e.bits, e.groups) for site, e in plan.entries if ".encoder." in site}
        assert found == {(int(bits), 1 if method == "directq" else 128)}


@pytest.mark.parametrize("layers", range(1, 25))
def test_every_depth_has_the_papers_share_of_high_layers_in_the_papers_stretch(layers):
    for paper in {tuple(sorted(high)) for both in APPENDIX.values() for high in both}:
        high = map_layers(paper, layers)
        exact = len(paper) * layers / 12
        assert abs(len(high) - exact) <= 0.5
        if exact % 1 != 0.5:
            assert len(high) == int(exact + 0.5)
        assert high == sorted(set(high))
        for j in high:  # no layer far from those of the paper gets high bits
            start, end = 12 * j / layers, 12 * (j + 1) / layers
            assert start < max(paper)
            assert end > min(paper) - 1


def test_the_papers_table_of_sizes_holds_for_the_cased_vocabulary_and_fewer_high_layers():
    cased = bert_base(28996)

    def total(config: BertConfig, task: str, name: str) -> float:
        return round(plan_size(config, preset_named(config, task, name)).weights_mb, 2)

    names = ("baseline", "qbert-8", "qbert-4", "qbert-3", "qbert-2")
    assert [total(cased, "sst2", name) for name in names] == [410.91, 102.73, 62.17, 52.03, 41.89]
    # six and four 3-bit layers; six and five 4-bit layers
    assert [total(cased, task, "qbert-mp-2-3") for task in ("squad", "conll03")] == [46.96, 45.27]
    assert [total(cased, task, "qbert-mp-2-4") for task in ("sst2", "conll03")] == [52.03, 50.34]
    assert fp32_size(bert_base())["embedding"] * 2**20 == 4 * 23_835_648
    assert fp32_size(cased)["embedding"] * 2**20 == 4 * 22_663_680
    assert fp32_size(cased)["encoder"] * 2**20 == 4 * 12 * 7_087_872


@settings(deadline=None, max_examples=80)
@given(data=st.data(), activations=st.sampled_from([8, 32]))
def test_what_must_be_stored_is_never_less_than_the_papers_count(data, activations):
    entries = tuple(
        (site.name, SitePlan(data.draw(st.sampled_from(BITS)), data.draw(st.integers(1, 40))))
        for site in sites_of(TINY)
    )
    size = plan_size(TINY, Plan("p", activations, entries))
    assert size.weights_mb <= size.size_mb
    fp32 = fp32_size(TINY)
    assert size.weights_mb <= fp32["total"]
    finer = tuple((name, SitePlan(e.bits, e.groups + 1)) for name, e in entries)
    assert plan_size(TINY, Plan("p", activations, finer)).size_mb >= size.size_mb
    assert plan_size(TINY, Plan("p", activations, finer)).weights_mb == size.weights_mb


def test_groups_beyond_the_rows_cost_nothing_more():
    def size(groups: int) -> float:
        plan = uniform_plan(sites_of(TINY), "x", bits=4, groups=groups, embedding_bits=4, activation_bits=8)
        return plan_size(TINY, plan).size_mb

    assert size(30) == size(10**6) > size(29)  # the largest site has 30 rows


def test_the_unquantized_model_is_as_large_as_its_tensors(tiny):
    stored = sum(w.nbytes for w in tiny.weights.values()) / 2**20
    size = fp32_size(tiny.config)
    assert size["total"] + size["unquantized"] == pytest.approx(stored, rel=1e-12)
    assert size["embedding"] + size["encoder"] == pytest.approx(size["total"], rel=1e-12)
    baseline = plan_size(tiny.config, preset_named(tiny.config, "sst2", "baseline"))
    norm = (
        2 * tiny.config.hidden * 4 / 2**20
    )  # the embeddings' LayerNorm: stored, but not in the paper's count
    assert baseline.size_mb == pytest.approx(size["total"] + norm, rel=1e-12)
    assert baseline.weights_mb == pytest.approx(size["total"], rel=1e-12)
