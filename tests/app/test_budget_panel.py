"""The size budget on page Bits: the best plan there is, at every size, and never a locked layer."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import allocating
from app.allocating import Harm, Objective, objectives
from app.views.budget import LABEL, WIDTHS
from app.workspace import Workspace
from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature import Sensitivity, blocks_of
from qbert_core.errors import InputError
from qbert_core.quantization import Plan, SitePlan, errors_by_width, fake_quantize, plan_size, sites_of
from tests.app.test_pages import Visit, demo, visit  # noqa: F401

LAMBDAS = [[1.0, 2.0], [-300.0, -900.0], [0.5, 0.5]]


@pytest.fixture
def analysis(workspace: Workspace) -> dict[str, Any]:
    """A finished analysis of the tiny model's three layers."""
    blocks = [
        {"name": b.name, "layer": b.layer, "kind": b.kind, "lambdas": own, "residuals": [0.01, 0.02]}
        for b, own in zip(blocks_of(workspace.checkpoint.config), LAMBDAS, strict=True)
    ]
    written = Sensitivity.from_json(
        {"blocks": blocks, "runs": 2, "examples": 6, "seconds": 1.0, "hvp_count": 20, "stopped": "runs"}
    ).to_json()
    return {**written, "model": workspace.checkpoint.fingerprint, "granularity": "layer"}


def at_bits(*, wait: bool = True, **query: str) -> Visit:
    """The page with the weights looked at."""
    seen = visit(**query)
    seen.settled()
    if wait:
        seen.until(lambda at: not at.button(key="allocate").disabled, "the weights looked at")
    return seen


def slider_of(seen: Visit) -> Any:
    (slider,) = [slider for slider in seen.at.main.slider if slider.label == LABEL]
    return slider


def caption(seen: Visit) -> str:
    return " ".join(part.value for part in seen.at.main.caption).replace("\\", "")


def layer_bits(plan: Plan, layer: int) -> set[int]:
    return {e.bits for name, e in plan.entries if f".layer.{layer}." in name}


def harm_of(model: Checkpoint, plan: Plan, weights: dict[int, float]) -> float:
    """Summed over the encoder's sites with a quantizer of one call each."""
    entries, total = plan.sites, 0.0
    for site in sites_of(model.config):
        if site.layer is not None:
            weight, entry = model.weights[site.parameter], entries[site.name]
            moved = (fake_quantize(weight, entry.bits, entry.groups).double() - weight.double()).square()
            total += 0.5 * weights[site.layer] * float(moved.sum())
    return total


def best_by_trying(model: Checkpoint, plan: Plan, budget: float, weights: dict[int, float]) -> float:
    """Over every assignment of widths to layers."""
    found = []
    for widths in itertools.product(WIDTHS, repeat=model.config.layers):
        changes = {
            s.name: SitePlan(widths[s.layer], plan.sites[s.name].groups)
            for s in sites_of(model.config)
            if s.layer is not None
        }
        other = plan.with_sites(changes)
        if plan_size(model.config, other).size_mb <= budget:
            found.append(harm_of(model, other, weights))
    return min(found)


def test_allocate_for_me_finds_the_best_plan_of_the_same_size(
    workspace: Workspace, tiny: Checkpoint, analysis: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        allocating, "finished_sensitivity", lambda _w, _j, kind="layer": analysis if kind == "layer" else None
    )
    seen = at_bits()
    before = seen.plan(workspace)
    size = plan_size(tiny.config, before).size_mb
    weights = {i: b.omega for i, b in enumerate(Sensitivity.from_json(analysis).blocks)}
    assert "is possible" in caption(seen), "uniform bits are not the best under this analysis"
    seen.press("allocate")
    after = seen.plan(workspace)
    assert plan_size(tiny.config, after).size_mb <= size + 1e-9
    assert harm_of(tiny, after, weights) == pytest.approx(best_by_trying(tiny, before, size, weights))
    assert harm_of(tiny, after, weights) < harm_of(tiny, before, weights)
    assert min(layer_bits(after, 1)) > max(layer_bits(after, 2)), "most bits where the loss is steep"
    assert "the least at this size" in caption(seen)
    assert "Ω of 2 runs, n = 6 each" in caption(seen)
    seen.press("undo")
    assert seen.plan(workspace) == before


def test_the_slider_walks_along_the_frontier_and_follows_other_edits(
    workspace: Workspace, tiny: Checkpoint
) -> None:
    seen = at_bits()
    slider = slider_of(seen)
    size = plan_size(tiny.config, seen.plan(workspace)).size_mb
    assert slider.value == pytest.approx(size, abs=slider.step / 2)
    weights = dict.fromkeys(range(3), 1.0)
    middle = (slider.min + slider.max) / 2
    for budget in (slider.min, middle, slider.max):
        before = seen.plan(workspace)
        slider_of(seen).set_value(budget)
        seen.run()
        plan = seen.plan(workspace)
        assert plan_size(tiny.config, plan).size_mb <= budget + 1e-6
        best = best_by_trying(tiny, before, budget + 1e-6, weights)
        assert harm_of(tiny, plan, weights) == pytest.approx(best)
        assert slider_of(seen).value == pytest.approx(budget), "it stays where it was put"
    assert "the error of the weights alone" in caption(seen)
    seen.choose("qbert-2")
    seen.settled()
    assert slider_of(seen).value == slider.min, "the smallest plan"


