"""SQuAD: windows over a paragraph, the best span, and the official rules of comparing answers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.text import squad as torchmetrics_squad

from qbert_core.bert import forward
from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.errors import InputError
from qbert_core.tasks import TASKS, Examples, answers, collate, grades
from qbert_core.tasks.data import read_table
from qbert_core.tasks.spans import Window, best_spans, windows
from qbert_core.tasks.squad import UNKNOWN
from qbert_core.tasks.squad_rules import exact_match, f1, normalise
from tests.tiny import make_tiny

SQUAD = TASKS["squad"]
LONG = "mary lives in london . " * 12 + "john lives in paris with a good dog . " + "the film is bad . " * 10
ROWS: list[dict[str, Any]] = [
    {"context": "john lives in paris .", "question": "where lives john ?", "answers": ["paris"]},
    {"context": LONG, "question": "who lives in paris ?", "answers": ["john", "he"]},
    {"context": "The  Film, was\tmade by Mary!", "question": "who made it", "answers": ["Mary"]},
]
WORDS = ("a", "the", "An", "ant", "tea-bag", "U.S.", "U", "s", "'tis", ",", "anthem", "10", "b.")
TEXT = st.lists(st.sampled_from(WORDS), max_size=6).map("  ".join)
# where nothing is, torchmetrics has the rule of SQuAD 2.0; version 1.1's is among the hand-made answers
SAYING = TEXT.map(lambda text: f"{text} b".strip())  # something is left of it after normalising


def table(rows: Sequence[dict[str, Any]] = ROWS) -> pd.DataFrame:
    made = [
        {
            **row,
            "answers": {
                "text": row["answers"],
                "answer_start": [max(row["context"].find(a), 0) for a in row["answers"]],
            },
        }
        for row in rows
    ]
    return pd.DataFrame(made)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(make_tiny(tmp_path_factory.mktemp("qa") / "qa", "question"))


@pytest.fixture(scope="module")
def examples(reader: Checkpoint) -> Examples:
    return SQUAD.examples(table(), reader, "rows")


def refusal(reader: Checkpoint, **columns: Any) -> str:
    usual = {"context": ["john lives in paris"], "question": ["where ?"], "answers": [{"text": ["paris"]}]}
    with pytest.raises(InputError) as caught:
        SQUAD.examples(pd.DataFrame({**usual, **columns}), reader, "data.csv")
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# --- windows


@given(tokens=st.integers(1, 400), room=st.integers(1, 120), step=st.integers(1, 120))
def test_windows_cover_the_paragraph_and_every_token_may_begin_an_answer_in_just_one(
    tokens: int, room: int, step: int
) -> None:
    made = windows(tokens, room, step)
    owned = [place for window in made for place in range(window.low, window.high)]
    assert sorted(owned) == list(range(tokens))
    assert made[0].start == 0
    assert made[-1].end == tokens
    for window in made:
        assert window.start <= window.low < window.high <= window.end <= window.start + room
    for one, other in pairwise(made):
        assert other.start == one.start + min(step, room)
        assert one.end < tokens


@given(tokens=st.integers(1, 200), room=st.integers(1, 60), step=st.integers(1, 60))
def test_a_token_belongs_to_the_window_with_most_context(tokens: int, room: int, step: int) -> None:
    """As BERT's run_squad decides it, token by token."""
    made = windows(tokens, room, step)
    for place in range(tokens):
        best, owner = -1.0, None
        for number, window in enumerate(made):
            if window.start <= place < window.end:
                context = min(place - window.start, window.end - 1 - place)
                context += 0.01 * (window.end - window.start)
                if context > best:
                    best, owner = context, number
        assert made[owner].low <= place < made[owner].high  # type: ignore[index]


def test_a_short_paragraph_is_one_window() -> None:
    assert windows(5, 10, 3) == [Window(0, 5, 0, 5)]


