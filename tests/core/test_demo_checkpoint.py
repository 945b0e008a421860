"""The demo is what its card says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qbert_core.checkpoints import Checkpoint, demo_folder, load_checkpoint
from qbert_core.tasks import task_named
from qbert_core.tasks.data import read_table
from qbert_core.training.measure import measure

FOLDER = demo_folder()


@pytest.fixture(scope="module")
def demo() -> Checkpoint:
    return load_checkpoint("demo")


def accuracy_line(name: str) -> str:
    """The card's table row of a data set."""
    return next(
        line for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith(f"| {name}")
    )


def test_the_stored_model_is_small_and_named_by_its_training_report(demo: Checkpoint):
    report = json.loads((FOLDER / "training.json").read_text())
    assert demo.fingerprint == report["fingerprint"]
    assert (FOLDER / "model.safetensors").stat().st_size < 46 * 2**20
    assert demo.config.labels == ("negative", "positive")
    card = (FOLDER / "README.md").read_text()
    for made in (report, *report["parents"]):
        assert made["command"] in card
    for parent in report["parents"]:
        assert f"| {parent['recipe']['seed']} | {parent['recipe']['epochs']} |" in card


def test_the_cards_accuracy_on_the_demo_reviews_is_the_models(demo: Checkpoint):
    task = task_named("sst2")
    score = measure(demo, task, task.examples(read_table("demo"), demo, "demo"))
    low, high = score.interval
    row = accuracy_line("demo reviews, eval")
    assert f"| {score.n} | {score.metrics['accuracy']:.3f} | {low:.3f} to {high:.3f} |" in row


def test_the_cards_accuracy_on_sst2_is_the_models(demo: Checkpoint, shared: Path):
    task = task_named("sst2")
    table = read_table(shared / "data" / "sst2" / "validation_even.parquet")
    score = measure(demo, task, task.examples(table, demo, "even"))
    low, high = score.interval
    report = json.loads((FOLDER / "training.json").read_text())
    assert score.metrics == report["metrics"]
    row = accuracy_line("SST-2 dev, rows of even index")
    assert f"| {score.n} | {score.metrics['accuracy']:.3f} | {low:.3f} to {high:.3f} |" in row


def test_the_demo_can_be_left_to_transformers(demo: Checkpoint):
    transformers = pytest.importorskip("transformers")
    model = transformers.BertForSequenceClassification.from_pretrained(FOLDER)
    assert model.config.id2label == {0: "negative", 1: "positive"}