def test_a_handle_that_nobody_moved_changes_nothing(workspace: Workspace) -> None:
    """The browser sends its place, rounded to a step, with whatever else is pressed."""
    seen = at_bits()
    before = seen.plan(workspace)
    place = slider_of(seen).value
    for part in (-0.4, 0.4):
        slider = slider_of(seen)
        slider.set_value(place + part * slider.step)
        seen.run()
        assert seen.plan(workspace) == before
    slider = slider_of(seen)
    slider.set_value(slider.min)
    seen.run()
    assert seen.plan(workspace) != before
    seen.press("undo")
    assert seen.plan(workspace) == before
    assert slider_of(seen).value == pytest.approx(place)


def test_locked_layers_keep_their_bits_and_stand_in_the_link(workspace: Workspace) -> None:
    seen = at_bits(locks="2,99,x")
    before = seen.plan(workspace)
    assert seen.at.query_params["locks"] == "2"
    for end in ("min", "max"):
        slider = slider_of(seen)
        slider.set_value(getattr(slider, end))
        seen.run()
        after = seen.plan(workspace)
        for name, entry in before.entries:
            if ".layer.1." in name or ".encoder." not in name:
                assert after.sites[name] == entry
        assert layer_bits(after, 0) == {2 if end == "min" else 8}
    assert "locked: L2" in caption(seen)
    at = seen.at
    at.select_slider[0].set_value("3")
    (apply,) = [b for b in at.main.button if b.label == "Apply"]
    apply.click()
    seen.run()
    assert layer_bits(seen.plan(workspace), 0) == {3}
    assert layer_bits(seen.plan(workspace), 1) == {4}


def test_with_every_layer_locked_there_is_nothing_to_share_out() -> None:
    seen = at_bits(wait=False, locks="1,2,3")
    assert seen.at.button(key="allocate").disabled
    assert "Every layer is locked" in caption(seen)


def test_an_analysis_of_halves_is_offered_beside_that_of_layers(
    workspace: Workspace, analysis: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = dict(analysis)
    halves["blocks"] = [
        {**block, "name": f"{block['name']}.{kind}", "kind": kind}
        for block in analysis["blocks"]
        for kind in ("attention", "ffn")
    ]
    documents = {"layer": analysis, "module": halves}
    monkeypatch.setattr(allocating, "finished_sensitivity", lambda _w, _j, kind="layer": documents[kind])
    names = [objective.name for objective in objectives(workspace, [])]
    assert names == ["Ω, by layer", "Ω, attention and FFN apart", "Error of the weights"]
    seen = at_bits()
    seen.at.selectbox(key="budget-objective").select(names[1])
    seen.run()
    slider = slider_of(seen)
    slider.set_value((slider.min + slider.max) / 2)
    seen.run()
    bits = {
        (layer, half): {
            e.bits for n, e in seen.plan(workspace).entries if f".layer.{layer}." in n and (".attention." in n) == half
        }
        for layer in range(3)
        for half in (True, False)
    }  # fmt: skip
    assert all(len(own) == 1 for own in bits.values())


def test_a_new_analysis_is_what_the_budget_goes_by_until_somebody_picks(
    analysis: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    documents: dict[str, dict[str, Any] | None] = {"layer": None, "module": None}
    monkeypatch.setattr(allocating, "finished_sensitivity", lambda _w, _j, kind="layer": documents[kind])
    seen = at_bits()
    assert seen.at.selectbox(key="budget-objective").value == "Error of the weights"
    assert "adds curvature" in caption(seen)
    documents["layer"] = analysis
    seen.run()
    assert seen.at.selectbox(key="budget-objective").value == "Ω, by layer"
    assert "By Ω of" in caption(seen)
    seen.at.selectbox(key="budget-objective").select("Error of the weights")
    seen.run()
    seen.run()
    assert seen.at.selectbox(key="budget-objective").value == "Error of the weights"
    assert "adds curvature" not in caption(seen)


@given(
    st.lists(st.floats(0, 1e3), min_size=3, max_size=3),
    st.sets(st.integers(0, 2), max_size=2),
    st.sets(st.sampled_from(WIDTHS), min_size=1),
)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_along_the_frontier_size_grows_harm_falls_and_locks_hold(
    workspace: Workspace, tiny: Checkpoint, weights: list[float], locked: set[int], widths: set[int]
) -> None:
    config, start = tiny.config, workspace.start
    names = tuple((block.name, w) for block, w in zip(blocks_of(config), weights, strict=True))
    groups = {name: entry.groups for name, entry in start.entries}
    errors = {
        s.name: errors_by_width(tiny.weights[s.parameter], groups[s.name], range(1, 9))
        for s in sites_of(config)
    }
    found = Harm(config, Objective("x", names, "y"), frozenset(locked), groups, errors)
    frontier = found.frontier(start, widths)
    last = -1.0
    for index in range(len(frontier)):
        plan = frontier.plan(index, "p")
        size = plan_size(config, plan).size_mb
        assert size == pytest.approx(frontier.sizes_mb[index], abs=1e-9)
        assert size > last
        last = size
        assert found.of(plan) == pytest.approx(frontier.harms[index], rel=1e-9, abs=1e-12)
        for name, entry in start.entries:
            layer = next((i for i in range(3) if f".layer.{i}." in name), None)
            if layer is None or layer in locked:
                assert plan.sites[name] == entry
            else:
                assert plan.sites[name].bits in widths


def test_no_width_is_refused_in_words(workspace: Workspace) -> None:
    names = tuple((block.name, 1.0) for block in blocks_of(workspace.checkpoint.config))
    with pytest.raises(InputError, match="Choose at least one"):
        Harm(workspace.checkpoint.config, Objective("x", names, "y"), frozenset(), {}, {}).frontier(
            workspace.start, ()
        )
