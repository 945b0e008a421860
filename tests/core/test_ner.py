"""CoNLL-2003: words in pieces, tags in IOB2, entities as seqeval counts them."""

from __future__ import annotations

import json
import warnings
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
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from qbert_core.bert import forward
from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.errors import InputError
from qbert_core.tasks import TASKS, Examples, answers, collate, grades
from qbert_core.tasks.conll03 import IGNORED, LABELS
from qbert_core.tasks.data import read_table
from qbert_core.tasks.entities import entities, first_break
from tests.tiny import make_tiny

NER = TASKS["conll03"]
TOKENS = [
    ["john", "loves", "paris", "."],
    ["mary", "lives", "in", "london", ",", "not", "paris"],
    ["watching", "films"],  # words of several pieces
    ["\u200d", "john"],  # a word the tokenizer makes nothing of
    ["x"] * 60,  # longer than the tiny model's 40 positions
]
TAGS = [
    ["B-PER", "O", "B-LOC", "O"],
    ["B-PER", "O", "O", "B-LOC", "I-LOC", "O", "B-ORG"],
    ["B-MISC", "I-MISC"],
    ["B-ORG", "I-ORG"],
    ["O"] * 55 + ["B-LOC"] * 5,
]
TAG = st.sampled_from(LABELS)


@pytest.fixture(scope="module")
def ner(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(make_tiny(tmp_path_factory.mktemp("ner") / "ner", "token"))


@pytest.fixture(scope="module")
def examples(ner: Checkpoint) -> Examples:
    return NER.examples(pd.DataFrame({"tokens": TOKENS, "ner_tags": TAGS}), ner, "rows")


def refusal(ner: Checkpoint, tokens: Any, tags: Any) -> str:
    with pytest.raises(InputError) as caught:
        NER.examples(pd.DataFrame({"tokens": tokens, "ner_tags": tags}), ner, "data.csv")
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def outputs(examples: Examples, tags: list[list[str]]) -> list[list[int]]:
    """What a model that predicts `tags` says of each window."""
    return [
        [LABELS.index(tags[i][word]) for word in examples.notes[w]]
        for i in range(len(examples))
        for w in examples.windows(i)
    ]


# --- pieces


def test_words_are_cut_into_transformers_pieces_and_the_first_has_the_label(
    ner: Checkpoint, examples: Examples
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(ner.folder)
    theirs = tokenizer(TOKENS, is_split_into_words=True, truncation=True, max_length=ner.max_length)
    for row, tags in enumerate(TAGS):
        assert examples.input_ids[row] == theirs["input_ids"][row]
        # as transformers' run_ner aligns them
        before, wanted = None, []
        for word in theirs.word_ids(row):
            wanted.append(IGNORED if word is None or word == before else LABELS.index(tags[word]))
            before = word
        assert examples.targets[row] == wanted
    assert examples.targets[2].count(IGNORED) > 2, "no word of several pieces among the rows"


def test_what_the_model_cannot_see_counts_as_outside(examples: Examples) -> None:
    right = answers(NER, outputs(examples, TAGS), examples)
    assert right[:3] == TAGS[:3]
    assert right[3][0] == "O"
    assert right[4][:30] == TAGS[4][:30]
    assert right[4][-5:] == ["O"] * 5
    assert examples.cut.tolist() == [False] * 4 + [True]


def test_the_loss_is_over_labelled_pieces_only(examples: Examples) -> None:
    batch = collate(NER, examples, [0, 2])
    logits = torch.randn(*batch.input_ids.shape, len(LABELS), generator=torch.Generator().manual_seed(0))
    total, count = NER.loss(logits, batch)
    kept = batch.targets != IGNORED
    assert count == int(kept.sum()) == 6
    torch.testing.assert_close(
        total, F.cross_entropy(logits[kept], batch.targets[kept], reduction="sum"), rtol=1e-6, atol=1e-6
    )


def test_predictions_are_those_of_transformers_at_the_first_pieces(
    ner: Checkpoint, examples: Examples
) -> None:
    model = transformers.BertForTokenClassification.from_pretrained(ner.folder).eval()
    for i in range(len(examples)):
        batch = collate(NER, examples, [i])
        with torch.no_grad():
            theirs = model(batch.input_ids).logits[0].argmax(-1)
            ours = NER.predict(
                forward(ner.weights, ner.config, batch.input_ids, batch.token_type_ids, batch.lengths), batch
            )
        assert ours == [theirs[batch.targets[0] != IGNORED].tolist()]


# --- entities and metrics


@given(tags=st.lists(TAG, max_size=12))
def test_entities_are_seqevals(tags: list[str]) -> None:
    assert entities(tags) == set(get_entities(tags))


@given(pairs=st.lists(st.lists(st.tuples(TAG, TAG), min_size=1, max_size=8), min_size=1, max_size=12))
def test_metrics_are_seqevals(pairs: list[list[tuple[str, str]]]) -> None:
    true = [[t for t, _ in sentence] for sentence in pairs]
    given_tags = [[p for _, p in sentence] for sentence in pairs]
    rows = pd.DataFrame({"tokens": [["x"] * len(t) for t in true]})
    holder = Examples(
        [], [], [], [], true, rows, np.arange(len(true) + 1), np.zeros(len(true)), LABELS, "", ""
    )
    score = NER.score(grades(NER, given_tags, holder))
    with warnings.catch_warnings():  # seqeval warns where there is nothing to count
        warnings.simplefilter("ignore")
        expected = {
            "f1": f1_score(true, given_tags),
            "precision": precision_score(true, given_tags),
            "recall": recall_score(true, given_tags),
        }
    assert score.metrics == pytest.approx(expected)
    assert score.n == len(true)
    for name, value in score.metrics.items():
        low, high = score.intervals[name]
        assert 0 <= low <= value <= high <= 1


@given(tags=st.lists(TAG, max_size=10))
def test_tags_that_are_iob2_write_their_entities_back(tags: list[str]) -> None:
    written = ["O"] * len(tags)
    for kind, start, end in entities(tags):
        written[start : end + 1] = [f"B-{kind}", *[f"I-{kind}"] * (end - start)]
    assert first_break(written) is None
    assert (first_break(tags) is None) == (written == tags)


def test_nothing_found_and_nothing_there_is_zero() -> None:
    assert NER.score(np.array([[1.0, 0, 0, 0]])).metrics == {"f1": 0, "precision": 0, "recall": 0}


# --- what cannot be used


def test_a_broken_iob2_sequence_is_named_with_its_word(ner: Checkpoint) -> None:
    for tags in (["I-PER", "O"], ["O", "I-PER"], ["B-ORG", "I-PER"]):
        message = refusal(ner, [["a", "b"]] * 2, [["O", "O"], tags])
        place = tags.index("I-PER") + 1
        assert f"data.csv: row 2: word {place}: I-PER begins an entity" in message
        assert "B-PER" in message


def test_tags_the_model_does_not_have_are_named(ner: Checkpoint, tmp_path: Path) -> None:
    assert "row 1: word 2: tag 'B-DATE' is not one of the model's: O, B-PER" in refusal(
        ner, [["a", "b"]], [["O", "B-DATE"]]
    )
    assert "tag 9 is not one" in refusal(ner, [["a"]], [[9]])
    small = load_checkpoint(make_tiny(tmp_path / "small", "token", ("O", "B-PER", "I-PER"), layers=1))
    assert "tag 'B-LOC' is not one of the model's: O, B-PER, I-PER" in refusal(small, [["a"]], [["B-LOC"]])


@pytest.mark.parametrize(
    ("tokens", "tags", "expected"),
    [
        (["a", "b"], ["O"], "2 tokens but 1 ner_tags"),
        ([], [], "tokens is empty"),
        (["a", 3], ["O", "O"], "tokens holds 3, expected words"),
        (3, ["O"], "tokens is 3, expected a list"),
        (["a"], None, "ner_tags is None, expected a list"),
        ('["a"', ["O"], "tokens is"),
    ],
)
def test_rows_that_are_no_tagged_sentence_are_named(
    ner: Checkpoint, tokens: Any, tags: Any, expected: str
) -> None:
    assert f"data.csv: row 1: {expected}" in refusal(ner, [tokens], [tags])


@pytest.mark.parametrize("head", ["sequence", "question"])
def test_a_model_with_another_head_is_refused(tmp_path: Path, head: str) -> None:
    other = load_checkpoint(make_tiny(tmp_path / head, head, layers=1))
    assert f"needs a token classification model; this one has a {head} head" in refusal(
        other, [["a"]], [["O"]]
    )


@pytest.mark.parametrize("labels", [("x", "y"), ("B-PER", "I-PER")])
def test_a_tagger_of_something_else_is_refused(tmp_path: Path, labels: tuple[str, ...]) -> None:
    other = load_checkpoint(make_tiny(tmp_path / "pos", "token", labels, layers=1))
    assert "needs a model with labels O, B-.., I-.." in refusal(other, [["a"]], [["O"]])


# --- formats


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "parquet"])
def test_every_format_gives_the_same_examples(
    tmp_path: Path, ner: Checkpoint, examples: Examples, ending: str
) -> None:
    table = pd.DataFrame({"tokens": TOKENS, "ner_tags": TAGS})
    path = tmp_path / f"rows.{ending}"
    match ending:
        case "csv":
            table.map(json.dumps).to_csv(path, index=False)
        case "parquet":
            table.to_parquet(path)
        case _:
            table.to_json(path, orient="records", lines=ending == "jsonl")
    assert NER.examples(read_table(path), ner, "rows").fingerprint == examples.fingerprint


