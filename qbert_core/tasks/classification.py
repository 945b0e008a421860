"""What the two tasks of whole sequences share: one class an input, accuracy with Wilson's interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from qbert_core.bert import BertConfig
from qbert_core.checkpoints import Checkpoint
from qbert_core.errors import InputError
from qbert_core.tasks.base import Batch, Examples, Score, make_examples
from qbert_core.tasks.columns import class_ids, require_columns, texts
from qbert_core.tasks.interval import wilson


class Classification:
    """A class for each text, or pair of texts, of the columns in front of `label`."""

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]  # what the numbers 0, 1, .. in the data stand for
    head = "sequence"
    metric = "accuracy"

    def default_labels(self) -> tuple[str, ...]:
        return self.labels

    def check_model(self, config: BertConfig) -> None:
        if config.head != self.head or len(config.labels) != len(self.labels):
            raise InputError(
                f"task {self.name} needs a sequence classification model with {len(self.labels)} labels; "
                f"this one has a {config.head} head with {len(config.labels)} labels"
            )

    def examples(self, table: pd.DataFrame, checkpoint: Checkpoint, source: str) -> Examples:
        self.check_model(checkpoint.config)
        require_columns(table, self.columns, source)
        labels = class_ids(table["label"], checkpoint.config.labels, source, self.labels)
        parts = [texts(table, column, source) for column in self.columns[:-1]]
        checkpoint.tokenizer.enable_truncation(checkpoint.max_length)
        encoded = checkpoint.tokenizer.encode_batch(
            parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))
        )
        return make_examples(
            [e.ids for e in encoded],
            [e.type_ids for e in encoded],
            labels,
            table,
            source,
            cut=[bool(e.overflowing) for e in encoded],
            labels=checkpoint.config.labels,
        )

    def targets(self, examples: Examples, indices: Sequence[int], width: int) -> Tensor:
        return torch.tensor([examples.targets[i] for i in indices])

    def loss(self, logits: Tensor, batch: Batch) -> tuple[Tensor, int]:
        targets = batch.targets.to(logits.device)
        return F.cross_entropy(logits, targets, reduction="sum"), len(batch)

    def predict(self, logits: Tensor, batch: Batch) -> list[Any]:
        return [int(label) for label in logits.argmax(-1)]

    def answer(self, outputs: Sequence[Any], examples: Examples, example: int) -> Any:
        return outputs[0]

    def grade(self, answer: Any, examples: Examples, example: int) -> tuple[float, ...]:
        return (float(answer == examples.references[example]),)

    def score(self, grades: np.ndarray) -> Score:
        right, n = int(grades[:, 0].sum()), len(grades)
        return Score({"accuracy": right / n}, {"accuracy": wilson(right, n)}, self.metric, n)

    def main(self, sums: np.ndarray, n: int) -> np.ndarray:
        shares: np.ndarray = sums[:, 0] / n
        return shares
