"""The paper's experiments as plans, without any model."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbert_core.allocation.experiments import (
    Variant,
    group_counts,
    methods,
    modules,
    one_at_a_time,
)
from qbert_core.bert import BertConfig
from qbert_core.curvature import BlockSensitivity, Sensitivity
from qbert_core.errors import InputError
from qbert_core.quantization import Plan, SitePlan, plan_size, preset_named, sites_of


def config(layers: int = 12, heads: int = 12, hidden: int = 768) -> BertConfig:
    """BERT-base, uncased, unless told otherwise."""
    return BertConfig(
        head="sequence",
        labels=("negative", "positive"),
        layers=layers,
        heads=heads,
        hidden=hidden,
        intermediate=4 * hidden,
        vocabulary=30522,
        positions=512,
        token_types=2,
    )


BASE = config()


def measured(lambdas: list[tuple[float, float]]) -> Sensitivity:
    """A sensitivity with two eigenvalues a layer."""
    blocks = tuple(
        BlockSensitivity(f"bert.encoder.layer.{i}", i, "layer", row, (0.0, 0.0))
        for i, row in enumerate(lambdas)
    )
    return Sensitivity(blocks, runs=2, examples=10, seconds=0.0, hvp_count=0)


# layer i: |mean| = i, std = 2 (12 - i): Omega = 24 - i falls where the mean alone rises
FALLING = measured([(i - 2.0 * (12 - i), i + 2.0 * (12 - i)) for i in range(12)])


def high(plan: Plan, low: int) -> set[int]:
    """Layers with more than `low` bits; all matrices of a layer must have the same."""
    by_layer: dict[int, set[int]] = {}
    for site in sites_of(BASE):
        if site.layer is not None:
            by_layer.setdefault(site.layer, set()).add(plan.sites[site.name].bits)
    assert all(len(bits) == 1 for bits in by_layer.values())
    return {layer for layer, bits in by_layer.items() if bits != {low}}


def named(variants: tuple[Variant, ...]) -> dict[str, Variant]:
    by_name = {variant.name: variant for variant in variants}
    assert len(by_name) == len(variants)
    assert variants[0].method == variants[0].name == "baseline"
    return by_name


def test_methods_are_the_rows_of_table_1_and_the_controls() -> None:
    rows = named(methods(BASE, "sst2", FALLING))
    assert high(rows["qbert-mp-2-4-high-6"].plan, 2) == {0, 1, 2, 3, 4, 5}
    assert high(rows["hawq-2-4-high-6"].plan, 2) == {6, 7, 8, 9, 10, 11}
    assert high(rows["reverse-2-4-high-6"].plan, 2) == {6, 7, 8, 9, 10, 11}
    assert high(rows["qbert-mp-2-4-paper"].plan, 2) == {2, 3, 4, 6, 7, 8}  # 3,4,5,7,8,9 from 1
    assert high(rows["qbert-mp-2-3-paper"].plan, 2) == {3, 4, 5, 6, 7, 8}
    for method in ("directq", "qbert"):
        for bits in (8, 4, 3, 2):
            row = rows[f"{method}-{bits}"]
            assert row.method == method
            assert row.plan.digest == preset_named(BASE, "sst2", row.name).digest
    assert len(rows) == 1 + 8 + 2 * 4
    # two rules that agree are two rows with one digest
    assert rows["hawq-2-4-high-6"].plan.digest == rows["reverse-2-4-high-6"].plan.digest
    assert rows["hawq-2-4-high-6"].plan.digest != rows["qbert-mp-2-4-high-6"].plan.digest


def test_every_pair_of_widths_takes_the_number_of_layers_of_the_papers_preset() -> None:
    names = named(methods(BASE, "mnli", FALLING))
    assert {"qbert-mp-2-4-high-5", "qbert-mp-2-3-high-4", "hawq-2-4-high-5", "reverse-2-3-high-4"} <= set(
        names
    )


def test_another_number_of_high_layers_leaves_the_papers_layers_out() -> None:
    names = named(methods(BASE, "mnli", FALLING, high=5))
    assert "qbert-mp-2-4-paper" in names  # has five
    assert "qbert-mp-2-3-paper" not in names  # has four
    assert high(names["reverse-2-3-high-5"].plan, 2) == {7, 8, 9, 10, 11}


eigenvalues = st.floats(-1e3, 1e3, allow_subnormal=False)


@given(
    st.lists(st.tuples(eigenvalues, eigenvalues), min_size=1, max_size=12).flatmap(
        lambda rows: st.tuples(st.just(rows), st.none() | st.integers(0, len(rows)))
    ),
    st.sampled_from(["sst2", "mnli", "conll03", "squad"]),
)
def test_mixed_plans_of_a_pair_are_equally_large_whatever_the_sensitivity(given_rows, task) -> None:
    rows, count = given_rows
    shape = config(layers=len(rows))
    variants = methods(shape, task, measured(rows), count)
    for pair in ("2-4", "2-3"):
        sizes = {plan_size(shape, v.plan) for v in variants if f"-{pair}-" in v.name}
        assert len(sizes) == 1
    # the reverse order takes the layers Omega takes last
    omega, reverse = (
        {site for site, entry in v.plan.entries if entry.bits == 4 and ".encoder." in site}
        for name in ("qbert-mp", "reverse")
        for v in variants
        if v.method == name and "-2-4-" in v.name
    )
    if len(omega) * 2 <= 6 * len(rows):
        assert not omega & reverse
    else:
        assert len(omega | reverse) == 6 * len(rows)


@pytest.mark.parametrize("count", [-1, 13])
def test_high_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"high is {count}; expected 0 to 12"):
        methods(BASE, "sst2", FALLING, count)


def test_a_sensitivity_of_other_layers_is_refused() -> None:
    with pytest.raises(InputError, match=r"of layers \[0, 1\]; the model has 0..11"):
        methods(BASE, "sst2", measured([(1.0, 1.0), (2.0, 2.0)]))
    halves = replace(
        FALLING, blocks=tuple(replace(b, kind="ffn", name=b.name + ".ffn") for b in FALLING.blocks)
    )
    with pytest.raises(InputError, match="--block layer"):
        methods(BASE, "sst2", halves)


def test_group_counts_change_groups_and_nothing_else() -> None:
    rows = named(group_counts(BASE, "sst2", ["1", "heads", "128", "rows"], None))
    start = preset_named(BASE, "sst2", "qbert-4")
    for row in list(rows.values())[1:]:
        assert {s: e.bits for s, e in row.plan.entries} == {s: e.bits for s, e in start.entries}
        assert row.plan.activation_bits == 8
    assert rows["groups-1"].plan.digest == preset_named(BASE, "sst2", "directq-4").digest
    assert rows["groups-1"].method == "directq"
    assert {e.groups for _, e in rows["groups-heads"].plan.entries} == {2, 12}  # 2 rows of token types
    query, inner = "bert.encoder.layer.0.attention.self.query", "bert.encoder.layer.0.intermediate.dense"
    assert rows["groups-rows"].plan.sites[query].groups == 768
    assert rows["groups-rows"].plan.sites[inner].groups == 3072
    assert rows["groups-rows"].plan.sites["bert.embeddings.word_embeddings"].groups == 30522


@given(st.sampled_from([12, 24, 128, 384, 768, 1024]), st.integers(1, 4))
def test_128_equivalent_is_6_rows_a_group_of_a_matrix_as_high_as_the_model_is_wide(hidden, layers) -> None:
    shape = config(layers=layers, heads=1, hidden=hidden)
    plan = group_counts(shape, "sst2", ["128-equivalent"], None)[1].plan
    groups = plan.sites["bert.encoder.layer.0.attention.self.query"].groups
    assert groups == plan.sites["bert.encoder.layer.0.intermediate.dense"].groups
    assert hidden / groups == pytest.approx(6, rel=0.02)


def test_at_berts_width_128_equivalent_is_128() -> None:
    equal, plain = group_counts(BASE, "sst2", ["128-equivalent", "128"], None)[1:]
    assert equal.plan.digest == plain.plan.digest


@given(st.lists(st.integers(1, 40_000), min_size=2, max_size=5, unique=True))
def test_more_groups_are_never_smaller_and_never_more_than_rows(counts: list[int]) -> None:
    counts.sort()
    plans = [v.plan for v in group_counts(BASE, "sst2", [str(c) for c in counts], None)[1:]]
    for site in sites_of(BASE):
        assert [p.sites[site.name].groups for p in plans] == [min(c, site.rows) for c in counts]
    sizes = [plan_size(BASE, plan).size_mb for plan in plans]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("word", ["", "0", "-1", "head", "1.5", "12 8", "²"])
def test_an_unknown_group_count_is_refused(word: str) -> None:
    with pytest.raises(
        InputError, match="expected whole numbers from 1 or the words heads, 128-equivalent, rows"
    ):
        group_counts(BASE, "sst2", ["1", word], None)


def test_modules_quantize_what_their_names_say_and_nothing_else() -> None:
    rows = named(modules(BASE, "sst2"))
    kinds = {site.name: site.kind for site in sites_of(BASE)}
    tables = {"word": ("word",), "position": ("position",), "embedding": ("word", "position", "token_type")}
    for name, row in rows.items():
        quantized = {site: entry.bits for site, entry in row.plan.entries if entry.quantized}
        what, _, bits = name.partition("-")
        if name == "baseline":
            assert quantized == {}
        elif what in tables and bits.isdecimal():
            assert quantized == {f"bert.embeddings.{t}_embeddings": int(bits) for t in tables[what]}
        elif name == "word-4-position-8":
            assert quantized == {
                "bert.embeddings.word_embeddings": 4,
                "bert.embeddings.position_embeddings": 8,
                "bert.embeddings.token_type_embeddings": 8,
            }
        else:
            assert set(quantized) == {site for site, kind in kinds.items() if kind == what}
            if bits != "1-2-mp":
                assert set(quantized.values()) == {int(bits)}
    assert {f"{t}-{b}" for t in tables for b in (8, 4, 2)} <= set(rows)
    assert {f"{half}-{b}" for half in ("attention", "ffn") for b in ("8", "4", "3", "2", "1-2-mp")} <= set(
        rows
    )
    mixed = rows["ffn-1-2-mp"].plan
    assert [mixed.sites[f"bert.encoder.layer.{i}.output.dense"].bits for i in range(12)] == [
        1, 1, 1, 2, 2, 2, 2, 2, 2, 1, 1, 1,
    ]  # fmt: skip


def test_the_papers_word_4_position_8_is_its_11_6_mb() -> None:
    """Of the three tables alone, without ranges: the text's number."""
    plan = named(modules(BASE, "sst2"))["word-4-position-8"].plan
    bits = sum(site.params * plan.sites[site.name].bits for site in sites_of(BASE) if site.layer is None)
    assert bits / 8 / 2**20 == pytest.approx(11.6, abs=0.05)


