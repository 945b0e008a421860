"""`allocate`: from sensitivity to a plan."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np

from qbert_core.cli import refine
from qbert_core.cli.inputs import read_json, whole_numbers
from qbert_core.cli.parser import Commands
from qbert_core.cli.progress import warn
from qbert_core.errors import InputError

if TYPE_CHECKING:
    from qbert_core.checkpoints import Checkpoint
    from qbert_core.curvature import Sensitivity

# how it ranks layers -> what its plans are called
METHODS = {
    "omega": "qbert-mp",
    "mean": "hawq",
    "omega-perturbation": "omega-perturbation",
    "trace-perturbation": "hawq-v2",
}


MAX_POINTS = 500  # of the frontier in the document


def allocate_command(args: argparse.Namespace) -> dict[str, Any]:
    """From sensitivity to a plan: the most sensitive layers get the higher bits, or the best plan under a budget.

    --high K: the K layers that --rule ranks first get the higher of two widths. --budget-mb X: every block of
    the sensitivity gets one of the widths so that the predicted harm, the sum of s |W - Q(W)|^2 / 2 over the
    blocks, is the least that X MB allow; s is Omega, |mean| or the mean trace, as --rule says. With --refine N
    that plan, or --plan, is made better by measuring up to N others of at most X MB.
    """
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.curvature import Sensitivity

    refine.check(args)
    checkpoint = load_checkpoint(args.model)
    sensitivity = Sensitivity.from_json(read_json(args.sensitivity))
    bits = whole_numbers(args.bits, "--bits")
    layers = sorted({block.layer for block in sensitivity.blocks if block.layer >= 0})
    if layers != list(range(checkpoint.config.layers)):
        raise InputError(
            f"{args.sensitivity}: layers {layers}; the model has 0..{checkpoint.config.layers - 1}"
        )
    if sensitivity.model not in (None, checkpoint.fingerprint):
        warn(f"{args.sensitivity} was computed for another model")
    if args.high is not None:
        return by_rank(args, checkpoint, sensitivity, bits)
    if args.plan is not None:
        return refine.refined(args, checkpoint, sensitivity, bits, None)
    found = under_budget(args, checkpoint, sensitivity, bits)
    return found if args.refine is None else refine.refined(args, checkpoint, sensitivity, bits, found)


def by_rank(
    args: argparse.Namespace, checkpoint: Checkpoint, sensitivity: Sensitivity, bits: list[int]
) -> dict[str, Any]:
    """The paper's rule."""
    from qbert_core.allocation import allocate_by_rank, layer_perturbations, rank
    from qbert_core.quantization import plan_size, sites_of
    from qbert_core.quantization.plan import uniform_plan

    perturbations = None
    if args.rule.endswith("-perturbation"):
        perturbations = layer_perturbations(checkpoint, min(bits), args.groups)
    by_layer = allocate_by_rank(
        sensitivity, bits, high=args.high, rule=args.rule, perturbations=perturbations
    )
    plan = uniform_plan(
        sites_of(checkpoint.config),
        f"{METHODS[args.rule]}-{min(bits)}-{max(bits)}-high-{args.high}",
        bits=min(bits),
        groups=args.groups,
        embedding_bits=args.embedding_bits,
        activation_bits=8,
        layer_bits=by_layer,
    )
    size = plan_size(checkpoint.config, plan)
    omegas = {block.layer: block.omega for block in sensitivity.blocks}
    return {
        "plan": plan.to_json(),
        "size_mb": size.size_mb,
        "weights_mb": size.weights_mb,
        "effective_bits": size.effective_bits,
        "why": [
            {
                "layer": layer,
                "omega": omegas[layer],
                **({"perturbation": perturbations[layer]} if perturbations else {}),
                "score": score,
                "bits": by_layer[layer],
            }
            for layer, score in rank(sensitivity, args.rule, perturbations)
        ],
    }


def under_budget(
    args: argparse.Namespace, checkpoint: Checkpoint, sensitivity: Sensitivity, bits: list[int]
) -> dict[str, Any]:
    """The plan of least predicted harm, and the frontier it lies on."""
    from qbert_core.allocation import PlanFrontier, units_of
    from qbert_core.quantization import plan_size, sites_of
    from qbert_core.quantization.plan import uniform_plan

    config = checkpoint.config
    units = units_of(checkpoint, sensitivity, bits, args.groups, args.rule)
    name = f"{METHODS[args.rule]}-budget-{args.budget_mb:g}mb"
    start = uniform_plan(
        sites_of(config), name, bits=min(bits), groups=args.groups,
        embedding_bits=args.embedding_bits, activation_bits=8,
    )  # fmt: skip
    plans = PlanFrontier(config, start, units, {site.name: args.groups for site in sites_of(config)})
    if args.budget_mb < plans.sizes_mb[0]:
        raise InputError(
            f"--budget-mb {args.budget_mb:g}: the smallest plan with bits {args.bits}, {args.groups} groups and "
            f"--embedding-bits {args.embedding_bits} has {plans.sizes_mb[0]:.2f} MB"
        )
    index = plans.best(args.budget_mb)
    chosen, plan = plans.frontier.bits(index), plans.plan(index, name)
    size = plan_size(config, plan)
    shown = sorted({round(i) for i in np.linspace(0, len(plans) - 1, min(len(plans), MAX_POINTS))})
    return {
        "plan": plan.to_json(),
        "size_mb": size.size_mb,
        "weights_mb": size.weights_mb,
        "effective_bits": size.effective_bits,
        "harm": float(plans.harms[index]),
        "why": [
            {
                "name": block.name,
                "layer": block.layer,
                "omega": block.omega,
                "harm": next(c.harm for c in unit.choices if c.bits == chosen[block.name]),
                "bits": chosen[block.name],
            }
            for block, unit in zip(sensitivity.blocks, units, strict=True)
        ],
        "frontier": [
            {
                "size_mb": float(plans.sizes_mb[i]),
                "harm": float(plans.harms[i]),
                "bits": plans.frontier.bits(i),
            }
            for i in shown
        ],
        "frontier_points": len(plans),
    }


def add(commands: Commands) -> None:
    """This file's commands and their options."""
    c = commands.add("allocate", allocate_command)
    c.add_argument("--sensitivity", required=True, metavar="FILE", help="what the sensitivity command wrote")
    c.add_argument("--bits", required=True, help="widths: two with --high, for example 2,4; else 2,3,4,8")
    which = c.add_mutually_exclusive_group(required=True)
    which.add_argument("--high", type=int, metavar="K", help="layers that get the higher of two widths")
    which.add_argument(
        "--budget-mb",
        type=budget,
        metavar="X",
        help="the best plan of at most X MB (size_mb), tables included",
    )
    c.add_argument("--rule", choices=tuple(METHODS), default="omega", help="what ranks or weighs a layer")
    c.add_argument("--groups", type=int, default=128, help="groups a matrix")
    c.add_argument("--embedding-bits", type=int, default=8, help="of all three tables")
    refine.add_options(c)


def budget(text: str) -> float:
    """A size in MB, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"budget is {text}; expected a size in MB above 0, for example 12.5")
    return number
