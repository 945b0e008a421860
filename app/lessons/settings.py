"""What the controls of the lessons say, and the same in the address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from qbert_core.bert import BertConfig
from qbert_core.quantization.plan import BITS

COUNTS = ("1", "heads", "128", "rows")  # groups a matrix: one, one a head, the paper's 128, one a row
TABLE_BITS = BITS
LESSON_COUNT = 6
MATRICES = 6  # of a layer
_COUNTED_FROM_ONE = ("layer", "matrix", "group")  # in the address, as on the page


@dataclass(frozen=True)
class Settings:
    """The step shown and every step's controls; layer, matrix and group count from 0."""

    lesson: int = 1
    large: int = 0  # 1: text for a projector
    tables: int = 4  # bits of the embedding tables
    layer: int = 0
    matrix: int = 0  # of the layer's six
    bits: int = 4
    count: str = "1"  # of `COUNTS`
    group: int = 0
    high: int = -1  # layers with 4 bits; -1: as many as the paper's plan has

    def to_query(self) -> dict[str, str]:
        """The step, and what differs from the start."""
        start = Settings()
        wanted = {"lesson": str(self.lesson)}
        for field in fields(self):
            value = getattr(self, field.name)
            if value != getattr(start, field.name):
                wanted[field.name] = str(value + 1 if field.name in _COUNTED_FROM_ONE else value)
        return wanted


def settings_from(query: Mapping[str, str], config: BertConfig) -> Settings:
    """The inverse of `to_query` for a model; what it has not, or cannot be read, is as at the start."""
    allowed: dict[str, Any] = {
        "lesson": range(1, LESSON_COUNT + 1),
        "large": range(2),
        "tables": TABLE_BITS,
        "layer": range(config.layers),
        "matrix": range(MATRICES),
        "bits": range(1, 9),
        "group": range(max(config.hidden, config.intermediate)),
        "high": range(config.layers + 1),
    }
    found: dict[str, Any] = {}
    for name, values in allowed.items():
        text = query.get(name, "")
        if text.isascii() and text.isdecimal() and len(text) < 8:
            number = int(text) - (name in _COUNTED_FROM_ONE)
            if number in values:
                found[name] = number
    if query.get("count") in COUNTS:
        found["count"] = query["count"]
    return Settings(**found)
