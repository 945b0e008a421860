"""export.json: what an exported folder says beyond its format.

    {"schema": 1, "layout": "mixed", "plan": PLAN,
     "activations": null or {"source": .., "examples": .., "ranges": {SITE: [low, high], ..}},
     "source": {"name": .., "fingerprint": ..}}

compressed-tensors has no place for groups of rows, and transformers reads no input ranges from it, so
the plan and the activation ranges are kept here. `activations` is null where inputs stay in fp32, or
where no data were given to calibrate on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qbert_core.bert import BertConfig
from qbert_core.errors import InputError
from qbert_core.export.layout import LAYOUTS, Layout
from qbert_core.jsonfile import read_json
from qbert_core.quantization import ActivationRanges, Plan, sites_of
from qbert_core.quantization.plan import parse_plan
from qbert_core.quantization.trained import MAX_BYTES, TrainedQuantization, parse_trained

FILE = "export.json"
SCHEMA = 1


@dataclass(frozen=True)
class Sidecar:
    """The plan that was exported, how it is laid out, and from which model."""

    plan: Plan
    layout: Layout
    ranges: ActivationRanges | None
    source: str
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """The document of export.json."""
        trained = TrainedQuantization(self.plan, self.ranges).to_json()
        return {
            "schema": SCHEMA,
            "layout": self.layout,
            "plan": trained["plan"],
            "activations": trained["activations"],
            "source": {"name": self.source, "fingerprint": self.fingerprint},
        }


def read_sidecar(folder: Path, config: BertConfig) -> Sidecar:
    """export.json of a folder; `InputError` where there is none, or one that is broken or of another model."""
    path = folder / FILE
    if not path.is_file():
        raise InputError(f"{folder}: no {FILE} there; give a folder that the export command wrote")
    document = read_json(path, MAX_BYTES)
    if not isinstance(document, dict) or not {"plan", "activations", "layout", "source"} <= set(document):
        raise InputError(
            f'{path}: expected {{"schema": {SCHEMA}, "layout": .., "plan": .., "activations": ..}}'
        )
    if document.get("schema") != SCHEMA:
        raise InputError(f"{path}: schema {document.get('schema')!r:.40}; this version reads {SCHEMA}")
    layout, source = document["layout"], document["source"]
    if layout not in LAYOUTS:
        raise InputError(f"{path}: layout {layout!r:.40}; expected one of {', '.join(LAYOUTS)}")
    if not isinstance(source, dict):
        raise InputError(f"{path}: source {source!r:.40}; expected a name and a fingerprint")
    plan, ranges = parse_plan(document["plan"], sites_of(config), str(path)), None
    if document["activations"] is not None:
        given = {"schema": 1, "plan": document["plan"], "activations": document["activations"]}
        ranges = parse_trained(given, config, str(path)).ranges
    name, fingerprint = (str(source.get(key, ""))[:200] for key in ("name", "fingerprint"))
    return Sidecar(plan, layout, ranges, name, fingerprint)
