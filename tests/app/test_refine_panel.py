"""Refining on page Bits and ranking on page Sensitivity, without a browser: what is started, shown and taken."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import registries
from app.figures import fmt_interval, fmt_percent
from app.link import plan_to_text
from app.planfiles import write_plan, write_sensitivity
from app.rankings import NAMES, plans_csv, ranks_table, ranks_words
from app.rankings import arguments as rank_arguments
from app.refinements import arguments, better, changes, tries_csv, verdict
from app.workspace import Source, Workspace
from qbert_core.cli import main, parser
from qbert_core.curvature import BlockSensitivity, Sensitivity, blocks_of
from qbert_core.quantization import Plan, plan_size, preset_named, sites_of
from qbert_core.quantization.plan import parse_plan
from tests.app.speaker import Speaker
from tests.app.test_curvature_pages import at_page, words
from tests.app.test_pages import Visit, demo  # noqa: F401
from tests.app.tools import PATIENCE, until

PANEL = """
from app import state
from app.views.refine import refine_panel
from app.waiting import loaded_workspace

workspace = loaded_workspace()
if workspace is not None:
    refine_panel(workspace, state.tuning(workspace))
"""
HEAVY = ("plan", "attention_kl", "predictions")


@pytest.fixture(scope="module")
def analysis(workspace: Workspace) -> dict[str, Any]:
    """A finished analysis of the tiny model's layers: the middle one is the most sensitive."""
    blocks = tuple(
        BlockSensitivity(block.name, block.layer, block.kind, values, (0.01, 0.02))
        for block, values in zip(
            blocks_of(workspace.checkpoint.config), ((1.0, 2.0), (-30.0, -90.0), (0.5, 0.5)), strict=True
        )
    )
    return Sensitivity(blocks, 2, 6, 1.0, 20, model=workspace.checkpoint.fingerprint).to_json()


@pytest.fixture(scope="module")
def start(workspace: Workspace) -> Plan:
    """3 bits everywhere."""
    return preset_named(workspace.checkpoint.config, "sst2", "qbert-3")


Engine = Callable[[list[str]], dict[str, Any]]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """What the command line says; each command once. Plans and analyses are written where it looks."""
    place, known = tmp_path_factory.mktemp("engine"), dict[str, dict[str, Any]]()

    def run(command: list[str]) -> dict[str, Any]:
        key = " ".join(Path(part).name for part in command)
        if key not in known:
            out = place / f"{len(known)}.json"
            assert main([*command, "--out", str(out)]) == 0
            known[key] = json.loads(out.read_text())
        return known[key]

    return run


@pytest.fixture
def refined(
    workspace: Workspace, analysis: dict[str, Any], start: Plan, engine: Engine
) -> Callable[..., dict[str, Any]]:
    """What refining `start` really gives."""

    def run(tries: int = 12, locked: tuple[int, ...] = ()) -> dict[str, Any]:
        write_plan(start)
        write_sensitivity(analysis)
        return engine(arguments(workspace, start, analysis, tries, locked))

    return run


def finish(speaker: Speaker, workspace: Workspace, analysis: dict[str, Any]) -> None:
    """An analysis that ended before the page was opened."""
    speaker.give(analysis)
    job = registries.jobs().start(
        "analysis", "somebody", ["sensitivity", workspace.source.model, "--runs", "2"]
    )
    until(lambda: job.state == "done", "the analysis ended")
    speaker.hold()
    speaker.commands.clear()


def panel(plan: Plan | None = None) -> Visit:
    seen = Visit(AppTest.from_string(PANEL, default_timeout=PATIENCE))
    if plan is not None:
        seen.at.query_params["plan"] = plan_to_text(plan)
    seen.until(lambda at: at.main.button, "the model is loaded")
    return seen


def wait_for_result(seen: Visit) -> None:
    seen.until(lambda at: not registries.jobs().all()[0].active, "the job ended")
    seen.run()


