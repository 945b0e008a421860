"""`allocate --refine`: the allocated plan, or a given one, made better by measuring."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from qbert_core.cli.inputs import read_plan, whole_numbers
from qbert_core.cli.parser import Parser, seed
from qbert_core.cli.progress import Progress, warn
from qbert_core.errors import InputError

if TYPE_CHECKING:
    from qbert_core.checkpoints import Checkpoint
    from qbert_core.curvature import Sensitivity
    from qbert_core.quantization import Plan


def refined(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    sensitivity: Sensitivity,
    bits: list[int],
    allocated: dict[str, Any] | None,
) -> dict[str, Any]:
    """What `allocate` writes, of the plan the search ends with. It starts with the `allocated` one, or with
    --plan where that is None."""
    from qbert_core.allocation.assignment import bits_of
    from qbert_core.allocation.prediction import harm_of, perturbed_units, weighted
    from qbert_core.allocation.units import curvatures
    from qbert_core.evaluation import calibration
    from qbert_core.quantization import plan_size, sites_of
    from qbert_core.quantization.plan import parse_plan
    from qbert_core.runtime.refine import refine
    from qbert_core.runtime.store import Store
    from qbert_core.tasks import task_named
    from qbert_core.tasks.data import read_table

    config, task = checkpoint.config, task_named(args.task)
    if allocated is None:
        start = read_plan(args.plan, checkpoint, task)
    else:
        start = parse_plan(allocated["plan"], sites_of(config), "the allocated plan")
    units = weighted(
        perturbed_units(checkpoint, start, widths(args, checkpoint, sensitivity, start, bits)),
        curvatures(config, sensitivity, args.rule),
    )
    examples = task.examples(read_table(args.data, limit=args.limit), checkpoint, args.data)
    ranges = calibration(checkpoint, task, examples, args.train)
    found = refine(
        checkpoint, task, examples, ranges, start, units, args.budget_mb, Store(),
        tries=args.refine, seed=args.seed, events=Progress(), warn=warn,
    )  # fmt: skip
    plan = found.end.plan
    size, chosen = plan_size(config, plan), bits_of(config, plan, [unit.name for unit in units])
    blocks = {block.name: block for block in sensitivity.blocks}
    return {
        **(allocated or {}),
        "plan": plan.to_json(),
        "size_mb": size.size_mb,
        "weights_mb": size.weights_mb,
        "effective_bits": size.effective_bits,
        "harm": found.end.harm,
        "why": [
            {
                "name": unit.name,
                "layer": blocks[unit.name].layer,
                "omega": blocks[unit.name].omega,
                "harm": harm_of([unit], chosen),
                "bits": chosen[unit.name],
            }
            for unit in units
        ],
        "model": checkpoint.fingerprint,
        "data": {"source": args.data, "examples": len(examples), "fingerprint": examples.fingerprint},
        "calibration": {"source": ranges.source, "examples": ranges.examples, "digest": ranges.digest},
        "refine": found.to_json(),
    }


def widths(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    sensitivity: Sensitivity,
    start: Plan,
    bits: list[int],
) -> dict[str, list[int]]:
    """Block -> the widths it may get: those of --bits and its own; only its own in a layer of --lock. A block
    whose sites differ in bits in the start has none and stays as it is."""
    from qbert_core.allocation.assignment import bits_of

    locked = set() if args.lock is None else set(whole_numbers(args.lock, "--lock"))
    layers = checkpoint.config.layers
    if not locked <= set(range(layers)):
        raise InputError(f"--lock {args.lock}: layers are 0 to {layers - 1}")
    layer = {block.name: block.layer for block in sensitivity.blocks}
    own = bits_of(checkpoint.config, start, list(layer))
    free = {name for name in own if layer[name] not in locked}
    if not free:
        raise InputError("no block is free to change its bits; unlock a layer, or give its sites equal bits")
    return {name: [*bits, width] if name in free else [width] for name, width in own.items()}


def check(args: argparse.Namespace) -> None:
    """Raise `InputError` for an option that is not read, or one that is missing."""
    refining = args.refine is not None
    for option, given, needs, there in (
        ("--refine", refining, "--budget-mb", args.budget_mb is not None),
        ("--refine", refining, "--task", args.task is not None),
        ("--refine", refining, "--data", args.data is not None),
        ("--plan", args.plan is not None, "--refine", refining),
        ("--lock", args.lock is not None, "--refine with --plan", refining and args.plan is not None),
        ("--task", args.task is not None, "--refine", refining),
        ("--data", args.data is not None, "--refine", refining),
        ("--train", args.train is not None, "--refine", refining),
        ("--limit", args.limit is not None, "--refine", refining),
    ):
        if given and not there:
            raise InputError(f"{option} needs {needs}")
    if refining and args.refine < 1:
        raise InputError(f"--refine is {args.refine}; expected 1 or more plans to measure, for example 20")


def add_options(c: Parser) -> None:
    """The options of `allocate` that say how to refine."""
    c.add_argument(
        "--refine",
        type=int,
        metavar="N",
        help="measure up to N plans within --budget-mb and take the best; half of --data chooses, half reports",
    )
    c.add_argument(
        "--plan",
        help="refine this one instead of the best predicted: a file or a preset's name; groups, tables and "
        "activations are its own",
    )
    c.add_argument("--lock", metavar="LIST", help="layers, from 0, of --plan that keep their bits")
    c.add_argument("--task", help="to refine by: sst2, mnli, conll03 or squad")
    c.add_argument("--data", help="to refine by: file, hub:NAME[/CONFIG]:SPLIT or demo")
    c.add_argument(
        "--train",
        help="data to calibrate activation ranges on (default: the model's own, the demo's, or --data)",
    )
    c.add_argument("--limit", type=int, metavar="N", help="first N rows of --data")
    c.add_argument("--seed", type=seed, default=0, help="of the halves of --data")
