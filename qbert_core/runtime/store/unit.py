"""What a unit of work answers: the question, and the digest it is found by."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

FINGERPRINTS = ("model", "data", "plan")


@dataclass(frozen=True)
class UnitKey:
    """Everything a unit's result depends on. Fingerprints that play no part are None."""

    kind: str
    model: str | None
    data: str | None
    plan: str | None
    settings: str  # a JSON object, its names sorted

    @property
    def digest(self) -> str:
        """SHA-256 of all of it, in hex: equal questions, equal digests, in every version of the file."""
        prints = {name: value for name in FINGERPRINTS if (value := getattr(self, name)) is not None}
        text = json.dumps([self.kind, {**json.loads(self.settings), **prints}], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def unit_key(
    kind: str, *, model: str | None = None, data: str | None = None, plan: str | None = None, **settings: Any
) -> UnitKey:
    """The question `kind` about a model, data and a plan (by fingerprint), with its settings (JSON)."""
    return UnitKey(kind, model, data, plan, json.dumps(settings, sort_keys=True))
