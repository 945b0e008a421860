"""What a loaded model is to every other room: a frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from qbert_core.bert import BertConfig, Weights

# Which paper task a head speaks for; a sequence head with three labels is an NLI model.
_TASK_OF_HEAD = {"token": "conll03", "question": "squad"}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A finetuned BERT: shape, fp32 weights by transformers' parameter names, tokenizer.

    The weights are never changed after loading; `fingerprint` is a digest of everything a result
    can depend on (tensors, shape, labels, vocabulary), so it names the model wherever it lies.
    """

    name: str
    config: BertConfig
    weights: Weights = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    fingerprint: str
    folder: Path  # where the tokenizer files and config.json lie

    @property
    def task(self) -> str:
        """The paper's task this model's head fits: sst2, mnli, conll03 or squad."""
        if self.config.head == "sequence":
            return "mnli" if len(self.config.labels) == 3 else "sst2"
        return _TASK_OF_HEAD[self.config.head]

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens: the paper's 128 (SQuAD 384), or less if the model is shorter."""
        return min(384 if self.config.head == "question" else 128, self.config.positions)

    def to(self, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> Checkpoint:
        """The same model with its tensors in another precision or place."""
        moved: dict[str, Tensor] = {
            name: tensor.to(device=device, dtype=dtype or tensor.dtype)
            for name, tensor in self.weights.items()
        }
        return replace(self, weights=MappingProxyType(moved))

    def __getstate__(self) -> dict[str, Any]:
        """For another process: a read-only view of the weights cannot be pickled, what it shows can."""
        return {**self.__dict__, "weights": dict(self.weights)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, weights=MappingProxyType(state["weights"]))
