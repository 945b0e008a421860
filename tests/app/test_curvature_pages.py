"""The curvature pages without a browser: what they start, what they show of it, and what they are told."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app import registries
from app.jobs import Jobs
from app.planfiles import plan_path, sweep, write_plan
from app.workspace import Source, Workspace
from qbert_core.cli import parser
from qbert_core.quantization import Plan, sites_of
from qbert_core.quantization.plan import parse_plan
from tests.app.speaker import Speaker
from tests.app.test_pages import Visit, demo, visit  # noqa: F401
from tests.app.tools import own_plans, until


def at_page(source: Source | None, path: str) -> Visit:
    seen = visit(source)
    seen.settled()
    seen.turn_to(path)
    return seen


def press(seen: Visit, label: str) -> AppTest:
    (button,) = [b for b in seen.at.main.button if b.label == label]
    button.click()
    return seen.run()


def words(at: AppTest) -> str:
    """Everything the main part says, with no-break spaces made plain."""
    parts = [*at.main.caption, *at.main.markdown, *at.main.info, *at.main.error]
    said = [part.value for part in parts]
    said += [chart.proto.alt for chart in at.get("plotly_chart")]
    return "\n".join(said).replace("\N{NO-BREAK SPACE}", " ")


def has_cards(at: AppTest) -> bool:
    return any('class="cards' in html.value for html in at.get("html"))


def choose(seen: Visit, label: str, value: Any) -> AppTest:
    for kind in (seen.at.main.selectbox, seen.at.main.text_input, seen.at.main.number_input):
        for widget in kind:
            if widget.label == label:
                widget.set_value(value)
                return seen.run()
    raise AssertionError(f"no widget {label}")


def test_a_unit_without_a_partial_result_keeps_the_last_one(speaker: Speaker) -> None:
    speaker.say({"n": 1}, None, {"n": 2}, None, None)
    job = Jobs().start("test", "session", ["density"])
    until(lambda: job.done == 5, "every line read")
    assert job.partial == {"n": 2}
    job.cancel()


class TestPlanFiles:
    """The plan of a job as a file."""

    def test_a_file_holds_the_plan_under_its_digest(self, workspace: Workspace, folder: None) -> None:
        (plan,) = own_plans(workspace, 1)
        path = write_plan(plan)
        assert path == plan_path(plan)
        assert plan.digest in path.name
        document = json.loads(path.read_text())
        assert parse_plan(document, sites_of(workspace.checkpoint.config), "test") == plan

    def test_equal_plans_share_a_file_and_others_do_not(self, workspace: Workspace, folder: None) -> None:
        one, other = own_plans(workspace, 2)
        assert write_plan(one) == write_plan(replace(one, name="../../another name"))
        assert write_plan(one) != write_plan(other)
        assert len(list(plan_path(one).parent.iterdir())) == 2

    def test_a_file_that_was_swept_away_is_written_again(self, workspace: Workspace, folder: None) -> None:
        (plan,) = own_plans(workspace, 1)
        path = write_plan(plan)
        path.unlink()
        path.parent.rmdir()
        assert write_plan(plan).is_file()

    def test_the_file_outlasts_the_server_that_wrote_it(self, folder: Path, home: Path) -> None:
        code = (
            "from app.planfiles import write_plan\n"
            "from qbert_core.quantization import Plan, SitePlan\n"
            "print(write_plan(Plan('p', 8, (('s', SitePlan(4, 1)),))))"
        )
        environment = {"PATH": "", "QBERT_HOME": str(home)}
        printed = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
        ).stdout.strip()
        assert Path(printed).parent == folder
        assert Path(printed).is_file()

    def test_what_no_job_needs_goes_after_a_month(self, workspace: Workspace, folder: Path) -> None:
        old, needed, asked_again, new = (write_plan(plan) for plan in own_plans(workspace, 4))
        for path in (old, needed, asked_again):
            os.utime(path, (0, 0))
        write_plan(own_plans(workspace, 3)[2])
        sweep([str(needed)])
        assert set(folder.iterdir()) == {needed, asked_again, new}

    def test_nobody_else_may_read_it(self, workspace: Workspace, folder: None) -> None:
        assert write_plan(own_plans(workspace, 1)[0]).parent.stat().st_mode & 0o077 == 0


def landscape(plan: Plan, steps: int = 5, known: int | None = None, **other: Any) -> dict[str, Any]:
    """A document over a quadratic bowl; `known`: only the points of every `known`th row and column."""
    places = np.linspace(-1, 1, steps).tolist()
    stride = known or 1
    loss = [
        [
            0.2 + x * x + 2 * y * y if i % stride == 0 and j % stride == 0 else None
            for j, x in enumerate(places)
        ]
        for i, y in enumerate(places)
    ]
    quantized = {
        "plan": plan.name, "plan_digest": plan.digest, "x": 0.5, "y": 0.25, "loss": 1.25,
        "loss_at_projection": 0.575, "distance": 3.5, "explained": 0.0234,
    }  # fmt: skip
    return {
        "layer": 0, "x": places, "y": places, "loss": loss, "loss_at_zero": 0.2, "gradient": [-0.01, 0.02],
        "curvature": [[2, 0], [0, 4]], "eigenvalues": [4.0, -2.0], "residuals": [0.004, 0.008],
        "normalise": "none", "quantized": quantized, "examples": 6, "evaluations": 28, "seconds": 1.5,
        "hvp_count": 12, "seed": 0, "fraction": 0.1, "tolerance": 0.01, "model": "m", "data": "d", **other,
    }  # fmt: skip


class TestLandscape:
    """The page of the loss landscape."""

    @pytest.fixture
    def page(self, source: Source, folder: None) -> Visit:
        return at_page(source, "landscape")

    def test_before_the_first_job_it_says_what_to_do(self, page: Visit) -> None:
        assert [title.value for title in page.at.title] == ["Loss landscape"]
        assert words(page.at).count("press Start") == 2
        assert not has_cards(page.at)

    def test_start_runs_a_command_the_command_line_takes(
        self, page: Visit, speaker: Speaker, source: Source, workspace: Workspace
    ) -> None:
        choose(page, "Layer", 2)
        choose(page, "Grid", 11)
        choose(page, "Training data", source.data)
        press(page, "Start")
        until(lambda: speaker.commands, "a job")
        arguments = parser().parse_args(speaker.commands[0])
        assert (arguments.model, arguments.train, arguments.task) == (source.model, source.data, "sst2")
        assert (arguments.layer, arguments.steps, arguments.fraction) == (2, 11, 0.1)
        assert (arguments.normalise, arguments.plan) == ("none", workspace.start.name)

    def test_a_plan_by_hand_goes_as_a_file_and_finds_its_job_again(
        self, source: Source, speaker: Speaker, workspace: Workspace, folder: None
    ) -> None:
        seen = visit(source)
        seen.settled()
        seen.at.select_slider[0].set_value("3")
        next(n for n in seen.at.main.number_input if n.label == "Groups").set_value(12)
        next(b for b in seen.at.main.button if b.label == "Apply").click()
        seen.settled()
        plan = seen.plan(workspace)
        seen.turn_to("landscape")
        choose(seen, "Training data", source.data)
        press(seen, "Start")
        until(lambda: speaker.commands, "a job")
        command = speaker.commands[0]
        path = Path(command[command.index("--plan") + 1])
        assert parse_plan(json.loads(path.read_text()), sites_of(workspace.checkpoint.config), "") == plan
        assert plan.digest in path.name
        speaker.give(landscape(plan))
        seen.until(has_cards, "the numbers")
        assert "an earlier landscape" not in words(seen.at)
        choose(seen, "Bits", "qbert-2")
        assert "an earlier landscape" in words(seen.at)
        press(seen, "Start")
        until(lambda: len(speaker.commands) == 2, "a second job")
        assert speaker.commands[1][speaker.commands[1].index("--plan") + 1] == "qbert-2"

    def test_a_coarse_grid_is_drawn_while_finer_points_arrive(
        self, page: Visit, speaker: Speaker, source: Source, workspace: Workspace
    ) -> None:
        speaker.say(None, None, landscape(workspace.start, known=2))
        choose(page, "Training data", source.data)
        press(page, "Start")
        at = page.until(has_cards, "the first numbers")
        assert "on 3 by 3 points" in words(at)
        assert any(b.label == "Cancel" for b in at.main.button)
        speaker.give(landscape(workspace.start))
        at = page.until(lambda at: any(b.label == "Start" for b in at.main.button), "the end")
        assert "on 5 by 5 points" in words(at)

    def test_the_line_of_truth(
        self, page: Visit, speaker: Speaker, source: Source, workspace: Workspace
    ) -> None:
        speaker.give(landscape(workspace.start))
        choose(page, "Training data", source.data)
        press(page, "Start")
        at = page.until(has_cards, "the numbers")
        assert page.card("Loss, trained") == "0.200"
        assert page.card("Where the plan falls on the plane") == "0.575"
        assert page.card("Really, L1 quantized") == "1.25"
        assert page.card("Of the move, in the plane") == "2.34\xa0%"
        notes = re.findall(r'class="note">([^<]*)<', page.page_html())
        assert [note.partition(" ")[0] for note in notes] == ["with", "+0.375", "+1.05", "share"]
        text = words(at)
        assert f"`{workspace.start.name}` moves L1's weights by 3.50, most of it out of this plane." in text
        assert "λ₁ = +4.00 (residual 0.400 %), slope \N{MINUS SIGN}0.0100" in text
        assert "λ₂ = \N{MINUS SIGN}2.00 (residual 0.800 %), slope +0.0200" in text
        assert "Along v₂ the loss curves down: no minimum on this draw." in text

    def test_a_plan_that_leaves_the_layer_alone_is_said_to(
        self, page: Visit, speaker: Speaker, source: Source, workspace: Workspace
    ) -> None:
        still = landscape(workspace.baseline)
        still["quantized"] |= {"x": 0.0, "y": 0.0, "loss": 0.2, "distance": 0.0, "explained": 1.0}
        speaker.give(still)
        choose(page, "Training data", source.data)
        press(page, "Start")
        at = page.until(has_cards, "the numbers")
        assert f"`{workspace.baseline.name}` leaves L1 as it is." in words(at)

    def test_a_plans_name_is_text(
        self, page: Visit, speaker: Speaker, source: Source, workspace: Workspace
    ) -> None:
        speaker.give(landscape(replace(workspace.start, name="`<img src=x>` **b**\n\n# h")))
        choose(page, "Training data", source.data)
        press(page, "Start")
        at = page.until(has_cards, "the numbers")
        assert "`<img src=x> **b** # h` moves" in words(at)

    def test_a_job_that_failed_says_why(self, page: Visit, speaker: Speaker, source: Source) -> None:
        speaker.fail("layer is 7; the model has 0..2")
        choose(page, "Training data", source.data)
        press(page, "Start")
        at = page.until(lambda at: at.main.error, "the error")
        assert at.main.error[0].value.replace("\\", "") == "layer is 7; the model has 0..2"
        assert any(b.label == "Start" for b in at.main.button)

    def test_cancel_keeps_what_was_measured(
        self, page: Visit, speaker: Speaker, source: Source, workspace: Workspace
    ) -> None:
        speaker.say(landscape(workspace.start, known=2))
        choose(page, "Training data", source.data)
        press(page, "Start")
        page.until(has_cards, "the first numbers")
        at = press(page, "Cancel")
        assert "Cancelled after 9 points." in words(at)
        assert "on 3 by 3 points" in words(at)

    def test_without_training_data_it_says_what_to_give(self, page: Visit, speaker: Speaker) -> None:
        choose(page, "Training data", " ")
        at = press(page, "Start")
        assert "columns sentence, label" in at.main.error[0].value.replace("\\", "")
        assert not speaker.commands


LAMBDAS = [[9.0, -11.0, 10.0, 8.0], [1.0, 2.0, 1.5, -1.0], [0.5, 0.4, 0.6, 0.5]]
PAIRS = [[0.5, 0.999, 1.0], [0.001, 0.5, 0.87], [0.0, 0.13, 0.5]]


def sensitivity(runs: int = 4, stable_after: int | None = 4, **other: Any) -> dict[str, Any]:
    """A document of three layers; before three runs without stability."""
    blocks = []
    for layer, values in enumerate(LAMBDAS):
        done = values[:runs]
        mean, std = float(np.mean(done)), float(np.std(done))
        blocks.append({
            "name": f"bert.encoder.layer.{layer}", "layer": layer, "kind": "layer", "lambdas": done,
            "residuals": [0.004] * runs, "mean": mean, "std": std, "omega": abs(mean) + std,
        })  # fmt: skip
    history = [{"runs": r, "probability": p} for r, p in ((3, 0.8), (4, 0.96)) if r <= runs]
    stability = {
        "confidence": 0.95, "high": 1, "set": [0], "probability": history[-1]["probability"], "pairs": PAIRS,
        "stable_after": stable_after, "examples_used": 20, "history": history,
    } if history else None  # fmt: skip
    return {
        "blocks": blocks, "runs": runs, "examples": 6, "seconds": 2.0, "hvp_count": 99, "stopped": "runs",
        "seed": 0, "fraction": 0.1, "tolerance": 0.01, "granularity": "layer", "model": "m", "data": "d",
        "stability": stability, **other,
    }  # fmt: skip


def spectrum(probes: int) -> dict[str, Any]:
    x = np.linspace(-3, 12, 61)
    density = 0.999 * np.exp(-x * x) + 0.001 * np.exp(-((x - 10) ** 2))
    return {
        "block": {"name": "bert.encoder.layer.1", "layer": 1, "kind": "layer", "parameters": 1000},
        "nodes": [[0.0, 10.0]] * probes, "weights": [[0.999, 0.001]] * probes, "x": x.tolist(),
        "density": density.tolist(), "sigma": 0.7, "lowest": -1.5, "highest": 10.0,
        "trace": {"value": 12.0, "error": 3.0, "products": 8} if probes > 1 else None,
        "mean_eigenvalue": 0.012, "examples": 6, "probes": 4, "steps": 60, "seconds": 1.0, "hvp_count": 77,
    }  # fmt: skip


class TestSensitivity:
    """What the page of sensitivity has besides samples and ranks."""

    @pytest.fixture
    def page(self, source: Source) -> Visit:
        return at_page(source, "sensitivity")

    def turn(self, seen: Visit, tab: str) -> AppTest:
        seen.at.session_state["sensitivity-tab"] = tab
        return seen.run()

    def begin(self, page: Visit, source: Source) -> AppTest:
        choose(page, "Training data", source.data)
        return press(page, "Start")

    def test_the_toggle_adds_confidence_and_the_number_of_the_highest(
        self, page: Visit, speaker: Speaker, source: Source
    ) -> None:
        page.at.main.toggle[0].set_value(True)
        page.run()
        (group,) = [g for g in page.at.main.button_group if g.label == "Confidence"]
        group.set_value(0.9)
        page.run()
        assert "sure of the 1 highest of 3 layers" in words(page.at)
        self.begin(page, source)
        until(lambda: speaker.commands, "a job")
        arguments = parser().parse_args(speaker.commands[0])
        assert arguments.until_stable
        assert (arguments.high, arguments.confidence, arguments.runs) == (1, 0.9, 10)

    def test_without_the_toggle_there_is_no_stop(self, page: Visit, speaker: Speaker, source: Source) -> None:
        self.begin(page, source)
        until(lambda: speaker.commands, "a job")
        arguments = parser().parse_args(speaker.commands[0])
        assert not arguments.until_stable
        assert arguments.high == 1

    def test_confidence_stands_beside_the_ranking(
        self, page: Visit, speaker: Speaker, source: Source
    ) -> None:
        speaker.give(sensitivity())
        self.begin(page, source)
        at = page.until(lambda at: at.main.dataframe, "the ranking")
        table = at.main.dataframe[0].value
        assert list(table["Layer"]) == ["L1", "L2", "L3"]
        assert [text.replace("\xa0", " ") for text in table["Above next"]] == ["> 99 %", "87 %", ""]
        text = words(at)
        assert "L1 is the most sensitive with probability 96 %; stable at 95 % since run 4." in text

    def test_a_ranking_by_the_mean_has_no_confidence_of_omega(
        self, page: Visit, speaker: Speaker, source: Source
    ) -> None:
        speaker.give(sensitivity())
        self.begin(page, source)
        page.until(lambda at: at.main.dataframe, "the ranking")
        (group,) = [g for g in page.at.main.button_group if g.label == "Ranked by"]
        group.set_value("|mean| only (HAWQ)")
        assert "Above next" not in page.run().main.dataframe[0].value

    def test_before_three_runs_there_is_no_confidence(
        self, page: Visit, speaker: Speaker, source: Source
    ) -> None:
        speaker.say(sensitivity(runs=2))
        self.begin(page, source)
        at = page.until(lambda at: at.main.dataframe, "the ranking")
        assert "Above next" not in at.main.dataframe[0].value
        assert "After three complete runs" in words(self.turn(page, "Confidence"))

    def test_the_history_says_when_it_became_stable(
        self, page: Visit, speaker: Speaker, source: Source
    ) -> None:
        speaker.give(sensitivity())
        self.begin(page, source)
        page.until(lambda at: at.main.dataframe, "the ranking")
        text = words(self.turn(page, "Confidence"))
        assert "96 % after 4 runs; stable after 4 runs." in text
        assert "the closest call is L2 above L3 with 87 %" in text

    def test_what_is_not_stable_is_not_called_so(self, page: Visit, speaker: Speaker, source: Source) -> None:
        speaker.give(sensitivity(runs=3, stable_after=None))
        self.begin(page, source)
        at = page.until(lambda at: at.main.dataframe, "the ranking")
        assert "with probability 80 %; not stable yet: 95 % is asked for" in words(at)

    def test_a_stop_before_the_last_run_is_said(self, page: Visit, speaker: Speaker, source: Source) -> None:
        speaker.give(sensitivity(stopped="stable"))
        self.begin(page, source)
        at = page.until(lambda at: at.main.dataframe, "the ranking")
        assert "The ranking is stable: no more of the 10 runs were needed. 4 runs of 6 examples" in words(at)

    def test_the_sign_of_lambda_is_explained(self, page: Visit, speaker: Speaker, source: Source) -> None:
        speaker.give(sensitivity())
        self.begin(page, source)
        at = page.until(lambda at: at.main.dataframe, "the ranking")
        assert "2 of 12 are negative: the loss curves down along that direction" in words(at)

    def test_the_slider_keeps_its_place_while_another_tab_is_open(
        self, page: Visit, speaker: Speaker, source: Source
    ) -> None:
        speaker.give(sensitivity())
        self.begin(page, source)
        page.until(lambda at: at.main.dataframe, "the ranking")
        page.at.main.slider[0].set_value(2)
        page.run()
        self.turn(page, "Density")
        assert not page.at.main.slider
        self.turn(page, "Ranking and bits")
        assert page.at.main.slider[0].value == 2

    def test_a_density_is_started_for_the_chosen_block_and_drawn_probe_by_probe(
        self, page: Visit, speaker: Speaker, source: Source
    ) -> None:
        choose(page, "Training data", source.data)
        self.turn(page, "Density")
        assert "No density yet" in words(page.at)
        choose(page, "Block", "L2")
        speaker.say(None, spectrum(1), None, None)
        press(page, "Start density")
        until(lambda: speaker.commands, "a job")
        arguments = parser().parse_args(speaker.commands[0])
        assert (arguments.layer, arguments.block_name) == (1, None)
        assert (arguments.train, arguments.fraction) == (source.data, 0.1)
        assert (arguments.steps, arguments.probes) == (60, 4)
        at = page.until(lambda at: "1 of 4 probes" in words(at), "the first probe")
        assert "Their sum" not in words(at), "the trace is not known yet"
        speaker.give(spectrum(4))
        at = page.until(lambda at: "4 of 4 probes" in words(at), "the last probe")
        assert "Their sum is +12.0 ± 3.00, their mean +0.0120." in words(at)
        assert "Density of the 1,000 Hessian eigenvalues" in words(at)
        choose(page, "Block", "L1")
        assert "No density yet" in words(page.at), "another block has none"

    def test_a_density_can_be_cancelled(self, page: Visit, speaker: Speaker, source: Source) -> None:
        choose(page, "Training data", source.data)
        self.turn(page, "Density")
        press(page, "Start density")
        (job,) = registries.jobs().all()
        page.until(lambda at: any(b.label == "Cancel" for b in at.main.button), "the button")
        press(page, "Cancel")
        assert job.state == "cancelled"
        assert any(b.label == "Start density" for b in page.at.main.button)

    def test_embedding_tables_have_their_place(self, page: Visit, speaker: Speaker, source: Source) -> None:
        found = sensitivity()
        for block in found["blocks"]:
            block["name"] += ".attention.self.query"
            block["kind"] = "attention"
        table = {
            **found["blocks"][0],
            "name": "bert.embeddings.word_embeddings",
            "layer": -1,
            "kind": "embedding",
        }
        found["blocks"] = [table, *found["blocks"]]
        found |= {"granularity": "site", "stability": None}
        (group,) = [g for g in page.at.main.button_group if g.label == "Blocks"]
        group.set_value("site")
        speaker.give(found)
        self.begin(page, source)
        at = page.until(lambda at: "choose *layer* above" in words(at), "the result")
        assert any('"Emb"' in chart.proto.spec for chart in at.get("plotly_chart"))
        self.turn(page, "Density")
        options = next(box.options for box in page.at.main.selectbox if box.label == "Block")
        assert options[:3] == ["L1", "L2", "L3"]
        assert options[3:] == ["Emb word", *(f"L{n} attention, attention.self.query" for n in (1, 2, 3))]
        choose(page, "Training data", source.data)
        choose(page, "Block", "Emb word")
        speaker.hold()
        press(page, "Start density")
        until(lambda: len(speaker.commands) == 2, "a job")
        assert parser().parse_args(speaker.commands[1]).block_name == "bert.embeddings.word_embeddings"
