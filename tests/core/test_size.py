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
    assert round(plan_size(bert_base(), preset_named(bert_base(), "mnli", "qbert-mp-2-4")).weights_mb, 2) == 51.46
    assert round(plan_size(bert_base(), preset_named(bert_base(), "mnli", "qbert-mp-2-3")).weights_mb, 2) == 46.39
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
        layer: plans["qbert-mp-2-3"].sites[f"bert.encoder.layer.{layer}.output.dense"].bits for layer in range(12)
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
