"""SST-2: is a sentence positive? Columns sentence, label; accuracy with Wilson's interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


class Sst2:
    """Binary sentiment of single sentences."""

    name = "sst2"
    head = "sequence"
    columns = ("sentence", "label")
    metric = "accuracy"

    def default_labels(self) -> tuple[str, ...]:
        return ("negative", "positive")

    def check_model(self, config: BertConfig) -> None:
        if config.head != self.head or len(config.labels) != 2:
            raise InputError(
                f"task sst2 needs a sequence classification model with 2 labels; this one has a "
                f"{config.head} head with {len(config.labels)} labels"
            )

    def examples(self, table: pd.DataFrame, checkpoint: Checkpoint, source: str) -> Examples:
        self.check_model(checkpoint.config)
        require_columns(table, self.columns, source)
        labels = class_ids(table["label"], checkpoint.config.labels, source)
        checkpoint.tokenizer.enable_truncation(checkpoint.max_length)
        encoded = checkpoint.tokenizer.encode_batch(texts(table, "sentence", source))
        return make_examples([e.ids for e in encoded], [e.type_ids for e in encoded], labels, table, source)

    def targets(self, examples: Examples, indices: Sequence[int], width: int) -> Tensor:
        return torch.tensor([examples.targets[i] for i in indices])

    def loss(self, logits: Tensor, batch: Batch) -> tuple[Tensor, int]:
        targets = batch.targets.to(logits.device)
        return F.cross_entropy(logits, targets, reduction="sum"), len(batch)

    def predict(self, logits: Tensor, batch: Batch) -> list[Any]:
        return [int(label) for label in logits.argmax(-1)]

    def correct(self, predictions: Sequence[Any], examples: Examples, indices: Sequence[int]) -> list[bool]:
        return [p == examples.targets[i] for p, i in zip(predictions, indices, strict=True)]

    def score(self, predictions: Sequence[Any], examples: Examples, indices: Sequence[int]) -> Score:
        right = sum(self.correct(predictions, examples, indices))
        n = len(indices)
        return Score({"accuracy": right / n}, wilson(right, n), n)
