"""`allocate`: from sensitivity to a plan."""

from __future__ import annotations

import argparse
from typing import Any

from qbert_core.cli.inputs import read_json, whole_numbers
from qbert_core.cli.parser import Commands
from qbert_core.cli.progress import warn
from qbert_core.errors import InputError

# how it ranks layers -> what its plans are called
METHODS = {
    "omega": "qbert-mp",
    "mean": "hawq",
    "omega-perturbation": "omega-perturbation",
    "trace-perturbation": "hawq-v2",
}


def allocate_command(args: argparse.Namespace) -> dict[str, Any]:
    """From sensitivity to a plan: the most sensitive layers get the higher bits."""
    from qbert_core.allocation import allocate_by_rank, layer_perturbations, rank
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.curvature import Sensitivity
    from qbert_core.quantization import plan_size, sites_of
    from qbert_core.quantization.plan import uniform_plan

    checkpoint = load_checkpoint(args.model)
    sensitivity = Sensitivity.from_json(read_json(args.sensitivity))
    bits = whole_numbers(args.bits, "--bits")
    layers = sorted({block.layer for block in sensitivity.blocks if block.layer >= 0})
    if layers != list(range(checkpoint.config.layers)):
        raise InputError(
            f"{args.sensitivity}: layers {layers}; the model has 0..{checkpoint.config.layers - 1}"
        )
    perturbations = None
    if args.rule.endswith("-perturbation"):
        perturbations = layer_perturbations(checkpoint, min(bits), args.groups)
    by_layer = allocate_by_rank(
        sensitivity, bits, high=args.high, rule=args.rule, perturbations=perturbations
    )
    if sensitivity.model not in (None, checkpoint.fingerprint):
        warn(f"{args.sensitivity} was computed for another model")
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


def add(commands: Commands) -> None:
    """This file's commands and their options."""
    c = commands.add("allocate", allocate_command)
    c.add_argument("--sensitivity", required=True, metavar="FILE", help="what the sensitivity command wrote")
    c.add_argument("--bits", required=True, help="two widths, for example 2,4")
    c.add_argument("--high", type=int, required=True, metavar="K", help="layers that get the higher one")
    c.add_argument("--rule", choices=tuple(METHODS), default="omega")
    c.add_argument("--groups", type=int, default=128)
    c.add_argument("--embedding-bits", type=int, default=8)
