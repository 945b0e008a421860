"""The tables people edit: a plan in, edits applied, a plan out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.table import (
    BIT_CHOICES,
    FP32,
    MIXED,
    by_layer,
    edited_locks,
    edited_plan,
    embedding_rows,
    everywhere,
    layer_rows,
)
from qbert_core.errors import InputError
from qbert_core.quantization import Plan, Site, SitePlan, presets, sites_of
from qbert_core.quantization.plan import FULL
from tests.app.test_link import config_of, plans

CONFIG = config_of(3)
SITES = sites_of(CONFIG)
PRESETS = {plan.name: plan for plan in presets(CONFIG, "sst2")}
START = PRESETS["qbert-4"]
QUERY = "bert.encoder.layer.1.attention.self.query"


def bits_of(plan: Plan, layer: int | None, kind: str) -> set[int]:
    entries = plan.sites
    return {entries[s.name].bits for s in SITES if s.layer == layer and s.kind == kind}


def groups_of(plan: Plan, layer: int | None) -> set[int]:
    entries = plan.sites
    return {entries[s.name].groups for s in SITES if s.layer == layer}


def unchanged(old: Plan, new: Plan, except_for: set[str]) -> bool:
    return all(new.sites[name] == entry for name, entry in old.entries if name not in except_for)


def column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def names(layer: int, kind: str | None = None) -> set[str]:
    return {s.name for s in SITES if s.layer == layer and kind in (None, s.kind)}


def test_a_preset_as_tables() -> None:
    layers = layer_rows(PRESETS["qbert-mp-2-4"], SITES)
    assert all(list(row) == ["Layer", "Attention", "FFN", "Groups", "Lock"] for row in layers)
    assert not any(column(layers, "Lock"))
    assert column(layers, "Layer") == ["L1", "L2", "L3"]
    assert column(layers, "Attention") == column(layers, "FFN")
    assert set(column(layers, "Attention")) == {"2", "4"}
    assert column(layers, "Groups") == [128] * 3
    assert embedding_rows(PRESETS["qbert-mp-2-4"], SITES) == [
        {"Table": name, "Bits": "8", "Groups": 128} for name in ("Word", "Position", "Token type")
    ]
    assert set(column(layer_rows(PRESETS["baseline"], SITES), "FFN")) == {FP32}


def test_a_cell_whose_sites_differ_says_mixed() -> None:
    plan = START.with_sites({QUERY: SitePlan(3, 7)})
    table = layer_rows(plan, SITES)
    assert column(table, "Attention") == ["4", MIXED, "4"]
    assert column(table, "FFN") == ["4"] * 3
    assert column(table, "Groups") == [128, None, 128]


def test_an_edited_cell_changes_its_sites_and_no_others() -> None:
    plan = edited_plan(START, SITES, {1: {"Attention": "2"}}, {})
    assert bits_of(plan, 1, "attention") == {2}
    assert groups_of(plan, 1) == {128}
    assert unchanged(START, plan, names(1, "attention"))

    plan = edited_plan(START, SITES, {2: {"FFN": FP32}}, {})
    assert bits_of(plan, 2, "ffn") == {FULL}
    assert unchanged(START, plan, names(2, "ffn"))

    plan = edited_plan(START, SITES, {0: {"Groups": 12}}, {})
    assert groups_of(plan, 0) == {12}
    assert bits_of(plan, 0, "attention") == bits_of(plan, 0, "ffn") == {4}
    assert unchanged(START, plan, names(0))


def test_edits_of_both_tables_add_up() -> None:
    edits: dict[int, dict[str, Any]] = {0: {"Attention": "8", "FFN": "3", "Groups": 5}, 2: {"FFN": "1"}}
    plan = edited_plan(START, SITES, edits, {0: {"Bits": "4"}, 2: {"Groups": 1.0}})
    assert column(layer_rows(plan, SITES), "Attention") == ["8", "4", "4"]
    assert column(layer_rows(plan, SITES), "FFN") == ["3", "4", "1"]
    assert column(layer_rows(plan, SITES), "Groups") == [5, 128, 128]
    assert column(embedding_rows(plan, SITES), "Bits") == ["4", "8", "8"]
    assert column(embedding_rows(plan, SITES), "Groups") == [128, 128, 1]
    assert plan.activation_bits == START.activation_bits


@given(st.sets(st.integers(0, 5)), st.dictionaries(st.integers(0, 5), st.booleans()))
def test_locks_are_those_there_were_and_the_edits(locked: set[int], edits: dict[int, bool]) -> None:
    cells = {layer: {"Lock": lock, "FFN": "2"} for layer, lock in edits.items()} | {6: {"FFN": "3"}}
    found = edited_locks(locked, cells)
    assert found == {layer for layer in range(7) if edits.get(layer, layer in locked)}
    assert column(layer_rows(START, SITES, found), "Lock") == [layer in found for layer in range(3)]


def test_no_edit_is_the_same_plan() -> None:
    assert edited_plan(START, SITES, {}, {}) == START
    assert edited_plan(START, SITES, {0: {}}, {1: {}}) == START


def test_a_cell_left_at_mixed_or_emptied_keeps_what_its_sites_have() -> None:
    plan = START.with_sites({QUERY: SitePlan(3, 7)})
    for left in (MIXED, None):
        assert edited_plan(plan, SITES, {1: {"Attention": left, "Groups": None}}, {}) == plan
    assert edited_plan(plan, SITES, {1: {"FFN": "2"}}, {}).sites[QUERY] == SitePlan(3, 7)
    assert edited_plan(plan, SITES, {1: {"Groups": 9}}, {}).sites[QUERY] == SitePlan(3, 9)
    one = edited_plan(plan, SITES, {1: {"Attention": "5"}}, {})
    assert bits_of(one, 1, "attention") == {5}
    assert one.sites[QUERY] == SitePlan(5, 7)


@pytest.mark.parametrize("value", ["9", "0", "", "fp16", "four", 4, 32, 3.5, True, [], {}])
def test_bits_no_site_can_have_are_refused(value: Any) -> None:
    for layers, tables in (
        ({0: {"Attention": value}}, {}),
        ({0: {"FFN": value}}, {}),
        ({}, {0: {"Bits": value}}),
    ):
        with pytest.raises(InputError, match="bits"):
            edited_plan(START, SITES, layers, tables)


@pytest.mark.parametrize(
    "value", [0, -3, 1.5, 2**24 + 1, 10**400, True, "12", float("nan"), float("inf"), [], 1e300]
)
def test_groups_no_site_can_have_are_refused(value: Any) -> None:
    for layers, tables in ({0: {"Groups": value}}, {}), ({}, {2: {"Groups": value}}):
        with pytest.raises(InputError, match="groups"):
            edited_plan(START, SITES, layers, tables)


def test_the_tables_own_choices_are_all_accepted() -> None:
    for choice in BIT_CHOICES:
        plan = edited_plan(START, SITES, {0: {"Attention": choice}}, {0: {"Bits": choice}})
        assert layer_rows(plan, SITES)[0]["Attention"] == embedding_rows(plan, SITES)[0]["Bits"] == choice


@settings(deadline=None, max_examples=50)
@given(plans(SITES))
def test_writing_a_plans_own_table_into_it_changes_nothing(plan: Plan) -> None:
    layers, tables = dict(enumerate(layer_rows(plan, SITES))), dict(enumerate(embedding_rows(plan, SITES)))
    assert edited_plan(plan, SITES, layers, tables) == plan


@settings(deadline=None, max_examples=50)
@given(plans(SITES), st.data())
def test_what_is_written_is_what_the_table_then_shows(plan: Plan, data: st.DataObject) -> None:
    row = data.draw(st.integers(0, 2))
    cells = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "Attention": st.sampled_from(BIT_CHOICES),
                "FFN": st.sampled_from(BIT_CHOICES),
                "Groups": st.integers(1, 1000),
            },
        )
    )
    shown, before = layer_rows(edited_plan(plan, SITES, {row: cells}, {}), SITES), layer_rows(plan, SITES)
    assert shown == [{**old, **(cells if layer == row else {})} for layer, old in enumerate(before)]


def test_everywhere_leaves_the_embeddings_alone() -> None:
    plan = everywhere(START, SITES, 3, 6)
    assert {entry for name, entry in plan.entries if ".encoder." in name} == {SitePlan(3, 6)}
    assert {entry for name, entry in plan.entries if ".encoder." not in name} == {SitePlan(8, 128)}


def test_bits_by_layer() -> None:
    plan = by_layer(START, SITES, {0: 2, 1: 4, 2: 8}, 64, "ranked")
    assert plan.name == "ranked"
    assert column(layer_rows(plan, SITES), "Attention") == ["2", "4", "8"]
    assert column(layer_rows(plan, SITES), "FFN") == ["2", "4", "8"]
    assert groups_of(plan, 1) == {64}
    assert groups_of(plan, None) == {128}


def test_sites_may_come_as_an_iterator() -> None:
    sites: Any = iter(SITES)
    assert edited_plan(START, sites, {0: {"FFN": "2"}}, {1: {"Bits": "2"}}).sites != START.sites
    one_time: list[Site] = list(SITES)
    assert len(layer_rows(START, iter(one_time))) == 3
