"""`sweep`: the paper's experiments."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from qbert_core.cli.inputs import read_json, read_plan, whole_numbers
from qbert_core.cli.parser import Commands, task_and
from qbert_core.cli.progress import Progress, warn
from qbert_core.errors import InputError

if TYPE_CHECKING:
    from qbert_core.checkpoints import Checkpoint
    from qbert_core.curvature import Sensitivity
    from qbert_core.tasks import Examples, Task

SWEEP_RUNS, SWEEP_EXAMPLES = 10, 64  # of the sensitivity that a sweep computes: runs, examples a run
WIDTHS = "2,3,4,8"  # of the plans of --frontier


def sweep_command(args: argparse.Namespace) -> dict[str, Any]:
    """The paper's experiments: many plans measured, with finetuning off and, if wanted, on.

    --limit holds for --data and --train alike. --frontier M measures plans of least predicted harm and M random
    ones, and says how well each rule's prediction ranks them (`ranks`).
    """
    from qbert_core.allocation import experiments
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.evaluation import calibration
    from qbert_core.quantization import calibrate, preset_named
    from qbert_core.runtime import frontier
    from qbert_core.runtime.store import Store
    from qbert_core.runtime.sweep import Finetuning, sweep
    from qbert_core.tasks import task_named
    from qbert_core.tasks.data import read_table
    from qbert_core.training import recipe_for

    started = time.perf_counter()
    check_sweep_options(args)
    task = task_named(args.task)
    checkpoint = load_checkpoint(args.model)
    config = checkpoint.config
    plan = None if args.plan is None else read_plan(args.plan, checkpoint, task)
    experiments.check_high(config, args.high)
    finetuning = None
    recipe = recipe_for(task.name, quantized=True)
    changes = {name: value for name in ("epochs", "lr") if (value := getattr(args, name)) is not None}
    recipe = replace(recipe, **changes)
    seeds = [args.seed] if args.seeds is None else whole_numbers(args.seeds, "--seeds")
    examples = task.examples(read_table(args.data, limit=args.limit), checkpoint, args.data)
    train = None
    if args.train is not None:
        train = task.examples(read_table(args.train, split="train", limit=args.limit), checkpoint, args.train)
    if args.finetune and train is not None:
        finetuning = Finetuning(train, recipe, tuple(seeds))
    sensitivity, study = None, None
    if args.methods:
        experiment = "methods"
        sensitivity = sweep_sensitivity(args, checkpoint, task, train)
        variants = experiments.methods(config, task.name, sensitivity, args.high)
    elif args.groups is not None:
        experiment = "groups"
        counts = [count.strip() for count in args.groups.split(",")]
        variants = experiments.group_counts(config, task.name, counts, plan)
    elif args.frontier is not None:
        experiment = "frontier"
        sensitivity = sweep_sensitivity(args, checkpoint, task, train)
        widths = whole_numbers(WIDTHS if args.bits is None else args.bits, "--bits")
        start = plan or preset_named(config, task.name, "qbert-4")
        study = frontier.study(checkpoint, task, sensitivity, start, widths, args.frontier, args.seed)
        variants = study.variants
    elif args.modules:
        experiment = "modules"
        variants = experiments.modules(config, task.name)
    else:
        experiment = "one-at-a-time"
        variants = experiments.one_at_a_time(config, task.name, plan)
    ranges = calibrate(checkpoint, task, train) if train else calibration(checkpoint, task, examples, None)
    rows = sweep(
        checkpoint,
        task,
        examples,
        ranges,
        experiment,
        variants,
        Store(),
        seed=args.seed,
        attention=args.attention,
        losses=study is not None,
        finetuning=finetuning,
        events=Progress() if study is None else frontier.Told(Progress(), study),
        warn=warn,
    )
    written = [row.to_json() for row in rows]
    ranked: dict[str, Any] = {}
    if study is not None:
        written = [frontier.with_prediction(row, study) for row in written]
        ranked = {"ranks": frontier.ranks(study, rows, seed=args.seed)}
    return {
        "experiment": experiment,
        "model": checkpoint.fingerprint,
        "task": task.name,
        "metric": task.metric,
        "data": {"source": args.data, "examples": len(examples), "fingerprint": examples.fingerprint},
        "train": None
        if train is None
        else {"source": args.train, "examples": len(train), "fingerprint": train.fingerprint},
        "seed": args.seed,
        "calibration": {"source": ranges.source, "examples": ranges.examples, "digest": ranges.digest},
        "sensitivity": None if sensitivity is None else sensitivity.to_json(),
        "finetuning": None if finetuning is None else {"recipe": asdict(recipe), "seeds": seeds},
        "rows": written,
        **ranked,
        "seconds": time.perf_counter() - started,
    }


def check_sweep_options(args: argparse.Namespace) -> None:
    """Raise `InputError` for an option that this experiment does not read, or one that is missing."""
    ranked = args.methods or args.frontier is not None
    own = ranked and args.sensitivity is None  # a sensitivity must be computed
    edited = args.groups is not None or args.one_at_a_time or args.frontier is not None
    for option, given, needs, there in (
        ("--plan", args.plan is not None, "--groups or --one-at-a-time, or --frontier", edited),
        ("--sensitivity", args.sensitivity is not None, "--methods or --frontier", ranked),
        ("--bits", args.bits is not None, "--frontier", args.frontier is not None),
        ("--high", args.high is not None, "--methods", args.methods),
        ("--runs", args.runs is not None, "--methods without --sensitivity, or --frontier so", own),
        ("--fraction", args.fraction is not None, "--methods without --sensitivity, or --frontier so", own),
        ("--epochs", args.epochs is not None, "--finetune", args.finetune),
        ("--lr", args.lr is not None, "--finetune", args.finetune),
        ("--seeds", args.seeds is not None, "--finetune", args.finetune),
        ("--finetune", args.finetune, "--train", args.train is not None),
        (
            "--methods" if args.methods else "--frontier",
            own,
            "--sensitivity FILE, or --train to compute one on",
            args.train is not None,
        ),
    ):
        if given and not there:
            raise InputError(f"{option} needs {needs}")
    if args.frontier is not None and args.finetune:
        raise InputError("--frontier ranks plans as they are; leave --finetune out")


def sweep_sensitivity(
    args: argparse.Namespace, checkpoint: Checkpoint, task: Task, train: Examples | None
) -> Sensitivity:
    """The sensitivity that ranks the layers: from the file, or computed on the training data.

    Computed: unless --runs says how many, at most 10 runs as in the paper, fewer when the set of high layers
    is stable before; each on 64 training examples, enough for a stable ranking of a six-layer model
    (benchmarks/README.md, "How much data a ranking needs").
    """
    from qbert_core.allocation.experiments import preset_layers
    from qbert_core.curvature import Sensitivity
    from qbert_core.runtime.sensitivity import stored_sensitivity
    from qbert_core.runtime.store import Store
    from qbert_core.runtime.sweep import Inside

    if args.sensitivity is not None:
        found = Sensitivity.from_json(read_json(args.sensitivity))
        if found.model not in (None, checkpoint.fingerprint):
            raise InputError(
                f"{args.sensitivity} was computed for another model; compute it for this one with the "
                f"sensitivity command, or give --train instead"
            )
        return found
    assert train is not None  # see check_sweep_options
    config = checkpoint.config
    high = len(preset_layers(config, task.name, 2, 4)) if args.high is None else args.high
    return stored_sensitivity(
        checkpoint,
        task,
        train,
        Store(),
        runs=SWEEP_RUNS if args.runs is None else args.runs,
        fraction=min(1.0, SWEEP_EXAMPLES / len(train)) if args.fraction is None else args.fraction,
        granularity="layer",
        tolerance=0.01,
        seed=args.seed,
        high=max(1, min(high, config.layers - 1)),
        until_stable=args.runs is None,
        events=Inside(Progress(), 0, 1, [], {"name": "sensitivity"}),
        warn=warn,
    )


def add(commands: Commands) -> None:
    """This file's commands and their options."""
    c = commands.add("sweep", sweep_command)
    task_and(c, "--data")
    which = c.add_mutually_exclusive_group(required=True)
    which.add_argument("--methods", action="store_true", help="baseline, directq, qbert, mixed precision")
    which.add_argument("--groups", metavar="LIST", help="group counts: numbers, heads, 128-equivalent, rows")
    which.add_argument("--modules", action="store_true", help="embedding tables, attention, ffn alone")
    which.add_argument(
        "--one-at-a-time", action="store_true", help="every layer and table alone, and all but it"
    )
    which.add_argument(
        "--frontier",
        type=int,
        metavar="M",
        help="plans of least predicted harm and M random ones: how well does the prediction rank them?",
    )
    c.add_argument(
        "--plan",
        help="whose bits --groups and --one-at-a-time take, and whose groups and tables --frontier takes: a file "
        "or a preset's name",
    )
    c.add_argument("--bits", metavar="LIST", help=f"widths of the plans of --frontier (default: {WIDTHS})")
    c.add_argument("--train", help="data to calibrate, to finetune and to compute the sensitivity on")
    c.add_argument("--sensitivity", metavar="FILE", help="what the sensitivity command wrote")
    c.add_argument(
        "--runs",
        type=int,
        help=f"of the sensitivity, when computed (default: until stable, at most {SWEEP_RUNS})",
    )
    c.add_argument(
        "--fraction", type=float, help=f"of the training examples a run (default: {SWEEP_EXAMPLES} of them)"
    )
    c.add_argument(
        "--high", type=int, metavar="K", help="layers with the higher bits (default: as many as the paper's)"
    )
    c.add_argument("--attention", action="store_true", help="measure attention KL too")
    c.add_argument("--finetune", action="store_true", help="measure every plan finetuned, too")
    c.add_argument("--epochs", type=int, help="of the finetuning (default: the paper's for the task)")
    c.add_argument("--lr", type=float, help="peak learning rate (default: the paper's for the task)")
    c.add_argument("--seeds", metavar="LIST", help="a finetuning each (default: --seed)")
