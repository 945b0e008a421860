"""Tables in, examples and scores out; whatever cannot be used is named."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from scipy.stats import bootstrap as scipy_bootstrap

from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.errors import InputError
from qbert_core.tasks import TASKS, collate, difference, interval, length_batches, task_named
from qbert_core.tasks.data import read_table
from qbert_core.tasks.interval import bootstrap, wilson
from tests.tiny import make_tiny

SST2 = TASKS["sst2"]
ROWS = pd.DataFrame(
    {
        "sentence": [
            "a good film",
            'she said " not bad " , twice',
            "slow , dull and awful",
            "NA",
            "null",
            "1984",
            "one line\nand another",
            "ein schöner Film — 很好",
            "",
            " spaces around ",
            "a\ttab",
            "'",
        ],
        "label": [1, 1, 0, 0, 0, 1, 1, 1, 0, 1, 0, 0],
    }
)


def write(table: pd.DataFrame, path: Path) -> Path:
    match path.suffix:
        case ".csv":
            table.to_csv(path, index=False)
        case ".tsv":
            table.to_csv(path, index=False, sep="\t")
        case ".json":
            table.to_json(path, orient="records")
        case ".jsonl":
            table.to_json(path, orient="records", lines=True)
        case ".parquet":
            table.to_parquet(path)
    return path


def refusal(call: Any, *args: Any, **kwargs: Any) -> str:
    """The one line an `InputError` of `call` says."""
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def examples(tiny: Checkpoint, **columns: list[Any]) -> Any:
    return SST2.examples(pd.DataFrame(columns), tiny, "data.csv")


# --- reading


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_format_gives_the_same_examples(tmp_path: Path, tiny: Checkpoint, ending: str) -> None:
    direct = SST2.examples(ROWS, tiny, "table")
    read = read_table(write(ROWS, tmp_path / f"rows.{ending}"))
    assert read["sentence"].tolist() == ROWS["sentence"].tolist()
    found = SST2.examples(read, tiny, ending)
    assert found.fingerprint == direct.fingerprint
    assert found.source == ending


def test_a_csv_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    ROWS.to_csv(tmp_path / "rows.csv", index=False, encoding="utf-8-sig")
    assert list(read_table(tmp_path / "rows.csv").columns) == ["sentence", "label"]


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_a_file_of_another_format_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(bytes(range(128, 256)) * 8)
    assert f"{path}: not readable as {ending}: " in refusal(read_table, path)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("rows.txt", "sentence\tlabel\n", "the name must end in .parquet .csv .tsv .json .jsonl"),
        ("rows", "sentence\tlabel\n", "cannot tell its format"),
        ("rows.csv", "", "the file is empty"),
        ("rows.csv", "sentence,label\n", "no rows"),
        ("rows.csv", 'sentence,label\n"a good film,1\n', "not readable as csv"),
        ("rows.csv", "sentence,label\na,1\nb,1,2,3\n", "not readable as csv"),
        ("rows.json", "{", "not readable as json"),
        ("rows.json", "5", "not readable as json"),
        ("rows.json", "[]", "no rows"),
        ("rows.jsonl", '{"sentence": "a", "label": 1}\n{"sentence": ', "not readable as jsonl"),
        ("rows.parquet", "PAR1", "not readable as parquet"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(
    tmp_path: Path, name: str, content: str, expected: str
) -> None:
    (tmp_path / name).write_text(content)
    message = refusal(read_table, tmp_path / name)
    assert expected in message
    assert str(tmp_path / name) in message


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    path = write(ROWS, tmp_path / "rows.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    assert "not readable as parquet" in refusal(read_table, path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert "no such file" in refusal(read_table, tmp_path / "nowhere.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "no such file" in refusal(read_table, tmp_path / "folder.csv")


def test_a_limit_keeps_the_first_rows(tmp_path: Path) -> None:
    path = write(ROWS, tmp_path / "rows.csv")
    assert read_table(path, limit=3)["sentence"].tolist() == ROWS["sentence"].tolist()[:3]
    assert len(read_table(path, limit=10**9)) == len(ROWS)
    for limit in (0, -1):
        assert f"limit is {limit}; expected at least 1 row" in refusal(read_table, path, limit=limit)


def test_the_demo_gives_its_splits(tiny: Checkpoint) -> None:
    train, data = read_table("demo", split="train"), read_table("demo")
    assert not set(train["sentence"]) & set(data["sentence"])
    assert set(train["split"]) == {"train"}
    assert set(data["split"]) == {"eval"}
    assert len(SST2.examples(data, tiny, "demo")) == len(data)


@pytest.mark.parametrize("spec", ["hub:", "hub:name", "hub::train", "hub:name:", "hub::"])
def test_a_malformed_hub_name_says_what_is_expected(spec: str) -> None:
    assert "expected hub:NAME[/CONFIG]:SPLIT" in refusal(read_table, spec)


@pytest.mark.parametrize("spec", ["hub:nobody/nothing:train", "hub:glue/sst2:validation", "hub:a/b/c:train"])
def test_a_hub_that_cannot_be_reached_is_said_so(spec: str) -> None:
    message = refusal(read_table, spec)
    assert spec in message
    assert "could not be read from the hub" in message


def test_real_sst2_is_read_with_its_labels(shared: Path, tiny: Checkpoint) -> None:
    table = read_table(shared / "data" / "sst2" / "validation_even.parquet", limit=50)
    found = SST2.examples(table, tiny, "sst2")
    assert found.targets == table["label"].tolist()


# --- columns and labels


def test_missing_columns_are_named_beside_those_found(tiny: Checkpoint) -> None:
    message = refusal(examples, tiny, text=["a"], label=[1])
    assert "data.csv: column sentence is missing; found: text, label" in message
    assert "column sentence, label is missing; found: none" in refusal(examples, tiny)


def test_an_empty_table_is_refused(tiny: Checkpoint) -> None:
    assert "no rows" in refusal(examples, tiny, sentence=[], label=[])


@pytest.mark.parametrize("value", [3, None, float("nan"), ["a"], b"a", True])
def test_a_sentence_that_is_not_text_is_named_by_its_row(tiny: Checkpoint, value: Any) -> None:
    message = refusal(examples, tiny, sentence=["good", value], label=[1, 0])
    assert "data.csv: row 2: sentence is" in message


@pytest.mark.parametrize("value", [2, -1, 0.5, float("nan"), float("inf"), "maybe", "", None, True, [1]])
def test_a_label_the_model_does_not_have_is_named_with_those_it_has(tiny: Checkpoint, value: Any) -> None:
    labels = pd.Series([1, value], dtype=object)
    message = refusal(
        SST2.examples, pd.DataFrame({"sentence": ["good", "bad"], "label": labels}), tiny, "data.csv"
    )
    assert "row 2: label" in message
    assert "is not one of the model's: 0 (negative), 1 (positive)" in message


@pytest.mark.parametrize(
    "labels", [[0, 1], [0.0, 1.0], ["0", "1"], ["negative", "positive"], ["NEGATIVE", " Positive "]]
)
def test_labels_may_be_numbers_or_the_models_names(tiny: Checkpoint, labels: list[Any]) -> None:
    assert examples(tiny, sentence=["bad", "good"], label=labels).targets == [0, 1]


def test_label_names_are_the_models_own_not_the_tasks(tmp_path: Path) -> None:
    turned = load_checkpoint(make_tiny(tmp_path / "turned", labels=("positive", "negative"), layers=1))
    assert examples(turned, sentence=["a", "b"], label=["negative", "positive"]).targets == [1, 0]


@pytest.mark.parametrize("head", ["token", "question"])
def test_a_model_with_another_head_is_refused(tmp_path: Path, head: str) -> None:
    other = load_checkpoint(make_tiny(tmp_path / head, head, layers=1))
    assert f"this one has a {head} head" in refusal(examples, other, sentence=["a"], label=[1])


def test_a_model_with_three_labels_is_refused(tmp_path: Path) -> None:
    other = load_checkpoint(make_tiny(tmp_path / "nli", labels=("a", "b", "c"), layers=1))
    assert other.task == "mnli"
    assert "with 3 labels" in refusal(examples, other, sentence=["a"], label=[1])


def test_an_unknown_task_is_named_with_those_there_are() -> None:
    assert refusal(task_named, "cola") == f"task 'cola' is not known; there is {', '.join(TASKS)}"


# --- examples


def test_the_fingerprint_depends_on_what_the_model_sees_and_is_asked_and_on_nothing_else(
    tiny: Checkpoint,
) -> None:
    first = examples(tiny, sentence=["a good film", "bad"], label=[1, 0])
    same = examples(tiny, sentence=["A  GOOD film", "bad"], label=["positive", 0.0], note=["x", "y"])
    assert same.fingerprint == first.fingerprint
    for other in (
        examples(tiny, sentence=["a good film", "bad"], label=[1, 1]),
        examples(tiny, sentence=["a good story", "bad"], label=[1, 0]),
        examples(tiny, sentence=["bad", "a good film"], label=[0, 1]),
        examples(tiny, sentence=["a good film"], label=[1]),
        examples(tiny, sentence=["a good", "film bad"], label=[1, 0]),
    ):
        assert other.fingerprint != first.fingerprint


def test_taking_examples_keeps_rows_and_targets_beside_them(tiny: Checkpoint) -> None:
    everything = SST2.examples(ROWS, tiny, "rows")
    taken = everything.take([4, 0, 7])
    assert taken.rows["sentence"].tolist() == [ROWS["sentence"][i] for i in (4, 0, 7)]
    assert taken.targets == [0, 1, 1]
    assert taken.input_ids == [everything.input_ids[i] for i in (4, 0, 7)]
    assert taken.fingerprint == SST2.examples(taken.rows, tiny, "again").fingerprint


@settings(deadline=None, max_examples=200)
@given(lengths=st.lists(st.integers(1, 60), max_size=60), tokens=st.integers(1, 200))
def test_batches_hold_every_example_once_within_the_bound(lengths: list[int], tokens: int) -> None:
    batches = length_batches(np.array(lengths, dtype=int), tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        widest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or len(batch) * widest <= tokens
    for batch, after in pairwise(batches):
        assert min(lengths[i] for i in batch) >= max(lengths[i] for i in after)
        assert (len(batch) + 1) * lengths[batch[0]] > tokens  # no batch ends before it is full


def test_a_batch_is_padded_on_the_right_with_zeros(tiny: Checkpoint) -> None:
    found = examples(tiny, sentence=["good", "a very good film", "bad plot"], label=[1, 1, 0])
    batch = collate(SST2, found, [1, 2, 0])
    assert batch.indices == [1, 2, 0]
    assert batch.lengths.tolist() == [6, 4, 3]
    assert batch.targets.tolist() == [1, 0, 1]
    for row, i in enumerate(batch.indices):
        ids = found.input_ids[i]
        assert batch.input_ids[row].tolist() == ids + [0] * (6 - len(ids))
    assert not batch.token_type_ids.any()


def test_padding_equals_transformers_own(tiny: Checkpoint) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny.folder)
    found = SST2.examples(ROWS, tiny, "rows")
    theirs = tokenizer(
        ROWS["sentence"].tolist(),
        padding=True,
        truncation=True,
        max_length=tiny.max_length,
        return_tensors="pt",
    )
    batch = collate(SST2, found, range(len(ROWS)))
    assert torch.equal(batch.input_ids, theirs["input_ids"])
    assert torch.equal(batch.token_type_ids, theirs["token_type_ids"])
    assert torch.equal(batch.lengths, theirs["attention_mask"].sum(1))


# --- loss, metric, interval


def test_the_loss_is_the_sum_of_cross_entropies_and_their_count(tiny: Checkpoint) -> None:
    found = examples(tiny, sentence=["good", "bad", "a film"], label=[1, 0, 1])
    batch = collate(SST2, found, [2, 0, 1])
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5], [0.0, 0.1]], dtype=torch.float64)
    total, count = SST2.loss(logits, batch)
    by_hand = sum(float(torch.logsumexp(row, 0) - row[t]) for row, t in zip(logits, (1, 1, 0), strict=True))
    assert float(total) == pytest.approx(by_hand, rel=1e-12)
    assert count == 3
    torch.testing.assert_close(total / count, F.cross_entropy(logits, torch.tensor([1, 1, 0])))


def test_accuracy_counts_the_right_predictions_of_the_examples_named(tiny: Checkpoint) -> None:
    found = examples(tiny, sentence=["a", "b", "c", "d"], label=[1, 0, 1, 0])
    batch = collate(SST2, found, [3, 1, 0])
    predictions = SST2.predict(torch.tensor([[1.0, 2.0], [5.0, 1.0], [0.0, 3.0]]), batch)
    assert predictions == [1, 0, 1]
    assert json.loads(json.dumps(predictions)) == predictions
    graded = [SST2.grade(p, found, i) for p, i in zip(predictions, batch.indices, strict=True)]
    assert graded == [(0.0,), (1.0,), (1.0,)]
    score = SST2.score(np.array(graded))
    assert score.metrics == {"accuracy": pytest.approx(2 / 3)}
    assert score.n == 3
    assert score.interval == wilson(2, 3)


@settings(deadline=None)
@given(n=st.integers(1, 100_000), share=st.floats(0, 1))
def test_the_interval_is_scipys_wilson_interval(n: int, share: float) -> None:
    right = round(share * n)
    expected = binomtest(right, n).proportion_ci(confidence_level=0.95, method="wilson")
    low, high = wilson(right, n)
    assert low == pytest.approx(expected.low, rel=1e-9, abs=1e-12)
    assert high == pytest.approx(expected.high, rel=1e-9, abs=1e-12)
    assert 0 <= low <= right / n <= high <= 1


@pytest.mark.parametrize(("right", "n"), [(1, 0), (0, 0), (3, 2), (-1, 4)])
def test_what_is_not_a_proportion_has_no_interval(right: int, n: int) -> None:
    with pytest.raises(ValueError, match="is not a proportion"):
        wilson(right, n)


# --- resampling


@settings(deadline=None, max_examples=30)
@given(
    grades=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40),
    seed=st.integers(0, 9),
)
def test_a_bootstrap_interval_holds_the_value_and_repeats_itself(
    grades: list[tuple[float, float]], seed: int
) -> None:
    array = np.array(grades)

    def mean(sums: np.ndarray) -> np.ndarray:
        return sums[:, 0] / len(array)

    low, high = bootstrap(array, mean, seed=seed)
    assert (low, high) == bootstrap(array, mean, seed=seed)
    assert array[:, 0].min() - 1e-12 <= low <= array[:, 0].mean() + 1e-12
    assert array[:, 0].mean() - 1e-12 <= high <= array[:, 0].max() + 1e-12


def test_the_bootstrap_interval_of_a_mean_is_scipys() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=300)
    low, high = bootstrap(values[:, None], lambda sums: sums[:, 0] / 300, resamples=4000)
    theirs = scipy_bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=1)
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.1 * width)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.1 * width)


def test_resampling_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((50, 1))
    whole = bootstrap(values, lambda sums: sums[:, 0])
    monkeypatch.setattr(interval, "CHUNK", 50 * 7)
    assert bootstrap(values, lambda sums: sums[:, 0]) == whole


def test_a_difference_is_paired(tiny: Checkpoint) -> None:
    """Equal answers have no difference at all, however uncertain the metric itself is."""
    right = np.random.default_rng(0).integers(0, 2, (100, 1)).astype(float)
    assert difference(SST2, right, right) == (0.0, (0.0, 0.0))
    better = right.copy()
    better[np.flatnonzero(right[:, 0] == 0)[:10]] = 1
    gain, (low, high) = difference(SST2, right, better)
    assert gain == pytest.approx(0.1)
    assert 0.04 < low < gain < high < 0.17