def test_a_window_is_what_transformers_makes_of_question_and_paragraph(
    reader: Checkpoint, examples: Examples
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(reader.folder)
    for row in (0, 2):
        (window,) = examples.windows(row)
        theirs = tokenizer(ROWS[row]["question"], ROWS[row]["context"])
        assert examples.input_ids[window] == theirs["input_ids"]
        assert examples.token_type_ids[window] == theirs["token_type_ids"]


def test_a_long_paragraph_has_windows_that_fit_and_point_at_the_answer(
    reader: Checkpoint, examples: Examples
) -> None:
    own = examples.windows(1)
    assert len(own) > 2
    assert list(examples.owners[own.start : own.stop]) == [1] * len(own)
    pointing = 0
    for window in own:
        ids = examples.input_ids[window]
        assert len(ids) <= reader.max_length
        start, end, *_ = examples.targets[window]
        if (start, end) != (0, 0):
            assert reader.tokenizer.decode(ids[start : end + 1]) == "john"
            pointing += 1
    assert pointing >= 1
    assert len(examples) == 3
    assert examples.truncated == 0


def test_a_long_question_is_cut_and_counted(reader: Checkpoint) -> None:
    row = {"context": "john lives in paris", "question": "who lives in paris " * 30, "answers": ["john"]}
    found = SQUAD.examples(table([row]), reader, "rows")
    assert found.truncated == 1
    assert int(found.lengths.max()) <= reader.max_length
    perfect(found)


# --- answers


def perfect(examples: Examples) -> None:
    """A model that is sure of the targets answers every question right."""
    batch = collate(SQUAD, examples, range(len(examples.input_ids)))
    logits = torch.zeros(*batch.input_ids.shape, 2)
    for row, (start, end, *_) in enumerate(batch.targets.tolist()):
        logits[row, start, 0] = logits[row, end, 1] = 10
    found = answers(SQUAD, SQUAD.predict(logits, batch), examples)
    assert [SQUAD.grade(a, examples, i) for i, a in enumerate(found)] == [(1.0, 1.0)] * len(examples)


def test_a_model_that_is_sure_of_the_targets_answers_in_the_paragraphs_own_letters(
    examples: Examples,
) -> None:
    perfect(examples)


@given(data=st.data())
def test_the_best_span_is_that_of_a_search_over_all(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 9))
    logits = st.lists(st.integers(-3, 3).map(float), min_size=width, max_size=width)
    allowed = st.lists(st.booleans(), min_size=width, max_size=width)
    start, end = data.draw(logits), data.draw(logits)
    may_start, may_end = data.draw(allowed), data.draw(allowed)
    longest = data.draw(st.integers(1, 12))
    ((score, first, last),) = best_spans(*(np.array([x]) for x in (start, end, may_start, may_end)), longest)
    spans = [
        (start[i] + end[j], -i, -j)
        for i in range(width)
        for j in range(i, min(width, i + longest))
        if may_start[i] and may_end[j]
    ]
    if spans:
        assert (score, -first, -last) == max(spans)
    else:
        assert score == -np.inf


def test_an_answer_is_never_in_the_question_the_padding_or_the_last_separator(examples: Examples) -> None:
    batch = collate(SQUAD, examples, range(len(examples.input_ids)))
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        logits = torch.randn(*batch.input_ids.shape, 2, generator=generator)
        for row, (_, first, last) in enumerate(SQUAD.predict(logits, batch)):
            length = int(batch.lengths[row])
            assert batch.token_type_ids[row, first] == 1
            assert batch.token_type_ids[row, last] == 1
            assert first <= last < length - 1
            low, high = batch.targets[row, 2:].tolist()
            assert low <= first < high


def test_logits_and_loss_are_transformers_own(reader: Checkpoint, examples: Examples) -> None:
    model = transformers.BertForQuestionAnswering.from_pretrained(reader.folder).eval()
    windows_alone = [collate(SQUAD, examples, [w]) for w in range(len(examples.input_ids))]
    total = 0.0
    for batch in windows_alone:
        start, end = batch.targets[:, :2].T
        with torch.no_grad():
            theirs = model(
                batch.input_ids, token_type_ids=batch.token_type_ids, start_positions=start, end_positions=end
            )
            ours, count = SQUAD.loss(
                forward(reader.weights, reader.config, batch.input_ids, batch.token_type_ids, batch.lengths),
                batch,
            )
        assert count == 1
        assert float(ours) == pytest.approx(float(theirs.loss), rel=1e-5)
        total += float(ours)
    everything = collate(SQUAD, examples, range(len(examples.input_ids)))
    logits = forward(
        reader.weights, reader.config, everything.input_ids, everything.token_type_ids, everything.lengths
    )
    padded, count = SQUAD.loss(logits, everything)
    assert count == len(windows_alone)
    assert float(padded) == pytest.approx(total, rel=1e-5), "padding has a part in the loss"


