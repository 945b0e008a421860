"""How sure a ranking by Omega is: bootstrap over the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qbert_core.curvature.fields import Fields

RESAMPLES = 4000
LEAST_RUNS = 5  # before a ranking may be called stable
SHOWN_FROM = 3  # runs before which a bootstrap says nothing at all


@dataclass(frozen=True)
class Stability:
    """What the runs so far say about the set of the `high` most sensitive blocks, and every order.

    All probabilities are shares of bootstrap resamples of the runs (Efron 1979): a run's eigenvalues of
    all blocks stay together, because they come from one draw of the data.
    """

    high: int  # blocks that get the higher bits
    confidence: float  # at which the set counts as stable
    chosen: tuple[int, ...]  # indices of the `high` blocks with the largest Omega, ascending
    probability: float  # that a resample has the same set
    pairs: tuple[tuple[float, ...], ...]  # [i][j]: that block i's Omega exceeds block j's; ties count half
    history: tuple[tuple[int, float], ...]  # (runs, probability of the set those runs gave)
    stable_after: int | None  # runs after which the set was stable for the first time

    def to_json(self) -> dict[str, Any]:
        return {
            "high": self.high,
            "confidence": self.confidence,
            "set": list(self.chosen),
            "probability": self.probability,
            "pairs": [list(row) for row in self.pairs],
            "history": [{"runs": runs, "probability": p} for runs, p in self.history],
            "stable_after": self.stable_after,
        }

    @classmethod
    def from_json(cls, document: Any, where: str, blocks: int) -> Stability:
        """The inverse of `to_json`; `InputError` says what is missing or wrong."""
        source = Fields(document, where)
        history = [Fields(entry, f"{where}: history {i}") for i, entry in enumerate(source.array("history"))]
        rows = source.array("pairs")
        if len(rows) != blocks:
            raise source.wrong("pairs", f"{blocks} rows, one a block")
        matrix = [Fields({"row": row}, f"{where}: pairs row {i}") for i, row in enumerate(rows)]
        chosen = source.array("set")
        if not all(isinstance(i, int) and 0 <= i < blocks for i in chosen):
            raise source.wrong("set", f"indices of blocks, 0 to {blocks - 1}")
        return cls(
            high=source.count("high"),
            confidence=source.number("confidence"),
            chosen=tuple(chosen),
            probability=source.number("probability"),
            pairs=tuple(row.numbers("row", blocks) for row in matrix),
            history=tuple((entry.count("runs"), entry.number("probability")) for entry in history),
            stable_after=source.count("stable_after") if source.has("stable_after") else None,
        )


def stability(
    lambdas: Sequence[Sequence[float]],  # (runs, blocks)
    *,
    high: int,
    confidence: float,
    seed: int = 0,
    before: Stability | None = None,
) -> Stability | None:
    """What `runs` whole runs say, or None before `SHOWN_FROM` of them.

    `before`, from one run fewer, saves computing the history again.
    """
    runs = len(lambdas)
    if runs < SHOWN_FROM:
        return None
    if before is None or not before.history or before.history[-1][0] != runs - 1:
        before = stability(lambdas[:-1], high=high, confidence=confidence, seed=seed)
    samples = np.asarray(lambdas, dtype=np.float64)
    chosen = _top(omega(samples[None])[0][None], high)[0]
    picks = np.random.default_rng([seed, runs]).integers(0, runs, (RESAMPLES, runs))
    omegas = omega(samples[picks])  # (resamples, blocks)
    probability = float((_top(omegas, high) == chosen).all(1).mean())
    above = omegas[:, :, None] - omegas[:, None, :]
    pairs = (above > 0).mean(0) + 0.5 * (above == 0).mean(0)
    stable_after = before.stable_after if before else None
    if stable_after is None and runs >= LEAST_RUNS and probability >= confidence:
        stable_after = runs
    return Stability(
        high=high,
        confidence=confidence,
        chosen=tuple(int(i) for i in np.flatnonzero(chosen)),
        probability=probability,
        pairs=tuple(tuple(float(p) for p in row) for row in pairs),
        history=((*before.history,) if before else ()) + ((runs, probability),),
        stable_after=stable_after,
    )


def omega(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """|mean| + population standard deviation over the last axis but one: (..., runs, blocks) -> (..., blocks)."""
    result: NDArray[np.float64] = np.abs(samples.mean(-2)) + samples.std(-2)
    return result


def _top(omegas: NDArray[np.float64], high: int) -> NDArray[np.bool_]:
    """(n, blocks) -> which are among the `high` largest; of equal ones the first blocks."""
    order = np.argsort(-omegas, axis=1, kind="stable")
    chosen = np.zeros(omegas.shape, dtype=np.bool_)
    np.put_along_axis(chosen, order[:, :high], True, axis=1)
    return chosen