site_plans = st.builds(SitePlan, st.sampled_from([1, 2, 4, 8, 32]), st.integers(1, 200))
SMALL = config(layers=2, heads=2, hidden=16)


@given(st.lists(site_plans, min_size=15, max_size=15), st.sampled_from([8, 32]))
def test_only_and_without_differ_from_the_plan_in_exactly_the_named_sites(entries, activation_bits) -> None:
    sites = sites_of(SMALL)
    plan = Plan(
        "mine", activation_bits, tuple((s.name, e) for s, e in zip(sites, entries, strict=True)), clip=99.0
    )
    quantized = {name for name, entry in plan.entries if entry.quantized}
    if not quantized:
        with pytest.raises(InputError, match="plan mine quantizes nothing"):
            one_at_a_time(SMALL, "sst2", plan)
        return
    rows = named(one_at_a_time(SMALL, "sst2", plan))
    assert rows["mine"].plan == plan
    parts = {name.removeprefix("only-") for name in rows if name.startswith("only-")}
    assert parts == {name.removeprefix("without-") for name in rows if name.startswith("without-")}
    covered: set[str] = set()
    for part in parts:
        only, without = rows[f"only-{part}"].plan, rows[f"without-{part}"].plan
        assert (only.activation_bits, only.clip) == (without.activation_bits, without.clip)
        assert (only.activation_bits, only.clip) == (activation_bits, 99.0)
        own = {name for name, entry in only.entries if entry.quantized}
        rest = {name for name, entry in without.entries if entry.quantized}
        assert own | rest == quantized
        assert not own & rest
        assert not own & covered
        covered |= own
        for name in own:
            assert only.sites[name] == plan.sites[name]
            layer = next(site.layer for site in sites if site.name == name)
            assert part == f"layer-{layer}" if layer is not None else part.split("-")[0] in name
        for name in rest:
            assert without.sites[name] == plan.sites[name]
    assert covered == quantized


def test_one_at_a_time_covers_every_layer_and_table_at_2_bits_when_not_told_otherwise() -> None:
    rows = named(one_at_a_time(BASE, "sst2", None))
    parts = {f"layer-{i}" for i in range(12)} | {"word", "position", "token-type"}
    assert set(rows) == {"baseline", "qbert-2"} | {f"{w}-{p}" for w in ("only", "without") for p in parts}
    assert rows["only-layer-3"].plan.sites["bert.encoder.layer.3.output.dense"].bits == 2