def test_an_answer_that_is_not_in_the_paragraph_has_no_loss_but_counts(reader: Checkpoint) -> None:
    row = {"context": "john lives in paris", "question": "where ?", "answers": ["london"]}
    found = SQUAD.examples(table([row, ROWS[0]]), reader, "rows")
    assert found.targets[0][:2] == (UNKNOWN, UNKNOWN)
    batch = collate(SQUAD, found, [0, 1])
    logits = torch.randn(*batch.input_ids.shape, 2, generator=torch.Generator().manual_seed(0))
    alone = collate(SQUAD, found, [1])
    width = alone.input_ids.shape[1]
    both, count = SQUAD.loss(logits, batch)
    assert count == 1
    torch.testing.assert_close(both, SQUAD.loss(logits[1:, :width], alone)[0])
    assert SQUAD.loss(logits[:1], collate(SQUAD, found, [0]))[1] == 0
    assert SQUAD.grade("paris", found, 0) == (0.0, 0.0)


def test_a_wrong_offset_is_corrected_by_the_text(reader: Checkpoint) -> None:
    rows = pd.DataFrame(
        {
            "context": ["in paris he lives in paris"] * 3,
            "question": ["where ?"] * 3,
            "answers": [
                {"text": ["paris"], "answer_start": [21]},
                {"text": ["paris"], "answer_start": [7]},
                {"text": ["paris"]},
            ],
        }
    )
    starts = [target[0] for target in SQUAD.examples(rows, reader, "rows").targets]
    assert starts[0] == starts[1] + 4
    assert starts[2] == starts[1]


# --- the official rules


@pytest.mark.parametrize(
    ("answer", "references", "exact", "overlap"),
    [
        ("Paris", ["paris"], 1, 1),
        ("the Paris.", ["Paris"], 1, 1),
        ("in Paris", ["Paris"], 0, 2 / 3),
        ("", ["Paris"], 0, 0),
        ("the", ["a"], 1, 0),  # both empty after normalising: equal, but without a word in common
        ("one two two", ["two two three"], 0, 2 / 3),
        ("anaconda", ["an aconda"], 0, 0),
        ("U.S.", ["US"], 1, 1),
        ("Mary", ["John", "Mary Smith"], 0, 2 / 3),
    ],
)
def test_hand_made_answers(answer: str, references: list[str], exact: float, overlap: float) -> None:
    assert exact_match(answer, references) == exact
    assert f1(answer, references) == pytest.approx(overlap)


@given(pairs=st.lists(st.tuples(SAYING, st.lists(SAYING, min_size=1, max_size=3)), min_size=1, max_size=8))
def test_answers_are_compared_as_torchmetrics_compares_them(pairs: list[tuple[str, list[str]]]) -> None:
    theirs = torchmetrics_squad(
        [{"prediction_text": answer, "id": str(i)} for i, (answer, _) in enumerate(pairs)],
        [
            {"answers": {"text": references, "answer_start": [0] * len(references)}, "id": str(i)}
            for i, (_, references) in enumerate(pairs)
        ],
    )
    assert sum(exact_match(*pair) for pair in pairs) / len(pairs) * 100 == pytest.approx(
        float(theirs["exact_match"]), abs=1e-4
    )
    assert sum(f1(*pair) for pair in pairs) / len(pairs) * 100 == pytest.approx(float(theirs["f1"]), abs=1e-4)


@given(text=TEXT)
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    assert not re.search(r"\b(a|an|the)\b|[,.'A-Z]", normalise(text))


def test_the_score_has_both_metrics_with_intervals() -> None:
    score = SQUAD.score(np.array([[1, 1], [0, 0.5], [0, 0], [1, 1]], dtype=float))
    assert score.metrics == {"exact_match": 0.5, "f1": 0.625}
    assert score.value == 0.625
    for name, value in score.metrics.items():
        low, high = score.intervals[name]
        assert 0 <= low <= value <= high <= 1


