"""What a task is, and the examples every room passes around.

An example is a row of the table. The model sees it as one or more windows, sequences that fit it: one
for a sentence or a pair, several for a long SQuAD paragraph. Batches hold windows; numbers are over
examples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from qbert_core.bert import BertConfig
from qbert_core.checkpoints import Checkpoint
from qbert_core.tasks.interval import bootstrap


@dataclass(frozen=True, eq=False)
class Examples:
    """Tokenised examples of one task.

    A window each: `input_ids`, `token_type_ids`, `targets` (a class id; a tag a token; start and end) and
    `notes` (what the task needs to read the model's output). An example each: `references` (the right
    answer, JSON), and `rows`, the table they came from. Windows of example i are
    `first[i]` to `first[i + 1]`. `truncated` counts the examples that did not fit whole. `fingerprint` is
    a digest of what the model sees and is asked, so that equal data have equal names wherever they came
    from.
    """

    input_ids: list[list[int]] = field(repr=False)
    token_type_ids: list[list[int]] = field(repr=False)
    targets: list[Any] = field(repr=False)
    notes: list[Any] = field(repr=False)
    references: list[Any] = field(repr=False)
    rows: pd.DataFrame = field(repr=False)
    first: np.ndarray = field(repr=False)  # (examples + 1,)
    cut: np.ndarray = field(repr=False)  # (examples,) whether an example did not fit whole
    labels: tuple[str, ...] = field(repr=False)  # the model's, by id
    source: str
    fingerprint: str

    def __len__(self) -> int:
        return len(self.references)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each window."""
        return np.array([len(ids) for ids in self.input_ids])

    @property
    def owners(self) -> np.ndarray:
        """The example each window belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    @property
    def truncated(self) -> int:
        """Examples that did not fit whole."""
        return int(self.cut.sum())

    def windows(self, example: int) -> range:
        """The windows of an example."""
        return range(int(self.first[example]), int(self.first[example + 1]))

    def take(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """The examples at `indices`, in that order, with all their windows."""
        rows = [int(i) for i in indices]
        windows = [w for i in rows for w in self.windows(i)]
        return make_examples(
            [self.input_ids[w] for w in windows],
            [self.token_type_ids[w] for w in windows],
            [self.targets[w] for w in windows],
            self.rows.iloc[rows].reset_index(drop=True),
            self.source,
            notes=[self.notes[w] for w in windows],
            references=[self.references[i] for i in rows],
            counts=[len(self.windows(i)) for i in rows],
            cut=self.cut[rows],
            labels=self.labels,
        )


def make_examples(
    input_ids: list[list[int]],
    token_type_ids: list[list[int]],
    targets: list[Any],
    rows: pd.DataFrame,
    source: str,
    *,
    notes: list[Any] | None = None,
    references: list[Any] | None = None,  # the targets when not given
    counts: Sequence[int] | None = None,  # windows of each example; 1 when not given
    cut: Sequence[bool] | np.ndarray | None = None,
    labels: tuple[str, ...] = (),
) -> Examples:
    """`Examples` with its fingerprint computed."""
    digest = hashlib.sha256()
    for ids, types, target in zip(input_ids, token_type_ids, targets, strict=True):
        digest.update(np.array([len(ids), *ids, *types], dtype=np.int64).tobytes())
        digest.update(np.asarray(target, dtype=np.int64).tobytes())
    if references is not None and references != targets:
        digest.update(json.dumps([list(counts or []), references]).encode())
    answers = targets if references is None else references
    first = np.concatenate([[0], np.cumsum(counts if counts is not None else [1] * len(answers))])
    return Examples(
        input_ids,
        token_type_ids,
        targets,
        notes if notes is not None else [None] * len(input_ids),
        answers,
        rows,
        first.astype(np.int64),
        np.zeros(len(answers), dtype=bool) if cut is None else np.asarray(cut, dtype=bool),
        labels,
        source,
        digest.hexdigest()[:32],
    )


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded windows, B of them, T tokens wide; `indices` says which windows they are."""

    indices: list[int]
    input_ids: Tensor  # (B, T)
    token_type_ids: Tensor  # (B, T)
    lengths: Tensor  # (B,)
    targets: Tensor

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Score:
    """What a task makes of its grades: metrics and their 95 % intervals by name; `main` is the task's own."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    main: str
    n: int

    @property
    def value(self) -> float:
        """The main metric."""
        return self.metrics[self.main]

    @property
    def interval(self) -> tuple[float, float]:
        """The main metric's."""
        return self.intervals[self.main]

    def to_json(self) -> dict[str, Any]:
        """Metrics by name, the main one's `interval`, and `intervals` of all."""
        return {**self.metrics, "interval": self.interval, "intervals": self.intervals}


