"""The blocks of a sensitivity as what a budget is shared among: sizes, and the harm curvature predicts.

A block whose weights move by dW adds to the loss, to second order and in the worst direction, at most
½ s |dW|^2 with s the size of its Hessian's eigenvalue of largest magnitude. So the harm of a width is

    ½ s |W - Q(W)|^2,   s = Omega, |mean(lambda)|, or trace / parameters (HAWQ-V2, Dong et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from qbert_core.allocation.budget import Choice, Unit
from qbert_core.allocation.ranking import RULES
from qbert_core.bert import BertConfig
from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature import Sensitivity, block_named
from qbert_core.errors import InputError
from qbert_core.quantization import Site, SitePlan, site_bytes, sites_of, squared_error


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
    config, moved, units = checkpoint.config, moved_weights(checkpoint), []
    same = {site.name: groups for site in sites_of(config)}
    for name, weight in curvatures(config, sensitivity, rule).items():
        widths = [locked[name]] if locked and name in locked else bits
        units.append(make_unit(config, name, weight, widths, same, moved))
    return units


def moved_weights(checkpoint: Checkpoint) -> Callable[[Site, SitePlan], float]:
    """What tells |W - Q(W)|^2 of a site of this model, for `make_unit`."""

    def moved(site: Site, entry: SitePlan) -> float:
        return site.params * squared_error(checkpoint.weights[site.parameter], entry.bits, entry.groups)

    return moved


def curvatures(config: BertConfig, sensitivity: Sensitivity, rule: str = "omega") -> dict[str, float]:
    """Block -> its s. Raises `InputError` for another rule, a missing trace and blocks the model lacks."""
    if rule not in RULES:
        raise InputError(f"rule {rule!r} is not known here; expected one of {', '.join(RULES)}")
    if rule == "mean":
        return {block.name: abs(block.mean) for block in sensitivity.blocks}
    if rule != "trace-perturbation":
        return {block.name: block.omega for block in sensitivity.blocks}
    shapes, found = config.shapes(), {}
    for block in sensitivity.blocks:
        if block.trace is None:
            raise InputError(
                f"rule {rule}: {block.name} has no trace; compute the sensitivity with --trace 20"
            )
        parameters = block_named(config, block.name).parameters
        found[block.name] = max(0.0, block.trace) / sum(math.prod(shapes[p]) for p in parameters)
    return found


def make_unit(
    config: BertConfig,
    name: str,
    weight: float,
    bits: Sequence[int],
    groups: Mapping[str, int],
    moved: Callable[[Site, SitePlan], float],
) -> Unit:
    """The block `name`, whose s is `weight`, with every width of `bits`. `groups`: site -> count;
    `moved` tells |W - Q(W)|^2."""
    own = sites_of_unit(config, name)
    choices = []
    for width in sorted(set(bits)):
        size, harm = 0, 0.0
        for site in own:
            entry = SitePlan(width, groups[site.name])
            size += sum(site_bytes(site, entry))
            if entry.quantized:
                harm += 0.5 * weight * moved(site, entry)
        choices.append(Choice(width, size, harm))
    return Unit(name, tuple(choices))


def sites_of_unit(config: BertConfig, name: str) -> list[Site]:
    """The sites that get a unit's bits."""
    parameters = set(block_named(config, name).parameters)
    return [site for site in sites_of(config) if site.parameter in parameters]
