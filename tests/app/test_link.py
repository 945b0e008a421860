"""A plan in the address bar: back as it was, and no harm from what people and attackers paste."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.link import MAX_JSON, MAX_TEXT, plan_from_text, plan_to_text
from qbert_core.bert import BertConfig
from qbert_core.errors import InputError
from qbert_core.quantization import Plan, Site, SitePlan, presets, sites_of
from qbert_core.quantization.plan import BITS, MAX_GROUPS


def config_of(layers: int) -> BertConfig:
    return BertConfig(
        head="sequence",
        labels=("negative", "positive"),
        layers=layers,
        heads=2,
        hidden=16,
        intermediate=32,
        vocabulary=90,
        positions=40,
        token_types=2,
    )


SITES = sites_of(config_of(3))
LARGE = sites_of(config_of(24))
PLAN = next(plan for plan in presets(config_of(3), "sst2") if plan.name == "qbert-4")


def plans(sites: tuple[Site, ...]) -> st.SearchStrategy[Plan]:
    entry = st.builds(SitePlan, st.sampled_from(BITS), st.integers(1, MAX_GROUPS))
    return st.builds(
        Plan,
        st.text(max_size=80),
        st.sampled_from((8, 32)),
        st.tuples(*(entry.map(lambda e, name=site.name: (name, e)) for site in sites)),
        st.one_of(st.just(100.0), st.floats(50, 100, exclude_min=True)),
    )


def as_text(document: Any) -> str:
    return packed(json.dumps(document).encode())


def packed(raw: bytes) -> str:
    return base64.urlsafe_b64encode(zlib.compress(raw, 9)).decode().rstrip("=")


def opened(text: str) -> Any:
    """The document in a link made by us."""
    return json.loads(zlib.decompress(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))))


@settings(deadline=None)
@given(plans(SITES))
def test_every_plan_comes_back_as_it_was(plan: Plan) -> None:
    back = plan_from_text(plan_to_text(plan), SITES)
    assert back == plan
    assert back.digest == plan.digest


@settings(deadline=None, max_examples=10)
@given(plans(LARGE))
def test_a_plan_for_24_layers_fits_whatever_is_in_it(plan: Plan) -> None:
    text = plan_to_text(plan)
    assert len(text) <= MAX_TEXT
    assert plan_from_text(text, LARGE) == plan


def test_a_link_needs_no_escaping_and_a_preset_is_short() -> None:
    text = plan_to_text(PLAN)
    assert len(text) < 120
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_a_link_cut_off_anywhere_says_so() -> None:
    text = plan_to_text(PLAN)
    for end in range(len(text)):
        with pytest.raises(InputError, match="cut off"):
            plan_from_text(text[:end], SITES)


@settings(deadline=None)
@given(st.text(max_size=200))
@example("")
@example("=")
@example("é")
@example("\ud800")
@example("\x00")
def test_any_text_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as refused:
        plan_from_text(text, SITES)
    assert "\n" not in str(refused.value)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    )
)
def test_any_json_is_refused(document: Any) -> None:
    with pytest.raises(InputError):
        plan_from_text(as_text(document), SITES)


def broken(index: int, value: Any) -> str:
    """PLAN's link with one of name, activation bits, clip, entries replaced."""
    document = opened(plan_to_text(PLAN))
    document[index] = value
    return as_text(document)


ENTRIES: list[Any] = [[4, 128]] * len(SITES)


@pytest.mark.parametrize(
    "text",
    [
        broken(1, 4),
        broken(1, None),
        broken(1, [8]),
        broken(2, 50),
        broken(2, 101),
        broken(2, "100"),
        broken(2, True),
        packed(json.dumps(["x", 8, float("nan"), ENTRIES]).encode()),
        packed(json.dumps(["x", 8, float("inf"), ENTRIES]).encode()),
        broken(3, ENTRIES[:-1]),
        broken(3, [*ENTRIES, [4, 128]]),
        broken(3, []),
        broken(3, "44"),
        broken(3, {"4": 128}),
        *(
            broken(3, [bad, *ENTRIES[1:]])
            for bad in (
                [9, 1],
                [0, 1],
                [4, 0],
                [4, -1],
                [4, 2**24 + 1],
                [4, 1.5],
                ["4", 1],
                [True, 1],
                [[4], 1],
            )
        ),
        *(
            broken(3, [bad, *ENTRIES[1:]])
            for bad in ([4], [4, 1, 1], 4, None, {}, [4, 10**400], [10**400, 1])
        ),
        packed(b"[" * 90_000),
        packed(b'["x",8,100,[[' + b"9" * 5000 + b",1]]]"),
        packed(b"\xff\xfe"),
        packed(b""),
    ],
)
def test_values_no_plan_can_have_are_refused(text: str) -> None:
    with pytest.raises(InputError) as refused:
        plan_from_text(text, SITES)
    assert "\n" not in str(refused.value)


def test_a_plan_for_another_depth_names_both() -> None:
    with pytest.raises(InputError, match=f"{len(LARGE)} sites, this one has {len(SITES)}"):
        plan_from_text(plan_to_text(presets(config_of(24), "sst2")[0]), SITES)


@pytest.mark.parametrize("size", [MAX_JSON + 1, 2_500_000])
def test_a_zip_bomb_is_never_unpacked(size: int) -> None:
    document = json.dumps(["x" * size, 8, 100.0, ENTRIES])
    text = as_text(json.loads(document))
    assert len(text) <= MAX_TEXT, "else the length alone would refuse it"
    with pytest.raises(InputError, match="cut off"):
        plan_from_text(text, SITES)


def test_a_text_too_long_is_refused_unread() -> None:
    with pytest.raises(InputError):
        plan_from_text("A" * 10_000_000, SITES)


def test_a_name_can_be_shown() -> None:
    """Half a surrogate pair is valid JSON, but no page can be sent with it."""
    with pytest.raises(InputError):
        plan_from_text(packed(rb'["\ud800",8,100,' + json.dumps(ENTRIES).encode() + b"]"), SITES)


def test_a_long_name_is_cut_and_markup_stays_text() -> None:
    plan = plan_from_text(broken(0, "<script>" + "x" * 200), SITES)
    assert plan.name == ("<script>" + "x" * 200)[:80]
    assert plan.digest == PLAN.digest
