"""What a task is, and the examples and batches every room passes around."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from qbert_core.bert import BertConfig
from qbert_core.checkpoints import Checkpoint


@dataclass(frozen=True, eq=False)
class Examples:
    """Tokenised examples of one task.

    `targets` holds one array an example (a class id of shape (); a tag a token; start and end);
    `rows` is the table they came from, row i beside example i; `fingerprint` is a digest of what
    the model sees and is asked, so that equal data have equal names wherever they came from.
    """

    input_ids: list[list[int]] = field(repr=False)
    token_type_ids: list[list[int]] = field(repr=False)
    targets: list[Any] = field(repr=False)
    rows: pd.DataFrame = field(repr=False)
    source: str
    fingerprint: str

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example."""
        return np.array([len(ids) for ids in self.input_ids])

    def take(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """The examples at `indices`, in that order."""
        rows = [int(i) for i in indices]
        return make_examples(
            [self.input_ids[i] for i in rows],
            [self.token_type_ids[i] for i in rows],
            [self.targets[i] for i in rows],
            self.rows.iloc[rows].reset_index(drop=True),
            self.source,
        )


def make_examples(
    input_ids: list[list[int]],
    token_type_ids: list[list[int]],
    targets: list[Any],
    rows: pd.DataFrame,
    source: str,
) -> Examples:
    """`Examples` with its fingerprint computed."""
    digest = hashlib.sha256()
    for ids, types, target in zip(input_ids, token_type_ids, targets, strict=True):
        digest.update(np.array([len(ids), *ids, *types], dtype=np.int64).tobytes())
        digest.update(np.asarray(target, dtype=np.int64).tobytes())
    return Examples(input_ids, token_type_ids, targets, rows, source, digest.hexdigest()[:32])


@dataclass(frozen=True, eq=False)
class Batch:
    """Padded examples, B of them, T tokens wide; `indices` says which examples they are."""

    indices: list[int]
    input_ids: Tensor  # (B, T)
    token_type_ids: Tensor  # (B, T)
    lengths: Tensor  # (B,)
    targets: Tensor

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Score:
    """What a task makes of predictions: metrics by name, the main one's 95 % interval."""

    metrics: dict[str, float]
    interval: tuple[float, float]
    n: int


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
        """The targets of a batch, padded to `width` where they are a tag a token."""

    def loss(self, logits: Tensor, batch: Batch) -> tuple[Tensor, int]:
        """SUM of the losses over what the batch's mean counts, and that count."""

    def predict(self, logits: Tensor, batch: Batch) -> list[Any]:
        """One prediction an example, as it goes into JSON."""

    def correct(self, predictions: Sequence[Any], examples: Examples, indices: Sequence[int]) -> list[bool]:
        """Whether each prediction is right as a whole."""

    def score(self, predictions: Sequence[Any], examples: Examples, indices: Sequence[int]) -> Score:
        """Metrics over the examples at `indices`, prediction i for example indices[i]."""


def collate(task: Task, examples: Examples, indices: Iterable[int]) -> Batch:
    """Pad the examples at `indices` to the longest of them (with id 0, masked out by the lengths)."""
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
    """Cut examples sorted by length into batches of at most `tokens` padded tokens each.

    A batch holds examples of nearly equal length, so almost nothing is padded; an example longer
    than `tokens` gets a batch of its own. Every example is in exactly one batch.
    """
    batches: list[list[int]] = []
    width = 0
    for i in np.argsort(-lengths, kind="stable"):
        if not batches or (len(batches[-1]) + 1) * width > tokens:
            batches.append([])
            width = int(lengths[i])
        batches[-1].append(int(i))
    return batches