class Task(Protocol):
    """One task of the paper. Instances hold no state."""

    @property
    def name(self) -> str:
        """How the command line calls it."""

    @property
    def head(self) -> str:
        """The head a model needs: sequence, token or question."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What a table must have."""

    @property
    def metric(self) -> str:
        """The main metric's name."""

    def default_labels(self) -> tuple[str, ...]:
        """Labels for a fresh head."""

    def check_model(self, config: BertConfig) -> None:
        """Raise `InputError` when the model's head or labels do not fit this task."""

    def examples(self, table: pd.DataFrame, checkpoint: Checkpoint, source: str) -> Examples:
        """Tokenise a table; `InputError` for missing columns and labels the model does not have."""

    def targets(self, examples: Examples, indices: Sequence[int], width: int) -> Tensor:
        """The targets of the windows at `indices`, padded to `width` where they are a tag a token."""

    def loss(self, logits: Tensor, batch: Batch) -> tuple[Tensor, int]:
        """SUM of the losses over what the batch's mean counts, and that count."""

    def predict(self, logits: Tensor, batch: Batch) -> list[Any]:
        """What the logits say of each window."""

    def answer(self, outputs: Sequence[Any], examples: Examples, example: int) -> Any:
        """The prediction for an example, as it goes into JSON, from what `predict` said of its windows."""

    def grade(self, answer: Any, examples: Examples, example: int) -> tuple[float, ...]:
        """What the metrics need to know of one answer; the first number is 1 when it is right as a
        whole, else 0."""

    def score(self, grades: np.ndarray) -> Score:
        """Metrics over the examples with these grades, (examples, numbers a grade)."""

    def main(self, sums: np.ndarray, n: int) -> np.ndarray:
        """The main metric from sums of n examples' grades: (resamples, numbers a grade) -> (resamples,)."""


def difference(
    task: Task, before: np.ndarray, after: np.ndarray, *, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """By how much the main metric of `after` exceeds that of `before`, both grades of the same examples in
    the same order, and its 95 % interval from resampling examples, each with both of its grades."""
    n, width = before.shape

    def gain(sums: np.ndarray) -> np.ndarray:
        gained: np.ndarray = task.main(sums[:, width:], n) - task.main(sums[:, :width], n)
        return gained

    both = np.concatenate([before, after], axis=1)
    return float(gain(both.sum(0)[None])[0]), bootstrap(both, gain, seed=seed)


def answers(task: Task, outputs: Sequence[Any], examples: Examples) -> list[Any]:
    """Every example's prediction; outputs[w] is what `predict` said of window w."""
    return [task.answer([outputs[w] for w in examples.windows(i)], examples, i) for i in range(len(examples))]


def grades(task: Task, predictions: Sequence[Any], examples: Examples) -> np.ndarray:
    """(examples, numbers a grade) of every example's prediction."""
    return np.array([task.grade(p, examples, i) for i, p in enumerate(predictions)], dtype=float)


def collate(task: Task, examples: Examples, indices: Iterable[int]) -> Batch:
    """Pad the windows at `indices` to the longest of them (with id 0, masked out by the lengths)."""
    chosen = [int(i) for i in indices]
    lengths = [len(examples.input_ids[i]) for i in chosen]
    width = max(lengths)
    ids = torch.zeros((len(chosen), width), dtype=torch.long)
    types = torch.zeros((len(chosen), width), dtype=torch.long)
    for row, i in enumerate(chosen):
        ids[row, : lengths[row]] = torch.tensor(examples.input_ids[i])
        types[row, : lengths[row]] = torch.tensor(examples.token_type_ids[i])
    return Batch(chosen, ids, types, torch.tensor(lengths), task.targets(examples, chosen, width))


def length_batches(lengths: np.ndarray, tokens: int) -> list[list[int]]:
    """Cut windows sorted by length into batches of at most `tokens` padded tokens each.

    A batch holds windows of nearly equal length, so almost nothing is padded; one longer
    than `tokens` gets a batch of its own. Every window is in exactly one batch.
    """
    batches: list[list[int]] = []
    width = 0
    for i in np.argsort(-lengths, kind="stable"):
        if not batches or (len(batches[-1]) + 1) * width > tokens:
            batches.append([])
            width = int(lengths[i])
        batches[-1].append(int(i))
    return batches
