"""A paragraph longer than the model: windows over its tokens, and the best span in a window's logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """Tokens `start` to `end` of a paragraph. Of its tokens, those from `low` to `high` have more context
    here than in any other window of the paragraph: an answer may begin there."""

    start: int
    end: int
    low: int
    high: int


def windows(tokens: int, room: int, step: int) -> list[Window]:
    """Windows of at most `room` tokens, each `step` after the one before, up to the paragraph's end.

    A token's context in a window is the smaller of the tokens left and right of it there, plus 0.01 of the
    window's length; among equals the first window has it (Devlin et al. 2019, run_squad).
    """
    starts = [0]
    while starts[-1] + room < tokens:
        starts.append(starts[-1] + min(room, step))
    ends = [min(start + room, tokens) for start in starts]
    places = np.arange(tokens)
    context = np.full((len(starts), tokens), -1.0)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        here = places[start:end]
        context[row, start:end] = np.minimum(here - start, end - 1 - here) + 0.01 * (end - start)
    best = context.argmax(0)
    # a window's own tokens lie in one run: its context rises to the middle and falls again
    own = [np.flatnonzero(best == row) for row in range(len(starts))]
    return [
        Window(start, end, int(mine[0]), int(mine[-1]) + 1)
        for start, end, mine in zip(starts, ends, own, strict=True)
    ]


def best_spans(
    start_logits: np.ndarray,  # (B, T)
    end_logits: np.ndarray,  # (B, T)
    may_start: np.ndarray,  # (B, T) bool
    may_end: np.ndarray,  # (B, T) bool
    longest: int,
) -> list[tuple[float, int, int]]:
    """(score, first token, last token) of the best span of at most `longest` tokens in each row.

    The score is the sum of both logits. Every allowed span is considered; among equals the first start and
    then the shortest span wins. Score -inf where nothing is allowed.
    """
    starts = np.where(may_start, start_logits, -np.inf)
    ends = np.where(may_end, end_logits, -np.inf)
    width = starts.shape[1]
    scores = np.full((min(longest, width), *starts.shape), -np.inf)
    for more in range(len(scores)):
        scores[more, :, : width - more] = starts[:, : width - more] + ends[:, more:]
    lengths = scores.argmax(0)  # (B, T): numpy's argmax is the first maximum
    by_start = scores.max(0)
    found = []
    for row, start in enumerate(by_start.argmax(1)):
        found.append((float(by_start[row, start]), int(start), int(start + lengths[row, start])))
    return found
