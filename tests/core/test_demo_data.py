"""The demo reviews: counts, balance, lengths, near-duplicates, and the datasheet that describes them."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo"
PHENOMENA = ("plain", "negation", "contrast", "comparison", "intensifier", "irony", "conditional", "mixed")
SIZES = {
    name: {"train": 96, "eval": 64} if name == "plain" else {"train": 72, "eval": 48} for name in PHENOMENA
}


@pytest.fixture(scope="module")
def reviews() -> pd.DataFrame:
    return pd.read_csv(DEMO / "reviews.csv", keep_default_na=False)


@pytest.fixture(scope="module")
def words(reviews: pd.DataFrame) -> list[list[str]]:
    return [_words(sentence) for sentence in reviews["sentence"]]


def _words(sentence: str) -> list[str]:
    return re.sub(r"[^a-z0-9\s]", " ", sentence.lower().replace("'", "")).split()


def _ngrams(sentence: list[str], n: int) -> set[tuple[str, ...]]:
    return set(zip(*(sentence[start:] for start in range(n)), strict=False))


def test_columns_and_counts(reviews: pd.DataFrame) -> None:
    assert list(reviews.columns) == ["sentence", "label", "phenomenon", "split"]
    assert len(reviews) == 1000
    assert reviews["split"].value_counts().to_dict() == {"train": 600, "eval": 400}


def test_every_phenomenon_and_split_is_balanced(reviews: pd.DataFrame) -> None:
    counts = reviews.groupby(["phenomenon", "split", "label"]).size().to_dict()
    assert counts == {
        (name, split, label): size // 2
        for name, sizes in SIZES.items()
        for split, size in sizes.items()
        for label in (0, 1)
    }


def test_phenomena_are_shuffled(reviews: pd.DataFrame) -> None:
    assert set(reviews["phenomenon"].head(60)) == set(PHENOMENA)


def test_sentences_have_4_to_40_words(reviews: pd.DataFrame) -> None:
    assert reviews["sentence"].str.split().str.len().between(4, 40).all()


def test_both_splits_have_alike_lengths(reviews: pd.DataFrame) -> None:
    lengths = reviews["sentence"].str.split().str.len()
    means = lengths.groupby([reviews["phenomenon"], reviews["split"]]).mean().unstack()
    assert (means["train"] - means["eval"]).abs().max() < 1


def test_file_is_plain_ascii_with_unix_line_ends() -> None:
    raw = (DEMO / "reviews.csv").read_bytes()
    assert raw.isascii()
    assert b"\r" not in raw
    assert raw.endswith(b"\n")
    assert raw.count(b"\n") == 1001


def test_sentences_carry_no_stray_space(reviews: pd.DataFrame) -> None:
    assert (reviews["sentence"] == reviews["sentence"].str.split().str.join(" ")).all()


def test_no_sentence_comes_twice(words: list[list[str]]) -> None:
    assert len({tuple(sentence) for sentence in words}) == len(words)


def test_no_two_sentences_share_five_words_in_a_row(words: list[list[str]]) -> None:
    seen = Counter(gram for sentence in words for gram in _ngrams(sentence, 5))
    assert [" ".join(gram) for gram, count in seen.items() if count > 1] == []


def test_no_two_sentences_are_alike_by_trigrams(words: list[list[str]]) -> None:
    grams = [_ngrams(sentence, 3) for sentence in words]
    alike = [
        (" ".join(words[a]), " ".join(words[b]))
        for a, b in combinations(range(len(words)), 2)
        if len(grams[a] & grams[b]) >= 0.3 * len(grams[a] | grams[b])
    ]
    assert alike == []


def test_no_opening_bigram_is_in_more_than_ten_sentences(words: list[list[str]]) -> None:
    openings = Counter(tuple(sentence[:2]) for sentence in words)
    assert {pair: count for pair, count in openings.items() if count > 10} == {}


def test_datasheet_counts_match_the_file(reviews: pd.DataFrame) -> None:
    cells = [("train", 1), ("train", 0), ("eval", 1), ("eval", 0)]
    rows = {}
    for name in (*PHENOMENA, "all"):
        part = reviews if name == "all" else reviews[reviews["phenomenon"] == name]
        counts = part.groupby(["split", "label"]).size()
        rows[name] = [len(part), *(int(counts[cell]) for cell in cells)]
    header = "phenomenon | rows | train positive | train negative | eval positive | eval negative"
    assert _table(header) == {name: [str(count) for count in counts] for name, counts in rows.items()}


def test_datasheet_lengths_match_the_file(reviews: pd.DataFrame) -> None:
    lengths = reviews["sentence"].str.split().str.len()
    parts = {
        "all": lengths,
        **{split: lengths[reviews["split"] == split] for split in ("train", "eval")},
        "positive": lengths[reviews["label"] == 1],
        "negative": lengths[reviews["label"] == 0],
        **{name: lengths[reviews["phenomenon"] == name] for name in PHENOMENA},
    }
    quartiles = {
        name: [" / ".join(f"{value:g}" for value in part.quantile([0, 0.25, 0.5, 0.75, 1]))]
        for name, part in parts.items()
    }
    assert _table("rows | min / q1 / median / q3 / max words") == quartiles


def _table(header: str) -> dict[str, list[str]]:
    """The rows of the datasheet's table under `header`, by their first cell."""
    text = (DEMO / "DATASHEET.md").read_text(encoding="utf-8")
    body = text.split(f"| {header} |\n", 1)[1].split("\n\n", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines()[1:]]
    return {name: cells for name, *cells in rows}
