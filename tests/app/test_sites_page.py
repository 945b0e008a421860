"""Every site of a plan, two plans side by side, and the layer that is marked everywhere."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from streamlit.dataframe_util import convert_arrow_bytes_to_pandas_df
from streamlit.testing.v1 import AppTest

from app import history, registries
from app.csvs import csv_text
from app.exports import plan_text
from app.figures import fmt_interval, fmt_percent, fmt_points_interval, fmt_signed_points
from app.link import plan_to_text
from app.pairs import changed_answers, metric_difference, numbers_table, sites_that_differ
from app.sitetable import GRANULARITIES, shown, site_frame
from app.views import sidebyside
from app.weights import WholeSite
from app.workspace import Source, Workspace
from qbert_core.checkpoints import Checkpoint
from qbert_core.evaluation.paired import paired_difference
from qbert_core.quantization import (
    Plan,
    SiteAnatomy,
    SitePlan,
    fake_quantize,
    plan_size,
    site_bytes,
    sites_of,
)
from tests.app.speaker import Speaker
from tests.app.test_curvature_pages import words
from tests.app.test_pages import Visit, demo, visit  # noqa: F401
from tests.app.tools import PATIENCE, Watched, own_plans, until

TRIANGLE = "\N{BLACK RIGHT-POINTING SMALL TRIANGLE}"
CHANGE = "B \N{MINUS SIGN} A"


@pytest.fixture(autouse=True)
def fresh_weights() -> Iterator[None]:
    registries.weights.cache_clear()
    yield
    registries.weights().close()
    registries.weights.cache_clear()


def at_drawer(key: str, source: Source | None = None, **query: str) -> Visit:
    """Page Bits with one of the drawers open."""
    seen = visit(source, **query)
    seen.settled()
    seen.at.session_state[key] = True
    seen.run()
    return seen


def table(at: AppTest, column: str) -> pd.DataFrame:
    """The one table with such a column."""
    (found,) = [frame.value for frame in at.main.dataframe if column in frame.value.columns]
    made: pd.DataFrame = found
    return made


def plan_named(workspace: Workspace, name: str) -> Plan:
    return next(plan for plan in workspace.presets if plan.name == name)


def anatomy(low: float = -1.0, high: float = 2.0) -> SiteAnatomy:
    return SiteAnatomy(low, high, 0.25, 0.01)


def document(granularity: str, workspace: Workspace) -> dict[str, Any]:
    """A sensitivity of the tiny model, with a number of its own in every block."""
    config = workspace.checkpoint.config
    blocks = []
    for site in sites_of(config):
        layer = -1 if site.layer is None else site.layer
        name, kind = site.name, site.kind
        if granularity != "site":
            if site.layer is None:
                continue
            kind = "layer" if granularity == "layer" else site.kind
            name = f"bert.encoder.layer.{layer}" + ("" if kind == "layer" else f".{kind}")
            if any(block["name"] == name for block in blocks):
                continue
        value = float(len(blocks) + 1)
        blocks.append(
            {"name": name, "layer": layer, "kind": kind, "lambdas": [value - 0.5, value + 0.5],
             "residuals": [0.01, 0.02], "mean": value, "std": 0.5, "omega": value + 0.5}
        )  # fmt: skip
    return {
        "granularity": granularity,
        "blocks": blocks,
        "runs": 2,
        "examples": 6,
        "seconds": 1.0,
        "hvp_count": 20,
        "stopped": "runs",
        "model": workspace.checkpoint.fingerprint,
    }


class TestFrame:
    """The table as data."""

    def test_asked_and_applied_and_sizes_that_add_up(self, workspace: Workspace) -> None:
        config, plan = workspace.checkpoint.config, workspace.start
        frame = site_frame(workspace, plan, {}, None)
        sites = sites_of(config)
        assert list(frame["site"]) == [site.name for site in sites]
        assert list(frame["groups_asked"]) == [128] * len(sites)
        assert list(frame["groups_applied"]) == [min(128, site.rows) for site in sites]
        assert frame["groups_applied"].min() == 2, "token types"
        stored = 4 * sum(site.rows for site in sites if site.layer is not None)  # biases
        stored += 4 * 2 * config.hidden * (1 + 2 * config.layers)  # LayerNorm
        total = plan_size(config, plan).size_mb * 2**20
        assert frame["bytes"].sum() + stored == total
        assert frame["share"].sum() == pytest.approx(frame["bytes"].sum() / total)
        assert list(frame["bytes"]) == [sum(site_bytes(site, plan.sites[site.name])) for site in sites]

    def test_inputs_are_those_of_linear_layers_and_quantized_only_where_the_weight_is(
        self, workspace: Workspace
    ) -> None:
        sites = sites_of(workspace.checkpoint.config)
        plan = workspace.start.with_sites({sites[4].name: SitePlan(32, 1)})
        frame = site_frame(workspace, plan, {}, None)
        assert frame["input_bits"][:3].isna().all()
        assert frame["input_lowest"][:3].isna().all()
        assert list(frame["input_bits"][3:6]) == [8, 32, 8]
        for row in frame[3:].itertuples():
            assert (row.input_lowest, row.input_highest) == workspace.inputs[row.site]
        off = site_frame(workspace, replace(plan, activation_bits=32), {}, None)
        assert set(off["input_bits"][3:]) == {32}

    @pytest.mark.parametrize("granularity", GRANULARITIES)
    def test_a_site_has_the_sensitivity_of_its_own_block(
        self, workspace: Workspace, granularity: str
    ) -> None:
        written = document(granularity, workspace)
        frame = site_frame(workspace, workspace.start, {}, written)
        by_name = {block["name"]: block for block in written["blocks"]}
        for site, row in zip(sites_of(workspace.checkpoint.config), frame.itertuples(), strict=True):
            name = site.name
            if granularity != "site":
                name = f"bert.encoder.layer.{site.layer}" + (
                    "" if granularity == "layer" else f".{site.kind}"
                )
            if name in by_name:
                assert (row.omega, row.lambda_mean) == (by_name[name]["omega"], by_name[name]["mean"])
            else:
                assert pd.isna(row.omega), "a table has no block here"

    def test_what_is_written_is_sorted_by_its_number(self, workspace: Workspace) -> None:
        sites = sites_of(workspace.checkpoint.config)
        seen = {site.name: anatomy(high=place / 100) for place, site in enumerate(sites)}
        plan = workspace.start.with_sites({sites[5].name: SitePlan(32, 9), sites[6].name: SitePlan(2, 16)})
        styled = shown(
            site_frame(workspace, plan, seen, None), marked=1, outdated={sites[7].name}, grey="#123456"
        )
        data = styled.data
        numbers = [c for c in data.columns if c != "Matrix"]
        assert all(pd.api.types.is_numeric_dtype(data[c]) for c in numbers)
        texts = written(styled)
        assert texts["Bits"][5] == "fp32"
        assert texts["Groups"][5] == "none"
        assert texts["Groups"][2] == "128 \N{RIGHTWARDS ARROW} 2"
        assert texts["Groups"][6] == "16", "16 asked and 16 applied, though 128 asked are 16, too"
        assert texts["Groups"][8] == "128 \N{RIGHTWARDS ARROW} 16"
        assert texts["Inputs"][0] == "a look-up"
        assert texts["Inputs"][5].startswith("fp32: ")
        assert texts["Inputs"][6].startswith("8 bits: ")
        assert texts["Range"][3] == "\N{MINUS SIGN}1.00 to 0.0300"
        layers = [text.removeprefix(f"{TRIANGLE} ") for text in texts["Layer"]]
        assert layers == ["Emb"] * 3 + [f"L{i + 1}" for i in range(3) for _ in range(6)]
        assert [text.startswith(TRIANGLE) for text in texts["Layer"]] == [site.layer == 1 for site in sites]
        assert [text.startswith("(") for text in texts["MSE"]] == [i == 7 for i in range(len(sites))]

    def test_shapes_of_the_same_product_are_told_apart(self, workspace: Workspace) -> None:
        texts = written(
            shown(site_frame(workspace, workspace.start, {}, None), marked=None, outdated=(), grey="#000000")
        )
        assert texts["Shape"][7:9] == ["32 × 16", "16 × 32"]
        assert set(texts["MSE"]) == {"\N{EN DASH}"}


def written(styled: Any) -> dict[str, list[str]]:
    """What a styled table shows, by column."""
    styled._compute()
    body = styled._translate(False, False)["body"]
    columns = list(styled.data.columns)
    cells = [[cell["display_value"] for cell in row if cell["type"] == "td"] for row in body]
    return {column: [row[place] for row in cells] for place, column in enumerate(columns)}


class TestEverySite:
    """The drawer of page Bits."""

    def test_the_errors_are_those_of_the_models_weights(self, workspace: Workspace, tiny: Checkpoint) -> None:
        seen = at_drawer("every-site")
        seen.until(lambda at: "All 21 sites of qbert\\-4" in words(at), "the errors")
        shown_table = table(seen.at, "MSE")
        for site, error in zip(sites_of(tiny.config), shown_table["MSE"], strict=True):
            entry, weight = workspace.start.sites[site.name], tiny.weights[site.parameter]
            expected = (fake_quantize(weight, entry.bits, entry.groups) - weight).double().square().mean()
            assert error == pytest.approx(float(expected), rel=1e-6), site.name
        assert "fewer rows than groups asked for: a group a row" in words(seen.at)
        assert "after an analysis on the page" in words(seen.at)

    def test_closed_it_asks_for_nothing(self) -> None:
        seen = visit()
        seen.settled()
        assert not [f for f in seen.at.main.dataframe if "MSE" in f.value.columns]
        assert not [q for _, q in registries.weights()._answers if isinstance(q, WholeSite)]

    def test_errors_of_the_plan_before_are_marked_until_the_new_ones_are_there(
        self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        free = threading.Event()
        free.set()

        class Held(Watched):
            def site_anatomy(self, *question: Any) -> SiteAnatomy:
                assert free.wait(PATIENCE)
                return self.real.site_anatomy(*question)

        held = replace(workspace, source=Source(), evaluator=Held(workspace.evaluator))
        monkeypatch.setattr(registries, "engine", lambda: SimpleNamespace(open=lambda source: held))
        seen = at_drawer("every-site")
        seen.until(lambda at: "All 21 sites" in words(at), "the errors")
        before = list(table(seen.at, "MSE")["MSE"])
        free.clear()
        seen.choose("qbert-2")
        seen.settled()
        assert "Outdated" in words(seen.at)
        assert list(table(seen.at, "MSE")["MSE"]) == before
        # what needs no weights is new at once
        assert set(table(seen.at, "MSE")["Bits"]) == {2, 8}
        free.set()
        seen.until(lambda at: "All 21 sites of qbert\\-2" in words(at), "the new errors")
        after = list(table(seen.at, "MSE")["MSE"])
        assert all(new > old for new, old in zip(after[3:], before[3:], strict=True))
        assert after[:3] == before[:3], "the tables keep their 8 bits"

    def test_a_finished_analysis_fills_in(self, workspace: Workspace, speaker: Speaker) -> None:
        registries.jobs().start("Sensitivity", "anybody", ["sensitivity", "demo"])
        speaker.give(document("layer", workspace))
        until(lambda: registries.jobs().all()[0].state == "done", "the job")
        seen = at_drawer("every-site")
        assert list(table(seen.at, "MSE")["Ω"])[3:] == [1.5] * 6 + [2.5] * 6 + [3.5] * 6
        assert "of its layer, from 2 runs" in words(seen.at)


class TestTwoPlans:
    """The other drawer."""

    def test_the_difference_is_the_paired_one(self, workspace: Workspace) -> None:
        one, other = plan_named(workspace, "qbert-4"), plan_named(workspace, "directq-2")
        first, second = (workspace.evaluator.evaluate(plan) for plan in (one, other))
        expected = paired_difference(workspace.task, first.grades.tolist(), second.grades.tolist(), 0)
        assert metric_difference(workspace, first, second) == expected
        changed = changed_answers(first, second)
        assert [flip.index for flip in changed] == [
            i for i, a, b in zip(first.indices, first.predictions, second.predictions, strict=True) if a != b
        ]
        assert changed, "the tiny model changes its mind"
        gained = sum(flip.is_right and not flip.was_right for flip in changed)
        lost = sum(flip.was_right and not flip.is_right for flip in changed)
        assert (gained, lost) == (expected.gained, expected.lost)
        frame = numbers_table(workspace, (one, other), (first, second), expected, changed).set_index("")
        assert frame.loc["Accuracy", "A"] == fmt_percent(first.score.metrics["accuracy"])
        assert frame.loc["Accuracy", CHANGE] == fmt_signed_points(expected.mean)
        assert frame.loc["95 % interval", "B"] == fmt_interval(*second.score.interval)
        assert frame.loc["95 % interval", CHANGE] == fmt_points_interval(*expected.interval)
        assert frame.loc["Became wrong in B", CHANGE] == str(lost)
        assert frame.loc["Effective bits", "A"] == f"{first.size.effective_bits:.2f}"
        assert frame.loc["Inputs"].iloc[2] == "the same"

    def test_sites_that_differ_are_those_with_another_effect(self, workspace: Workspace) -> None:
        config, plan = workspace.checkpoint.config, workspace.start
        sites = sites_of(config)
        other = plan.with_sites(
            {sites[2].name: SitePlan(8, 64), sites[4].name: SitePlan(2, 128), sites[5].name: SitePlan(4, 3)}
        )
        frame = sites_that_differ(config, plan, other)
        assert list(frame["Site"]) == [sites[4].name, sites[5].name], (
            "64 and 128 groups of 2 rows are 2 groups"
        )
        assert list(frame["Bits B"]) == ["2", "4"]
        assert list(frame["Groups B"]) == [16, 3]
        assert sites_that_differ(config, plan, plan).empty

    def test_two_presets_are_compared_and_either_can_be_used(self, workspace: Workspace) -> None:
        seen = at_drawer("two-plans")
        one, other = plan_named(workspace, "directq-2"), plan_named(workspace, "qbert-8")
        for name, plan in (("A", one), ("B", other)):
            (box,) = [box for box in seen.at.selectbox if box.label == f"Plan {name}"]
            box.set_value(plan.digest)
            seen.run()
        seen.until(lambda at: "Both measured" in words(at), "both measured")
        first, second = (workspace.evaluator.evaluate(plan) for plan in (one, other))
        expected = numbers_table(
            workspace, (one, other), (first, second), metric_difference(workspace, first, second),
            changed_answers(first, second),
        )  # fmt: skip
        pd.testing.assert_frame_equal(table(seen.at, CHANGE), expected, check_dtype=False)
        seen.press("use-A")
        assert seen.plan(workspace) == one
        assert seen.at.button(key="use-A").disabled
        seen.press("undo")
        assert seen.plan(workspace) == workspace.start

    def test_the_link_opens_the_two_plans(self, workspace: Workspace) -> None:
        (own,) = own_plans(workspace, 1)
        first = visit(a=plan_to_text(own), b=plan_to_text(plan_named(workspace, "qbert-8")))
        first.until(lambda at: "Both measured" in words(at), "both measured")
        assert table(first.at, CHANGE).iloc[0].tolist() == ["Plan", own.name, "qbert-8", ""]
        (box,) = [box for box in first.at.selectbox if box.label == "Plan B"]
        box.set_value("current")
        first.run()
        first.until(lambda at: "Both measured" in words(at), "both measured")
        query = {name: first.at.query_params[name] for name in "ab"}
        assert query == {"a": plan_to_text(own), "b": "current"}
        again = visit(**query)
        again.until(lambda at: "Both measured" in words(at), "both measured")
        assert table(again.at, CHANGE).iloc[0].tolist() == ["Plan", own.name, "qbert-4", ""]
        again.at.session_state["two-plans"] = False
        again.run()
        assert "a" not in again.at.query_params
        assert "b" not in again.at.query_params

    def test_a_link_with_a_broken_plan_says_so_and_opens_the_other(
        self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said: list[str] = []  # the page is drawn more than once until all is there, a toast only once
        monkeypatch.setattr(sidebyside.st, "toast", lambda text, icon: said.append(text))
        seen = visit(a="nonsense", b=plan_to_text(plan_named(workspace, "qbert-8")))
        seen.until(lambda at: "Both measured" in words(at), "both measured")
        assert ["Plan A: the link's plan cannot be read" in text.replace("\\", "") for text in said] == [True]
        assert table(seen.at, CHANGE).iloc[0].tolist() == ["Plan", "qbert-4", "qbert-8", ""]

    def test_b_follows_the_plan_being_tuned(self, workspace: Workspace) -> None:
        seen = at_drawer("two-plans")
        assert "A and B do the same" in words(seen.at)
        seen.choose("qbert-2")
        seen.until(lambda at: "Both measured" in words(at), "both measured")
        assert table(seen.at, CHANGE).iloc[0].tolist() == ["Plan", "qbert-4", "qbert-2", ""]
        layers = list(table(seen.at, "Bits A")["Layer"])
        assert layers == [f"L{i + 1}" for i in range(3) for _ in range(6)]

    def test_a_plan_that_was_never_tried_is_measured(self, workspace: Workspace) -> None:
        (plan,) = own_plans(workspace, 1)
        seen = at_drawer("two-plans")
        (file,) = [f for f in seen.at.main.get("file_uploader") if f.key == "plan-beside"]
        file.set_value(("plan.json", plan_text(plan).encode(), "application/json"))
        seen.run()
        seen.until(lambda at: "Both measured" in words(at), "both measured")
        measured = workspace.evaluator.evaluate(plan)
        assert table(seen.at, CHANGE)["A"][1] == fmt_percent(measured.score.metrics["accuracy"])
        assert seen.plan(workspace) == workspace.start, "the plan being tuned stays"

    def test_a_file_that_is_no_plan_is_refused(self) -> None:
        seen = at_drawer("two-plans")
        (file,) = [f for f in seen.at.main.get("file_uploader") if f.key == "plan-beside"]
        file.set_value(("plan.json", json.dumps([1]).encode(), "application/json"))
        seen.run()
        assert "not a plan" in words(seen.at).replace("\\", "")


def marked(seen: Visit) -> set[str]:
    """The layers outlined on the page, as the figures write them."""
    return set(re.findall(r'class="layer-outline" data-layer="(\d+)"', seen.page_html()))


class TestMark:
    """A layer chosen anywhere."""

    def test_a_link_marks_a_layer_on_every_page_until_it_is_taken_away(self, source: Source) -> None:
        seen = at_drawer("every-site", source, layer="2")
        assert marked(seen) == {"2"}
        assert seen.at.query_params["layer"] == "2"
        rows = [t.startswith(TRIANGLE) for t in shown_layers(seen.at)]
        assert rows == [False] * 9 + [True] * 6 + [False] * 6
        seen.turn_to("sensitivity")
        assert seen.at.query_params["layer"] == "2"
        assert [b.label for b in seen.at.sidebar.button if b.key == "unmark-layer"] == ["Layer L2 is marked"]
        seen.turn_to("attention")
        (layer,) = [box for box in seen.at.main.selectbox if box.label == "Layer"]
        assert layer.value == 1
        seen.turn_to("")
        seen.press("unmark-layer")
        assert marked(seen) == set()
        assert "layer" not in seen.at.query_params
        assert not any(t.startswith(TRIANGLE) for t in shown_layers(seen.at))

    def test_a_layer_chosen_on_attention_is_marked_on_bits(self) -> None:
        seen = visit()
        seen.settled()
        seen.turn_to("attention")
        (layer,) = [box for box in seen.at.main.selectbox if box.label == "Layer"]
        layer.set_value(2)
        seen.run()
        seen.turn_to("")
        assert marked(seen) == {"3"}

    @pytest.mark.parametrize("text", ["0", "-1", "two", "99999", "1.5", "", "٣x"])
    def test_no_layer_in_a_link_marks_none(self, text: str) -> None:
        seen = visit(layer=text)
        seen.settled()
        assert marked(seen) == set()

    def test_the_back_button_brings_the_mark_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = visit(layer="1")
        seen.settled()
        seen.press("unmark-layer")
        assert marked(seen) == set()
        monkeypatch.setattr(history, "went_back", lambda: True)
        seen.at.query_params["layer"] = "1"
        seen.run()
        assert marked(seen) == {"1"}

    def test_a_choice_changes_no_chart(self, source: Source) -> None:
        seen = visit(source)
        seen.settled()
        before = seen.at.get("plotly_chart")[0].proto.spec  # the other one fills while presets are measured
        seen.at.session_state["chosen layer"] = 1
        seen.run()
        assert marked(seen) == {"2"}
        assert seen.at.get("plotly_chart")[0].proto.spec == before


def shown_layers(at: AppTest) -> list[str]:
    """The column Layer of the table of sites, as it is written."""
    (found,) = [frame for frame in at.main.dataframe if "MSE" in frame.value.columns]
    display = convert_arrow_bytes_to_pandas_df(found.proto.arrow_data.styler.display_values)
    return [str(text) for text in display["Layer"]]


def test_the_csv_has_every_digit_and_no_formula(workspace: Workspace) -> None:
    frame = site_frame(workspace, workspace.start, {}, None)
    rows = frame.astype(object).where(frame.notna(), None)
    read = list(csv.DictReader(io.StringIO(csv_text(frame.columns, rows.itertuples(index=False)))))
    assert [row["site"] for row in read] == list(frame["site"])
    assert [float(row["share"]) for row in read] == list(frame["share"])
    assert (read[0]["layer"], read[0]["input_bits"], read[0]["squared_error"]) == ("", "", "")
    assert read[3]["layer"] == "1"
