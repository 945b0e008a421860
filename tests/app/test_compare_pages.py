"""The pages Compare and Finetune without a browser: what they start, what they show of it, and what they are told."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from app import registries
from app.figures import fmt_interval, fmt_percent, fmt_points_interval, fmt_signed_points, row_key
from app.jobs import Job
from app.reported import GROUPS, METHODS, METRICS
from app.sweeps import Settings as Sweep
from app.sweeps import finished_sensitivity, plans_by_digest, rows_csv, seconds_left
from app.trainings import Settings, finished, joined, models_home, save_folder, stopped_at
from app.workspace import Source, Workspace
from qbert_core.cli import main, parser
from qbert_core.quantization import preset_named, sites_of
from qbert_core.quantization.plan import parse_plan
from qbert_core.tasks.interval import wilson
from qbert_core.training.layout import STATES
from qbert_core.training.state import TrainingState, save_state
from tests.app.speaker import Speaker
from tests.app.test_curvature_pages import at_page, choose, press, words
from tests.app.test_pages import Visit, demo  # noqa: F401
from tests.app.tools import own_plans, until

EXPERIMENTS = {
    "methods": ["--methods"],
    "groups": ["--groups", "1,heads,128,rows"],
    "modules": ["--modules"],
    "one-at-a-time": ["--one-at-a-time"],
}
HEAVY = ("plan", "attention_kl", "predictions")


@pytest.fixture(scope="module")
def engine(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """What the command line says of the tiny model; each command once."""
    place, known = tmp_path_factory.mktemp("engine"), dict[tuple[str, ...], dict[str, Any]]()

    def run(command: str, *options: str) -> dict[str, Any]:
        if (command, *options) not in known:
            out = place / f"{len(known)}.json"
            arguments = [
                command,
                source.model,
                "--task",
                "sst2",
                "--data",
                source.data,
                "--train",
                source.data,
            ]
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("QBERT_HOME", str(place / "home"))
                assert main([*arguments, *options, "--out", str(out)]) == 0
            known[command, *options] = json.loads(out.read_text())
        return known[command, *options]

    return run


@pytest.fixture
def sweep(engine: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def run(experiment: str, *options: str) -> dict[str, Any]:
        return engine("sweep", *EXPERIMENTS[experiment], "--attention", *options)

    return run


def light(document: dict[str, Any], count: int | None = None) -> dict[str, Any]:
    """What a sweep says while it runs."""
    rows = [{k: v for k, v in row.items() if k not in HEAVY} for row in document["rows"][:count]]
    return {"rows": rows, "running": None}


def settings(experiment: Any = "methods", **other: Any) -> Sweep:
    return replace(Sweep(experiment, "", 2000, None), **other)


class TestRows:
    """What is made of a sweep's rows."""

    @pytest.mark.parametrize("experiment", ["groups", "modules", "one-at-a-time"])
    def test_every_plan_is_known_while_the_sweep_runs(
        self, experiment: str, sweep: Callable[..., dict[str, Any]], workspace: Workspace
    ) -> None:
        document = sweep(experiment)
        asked = settings(experiment, counts="1,heads,128,rows")
        plans = plans_by_digest(workspace, asked, light(document))
        for row in document["rows"]:
            assert plans[row["plan_digest"]].to_json()["sites"] == row["plan"]["sites"]

    def test_the_plans_of_methods_are_known_with_the_sensitivity_or_at_the_end(
        self, sweep: Callable[..., dict[str, Any]], workspace: Workspace
    ) -> None:
        document = sweep("methods")
        digests = {row["plan_digest"] for row in document["rows"]}
        ranked = settings(sensitivity=document["sensitivity"])
        assert digests <= set(plans_by_digest(workspace, ranked, light(document)))
        assert digests <= set(plans_by_digest(workspace, settings(), document))
        before = set(plans_by_digest(workspace, settings(), light(document)))
        assert digests & before == digests & {plan.digest for plan in workspace.presets}

    def test_counts_that_are_being_typed_do_no_harm(
        self, sweep: Callable[..., dict[str, Any]], workspace: Workspace
    ) -> None:
        asked = settings("groups", counts="1,hea")
        assert plans_by_digest(workspace, asked, light(sweep("groups"), 2))

    def test_the_table_as_csv_has_every_digit(self, sweep: Callable[..., dict[str, Any]]) -> None:
        rows = sweep("groups")["rows"]
        read = list(csv.DictReader(io.StringIO(rows_csv(rows))))
        assert [row["name"] for row in read] == [row["name"] for row in rows]
        for text, row in zip(read, rows, strict=True):
            assert float(text["accuracy"]) == row["metrics"]["accuracy"]
            assert [float(text["accuracy_low"]), float(text["accuracy_high"])] == row["interval"]
            assert float(text["size_mb"]) == row["size_mb"]
            assert float(text["attention_kl_mean"]) == row["attention_kl_mean"]
            assert [float(text["difference_low"]), float(text["difference_high"])] == row["difference"][
                "interval"
            ]

    def test_no_name_in_the_csv_is_a_formula(self, sweep: Callable[..., dict[str, Any]]) -> None:
        row = {**sweep("groups")["rows"][0], "name": "=1+1", "same_as": "@x"}
        (read,) = csv.DictReader(io.StringIO(rows_csv([row])))
        assert (read["name"], read["same_as"]) == ("'=1+1", "'@x")

    @given(
        st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 100)), max_size=8), st.integers(0, 9)
    )
    def test_the_time_to_go_is_that_of_rows_alike(self, found: Any, more: int) -> None:
        rows = [
            {"finetuned": tuned, "same_as": "other" if same else None, "seconds": seconds}
            for tuned, same, seconds in found
        ]
        for finetuning in (False, True):
            alike = [row for row in rows if row["finetuned"] == finetuning]
            left = seconds_left(rows, len(rows) + more, finetuning)
            if not alike:
                assert left is None
                continue
            spent = sum(row["seconds"] for row in alike if not row["same_as"])
            assert left == pytest.approx(more * spent / len(alike))

    def test_only_a_finished_analysis_of_this_model_s_layers_ranks(
        self, sweep: Callable[..., dict[str, Any]], workspace: Workspace
    ) -> None:
        document = {**sweep("methods")["sensitivity"], "granularity": "layer"}
        assert document["model"] == workspace.checkpoint.fingerprint
        results = [None, {**document, "granularity": "site"}, {**document, "model": "another"}, document]
        listed = []
        for result in results:
            job = Job("analysis", "session", ["sensitivity", "demo"])
            job.result = result
            listed.append(job)
        assert finished_sensitivity(workspace, listed) is document
        assert finished_sensitivity(workspace, listed[:3]) is None