def test_words_and_tags_between_spaces_and_tags_by_number(ner: Checkpoint) -> None:
    spaced = pd.DataFrame({"tokens": ["john loves paris"], "ner_tags": ["B-PER O B-LOC"]})
    numbers = pd.DataFrame({"tokens": [["john", "loves", "paris"]], "ner_tags": [[1, 0, 5]]})
    assert NER.examples(spaced, ner, "a").fingerprint == NER.examples(numbers, ner, "b").fingerprint


def test_the_fingerprint_sees_tags_of_words_the_model_does_not(ner: Checkpoint) -> None:
    table = {"tokens": [["x"] * 60], "ner_tags": [["O"] * 60]}
    other = {"tokens": [["x"] * 60], "ner_tags": [["O"] * 59 + ["B-LOC"]]}
    first, second = (NER.examples(pd.DataFrame(t), ner, "t") for t in (table, other))
    assert first.fingerprint != second.fingerprint


def test_real_sentences_are_iob2_and_keep_their_entities(shared: Path, ner: Checkpoint) -> None:
    table = read_table(shared / "data" / "conll2003" / "validation.parquet", limit=300)
    found = NER.examples(table, ner, "conll")
    assert found.references == [list(tags) for tags in table["ner_tags"]]
    assert sum(len(entities(tags)) for tags in found.references) == sum(
        len(get_entities(list(tags))) for tags in table["ner_tags"]
    )
