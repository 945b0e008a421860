"""MNLI: pairs of texts, and labels whose order is the model's own."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
import transformers

from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.errors import InputError
from qbert_core.tasks import TASKS, collate
from tests.tiny import make_tiny

MNLI = TASKS["mnli"]
ROWS = pd.DataFrame(
    {
        "premise": ["a good film , very warm", "the story is dull " * 20, "he lives in paris"],
        "hypothesis": ["the film is bad", "it is slow " * 15, ""],
        "label": [2, 0, 1],
    }
)


@pytest.fixture(scope="module")
def nli(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Labels in the order of facebook's and microsoft's MNLI models, not in GLUE's."""
    folder = tmp_path_factory.mktemp("nli") / "turned"
    return load_checkpoint(make_tiny(folder, labels=("CONTRADICTION", "NEUTRAL", "ENTAILMENT")))


def labelled(model: Checkpoint, labels: list[object]) -> list[int]:
    rows = pd.DataFrame({"premise": ["a"] * len(labels), "hypothesis": ["b"] * len(labels), "label": labels})
    return MNLI.examples(rows, model, "data.csv").targets


def test_pairs_are_what_transformers_makes_of_them(nli: Checkpoint) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(nli.folder)
    theirs = tokenizer(
        ROWS["premise"].tolist(),
        ROWS["hypothesis"].tolist(),
        padding=True,
        truncation=True,
        max_length=nli.max_length,
        return_tensors="pt",
    )
    found = MNLI.examples(ROWS, nli, "rows")
    batch = collate(MNLI, found, range(len(ROWS)))
    assert torch.equal(batch.input_ids, theirs["input_ids"])
    assert torch.equal(batch.token_type_ids, theirs["token_type_ids"])
    assert found.truncated == 1
    assert found.cut.tolist() == [False, True, False]


def test_numbers_mean_glues_labels_whatever_the_models_order(nli: Checkpoint) -> None:
    assert labelled(nli, [0, 1, 2]) == [2, 1, 0]
    assert labelled(nli, ["entailment", " Neutral", "CONTRADICTION"]) == [2, 1, 0]


def test_a_model_whose_labels_have_no_names_is_taken_by_number(tmp_path: Path) -> None:
    plain = load_checkpoint(make_tiny(tmp_path / "plain", labels=("LABEL_0", "LABEL_1", "LABEL_2"), layers=1))
    assert labelled(plain, [0, 1, 2]) == [0, 1, 2]


def test_sst2_reads_numbers_the_same_way(tmp_path: Path) -> None:
    turned = load_checkpoint(make_tiny(tmp_path / "turned", labels=("positive", "negative"), layers=1))
    rows = pd.DataFrame({"sentence": ["a", "b"], "label": [0, 1]})
    assert TASKS["sst2"].examples(rows, turned, "data.csv").targets == [1, 0]


@pytest.mark.parametrize("label", [3, -1, "maybe"])
def test_a_label_the_model_does_not_have_is_named(nli: Checkpoint, label: object) -> None:
    with pytest.raises(InputError, match=r"row 2: label .* is not one of the model's: 0 \(ENTAILMENT\), 1"):
        labelled(nli, [0, label])


def test_a_model_with_two_labels_is_refused(tiny: Checkpoint) -> None:
    with pytest.raises(InputError, match=r"needs a sequence classification model with 3 labels; .* 2 labels"):
        MNLI.examples(ROWS, tiny, "rows")


def test_a_missing_column_is_named(nli: Checkpoint) -> None:
    with pytest.raises(InputError, match="column hypothesis is missing; found: premise, label"):
        MNLI.examples(ROWS[["premise", "label"]], nli, "rows")


def test_real_pairs_are_read(shared: Path, nli: Checkpoint) -> None:
    rows = pd.read_parquet(shared / "data" / "mnli" / "validation_matched_shared.parquet").head(200)
    assert MNLI.examples(rows, nli, "mnli").targets == [2 - label for label in rows["label"]]