class TestRefining:
    """The panel on page Bits."""

    def test_without_an_analysis_it_says_what_to_do(self, speaker: Speaker) -> None:
        seen = panel()
        assert seen.at.button(key="start-refine").disabled
        assert "finished analysis" in words(seen.at)
        assert "Sensitivity" in words(seen.at)

    def test_it_starts_a_command_that_refines_the_plan_on_screen_within_its_size(
        self, speaker: Speaker, workspace: Workspace, analysis: dict[str, Any]
    ) -> None:
        finish(speaker, workspace, analysis)
        seen = panel()
        seen.at.number_input(key="refine-tries").set_value(7)
        seen.run()
        seen.press("start-refine")
        until(lambda: speaker.commands, "the command started")
        (command,) = speaker.commands
        given = parser().parse_args(command)
        current = seen.at.session_state["tuning"].plan
        assert given.refine == 7
        assert given.budget_mb == plan_size(workspace.checkpoint.config, current).size_mb
        written = json.loads(Path(given.plan).read_text())
        assert parse_plan(written, sites_of(workspace.checkpoint.config), "file") == current
        assert json.loads(Path(given.sensitivity).read_text()) == analysis
        assert (given.task, given.data, given.limit) == ("sst2", "demo", Source.limit)
        assert given.lock is None

    def test_locked_layers_are_in_the_command(
        self, workspace: Workspace, analysis: dict[str, Any], start: Plan
    ) -> None:
        command = arguments(workspace, start, analysis, 5, {2, 0})
        assert parser().parse_args(command).lock == "0,2"
        assert arguments(workspace, start, analysis, 5, ()) == arguments(
            workspace, start, analysis, 5, frozenset()
        )

    def test_the_result_is_shown_as_it_is_and_can_be_taken(
        self,
        speaker: Speaker,
        workspace: Workspace,
        analysis: dict[str, Any],
        start: Plan,
        refined: Callable[..., dict[str, Any]],
    ) -> None:
        document = refined()
        told = document["refine"]
        assert better(told), "the test needs a search that finds something"
        finish(speaker, workspace, analysis)
        seen = panel(start)
        before = seen.at.session_state["tuning"].plan
        assert before.digest == told["start"]["plan_digest"]
        seen.press("start-refine")
        assert "use-refined" not in {button.key for button in seen.at.main.button}
        speaker.give(document)
        wait_for_result(seen)
        said = words(seen.at).replace("\\", "")
        for side in ("start", "end"):
            report = told[side]["report"]
            assert plainly(fmt_percent(report["metrics"]["accuracy"])) in said
            assert plainly(fmt_interval(*report["interval"])) in said
        assert plainly(verdict(workspace, told)) in said
        for change in changes(told):
            assert change in said
        seen.press("use-refined")
        plan = seen.at.session_state["tuning"].plan
        assert plan.to_json()["sites"] == document["plan"]["sites"]
        assert plan_size(workspace.checkpoint.config, plan).size_mb <= told["budget_mb"] + 1e-9
        assert plan.digest in seen.at.session_state["tuning"].allocated
        assert seen.at.session_state["tuning"].undo == [before]
        assert seen.at.button(key="use-refined").disabled
        assert plainly(verdict(workspace, told)) in words(seen.at).replace("\\", ""), "it is still there"

    def test_a_running_one_can_be_cancelled(
        self, speaker: Speaker, workspace: Workspace, analysis: dict[str, Any]
    ) -> None:
        finish(speaker, workspace, analysis)
        speaker.say({"rows": [], "running": None}, {"rows": [], "running": None}, total=23)
        seen = panel()
        seen.press("start-refine")
        job = registries.jobs().all()[0]
        until(lambda: job.done == 2, "two plans told")
        seen.run()
        (bar,) = seen.at.get("progress")
        assert "1 of 20 plans" in bar.proto.text
        seen.press("cancel-refine")
        assert job.state == "cancelled"
        assert "What was measured is kept" in words(seen.at)
        assert not seen.at.button(key="start-refine").disabled

    def test_a_job_that_failed_says_why(
        self, speaker: Speaker, workspace: Workspace, analysis: dict[str, Any]
    ) -> None:
        finish(speaker, workspace, analysis)
        seen = panel()
        speaker.fail("no such *file*")
        seen.press("start-refine")
        wait_for_result(seen)
        assert r"no such \*file\*" in words(seen.at)