# --- what cannot be used


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"context": [" "]}, "row 1: context is empty"),
        ({"question": [""]}, "row 1: question is empty"),
        ({"context": ["\u200d"]}, "row 1: the tokenizer makes nothing of the context"),
        ({"answers": [{"text": [], "answer_start": []}]}, "row 1: answers is no answer, expected"),
        ({"answers": ["paris"]}, "row 1: answers is 'paris', expected"),
        ({"answers": [{"text": "paris"}]}, "row 1: answers is {'text': 'paris'}, expected"),
        ({"answers": [None]}, "row 1: answers is None, expected"),
        ({"answers": [{"text": [3]}]}, "row 1: answers is {'text': [3]}, expected"),
        ({"question": [4]}, "row 1: question is 4, expected text"),
    ],
)
def test_rows_that_are_no_question_are_named(
    reader: Checkpoint, columns: dict[str, Any], expected: str
) -> None:
    assert f"data.csv: {expected}" in refusal(reader, **columns)


@pytest.mark.parametrize("starts", [["x"], [None], 7, [1, [2]]])
def test_starts_that_are_no_numbers_are_named(reader: Checkpoint, starts: Any) -> None:
    message = refusal(reader, answers=[{"text": ["paris"], "answer_start": starts}])
    assert "data.csv: row 1: answer_start is" in message


def test_a_missing_column_is_named(reader: Checkpoint) -> None:
    with pytest.raises(InputError, match="column answers is missing; found: context, question"):
        SQUAD.examples(pd.DataFrame({"context": ["a"], "question": ["b"]}), reader, "rows")


@pytest.mark.parametrize("head", ["sequence", "token"])
def test_a_model_with_another_head_is_refused(tmp_path: Path, head: str) -> None:
    other = load_checkpoint(make_tiny(tmp_path / head, head, layers=1))
    assert f"needs a question answering model; this one has a {head} head" in refusal(other)


# --- formats


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "parquet"])
def test_every_format_gives_the_same_examples(
    tmp_path: Path, reader: Checkpoint, examples: Examples, ending: str
) -> None:
    path = tmp_path / f"rows.{ending}"
    rows = table()
    match ending:
        case "csv":
            rows.assign(answers=rows["answers"].map(json.dumps)).to_csv(path, index=False)
        case "parquet":
            rows.to_parquet(path)
        case _:
            rows.to_json(path, orient="records", lines=ending == "jsonl")
    assert SQUAD.examples(read_table(path), reader, "rows").fingerprint == examples.fingerprint


def test_taking_questions_takes_all_their_windows(reader: Checkpoint, examples: Examples) -> None:
    taken = examples.take([1, 0])
    assert len(taken) == 2
    assert len(taken.input_ids) == len(examples.windows(1)) + 1
    again = SQUAD.examples(table([ROWS[1], ROWS[0]]), reader, "again")
    assert taken.fingerprint == again.fingerprint
    assert taken.fingerprint != SQUAD.examples(table(ROWS[:2]), reader, "other").fingerprint


def test_real_questions_are_answered_by_their_targets(shared: Path, reader: Checkpoint) -> None:
    rows = read_table(shared / "data" / "squad" / "train_subset.parquet", limit=40)
    found = SQUAD.examples(rows, reader, "squad")
    batch = collate(SQUAD, found, range(len(found.input_ids)))
    logits = torch.full((*batch.input_ids.shape, 2), -10.0)
    for row, (start, end, *_) in enumerate(batch.targets.tolist()):
        if start > 0:
            logits[row, start, 0] = logits[row, end, 1] = 10
    score = SQUAD.score(grades(SQUAD, answers(SQUAD, SQUAD.predict(logits, batch), found), found))
    assert score.metrics["f1"] > 0.9  # the rest are answers cut at a window's edge of this short model


def test_cross_entropy_is_over_real_tokens_only(examples: Examples) -> None:
    batch = collate(SQUAD, examples, [0])
    wide = collate(SQUAD, examples, [0, examples.windows(1)[0]])
    logits = torch.randn(1, wide.input_ids.shape[1], 2, generator=torch.Generator().manual_seed(0))
    real = int(batch.lengths[0])
    start, end = (F.cross_entropy(logits[:, :real, i], batch.targets[:, i], reduction="sum") for i in (0, 1))
    narrow, _ = SQUAD.loss(logits[:, :real], batch)
    torch.testing.assert_close(narrow, (start + end) / 2)
