"""What each rule predicts of one and the same plan, and the controls it has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from qbert_core.allocation.budget import Unit
from qbert_core.allocation.units import curvatures, make_unit, moved_weights
from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature import Sensitivity
from qbert_core.quantization import Plan

RULES = {"omega": "omega", "mean": "mean", "trace": "trace-perturbation"}  # predictor -> rule of `curvatures`
CONTROL = "perturbation"


def perturbed_units(checkpoint: Checkpoint, plan: Plan, widths: Mapping[str, Sequence[int]]) -> list[Unit]:
    """The blocks of `widths`, each with the widths that it may get, in the plan's groups; a choice's harm is
    ½ |W - Q(W)|^2 alone, as if every curvature were 1.

    Raises `InputError` for blocks the model lacks, and widths that are not 1..8 or 32.
    """
    groups, moved = {site: entry.groups for site, entry in plan.sites.items()}, moved_weights(checkpoint)
    return [
        make_unit(checkpoint.config, name, 1.0, bits, groups, moved) for name, bits in widths.items()
    ]


def weighted(units: Sequence[Unit], curvature: Mapping[str, float]) -> list[Unit]:
    """The units with every harm times its unit's curvature."""
    return [
        replace(
            unit,
            choices=tuple(replace(one, harm=one.harm * curvature[unit.name]) for one in unit.choices),
        )
        for unit in units
    ]


def harm_of(units: Sequence[Unit], bits: Mapping[str, int]) -> float:
    """The predicted harm of an assignment, the sum over its units."""
    return sum(next(c.harm for c in unit.choices if c.bits == bits[unit.name]) for unit in units)


def predictors(
    checkpoint: Checkpoint, sensitivity: Sensitivity, units: Sequence[Unit]
) -> dict[str, list[Unit]]:
    """Name -> the `units`, of `perturbed_units`, as it judges them: `omega`, `mean`, `trace` where every block
    has one, and `perturbation`, the control, |W - Q(W)|^2 without any curvature."""
    traced = all(block.trace is not None for block in sensitivity.blocks)
    found = {
        name: weighted(units, curvatures(checkpoint.config, sensitivity, rule))
        for name, rule in RULES.items()
        if name != "trace" or traced
    }
    return {**found, CONTROL: list(units)}
