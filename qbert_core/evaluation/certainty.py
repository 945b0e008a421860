"""How sure a model is of its answer to one example, by the kind of head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qbert_core.tasks import Examples


@dataclass(frozen=True)
class Certainty:
    """`probabilities`: of every class (sequence); of every class for each word, None for a word the model
    did not see (token); of the answer's first and last token as first and last (question).

    `window` is the one the answer was found in. For questions, `score` is the sum of both logits, and
    `span` the answer's first and last character + 1 in the paragraph.
    """

    probabilities: tuple[Any, ...]
    window: int = 0
    score: float | None = None
    span: tuple[int, int] | None = None


def certainty(
    head: str, logits: Tensor, outputs: Sequence[Any], lengths: Tensor, examples: Examples, example: int
) -> Certainty:
    """From the logits of an example's windows, (windows, labels) or (windows, T, labels), and what the task's
    `predict` said of each. Probabilities are a softmax over classes, for questions over the window's tokens."""
    logits = logits.float()
    if head == "sequence":
        return Certainty(tuple(logits[0].softmax(-1).tolist()))
    if head == "token":
        return _token(logits, examples, example)
    return _question(logits, outputs, lengths, examples, example)


def _token(logits: Tensor, examples: Examples, example: int) -> Certainty:
    (window,) = examples.windows(example)
    pieces = [place for place, target in enumerate(examples.targets[window]) if target >= 0]
    words: list[tuple[float, ...] | None] = [None] * len(examples.references[example])
    for word, place in zip(examples.notes[window], pieces, strict=True):
        words[word] = tuple(logits[0, place].softmax(-1).tolist())
    return Certainty(tuple(words))


def _question(
    logits: Tensor, outputs: Sequence[Any], lengths: Tensor, examples: Examples, example: int
) -> Certainty:
    best = max(
        range(len(outputs)), key=lambda i: outputs[i][0]
    )  # the first among equals, as the task answers
    score, first, last = outputs[best]
    real = logits[best, : int(lengths[best])]  # (T, 2)
    starts, ends = torch.softmax(real, 0).unbind(-1)
    offsets, shift = examples.notes[examples.windows(example)[best]]
    return Certainty(
        (float(starts[first]), float(ends[last])),
        best,
        score,
        (int(offsets[first - shift, 0]), int(offsets[last - shift, 1])),
    )
