"""Bits of units as a plan, and a plan as bits of units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from qbert_core.allocation.units import sites_of_unit
from qbert_core.bert import BertConfig
from qbert_core.quantization import Plan


def with_bits(config: BertConfig, plan: Plan, bits: Mapping[str, int], name: str) -> Plan:
    """`plan` with each unit's sites at the unit's bits; groups, other sites and activations as they are."""
    entries = plan.sites
    changes = {
        site.name: replace(entries[site.name], bits=width)
        for unit, width in bits.items()
        for site in sites_of_unit(config, unit)
    }
    return plan.with_sites(changes, name)


def bits_of(config: BertConfig, plan: Plan, units: Iterable[str]) -> dict[str, int]:
    """Unit -> bits, of those whose sites all have the same."""
    entries, found = plan.sites, {}
    for unit in units:
        own = {entries[site.name].bits for site in sites_of_unit(config, unit)}
        if len(own) == 1:
            found[unit] = own.pop()
    return found
