"""Plans: a frozen value that survives JSON, and is named by what it does."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_core.bert import BertConfig
from qbert_core.errors import InputError
from qbert_core.quantization import Plan, SitePlan, preset_named, sites_of
from qbert_core.quantization.plan import BITS, parse_plan

CONFIG = BertConfig("sequence", ("a", "b"), 2, 2, 8, 12, 30, 10, 2)
SITES = sites_of(CONFIG)
FIRST = "bert.encoder.layer.0.attention.self.query"
QUICK = settings(deadline=None, max_examples=80)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    entries = tuple(
        (site.name, SitePlan(draw(st.sampled_from(BITS)), draw(st.integers(1, 10**6)))) for site in SITES
    )
    clip = draw(st.one_of(st.just(100.0), st.floats(50.5, 99.999)))
    return Plan(draw(st.text(max_size=80)), draw(st.sampled_from([8, 32])), entries, clip)


@QUICK
@given(plans())
def test_a_plan_survives_json(plan):
    back = parse_plan(json.loads(json.dumps(plan.to_json())), SITES, "test")
    assert back == plan
    assert back.digest == plan.digest


@QUICK
@given(plans(), plans())
def test_digests_are_equal_exactly_when_the_effect_is(a, b):
    def effect(plan: Plan) -> Any:
        sites = [(name, e.bits, e.groups if e.bits < 32 else None) for name, e in plan.entries]
        inputs = plan.activation_bits if any(b < 32 for n, b, _ in sites if "encoder" in n) else 32
        return sites, inputs, plan.clip

    assert (a.digest == b.digest) == (effect(a) == effect(b))
    assert a.digest == replace(a, name="another name").digest


def test_groups_of_a_full_precision_site_do_not_matter_but_those_of_a_quantized_one_do():
    plan = preset_named(CONFIG, "sst2", "qbert-4").with_sites({FIRST: SitePlan(32, 1)})
    assert plan.digest == plan.with_sites({FIRST: SitePlan(32, 7)}).digest
    assert plan.digest != plan.with_sites({FIRST: SitePlan(4, 7)}).digest


def test_a_plan_cannot_be_changed_in_place():
    plan = preset_named(CONFIG, "sst2", "qbert-4")
    with pytest.raises(FrozenInstanceError):
        plan.name = "x"  # type: ignore[misc]
    plan.sites[FIRST] = SitePlan(1, 1)
    assert plan.sites[FIRST].bits == 4


def broken(**changes: Any) -> dict[str, Any]:
    document = preset_named(CONFIG, "sst2", "qbert-4").to_json()
    document["sites"] = {name: dict(entry) for name, entry in document["sites"].items()}
    site = changes.pop("site", None)
    if site is not None:
        document["sites"][FIRST] = site
    return {key: value for key, value in (document | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ([], "not a plan"),
        ({}, "not a plan"),
        (broken(schema=2), "schema 2"),
        (broken(schema=None), "schema None"),
        (broken(sites={}), "no entry for 15 of the model's sites"),
        (broken(activation_bits=4), "activation_bits 4"),
        (broken(clip=10), "clip 10"),
        (broken(site={"bits": 9, "groups": 1}), f"site {FIRST}: bits 9"),
        (broken(site={"bits": 0, "groups": 1}), "bits 0"),
        (broken(site={"bits": "4", "groups": 1}), "expected"),
        (broken(site={"bits": True, "groups": 1}), "expected"),
        (broken(site={"bits": 4}), "expected"),
        (broken(site={"bits": 4, "groups": 0}), "groups 0"),
        (broken(site={"bits": 4, "groups": -1}), "groups -1"),
        (broken(site={"bits": 4, "groups": 1.5}), "groups 1.5"),
        (broken(site=7), "expected"),
    ],
)
def test_a_broken_plan_is_refused_by_naming_what_is_wrong(document, says):
    with pytest.raises(InputError) as error:
        parse_plan(document, SITES, "plan.json")
    assert says in str(error.value)
    assert str(error.value).startswith("plan.json: ")
    assert "\n" not in str(error.value)


def test_a_plan_for_another_model_names_the_sites_that_do_not_fit():
    deeper = BertConfig("sequence", ("a", "b"), 3, 2, 8, 12, 30, 10, 2)
    document = preset_named(deeper, "sst2", "qbert-4").to_json()
    with pytest.raises(
        InputError, match=r"another model: 6 sites the model does not have \(bert\.encoder\.layer\.2"
    ):
        parse_plan(document, SITES, "plan.json")


def test_an_unknown_preset_names_those_there_are():
    with pytest.raises(InputError, match="presets are baseline, directq-8"):
        preset_named(CONFIG, "sst2", "qbert-5")


@pytest.mark.parametrize("bits", [0, 9, -1, 33, "4", True, 4.0, None, float("nan")])
def test_bits_out_of_range_are_refused_wherever_a_plan_is_made(bits):
    with pytest.raises(InputError, match=r"expected 1\.\.8, or 32"):
        SitePlan(bits, 1)


@pytest.mark.parametrize("groups", [0, -1, 1.5, 2.0, "3", True, None, 10**12])
def test_group_counts_out_of_range_are_refused_wherever_a_plan_is_made(groups):
    with pytest.raises(InputError, match="expected a whole number from 1"):
        SitePlan(4, groups)


@pytest.mark.parametrize("activation_bits", [4, 0, "8", None, True, [8], 8.0])
def test_activation_bits_other_than_8_and_32_are_refused(activation_bits):
    with pytest.raises(InputError, match=r"plan\.json: activation_bits .*; expected 8 or 32"):
        parse_plan({**broken(), "activation_bits": activation_bits}, SITES, "plan.json")


@pytest.mark.parametrize("clip", [50, 100.1, -1, 0, float("nan"), float("inf"), "99", True, [99]])
def test_a_clip_out_of_range_is_refused(clip):
    with pytest.raises(InputError, match=r"plan\.json: clip .*; expected a percentile above 50, at most 100"):
        parse_plan(broken(clip=clip), SITES, "plan.json")


def test_a_plan_may_leave_out_its_name_its_activation_bits_and_its_clip():
    plan = parse_plan({"schema": 1, "sites": broken()["sites"]}, SITES, "plan.json")
    assert (plan.name, plan.activation_bits, plan.clip) == ("plan", 32, 100)
    assert "clip" not in plan.to_json()


def test_the_order_of_sites_in_a_document_does_not_matter():
    document = broken()
    turned = {**document, "sites": dict(reversed(document["sites"].items()))}
    assert parse_plan(turned, SITES, "a") == parse_plan(document, SITES, "b")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=200)
@given(
    place=st.sampled_from(
        ["document", "schema", "name", "activation_bits", "clip", "sites", "site", "bits", "groups"]
    ),
    value=JSON,
)
def test_a_plan_with_any_value_anywhere_is_read_or_refused_in_one_line(place, value):
    document: Any = broken()
    if place == "document":
        document = value
    elif place == "site":
        document["sites"][FIRST] = value
    elif place in ("bits", "groups"):
        document["sites"][FIRST][place] = value
    else:
        document[place] = value
    try:
        plan = parse_plan(document, SITES, "plan.json")
    except InputError as error:
        said = str(error)
    else:
        said = ""
        assert parse_plan(json.loads(json.dumps(plan.to_json())), SITES, "again") == plan
    assert len(said.splitlines()) <= 1


def test_changing_sites_leaves_the_others_and_the_first_plan_alone():
    plan = preset_named(CONFIG, "sst2", "qbert-4")
    changed = plan.with_sites({FIRST: SitePlan(2, 5)}, name="mine")
    assert (changed.name, changed.sites[FIRST]) == ("mine", SitePlan(2, 5))
    assert {n for n, e in changed.entries if e != plan.sites[n]} == {FIRST}
    assert plan.sites[FIRST] == SitePlan(4, 128)
    assert plan.with_sites({}).name == plan.name
