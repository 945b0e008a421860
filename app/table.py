"""A plan as the rows of the two tables people edit, and their edits as a plan again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from app.figures import layer_label
from qbert_core.errors import InputError
from qbert_core.quantization import Plan, Site, SitePlan
from qbert_core.quantization.plan import BITS, FULL

FP32 = "fp32"
MIXED = "mixed"  # the sites of a cell differ: a plan that was opened from a file
BIT_CHOICES = [FP32 if bits == FULL else str(bits) for bits in BITS]
TABLES = {"word": "Word", "position": "Position", "token_type": "Token type"}


def layer_rows(plan: Plan, sites: Iterable[Site], locked: Collection[int] = ()) -> list[dict[str, Any]]:
    """A row a layer: Layer, Attention and FFN (bits), Groups (None where its sites differ), and Lock: whether
    it is one of `locked`."""
    entries = plan.sites
    by_layer: dict[int, list[Site]] = {}
    for site in sites:
        if site.layer is not None:
            by_layer.setdefault(site.layer, []).append(site)
    return [
        {
            "Layer": layer_label(layer),
            "Attention": _common(entries[s.name].bits for s in own if s.kind == "attention"),
            "FFN": _common(entries[s.name].bits for s in own if s.kind == "ffn"),
            "Groups": _common_groups(entries[s.name].groups for s in own),
            "Lock": layer in locked,
        }
        for layer, own in by_layer.items()
    ]


def embedding_rows(plan: Plan, sites: Iterable[Site]) -> list[dict[str, Any]]:
    """A row a table: Table, Bits and Groups."""
    entries = plan.sites
    rows = []
    for site in sites:
        if site.layer is None:
            name = site.name.removeprefix("bert.embeddings.").removesuffix("_embeddings")
            entry = entries[site.name]
            rows.append({"Table": TABLES[name], "Bits": _text(entry.bits), "Groups": entry.groups})
    return rows


def edited_plan(
    table: Plan,
    sites: Iterable[Site],
    layers: Mapping[int, Mapping[str, Any]],
    embeddings: Mapping[int, Mapping[str, Any]],
) -> Plan:
    """`table` with edited cells (row -> column -> value) applied.

    Raises `InputError` for a value no plan can have; a cell emptied or left at `mixed` changes nothing.
    """
    chosen = list(sites)
    entries = table.sites
    changes: dict[str, SitePlan] = {}

    def apply(site: Site, bits: object, groups: object) -> None:
        old = entries[site.name]
        changes[site.name] = SitePlan(_bits(bits, old.bits), old.groups if groups is None else _whole(groups))

    for layer, cells in layers.items():
        for site in chosen:
            if site.layer == layer:
                column = "Attention" if site.kind == "attention" else "FFN"
                apply(site, cells.get(column), cells.get("Groups"))
    tables = [site for site in chosen if site.layer is None]
    for row, cells in embeddings.items():
        apply(tables[row], cells.get("Bits"), cells.get("Groups"))
    return table.with_sites(changes) if changes else table


def edited_locks(locked: Collection[int], layers: Mapping[int, Mapping[str, Any]]) -> frozenset[int]:
    """`locked` with edited cells of the layers' table (row -> column -> value) applied."""
    edits = {layer: bool(cells["Lock"]) for layer, cells in layers.items() if "Lock" in cells}
    opened = {layer for layer, lock in edits.items() if not lock}
    return frozenset({*locked, *edits} - opened)


def everywhere(plan: Plan, sites: Iterable[Site], bits: int, groups: int) -> Plan:
    """Every encoder site at `bits` and `groups`; embedding tables stay."""
    encoder = {site.name: SitePlan(bits, groups) for site in sites if site.layer is not None}
    return plan.with_sites(encoder)


def by_layer(plan: Plan, sites: Iterable[Site], bits: Mapping[int, int], groups: int, name: str) -> Plan:
    """Every encoder site at its layer's bits."""
    encoder = {s.name: SitePlan(bits[s.layer], groups) for s in sites if s.layer is not None}
    return plan.with_sites(encoder, name)


def _common(values: Iterable[int]) -> str:
    different = set(values)
    return _text(different.pop()) if len(different) == 1 else MIXED


def _common_groups(values: Iterable[int]) -> int | None:
    different = set(values)
    return different.pop() if len(different) == 1 else None


def _text(bits: int) -> str:
    return FP32 if bits == FULL else str(bits)


def _bits(value: object, old: int) -> int:
    if value in (None, MIXED):
        return old
    if value not in BIT_CHOICES:
        raise InputError(f"bits {value!r}; expected one of {', '.join(BIT_CHOICES)}")
    return FULL if value == FP32 else int(str(value))


def _whole(value: object) -> int:
    if type(value) is int:  # which True is not
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise InputError(f"groups {value!r}; expected a whole number from 1")