def plainly(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


class TestWords:
    """What a result is said to be."""

    def test_the_verdict_follows_the_interval(
        self, workspace: Workspace, refined: Callable[..., dict[str, Any]]
    ) -> None:
        told = refined()["refine"]
        for interval, said in (
            ([0.01, 0.05], ": better."),
            ([-0.01, 0.05], "may be chance"),
            ([-0.05, -0.01], "worse, so what chose it was chance. Keep yours."),
        ):
            text = verdict(workspace, {**told, "difference": {**told["difference"], "interval": interval}})
            assert said in text
            assert "sentences" in text
        same = {**told, "end": told["start"]}
        assert f"None of {len(told['tried'])} plans" in verdict(workspace, same)
        assert "Yours stays" in verdict(workspace, same)
        assert "is a step away" in verdict(workspace, {**same, "tried": []})

    def test_changes_lead_from_the_start_to_the_end(
        self, workspace: Workspace, start: Plan, refined: Callable[..., dict[str, Any]]
    ) -> None:
        document = refined()
        said = set(changes(document["refine"]))
        config = workspace.checkpoint.config
        end = parse_plan(document["plan"], sites_of(config), "end")
        expected = set()
        for layer in range(config.layers):
            site = f"bert.encoder.layer.{layer}.attention.self.query"
            before, after = start.sites[site].bits, end.sites[site].bits
            if before != after:
                expected.add(f"L{layer + 1} {before} → {after}")
        assert said == expected

    def test_locked_layers_keep_their_bits(self, start: Plan, refined: Callable[..., dict[str, Any]]) -> None:
        document = refined(locked=(0,))
        moved = {change["name"] for one in document["refine"]["tried"] for change in one["changes"]}
        assert moved
        assert not any(".layer.0" in name for name in moved)

    def test_every_try_is_in_the_csv(self, refined: Callable[..., dict[str, Any]]) -> None:
        told = refined()["refine"]
        read = list(csv.DictReader(io.StringIO(tries_csv(told))))
        assert [row["plan_digest"] for row in read] == [one["plan_digest"] for one in told["tried"]]
        for row, one in zip(read, told["tried"], strict=True):
            assert float(row["accuracy"]) == one["metrics"]["accuracy"]
            assert float(row["loss"]) == one["loss"]
            assert row["accepted"] == str(one["accepted"])
        assert tries_csv({"tried": []}).count("\n") == 1


@pytest.fixture
def ranked(workspace: Workspace, analysis: dict[str, Any], engine: Engine) -> dict[str, Any]:
    """What ranking the tiny model's plans really gives."""
    write_sensitivity(analysis)
    return engine(rank_arguments(workspace, analysis, 15))


class TestRanking:
    """The section on page Sensitivity."""

    @pytest.fixture
    def page(self, source: Source) -> Visit:
        seen = at_page(None, "sensitivity")
        seen.at.session_state["sensitivity-tab"] = "Does it rank well?"
        seen.run()
        return seen

    def test_without_an_analysis_it_says_what_to_do(self, speaker: Speaker, page: Visit) -> None:
        assert page.at.button(key="rank").disabled
        assert "press Start above" in words(page.at)
        assert "No plan measured yet" in words(page.at)

    def test_plans_arrive_and_the_ranks_are_said(
        self,
        speaker: Speaker,
        workspace: Workspace,
        analysis: dict[str, Any],
        ranked: dict[str, Any],
        page: Visit,
    ) -> None:
        finish(speaker, workspace, analysis)
        page.run()
        light = [{k: v for k, v in row.items() if k not in HEAVY} for row in ranked["rows"]]
        speaker.say({"rows": light[:4], "running": None}, total=len(light))
        page.at.number_input(key="ranked-plans").set_value(15)
        page.run()
        page.press("rank")
        until(lambda: speaker.commands, "the command started")
        given = parser().parse_args(speaker.commands[0])
        assert (given.frontier, given.limit) == (15, workspace.source.limit)
        assert json.loads(Path(given.sensitivity).read_text()) == analysis
        until(lambda: registries.jobs().all()[0].partial, "plans told")
        page.run()
        assert "3 plans against the harm" in words(page.at), "the fp32 model is none of them"
        assert "Spearman" not in words(page.at)
        speaker.give(ranked)
        wait_for_result(page)
        assert f"{len(light) - 1} plans against the harm" in words(page.at)
        for target, measured in (("accuracy", "Accuracy lost"), ("loss", "loss")):
            if target == "loss":
                (control,) = [c for c in page.at.main.button_group if c.label == "Measured by"]
                control.set_value("Loss")
                page.run()
            said = words(page.at).replace("\\", "")
            for sentence in ranks_words(ranked["ranks"], target, measured):
                assert plainly(sentence) in said

    def test_it_can_be_cancelled(
        self, speaker: Speaker, workspace: Workspace, analysis: dict[str, Any], page: Visit
    ) -> None:
        finish(speaker, workspace, analysis)
        page.run()
        page.press("rank")
        assert registries.jobs().all()[0].active
        page.press("cancel-ranking")
        assert registries.jobs().all()[0].state == "cancelled"
        assert not page.at.button(key="rank").disabled

    def test_words_and_table_say_the_numbers(self, ranked: dict[str, Any]) -> None:
        ranks = ranked["ranks"]
        for target in ("accuracy", "loss"):
            table = ranks_table(ranks, target)
            found = [row for row in ranks["rows"] if row["target"] == target]
            assert [row["Predicted by"] for row in table] == [NAMES[row["predictor"]] for row in found]
            text = " ".join(ranks_words(ranks, target, "loss"))
            for row, shown in zip(found, table, strict=True):
                value = row["spearman"]["value"]
                assert float(shown["Spearman ρ"].replace("\N{MINUS SIGN}", "-")) == pytest.approx(
                    value, abs=0.005
                )
                assert shown["Spearman ρ"] in text
                assert shown["95 % of ρ"] in text

    def test_without_pairs_of_one_size_it_says_so(self, ranked: dict[str, Any]) -> None:
        nothing = {"value": None, "interval": None}
        rows = [{**row, "near": nothing, "near_right": nothing} for row in ranked["ranks"]["rows"]]
        text = " ".join(ranks_words({**ranked["ranks"], "rows": rows, "near_pairs": 0}, "loss", "loss"))
        assert "nothing here tells a prediction from their size" in text

    def test_every_plan_is_in_the_csv(self, ranked: dict[str, Any]) -> None:
        read = list(csv.DictReader(io.StringIO(plans_csv(ranked["rows"], "accuracy"))))
        for text, row in zip(read, ranked["rows"], strict=True):
            assert float(text["accuracy"]) == row["metrics"]["accuracy"]
            assert float(text["loss"]) == row["loss"]
            if row["predicted"]:
                assert float(text["predicted_omega"]) == row["predicted"]["omega"]
            else:
                assert text["predicted_omega"] == ""