def test_a_reported_row_has_a_number_for_every_metric_of_its_task() -> None:
    assert set(METHODS) == set(METRICS)
    for task, rows in METHODS.items():
        assert all(len(row.numbers) == len(METRICS[task]) for row in rows)
    for table in (METHODS, GROUPS):
        for rows in table.values():
            assert all(0 < number.value < 100 for row in rows for number in row.numbers)


@pytest.fixture
def compare(source: Source, folder: None) -> Visit:
    return at_page(source, "compare")


def turn(seen: Visit, tab: str) -> AppTest:
    seen.at.session_state["compare-tab"] = tab
    return seen.run()


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


@pytest.mark.usefixtures("folder")
class TestCompare:
    """The page of the paper's experiments."""

    def test_before_the_first_job_it_says_what_to_do(self, compare: Visit) -> None:
        assert [title.value for title in compare.at.title] == ["Compare"]
        assert "No methods measured yet. Press Start" in words(compare.at)
        assert "No finished analysis of this model yet" in words(compare.at)
        for tab, said in (
            ("Groups", "No group count measured yet. Press Start"),
            ("Modules and embeddings", "No modules measured yet. Press Start"),
            ("One at a time", "Nothing measured one at a time yet. Press Start"),
        ):
            assert said in words(turn(compare, tab))

    def test_what_the_paper_reports_stands_apart_and_is_named_so(self, compare: Visit) -> None:
        (table,) = compare.at.main.dataframe
        assert list(table.value.columns) == ["Bits", "Method", "Accuracy", "Source"]
        assert len(table.value) == len(METHODS["sst2"])
        assert set(table.value["Source"]) == {"confirmed", "reported"}
        assert "Reported by the paper" in words(compare.at)
        assert "Another model than yours" in words(compare.at)

    def test_start_runs_a_command_the_command_line_takes(
        self,
        compare: Visit,
        speaker: Speaker,
        source: Source,
    ) -> None:
        choose(compare, "Training data", source.data)
        choose(compare, "First rows", 30)
        press(compare, "Start")
        until(lambda: speaker.commands, "a job")
        asked = parser().parse_args(speaker.commands[0])
        assert (asked.model, asked.data, asked.train, asked.task) == (
            source.model,
            source.data,
            source.data,
            "sst2",
        )
        assert (asked.methods, asked.attention, asked.limit) == (True, True, 30)
        assert (asked.finetune, asked.high, asked.sensitivity) == (False, None, None)

    def test_finetuning_adds_epochs_and_seeds(
        self,
        compare: Visit,
        speaker: Speaker,
        source: Source,
    ) -> None:
        turn(compare, "Modules and embeddings")
        compare.at.main.toggle[0].set_value(True)
        compare.run()
        choose(compare, "Training data", source.data)
        choose(compare, "Epochs", 2)
        choose(compare, "Seeds", "0, 1")
        press(compare, "Start")
        until(lambda: speaker.commands, "a job")
        asked = parser().parse_args(speaker.commands[0])
        assert (asked.modules, asked.finetune, asked.epochs, asked.seeds) == (True, True, 2, "0,1")

    def test_groups_take_the_counts_and_the_session_s_plan(
        self,
        source: Source,
        speaker: Speaker,
        workspace: Workspace,
        folder: None,
    ) -> None:
        seen = at_page(source, "compare")
        (plan,) = own_plans(workspace, 1)
        seen.at.session_state["tuning"].plan = plan
        turn(seen, "Groups")
        choose(seen, "Bits of", "current plan")
        choose(seen, "Group counts", "1, heads, rows")
        press(seen, "Start")
        until(lambda: speaker.commands, "a job")
        asked = parser().parse_args(speaker.commands[0])
        assert asked.groups == "1,heads,rows"
        assert asked.train is None, "group counts need no training data"
        read = parse_plan(json.loads(Path(asked.plan).read_text()), workspace_sites(workspace), "")
        assert read.digest == plan.digest

    def test_a_finished_analysis_ranks_the_layers(
        self,
        compare: Visit,
        speaker: Speaker,
        sweep: Callable[..., dict[str, Any]],
        workspace: Workspace,
    ) -> None:
        document = {**sweep("methods")["sensitivity"], "granularity": "layer"}
        speaker.give(document)
        job = registries.jobs().start("analysis", "session", ["sensitivity", workspace.source.model])
        until(lambda: job.state == "done", "the analysis")
        speaker.give(sweep("methods"))  # what the next job ends with
        at = compare.run()
        assert f"{document['runs']} runs of {document['examples']} examples" in words(at)
        press(compare, "Start")
        until(lambda: len(speaker.commands) == 2, "a job")
        asked = parser().parse_args(speaker.commands[1])
        assert json.loads(Path(asked.sensitivity).read_text()) == document
        assert asked.train is None

    @pytest.mark.parametrize(
        ("tab", "label", "value", "said"),
        [
            ("Methods", "Training data", "", "columns sentence, label"),
            ("Methods", "Training data", "/nowhere/train.csv", "/nowhere/train.csv: no such file"),
            ("Groups", "Group counts", "1,many", "group count 'many'"),
            ("Groups", "Group counts", "", "group count ''"),
            ("Modules and embeddings", "Seeds", "1,1", "expected different whole numbers"),
            ("Modules and embeddings", "Seeds", "x", "expected different whole numbers"),
        ],
    )
    def test_bad_input_is_said_before_a_job_starts(
        self,
        compare: Visit,
        speaker: Speaker,
        source: Source,
        tab: str,
        label: str,
        value: str,
        said: str,
    ) -> None:
        turn(compare, tab)
        if label == "Seeds":
            compare.at.main.toggle[0].set_value(True)
            compare.run()
            choose(compare, "Training data", source.data)
        choose(compare, label, value)
        at = press(compare, "Start")
        assert said in at.main.error[0].value.replace("\\", "")
        assert not speaker.commands

    def test_training_data_of_another_task_are_named_with_what_is_missing(
        self,
        compare: Visit,
        speaker: Speaker,
        tmp_path: Path,
    ) -> None:
        other = tmp_path / "pairs.csv"
        other.write_text("premise,hypothesis,label\na,b,0\n")
        choose(compare, "Training data", str(other))
        at = press(compare, "Start")
        shown = at.main.error[0].value.replace("\\", "")
        assert "column sentence is missing; found: premise, hypothesis, label" in shown
        assert not speaker.commands

    def test_a_sweep_that_ranks_the_layers_first_says_so(
        self, compare: Visit, speaker: Speaker, source: Source
    ) -> None:
        """As `sweep` tells it: no row yet, and inside it the eigenvalues."""
        speaker.say({"rows": [], "running": {"name": "sensitivity", "done": 3, "total": 12}}, total=1)
        choose(compare, "Training data", source.data)
        press(compare, "Start")

        def both_count(at: AppTest) -> bool:
            """One run draws the sidebar and then the page, and the job may speak between the two."""
            shown = [bar.proto.text for bar in (*at.sidebar.get("progress"), *progress(at))]
            return len(shown) == 2 and not any(text.startswith("Loading") for text in shown)

        at = compare.until(both_count, "the sidebar and the page count")
        assert progress(at)[0].proto.text == "Sensitivity first: 3 of 12 eigenvalues"
        assert not at.exception
        (said,) = [bar.proto.text for bar in at.sidebar.get("progress")]
        assert said.startswith("sensitivity 25")

    def test_rows_are_shown_as_they_arrive(
        self,
        compare: Visit,
        speaker: Speaker,
        sweep: Callable[..., dict[str, Any]],
        source: Source,
    ) -> None:
        document = sweep("methods")
        running = {"name": "qbert-4", "finetuned": False, "seed": None, "done": 1, "total": 4}
        speaker.say(
            light(document, 1), light(document, 2), {**light(document, 3), "running": running}, total=17
        )
        choose(compare, "Training data", source.data)
        press(compare, "Start")
        at = compare.until(lambda at: len(at.main.dataframe) == 2 and len(ours(at)) == 3, "three rows")
        assert any(b.label == "Cancel" for b in at.main.button)
        assert "Accuracy of 3 methods" in words(at)
        assert any(
            "3 of 17 rows" in bar.proto.text and "measuring `qbert-4`" in bar.proto.text
            for bar in progress(at)
        )
        speaker.give(document)
        at = compare.until(lambda at: any(b.label == "Start" for b in at.main.button), "the end")
        table = ours(at)
        assert list(table["Plan"]) == [row["name"] for row in document["rows"]]
        for column, value in (
            ("Accuracy", lambda row: fmt_percent(row["metrics"]["accuracy"])),
            ("95 %", lambda row: fmt_interval(*row["interval"])),
            ("From fp32", lambda row: fmt_signed_points(row["difference"]["mean"])),
            ("95 % of it", lambda row: fmt_points_interval(*row["difference"]["interval"])),
            ("n", lambda row: row["n"]),
        ):
            assert list(table[column]) == list(map(value, document["rows"]))
        assert "17 rows, each on the same 60 sentences" in words(at)
        assert "Mean attention KL by layer: Q-BERT" in words(at)

    @pytest.mark.parametrize("tab", ["Groups", "Modules and embeddings", "One at a time"])
    def test_every_experiment_is_drawn_with_and_without_finetuning(
        self,
        tab: str,
        compare: Visit,
        speaker: Speaker,
        sweep: Callable[..., dict[str, Any]],
        source: Source,
    ) -> None:
        experiment = {"Groups": "groups", "Modules and embeddings": "modules"}.get(tab, "one-at-a-time")
        tuned = experiment == "groups"  # the slow part once
        document = sweep(experiment, *(["--finetune", "--epochs", "1"] if tuned else []))
        speaker.give(document)
        turn(compare, tab)
        if tuned:
            compare.at.main.toggle[0].set_value(True)
            compare.run()
        choose(compare, "Training data", source.data)
        if experiment == "groups":
            choose(compare, "Group counts", "1,heads,128,rows")
        press(compare, "Start")
        at = compare.until(lambda at: "rows, each on the same" in words(at), "the end")
        assert len(ours(at)) == len(document["rows"])
        assert ("1 epoch" in set(ours(at)["Finetuned"])) == tuned
        assert "yet. Press Start" not in words(at)

    def test_tuning_a_row_s_plan_puts_it_on_the_page_bits(
        self,
        compare: Visit,
        speaker: Speaker,
        sweep: Callable[..., dict[str, Any]],
        workspace: Workspace,
    ) -> None:
        document = sweep("groups")
        speaker.say(light(document, 3), total=5)
        turn(compare, "Groups")
        choose(compare, "Group counts", "1,heads,128,rows")
        press(compare, "Start")
        compare.until(lambda at: len(at.main.dataframe) == 2, "rows")
        row = document["rows"][2]
        compare.at.session_state["compare-chosen-groups"] = row_key(row)
        at = compare.run()
        assert f"Chosen: `{row['name']}`" in words(at)
        press(compare, "Tune this plan")
        at = compare.follow()
        assert [title.value for title in at.title] == ["Bits"]
        assert compare.plan(workspace).digest == row["plan_digest"]

    def test_cancel_says_how_many_rows_are_kept(
        self,
        compare: Visit,
        speaker: Speaker,
        sweep: Callable[..., dict[str, Any]],
        source: Source,
    ) -> None:
        speaker.say(light(sweep("methods"), 1), light(sweep("methods"), 2), total=17)
        choose(compare, "Training data", source.data)
        press(compare, "Start")
        compare.until(lambda at: len(at.main.dataframe) == 2 and len(ours(at)) == 2, "two rows")
        at = press(compare, "Cancel")
        assert "Cancelled after 2 of 17 rows" in words(at)
        assert len(ours(at)) == 2
        choose(compare, "First rows", 7)
        assert "an earlier run" in words(compare.at)

    def test_a_job_that_failed_says_why(self, compare: Visit, speaker: Speaker, source: Source) -> None:
        speaker.fail("no memory left for it")
        choose(compare, "Training data", source.data)
        press(compare, "Start")
        at = compare.until(lambda at: at.main.error, "the error")
        assert at.main.error[0].value.replace("\\", "") == "no memory left for it"


