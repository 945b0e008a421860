"""`evaluate`: a plan measured."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from qbert_core.cli.inputs import read_plan
from qbert_core.cli.parser import Commands, task_and
from qbert_core.cli.progress import Progress


def evaluate_command(args: argparse.Namespace) -> dict[str, Any]:
    """Measure a plan beside the fp32 model: metric, interval, size, flips, attention KL."""
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.evaluation import Evaluator, calibration
    from qbert_core.tasks import task_named
    from qbert_core.tasks.data import read_table

    task = task_named(args.task)
    checkpoint = load_checkpoint(args.model)
    plan = read_plan(args.plan, checkpoint, task)
    if args.clip is not None:
        plan = replace(plan, clip=args.clip)
    examples = task.examples(read_table(args.data, limit=args.limit), checkpoint, args.data)
    ranges = calibration(checkpoint, task, examples, args.train)
    evaluator = Evaluator(checkpoint, task, examples, ranges, seed=args.seed)
    result = evaluator.evaluate(plan, attention=args.attention, events=Progress())
    return {
        **result.to_json(),
        "model": checkpoint.fingerprint,
        "data": examples.fingerprint,
        "truncated": examples.truncated,
        "seed": args.seed,
        "calibration": {"source": ranges.source, "examples": ranges.examples, "digest": ranges.digest},
    }


def add(commands: Commands) -> None:
    """This file's commands and their options."""
    c = commands.add("evaluate", evaluate_command)
    task_and(c, "--data")
    c.add_argument(
        "--plan", required=True, help="a plan's JSON file, a preset's name, or trained: the finetuned one's"
    )
    c.add_argument("--attention", action="store_true", help="measure attention KL too")
    c.add_argument(
        "--train",
        help="data to calibrate activation ranges on (default: the model's own, the demo's, or --data)",
    )
    c.add_argument("--clip", type=float, metavar="P", help="narrow weight ranges to percentiles 100-P..P")
