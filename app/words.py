"""The tasks in the words of the interface: every page takes its units and names from here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    """A text a person types to ask both models: `column` of the task's data."""

    column: str
    label: str
    example: str
    lines: int = 1


@dataclass(frozen=True)
class TaskWords:
    """What a task is called, what it counts, and what it is asked."""

    title: str
    metric: str
    one: str
    many: str
    right: str  # when an example counts as right as a whole
    columns: str  # what the data must have, with what stands in them
    fields: tuple[Field, ...]


WORDS = {
    "sst2": TaskWords(
        "SST-2: sentiment", "Accuracy", "sentence", "sentences",
        right="Right: the answer is the sentence’s label.",
        columns="sentence, label (0 negative, 1 positive, or the names)",
        fields=(Field("sentence", "Sentence", "It was not half as funny as I had hoped.", 2),),
    ),
    "mnli": TaskWords(
        "MNLI: entailment", "Accuracy", "pair", "pairs",
        right="Right: the answer is the pair’s label.",
        columns="premise, hypothesis, label (0 entailment, 1 neutral, 2 contradiction, or the names)",
        fields=(
            Field("premise", "Premise", "Two children are playing football in the rain.", 2),
            Field("hypothesis", "Hypothesis", "Nobody is outside."),
        ),
    ),
    "conll03": TaskWords(
        "CoNLL-03: named entities", "Entity F1", "sentence", "sentences",
        right="Right: every word has its right tag.",
        columns="tokens (a list of words), ner_tags (a tag a word, IOB2)",
        fields=(Field("tokens", "Sentence, split at spaces", "Angela Merkel met John Smith of Siemens in Paris .", 2),),
    ),
    "squad": TaskWords(
        "SQuAD: questions", "Answer F1", "question", "questions",
        right="Right: an exact match with one of the answers.",
        columns='context, question, answers ({"text": [..], "answer_start": [..]})',
        fields=(
            Field(
                "context", "Paragraph",
                "The museum was founded in 1871 by the painter Anna Berg. It moved to the old harbour in 1932, "
                "after a fire had destroyed its first building.", 5,
            ),
            Field("question", "Question", "Why did the museum move?"),
        ),
    ),
}  # fmt: skip
"""By the name of the task."""

BANDS = {"sst2": (0.4, 1.0), "mnli": (0.2, 1.0), "conll03": (0.0, 1.0), "squad": (0.0, 1.0)}
"""Ends of the axis of the task's metric: from a little below what guessing gets."""


def epochs(count: int) -> str:
    """1 -> "1 epoch"."""
    return f"{count} epoch{'' if count == 1 else 's'}"


def quoted(name: str) -> str:
    """A plan's name, which may come from a link, as code: without markdown's powers."""
    return f"`{' '.join(name.replace('`', '').split())}`"
