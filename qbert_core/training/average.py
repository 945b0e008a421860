"""The mean of several finetunings of one base: often better than any of them.

Finetunings from the same pretrained weights mostly end in one basin of the loss, so the point between
them is a good model too (Wortsman et al. 2022, "Model soups").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

import torch

from qbert_core.checkpoints import Checkpoint
from qbert_core.errors import InputError


def average(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The first checkpoint with every weight replaced by the mean over all, computed in fp32.

    Raises `InputError` unless all have the same shape, labels and vocabulary.
    """
    first = checkpoints[0]
    for other in checkpoints[1:]:
        if other.config != first.config:
            raise InputError(
                f"{other.name} and {first.name} differ in shape or labels; average alike models only"
            )
        if other.tokenizer.get_vocab() != first.tokenizer.get_vocab():
            raise InputError(f"{other.name} and {first.name} have different vocabularies")
    means = {name: torch.stack([c.weights[name] for c in checkpoints]).mean(0) for name in first.weights}
    return replace(first, weights=MappingProxyType(means))
