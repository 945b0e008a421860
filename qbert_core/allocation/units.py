"""The blocks of a sensitivity as what a budget is shared among: sizes, and the harm curvature predicts.

A block whose weights move by dW adds to the loss, to second order and in the worst direction, at most
½ s |dW|^2 with s the size of its Hessian's eigenvalue of largest magnitude. So the harm of a width is

    ½ s |W - Q(W)|^2,   s = Omega, |mean(lambda)|, or trace / parameters (HAWQ-V2, Dong et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from qbert_core.allocation.budget import Choice, Unit
from qbert_core.allocation.ranking import RULES
from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature import Sensitivity, block_named
from qbert_core.errors import InputError
from qbert_core.quantization import Site, SitePlan, fake_quantize, sites_of
from qbert_core.quantization.size import SCALE_BYTES, ZERO_BYTES


def units_of(
    checkpoint: Checkpoint,
    sensitivity: Sensitivity,
    bits: Sequence[int],
    groups: int,
    rule: str = "omega",
    locked: Mapping[str, int] | None = None,
) -> list[Unit]:
    """A unit a block, each with every width of `bits`; `locked` says of some blocks the one they have.

    Omega's rules are one here: the perturbation always counts. Raises `InputError` for another rule, widths
    that are not 1..8 or 32, blocks that are not this model's, and a missing trace.
    """
    sites = {site.name: site for site in sites_of(checkpoint.config)}
    widths = sorted(set(bits))
    units = []
    for name, weight in _curvatures(sensitivity, rule):
        block = block_named(checkpoint.config, name)
        if rule == "trace-perturbation":
            weight /= sum(checkpoint.weights[parameter].numel() for parameter in block.parameters)
        own = [sites[site] for site in sites_of_unit(checkpoint, name)]
        allowed = [locked[name]] if locked and name in locked else widths
        units.append(
            Unit(name, tuple(_choice(checkpoint, own, SitePlan(width, groups), weight) for width in allowed))
        )
    return units


def sites_of_unit(checkpoint: Checkpoint, name: str) -> list[str]:
    """The sites that get a unit's bits."""
    known = {site.name for site in sites_of(checkpoint.config)}
    names = (p.removesuffix(".weight") for p in block_named(checkpoint.config, name).parameters)
    return [site for site in names if site in known]


def _curvatures(sensitivity: Sensitivity, rule: str) -> list[tuple[str, float]]:
    """(block, its s; of the traces: the whole)."""
    if rule not in RULES:
        raise InputError(f"rule {rule!r} is not known here; expected one of {', '.join(RULES)}")
    if rule == "mean":
        return [(block.name, abs(block.mean)) for block in sensitivity.blocks]
    if rule != "trace-perturbation":
        return [(block.name, block.omega) for block in sensitivity.blocks]
    found = [(block.name, block.trace) for block in sensitivity.blocks]
    missing = [name for name, trace in found if trace is None]
    if missing:
        raise InputError(f"rule {rule}: {missing[0]} has no trace; compute the sensitivity with --trace 20")
    return [(name, max(0.0, trace or 0.0)) for name, trace in found]


def _choice(checkpoint: Checkpoint, sites: Sequence[Site], entry: SitePlan, weight: float) -> Choice:
    size, moved = 0, 0.0
    for site in sites:
        size += math.ceil(site.params * entry.bits / 8)
        if entry.quantized:
            size += min(entry.groups, site.rows) * (SCALE_BYTES + ZERO_BYTES)
            tensor = checkpoint.weights[site.parameter]
            moved += float(
                torch.sum((tensor - fake_quantize(tensor, entry.bits, entry.groups)).double() ** 2)
            )
    return Choice(entry.bits, size, 0.5 * weight * moved)
