"""The page Finetune in full precision: any base, any of the four tasks."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from app.figures import fmt_percent
from app.trainings import Settings, arguments, save_folder
from app.views.finetune import FULL
from app.workspace import Source, Workspace
from qbert_core.checkpoints import load_checkpoint
from qbert_core.cli import main, parser
from tests.app.speaker import Speaker
from tests.app.test_compare_pages import point
from tests.app.test_curvature_pages import at_page, choose, press, words
from tests.app.test_pages import Visit, demo  # noqa: F401
from tests.app.tools import until
from tests.tiny import make_tiny


@pytest.fixture
def page(source: Source) -> Visit:
    seen = at_page(source, "finetune")
    (mode,) = [g for g in seen.at.main.button_group if FULL in g.options]
    mode.set_value(FULL)
    seen.run()
    return seen


def saved_in(page: Visit) -> Path:
    (code,) = page.at.main.code
    return Path(code.value)


@pytest.fixture
def tags(tmp_path: Path) -> Path:
    """CoNLL-03 rows."""
    file = tmp_path / "tags.jsonl"
    rows = [{"tokens": ["john", "lives", "in", "paris"], "ner_tags": ["B-PER", "O", "O", "B-LOC"]}] * 12
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_the_loaded_model_and_its_task_are_the_default(page: Visit, speaker: Speaker, source: Source) -> None:
    choose(page, "Training data", source.data)
    press(page, "Start")
    until(lambda: speaker.commands, "a job")
    asked = parser().parse_args(speaker.commands[0])
    assert (asked.model, asked.task, asked.train, asked.data) == (
        source.model,
        "sst2",
        source.data,
        source.data,
    )
    assert asked.plan is None
    assert (asked.epochs, asked.lr, asked.batch_size) == (3, 2e-5, 32)
    assert Path(asked.save) == saved_in(page)
    assert "-full-sst2-" in asked.save


def test_another_base_and_task_take_that_task_s_recipe(
    page: Visit, speaker: Speaker, tags: Path, tiny: Any
) -> None:
    choose(page, "Base", "google-bert/bert-base-uncased")
    choose(page, "Task", "conll03")
    choose(page, "Measured on", str(tags))
    choose(page, "Training data", str(tags))
    press(page, "Start")
    until(lambda: speaker.commands, "a job")
    asked = parser().parse_args(speaker.commands[0])
    assert (asked.model, asked.task, asked.data) == ("google-bert/bert-base-uncased", "conll03", str(tags))
    assert (asked.epochs, asked.lr) == (5, 5e-5), "the paper's for this task in full precision"


@pytest.mark.parametrize(
    ("label", "value", "said"),
    [
        ("Base", " ", "Give the base to train: a folder, a hub id like owner/name, or demo."),
        ("Measured on", "", "Give the data to measure on: a file with the columns sentence, label."),
        ("Measured on", "/nowhere/x.csv", "/nowhere/x.csv: no such file"),
        ("Training data", "", "Give the training data"),
    ],
)
def test_what_is_missing_is_told_before_a_job(
    page: Visit, speaker: Speaker, source: Source, label: str, value: str, said: str
) -> None:
    choose(page, "Training data", source.data)
    choose(page, label, value)
    assert said in press(page, "Start").main.error[0].value.replace("\\", "")
    assert not speaker.commands


def test_what_is_drawn_says_fp32_and_no_plan(page: Visit, speaker: Speaker, source: Source) -> None:
    speaker.say(point(1), point(2, accuracy=0.55), total=6)
    choose(page, "Training data", source.data)
    press(page, "Start")
    at = page.until(lambda at: "Training loss of 2 points" in words(at), "the points")
    figures = json.dumps([json.loads(chart.proto.spec) for chart in at.main.get("plotly_chart")])
    assert "loss (fp32, training data)" in figures
    assert "model, finetuned" in figures
    assert "quantized" not in figures


def test_a_real_training_is_shown_and_can_be_worked_with(
    page: Visit, speaker: Speaker, source: Source, tmp_path: Path, workspace: Workspace
) -> None:
    choose(page, "Training data", source.data)
    choose(page, "Learning rate", 1e-3)
    folder = saved_in(page)
    out = tmp_path / "out.json"
    command = [
        "finetune", source.model, "--task", "sst2", "--train", source.data, "--data", source.data,
        "--epochs", "3", "--lr", "0.001", "--batch-size", "32", "--seed", "0", "--save", str(folder),
    ]  # fmt: skip
    assert main([*command, "--out", str(out)]) == 0
    document = json.loads(out.read_text())
    speaker.give(document)
    press(page, "Start")
    page.until(lambda at: "Accuracy, finetuned" in page.page_html(), "the numbers")
    assert speaker.commands[0][:-2] == command
    assert page.card("Accuracy, finetuned") == fmt_percent(document["metrics"]["accuracy"])
    assert page.card("Trained for") == "3 epochs"
    assert "n = 60" in page.page_html()
    press(page, "Work with the finetuned model")
    page.follow()
    page.settled()
    assert page.at.query_params["model"] == str(folder)
    assert load_checkpoint(folder).fingerprint == document["fingerprint"] != workspace.checkpoint.fingerprint
    assert page.plan(workspace).digest == workspace.start.digest


def test_every_setting_has_a_folder_of_its_own(workspace: Workspace) -> None:
    plain = Settings(None, "demo", None, 3, 2e-5, 32, 0, "demo", "sst2", "demo")
    others = [
        Settings(None, "demo", None, 3, 2e-5, 32, 0, *other)
        for other in (
            ("x/y", "sst2", "demo"), ("demo", "mnli", "demo"), ("demo", "sst2", "d.csv"),
            (workspace.source.model, "sst2", "demo"),
        )
    ]  # fmt: skip
    day = date(2026, 1, 2)
    folders = {save_folder(workspace, settings, day) for settings in (plain, *others)}
    assert len(folders) == 5
    assert "--plan" not in arguments(workspace, plain, save_folder(workspace, plain, day))


def test_a_base_without_a_head_for_the_task_is_trained(tmp_path: Path, tags: Path) -> None:
    """A sentiment model becomes one that tags words: what the page's job runs."""
    base = make_tiny(tmp_path / "base")
    save = tmp_path / "made"
    made = [
        "finetune", str(base), "--task", "conll03", "--train", str(tags), "--data", str(tags), "--epochs", "1",
        "--save", str(save), "--out", str(tmp_path / "out.json"),
    ]  # fmt: skip
    assert main(made) == 0
    assert load_checkpoint(save).task == "conll03"
