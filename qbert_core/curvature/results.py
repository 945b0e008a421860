"""What a sensitivity analysis found: eigenvalues of every block over the runs, and Omega."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from qbert_core.curvature.fields import Fields
from qbert_core.curvature.stability import Stability
from qbert_core.errors import InputError

KINDS = ("layer", "attention", "ffn", "embedding")


@dataclass(frozen=True)
class BlockSensitivity:
    """One block's eigenvalue of largest magnitude in each run, with its sign."""

    name: str
    layer: int  # 0-based; -1 for an embedding table
    kind: str  # layer, attention, ffn or embedding
    lambdas: tuple[float, ...]  # one a run
    residuals: tuple[float, ...]  # |Hv - lambda v| / |lambda|, one a run
    risks: tuple[float, ...] | None = None  # that a larger eigenvalue was missed, at most, one a run
    traces: tuple[float, ...] | None = None  # of the whole block's Hessian, one a run, if asked for
    trace_errors: tuple[float, ...] | None = None  # their standard errors

    @property
    def mean(self) -> float:
        return float(np.mean(self.lambdas))

    @property
    def std(self) -> float:
        """Population standard deviation over the runs."""
        return float(np.std(self.lambdas))

    @property
    def omega(self) -> float:
        """Omega = |mean(lambda)| + std(lambda) (Q-BERT, section 3.1)."""
        return abs(self.mean) + self.std

    @property
    def trace(self) -> float | None:
        """Mean of the runs' traces."""
        return None if self.traces is None else float(np.mean(self.traces))

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "layer": self.layer,
            "kind": self.kind,
            "lambdas": list(self.lambdas),
            "residuals": list(self.residuals),
            "risks": None if self.risks is None else list(self.risks),
            "mean": self.mean,
            "std": self.std,
            "omega": self.omega,
            **(
                {}
                if self.traces is None or self.trace_errors is None
                else {
                    "trace": self.trace,
                    "traces": list(self.traces),
                    "trace_errors": list(self.trace_errors),
                }
            ),
        }


@dataclass(frozen=True)
class Sensitivity:
    """Every block's eigenvalues over the runs, and what they were computed from.

    While runs are in progress only blocks that have an eigenvalue are listed, some with one more
    than others; a finished one has `runs` of each. What a document does not say is None.
    """

    blocks: tuple[BlockSensitivity, ...]  # first layer first
    runs: int
    examples: int  # a run
    seconds: float  # of computing, over all runs
    hvp_count: int  # Hessian-vector products over a run's examples
    stopped: str = "runs"  # why there are no more runs: runs (as many as asked for) or stable
    seed: int | None = None
    fraction: float | None = None
    tolerance: float | None = None
    model: str | None = None  # the checkpoint's fingerprint
    data: str | None = None  # the training examples' fingerprint
    hvp_rounded: int = 0  # of the products, those in fast arithmetic
    stability: Stability | None = None  # of the ranking, from the third whole run on
    shards: int = 1  # parts that a run's examples were multiplied in; the last digits depend on it

    @property
    def granularity(self) -> str:
        """What a block is: layer, module or site."""
        if self.blocks[0].kind == "layer":
            return "layer"
        return "module" if self.blocks[0].name.endswith((".attention", ".ffn")) else "site"

    def to_json(self) -> dict[str, Any]:
        """The document of the command line's `sensitivity`."""
        return {
            "blocks": [block.to_json() for block in self.blocks],
            "runs": self.runs,
            "examples": self.examples,
            "seconds": self.seconds,
            "hvp_count": self.hvp_count,
            "stopped": self.stopped,
            "seed": self.seed,
            "fraction": self.fraction,
            "tolerance": self.tolerance,
            "granularity": self.granularity,
            "model": self.model,
            "data": self.data,
            "hvp_rounded": self.hvp_rounded,
            "shards": self.shards,
            "stability": None
            if self.stability is None
            else {**self.stability.to_json(), "examples_used": self.runs * self.examples},
        }

    @classmethod
    def from_json(cls, document: Any) -> Sensitivity:
        """The inverse of `to_json`; `InputError` says what is missing or wrong.

        mean, std and omega follow from the lambdas: where a block gives them they must agree.
        """
        source = Fields(document, "sensitivity")
        runs = source.count("runs", least=1)
        entries = enumerate(source.array("blocks"))
        blocks = tuple(_block(entry, f"sensitivity block {i}", runs) for i, entry in entries)
        if not blocks:
            raise InputError("sensitivity: blocks is empty; expected one entry a block")
        if len({block.name for block in blocks}) < len(blocks):
            raise InputError("sensitivity: two blocks have the same name")
        if len({block.kind == "layer" for block in blocks}) > 1:
            raise InputError("sensitivity: blocks of kind layer and smaller ones are mixed")
        return cls(
            blocks=blocks,
            runs=runs,
            examples=source.count("examples", least=1),
            seconds=source.number("seconds"),
            hvp_count=source.count("hvp_count"),
            hvp_rounded=source.count("hvp_rounded") if source.has("hvp_rounded") else 0,
            shards=source.count("shards", least=1) if source.has("shards") else 1,
            stopped=source.choice("stopped", ("runs", "stable")),
            seed=source.count("seed") if source.has("seed") else None,
            fraction=source.number("fraction") if source.has("fraction") else None,
            tolerance=source.number("tolerance") if source.has("tolerance") else None,
            model=source.text("model") if source.has("model") else None,
            data=source.text("data") if source.has("data") else None,
            stability=Stability.from_json(document["stability"], "sensitivity stability", len(blocks))
            if source.has("stability")
            else None,
        )


def _block(document: Any, where: str, runs: int) -> BlockSensitivity:
    source = Fields(document, where)
    block = BlockSensitivity(
        name=source.text("name"),
        layer=source.count("layer", least=-1),
        kind=source.choice("kind", KINDS),
        lambdas=source.numbers("lambdas", runs),
        residuals=source.numbers("residuals", runs),
        risks=source.numbers("risks", runs) if source.has("risks") else None,
        traces=source.numbers("traces", runs) if source.has("traces") else None,
        trace_errors=source.numbers("trace_errors", runs) if source.has("traces") else None,
    )
    if (block.layer < 0) != (block.kind == "embedding"):
        raise source.wrong("layer", "0 or more, and -1 for an embedding table")
    for name in ("mean", "std", "omega"):
        if source.has(name):
            given, right = source.number(name), getattr(block, name)
            if not math.isclose(given, right, rel_tol=1e-6, abs_tol=1e-12):
                raise InputError(f"{where}: {name} is {given}, its lambdas give {right}")
    return block