def workspace_sites(workspace: Workspace) -> Any:
    return sites_of(workspace.checkpoint.config)


def ours(at: AppTest) -> Any:
    """The table of rows; the paper's is another."""
    return next(table.value for table in at.main.dataframe if "Plan" in table.value)


def progress(at: AppTest) -> Any:
    return at.main.get("progress")


def training(workspace: Workspace, **other: Any) -> Settings:
    plan = preset_named(workspace.checkpoint.config, "sst2", "qbert-2")
    source = workspace.source
    made = Settings(plan, "demo", None, 3, 2e-5, 32, 0, source.model, workspace.task.name, source.data)
    return replace(made, **other)


class TestFolders:
    """Where a finetuned model is saved, and what is found there again."""

    def test_a_folder_is_named_by_date_plan_and_settings(self, workspace: Workspace, home: Path) -> None:
        first = save_folder(workspace, training(workspace), date(2026, 1, 2))
        assert first.parent == models_home() == home / "models"
        assert first.name.startswith(f"2026-01-02-{training(workspace).plan.digest[:8]}-")
        others = {
            save_folder(workspace, training(workspace, **change), date(2026, 1, 2))
            for change in ({}, {"epochs": 4}, {"lr": 1e-5}, {"seed": 1}, {"train": "x.csv"}, {"limit": 5})
        }
        assert len(others) == 6

    def test_the_same_settings_find_their_folder_on_another_day(self, workspace: Workspace) -> None:
        first = save_folder(workspace, training(workspace), date(2026, 1, 2))
        assert save_folder(workspace, training(workspace), date(2026, 3, 4)) != first
        first.mkdir(parents=True)
        assert save_folder(workspace, training(workspace), date(2026, 3, 4)) == first

    def test_the_data_home_is_the_user_s(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("QBERT_HOME")
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        assert models_home() == tmp_path / "qbert-studio" / "models"
        monkeypatch.delenv("XDG_DATA_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert models_home() == tmp_path / ".local" / "share" / "qbert-studio" / "models"

    def test_a_stopped_training_is_found_with_its_curve(self, tmp_path: Path) -> None:
        write_state(tmp_path, step=7)
        found = stopped_at(tmp_path)
        assert found
        assert (found.step, found.epoch, [p["step"] for p in found.curve]) == (7, 3.5, [2, 4])

    def test_a_broken_state_or_report_is_none(self, tmp_path: Path) -> None:
        assert stopped_at(tmp_path) is None
        assert finished(tmp_path) is None
        (tmp_path / STATES).mkdir()
        (tmp_path / STATES / "state.safetensors").write_bytes(b"nonsense")
        (tmp_path / "training.json").write_text("[1")
        assert stopped_at(tmp_path) is None
        assert finished(tmp_path) is None

    @given(st.lists(st.integers(0, 30)), st.lists(st.integers(0, 30)))
    def test_curves_before_and_after_a_stop_make_one(self, before: list[int], after: list[int]) -> None:
        one = joined([{"step": s, "loss": 1.0} for s in before], [{"step": s, "loss": 2.0} for s in after])
        assert [point["step"] for point in one] == sorted({*before, *after})
        assert all(point["loss"] == (2.0 if point["step"] in after else 1.0) for point in one)


def point(step: int, **metrics: float) -> dict[str, float]:
    return {"step": step, "epoch": step / 2, "loss": 0.5, "lr": 1e-5, "eta_seconds": 20.0, **metrics}


def write_state(place: Path, step: int) -> None:
    progress = {"step": step, "curve": [point(2, accuracy=0.5), point(4, accuracy=0.6)]}
    save_state(TrainingState({"task": "sst2"}, progress, {"w": torch.zeros(2)}), place / STATES)


@pytest.fixture
def tuned(engine: Callable[..., dict[str, Any]], tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """The report of a real finetuning of the tiny model for qbert-2, and the folder it saved."""
    place = tmp_path.parent / "tuned-tiny"
    document = engine("finetune", "--plan", "qbert-2", "--epochs", "2", "--lr", "0.001", "--save", str(place))
    return document, place


@pytest.mark.usefixtures("folder")
class TestFinetune:
    """The page of quantization-aware finetuning."""

    @pytest.fixture
    def page(self, source: Source) -> Visit:
        return at_page(source, "finetune")

    def begin(self, page: Visit, source: Source) -> AppTest:
        choose(page, "Training data", source.data)
        return press(page, "Start")

    def saved_in(self, page: Visit) -> Path:
        (code,) = page.at.main.code
        return Path(code.value)

    def test_before_the_first_training_it_says_what_to_do(self, page: Visit, workspace: Workspace) -> None:
        assert [title.value for title in page.at.title] == ["Finetune"]
        assert "No training yet. Press Start" in words(page.at)
        assert f"`{workspace.start.name}`" in words(page.at)
        assert self.saved_in(page).parent == models_home()
        assert not self.saved_in(page).exists(), "looking makes nothing"

    def test_start_runs_a_command_the_command_line_takes(
        self,
        page: Visit,
        speaker: Speaker,
        source: Source,
        workspace: Workspace,
    ) -> None:
        choose(page, "Epochs", 2)
        choose(page, "Learning rate", 3e-5)
        choose(page, "Batch size", 8)
        choose(page, "First rows", 40)
        self.begin(page, source)
        until(lambda: speaker.commands, "a job")
        asked = parser().parse_args(speaker.commands[0])
        assert (asked.model, asked.task, asked.data, asked.train) == (
            source.model,
            "sst2",
            source.data,
            source.data,
        )
        assert (asked.plan, asked.epochs, asked.lr) == (workspace.start.name, 2, 3e-5)
        assert (asked.batch_size, asked.limit, asked.seed) == (8, 40, 0)
        assert Path(asked.save) == self.saved_in(page)

    def test_the_recipe_is_the_paper_s_until_it_is_changed(self, page: Visit) -> None:
        values = {n.label: n.value for n in page.at.main.number_input}
        assert (values["Epochs"], values["Learning rate"], values["Batch size"]) == (3, 2e-5, 32)
        assert values["First rows"] is None

    def test_points_are_drawn_as_they_arrive_and_none_is_lost(
        self,
        page: Visit,
        speaker: Speaker,
        source: Source,
    ) -> None:
        speaker.say(point(1), point(2, accuracy=0.55), point(3), total=6)
        self.begin(page, source)
        at = page.until(lambda at: "Training loss of 3 points" in words(at), "the points")
        assert "after 1 epochs 55.0 %" in words(at)
        (bar,) = progress(at)
        assert "Step 3 of 6, epoch 1.50 of 3" in bar.proto.text
        assert "about 20 s to go" in bar.proto.text
        assert any(b.label == "Cancel" for b in at.main.button)

    def test_after_the_end_fp32_before_and_after_stand_side_by_side(
        self,
        page: Visit,
        speaker: Speaker,
        source: Source,
        tuned: tuple[dict[str, Any], Path],
    ) -> None:
        document, _ = tuned
        speaker.give(document)
        self.begin(page, source)
        page.until(lambda at: "Finetuning changed" in page.page_html(), "the numbers")
        for label, which in (
            ("Accuracy, fp32", "baseline"),
            ("Plan, before", "before"),
            ("Plan, finetuned", "metrics"),
        ):
            value = document[which]["accuracy"]
            assert page.card(label) == fmt_percent(value)
            low, high = wilson(round(value * 60), 60)
            assert fmt_interval(low, high) in page.page_html()
        after, before = document["metrics"]["accuracy"], document["before"]["accuracy"]
        assert page.card("Finetuning changed") == fmt_signed_points(after - before)
        assert "n = 60" in page.page_html()

    def test_work_goes_on_with_the_finetuned_model_and_its_plan(
        self,
        page: Visit,
        speaker: Speaker,
        source: Source,
        tuned: tuple[dict[str, Any], Path],
        workspace: Workspace,
    ) -> None:
        document, place = tuned
        speaker.give(document)
        choose(page, "Training data", source.data)
        made = self.saved_in(page)
        shutil.copytree(place, made)
        self.begin(page, source)
        page.until(
            lambda at: any(b.label == "Work with the finetuned model" for b in at.main.button), "the end"
        )
        press(page, "Work with the finetuned model")
        page.follow()
        page.settled()
        assert page.at.query_params["model"] == str(made)
        assert page.plan(workspace).digest == document["plan_digest"] != workspace.start.digest
        assert page.card("Accuracy") == fmt_percent(document["metrics"]["accuracy"])

    def test_what_was_trained_before_is_shown_again_after_a_restart(
        self, page: Visit, source: Source, tuned: tuple[dict[str, Any], Path]
    ) -> None:
        choose(page, "Training data", source.data)
        shutil.copytree(tuned[1], self.saved_in(page))
        page.run()
        assert "These settings were trained before" in words(page.at)
        assert page.card("Plan, finetuned") == fmt_percent(tuned[0]["metrics"]["accuracy"])

    def test_a_cancelled_training_says_where_it_would_go_on(
        self,
        page: Visit,
        speaker: Speaker,
        source: Source,
    ) -> None:
        speaker.say(point(1), point(5), total=6)
        self.begin(page, source)
        page.until(lambda at: "Training loss of 2 points" in words(at), "the points")
        at = press(page, "Cancel")
        assert "Start begins anew" in words(at), "no state was written"
        write_state(self.saved_in(page), step=4)
        assert "last state on disk is that after step 4 (epoch 2.0). Start goes on from there." in words(
            page.run()
        )
        assert "Training loss of 4 points" in words(page.at), "those on disk and those since"

    def test_the_curve_of_a_resumed_training_has_what_came_before(
        self,
        page: Visit,
        speaker: Speaker,
        source: Source,
    ) -> None:
        choose(page, "Training data", source.data)
        write_state(self.saved_in(page), step=4)
        assert "Start goes on from there" in words(page.run())
        speaker.say(point(5), point(6), total=6)
        press(page, "Start")
        page.until(lambda at: "Training loss of 4 points" in words(at), "both parts")

    def test_a_training_that_failed_says_why(self, page: Visit, speaker: Speaker, source: Source) -> None:
        speaker.fail("step 3: the loss is not finite any more; try a lower lr than 1")
        self.begin(page, source)
        at = page.until(lambda at: at.main.error, "the error")
        assert "try a lower lr" in at.main.error[0].value.replace("\\", "")

    def test_a_plan_that_quantizes_nothing_is_not_trained_for(
        self,
        page: Visit,
        speaker: Speaker,
        source: Source,
        workspace: Workspace,
    ) -> None:
        page.at.session_state["tuning"].plan = workspace.baseline
        page.run()
        assert "This plan quantizes nothing" in self.begin(page, source).main.error[0].value.replace("\\", "")
        assert not speaker.commands

    @pytest.mark.parametrize(
        ("data", "said"), [("", "Give the training data"), ("/nowhere/x.csv", "no such file")]
    )
    def test_training_data_that_cannot_be_are_told_before_a_job(
        self,
        page: Visit,
        speaker: Speaker,
        data: str,
        said: str,
    ) -> None:
        choose(page, "Training data", data)
        at = press(page, "Start")
        assert said in at.main.error[0].value.replace("\\", "")
        assert not speaker.commands
