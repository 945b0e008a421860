"""A plan: how many bits and groups every site gets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from qbert_core.errors import InputError
from qbert_core.quantization.sites import Site

SCHEMA = 1
FULL = 32  # bits of a site that is left as it is
BITS = (*range(1, 9), FULL)
MAX_GROUPS = 2**24


@dataclass(frozen=True)
class SitePlan:
    """Bits (1..8, or 32: not quantized) and group count of one site."""

    bits: int
    groups: int

    def __post_init__(self) -> None:
        if not _whole(self.bits) or self.bits not in BITS:
            raise InputError(f"bits {self.bits!r:.60}; expected 1..8, or 32 for not quantized")
        if not _whole(self.groups) or not 1 <= self.groups <= MAX_GROUPS:
            raise InputError(f"groups {self.groups!r:.60}; expected a whole number from 1")

    @property
    def quantized(self) -> bool:
        return self.bits != FULL

    def applied(self, rows: int) -> int:
        """The groups a weight with so many rows is really split into: at most one a row, none where it is
        not quantized."""
        return min(self.groups, rows) if self.quantized else 0


@dataclass(frozen=True)
class Plan:
    """Bits and groups of every site, in the sites' order; activation bits (8, or 32: left alone).

    `clip` is the percentile the weight ranges are narrowed to (100: minimum and maximum).
    """

    name: str
    activation_bits: int
    entries: tuple[tuple[str, SitePlan], ...]
    clip: float = 100.0

    def __post_init__(self) -> None:
        if not _whole(self.activation_bits) or self.activation_bits not in (8, FULL):
            raise InputError(f"activation_bits {self.activation_bits!r:.60}; expected 8 or 32")
        if isinstance(self.clip, bool) or not isinstance(self.clip, int | float) or not 50 < self.clip <= 100:
            raise InputError(f"clip {self.clip!r:.60}; expected a percentile above 50, at most 100")

    @property
    def sites(self) -> dict[str, SitePlan]:
        return dict(self.entries)

    @property
    def digest(self) -> str:
        """What the plan does, as a name: equal digests mean equal quantized models.

        The plan's own name is left out, and the group count of a site that is not quantized.
        """
        effect = [
            [site, entry.bits, entry.groups if entry.quantized else 0] for site, entry in sorted(self.entries)
        ]
        # activation bits touch only the inputs of quantized linear layers
        linear = any(e.quantized for site, e in self.entries if ".encoder." in site)
        text = json.dumps([SCHEMA, self.activation_bits if linear else FULL, float(self.clip), effect])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def with_sites(self, changes: Mapping[str, SitePlan], name: str | None = None) -> Plan:
        """The plan with some sites changed."""
        entries = tuple((site, changes.get(site, entry)) for site, entry in self.entries)
        return replace(self, entries=entries, name=self.name if name is None else name)

    def to_json(self) -> dict[str, Any]:
        """The PLAN document of the command line."""
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "name": self.name,
            "activation_bits": self.activation_bits,
            "sites": {site: {"bits": e.bits, "groups": e.groups} for site, e in self.entries},
        }
        if self.clip < 100:
            document["clip"] = self.clip
        return document


def uniform_plan(
    sites: Iterable[Site],
    name: str,
    *,
    bits: int,
    groups: int,
    embedding_bits: int,
    activation_bits: int,
    layer_bits: Mapping[int, int] | None = None,
) -> Plan:
    """The same bits for every encoder site (or by layer, where `layer_bits` says so)."""
    by_layer = layer_bits or {}
    entries = []
    for site in sites:
        own = embedding_bits if site.layer is None else by_layer.get(site.layer, bits)
        entries.append((site.name, SitePlan(own, groups)))
    return Plan(name, activation_bits, tuple(entries))


def parse_plan(document: object, sites: Iterable[Site], source: str) -> Plan:
    """A PLAN document as a `Plan` for a model with these `sites`.

    Raises `InputError` for another schema, sites the model does not have or the plan lacks, and
    values out of range, naming them.
    """
    if not isinstance(document, dict) or not isinstance(document.get("sites"), dict):
        raise InputError(f'{source}: not a plan; expected {{"schema": 1, "name": .., "sites": {{..}}}}')
    if document.get("schema") != SCHEMA:
        raise InputError(f"{source}: plan schema {document.get('schema')!r:.60}; this version reads {SCHEMA}")
    given: dict[str, Any] = document["sites"]
    names = [site.name for site in sites]
    unknown = [name for name in given if name not in set(names)]
    missing = [name for name in names if name not in given]
    if unknown or missing:
        parts = []
        if unknown:
            parts.append(f"{len(unknown)} sites the model does not have ({_some(unknown)})")
        if missing:
            parts.append(f"no entry for {len(missing)} of the model's sites ({_some(missing)})")
        raise InputError(f"{source}: a plan for another model: {' and '.join(parts)}")
    entries = []
    for name in names:
        entry = given[name]
        if not isinstance(entry, dict) or not _whole(entry.get("bits")) or "groups" not in entry:
            wanted = '{"bits": 1..8 or 32, "groups": 1..}'
            raise InputError(f"{source}: site {name}: expected {wanted}, found {entry!r:.80}")
        try:
            entries.append((name, SitePlan(entry["bits"], entry["groups"])))
        except InputError as error:
            raise InputError(f"{source}: site {name}: {error}") from None
    try:
        return Plan(
            # JSON may hold halves of characters, which no file and no page can
            str(document.get("name", "plan"))[:80].encode(errors="replace").decode(),
            document.get("activation_bits", FULL),
            tuple(entries),
            document.get("clip", 100.0),
        )
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _some(names: list[str]) -> str:
    shown = ("".join(c if c.isprintable() else "?" for c in str(name)[:80]) for name in names[:3])
    return ", ".join(shown) + (", .." if len(names) > 3 else "")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
