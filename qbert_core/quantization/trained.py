"""What a quantization-aware training leaves beside its checkpoint: the plan and the frozen ranges.

quantization.json, so that the checkpoint evaluates to the very numbers it was trained to:

    {"schema": 1, "plan": PLAN,
     "activations": {"source": "train.parquet", "examples": 67349, "ranges": {SITE: [low, high], ..}}}

`activations` is null for a plan that leaves activations alone.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qbert_core.access import access
from qbert_core.bert import BertConfig
from qbert_core.errors import InputError
from qbert_core.jsonfile import read_json
from qbert_core.quantization.plan import Plan, parse_plan
from qbert_core.quantization.simulate import ActivationRanges
from qbert_core.quantization.sites import sites_of

FILE = "quantization.json"
SCHEMA = 1
MAX_BYTES = 4 * 2**20  # a 24-layer model's is 40 KB
LARGEST = 1e38  # of a range's end: the width of the range must fit fp32


@dataclass(frozen=True)
class TrainedQuantization:
    """The plan a checkpoint was trained for, and its activation ranges (None: left in fp32)."""

    plan: Plan
    ranges: ActivationRanges | None

    def to_json(self) -> dict[str, Any]:
        """The document of quantization.json; Python writes floats so that they read back exactly."""
        activations = None
        if self.ranges is not None:
            ends = {site: list(ends) for site, ends in self.ranges.ranges.items()}
            activations = {"source": self.ranges.source, "examples": self.ranges.examples, "ranges": ends}
        return {"schema": SCHEMA, "plan": self.plan.to_json(), "activations": activations}


def save_trained(trained: TrainedQuantization, folder: Path) -> Path:
    """Write quantization.json to `folder`, whole or not at all."""
    path = folder / FILE
    partial = folder / f".{FILE}.{os.getpid()}.partial"
    try:
        partial.write_text(json.dumps(trained.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        return partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_trained(folder: Path) -> None:
    """Remove quantization.json, before other weights come into the folder."""
    (folder / FILE).unlink(missing_ok=True)


def load_trained(folder: Path, config: BertConfig) -> TrainedQuantization | None:
    """What quantization.json in a checkpoint's folder says, or None where there is none.

    Raises `InputError` for a file that is too large, not of this form, or of another model.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    return parse_trained(read_json(access().path(path), MAX_BYTES), config, str(path))


def parse_trained(document: object, config: BertConfig, source: str) -> TrainedQuantization:
    """The document of quantization.json for a model of this shape; `InputError` says what is wrong."""
    if not isinstance(document, dict) or "plan" not in document or "activations" not in document:
        raise InputError(f'{source}: expected {{"schema": {SCHEMA}, "plan": .., "activations": ..}}')
    if document.get("schema") != SCHEMA:
        raise InputError(f"{source}: schema {document.get('schema')!r:.40}; this version reads {SCHEMA}")
    plan = parse_plan(document["plan"], sites_of(config), source)
    if document["activations"] is None:
        if plan.activation_bits == 8:
            raise InputError(f"{source}: the plan has 8-bit activations, but no ranges are given for them")
        return TrainedQuantization(plan, None)
    return TrainedQuantization(plan, _ranges(document["activations"], config, source))


def _ranges(value: object, config: BertConfig, source: str) -> ActivationRanges:
    if not isinstance(value, dict) or not isinstance(value.get("ranges"), dict):
        raise InputError(
            f'{source}: activations: expected {{"source": .., "examples": .., "ranges": {{..}}}}'
        )
    examples, given = value.get("examples"), value["ranges"]
    if not isinstance(examples, int) or isinstance(examples, bool) or examples < 1:
        raise InputError(f"{source}: activations: examples is {examples!r:.40}; expected a count from 1")
    if not isinstance(value.get("source"), str):
        raise InputError(f"{source}: activations: source is not a text; expected the training data's name")
    names = [site.name for site in sites_of(config) if site.layer is not None]
    if set(given) != set(names):
        raise InputError(
            f"{source}: activation ranges of another model: {len(set(names) - set(given))} of this "
            f"model's {len(names)} linear layers have none, {len(set(given) - set(names))} others do"
        )
    ranges: dict[str, tuple[float, float]] = {}
    for name in names:
        ends = given[name]
        if not isinstance(ends, list) or len(ends) != 2 or not all(_bounded(end) for end in ends):
            raise InputError(
                f"{source}: range of {name}: {ends!r:.60}; expected [low, high], finite, "
                f"at most {LARGEST:g} in size"
            )
        low, high = (float(end) for end in ends)
        if not low <= 0 <= high:
            raise InputError(f"{source}: range of {name}: {low:g} to {high:g}; 0 must lie in it")
        ranges[name] = (low, high)
    return ActivationRanges(MappingProxyType(ranges), value["source"][:200], examples)


def _bounded(value: object) -> bool:
    # no range holds NaN, and a whole number too large for a float compares all the same
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
