"""The command line: one JSON document a command, progress on stderr, exit codes 0, 2 and 130."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from qbert_core.errors import InputError

if TYPE_CHECKING:  # a command imports what it needs when it runs: torch takes seconds
    from qbert_core.checkpoints import Checkpoint
    from qbert_core.curvature import Sensitivity
    from qbert_core.quantization import Plan
    from qbert_core.quantization.trained import TrainedQuantization
    from qbert_core.tasks import Examples, Task

TRAINING_REPORT = "training.json"
# how `allocate` ranks layers -> what its plans are called
METHODS = {
    "omega": "qbert-mp",
    "mean": "hawq",
    "omega-perturbation": "omega-perturbation",
    "trace-perturbation": "hawq-v2",
}
SWEEP_RUNS, SWEEP_EXAMPLES = 10, 64  # of the sensitivity that a sweep computes: runs, examples a run
Command = Callable[[argparse.Namespace], dict[str, Any]]


class Progress:
    """Events printed to stderr: a line a few times a second for people, or every event as one JSON
    object a line, partial result included, for a program (QBERT_PROGRESS=json)."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._last = 0.0
        self._json = os.environ.get("QBERT_PROGRESS") == "json"

    def progress(self, done: int, total: int, partial: Any = None) -> None:
        if self._json:
            document = partial.to_json() if hasattr(partial, "to_json") else partial
            print(
                json.dumps({"done": done, "total": total, "partial": document}), file=sys.stderr, flush=True
            )
            return
        now = time.perf_counter()
        if done < total and now - self._last < 0.5:
            return
        self._last = now
        print(f"{done}/{total}  {now - self._started:.1f} s  {brief(partial)}", file=sys.stderr, flush=True)

    def check(self) -> None:
        """Nothing to do: Ctrl-C arrives as KeyboardInterrupt."""


def brief(partial: Any) -> str:
    """What a person wants to read of a partial result; of a sweep's: what is running, or the last row."""
    if isinstance(partial, dict) and "rows" in partial:
        last = partial["rows"][-1] if partial["rows"] else {}
        ended = {name: last.get(name) for name in ("name", "finetuned", "seed", "metrics")}
        partial = partial["running"] or ended
    return json.dumps(partial) if isinstance(partial, dict) else ""


def info_command(args: argparse.Namespace) -> dict[str, Any]:
    """Sites and sizes of a model."""
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.quantization import fp32_size, sites_of

    checkpoint = load_checkpoint(args.model)
    config = checkpoint.config
    return {
        "fingerprint": checkpoint.fingerprint,
        "task": checkpoint.task,
        "head": config.head,
        "labels": config.labels,
        "layers": config.layers,
        "heads": config.heads,
        "sites": [{**asdict(site), "params": site.params} for site in sites_of(config)],
        "size_mb": fp32_size(config),
    }


def presets_command(args: argparse.Namespace) -> dict[str, Any]:
    """The plans the tool knows, for this model's depth and task."""
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.quantization import presets

    checkpoint = load_checkpoint(args.model)
    return {"plans": [plan.to_json() for plan in presets(checkpoint.config, checkpoint.task)]}


def sensitivity_command(args: argparse.Namespace) -> dict[str, Any]:
    """Top Hessian eigenvalues of every block over draws of the training data, and Omega."""
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.runtime.sensitivity import stored_sensitivity
    from qbert_core.runtime.store import Store
    from qbert_core.tasks import task_named
    from qbert_core.tasks.data import read_table

    task = task_named(args.task)
    checkpoint = load_checkpoint(args.model)
    examples = task.examples(read_table(args.train, split="train", limit=args.limit), checkpoint, args.train)
    result = stored_sensitivity(
        checkpoint,
        task,
        examples,
        Store(),
        runs=args.runs,
        fraction=args.fraction,
        granularity=args.block,
        tolerance=args.tolerance,
        seed=args.seed,
        high=args.high,
        confidence=args.confidence,
        until_stable=args.until_stable,
        trace=args.trace,
        workers=args.workers,
        events=Progress(),
        warn=lambda line: print(f"warning: {line}", file=sys.stderr),
    )
    return result.to_json()


def density_command(args: argparse.Namespace) -> dict[str, Any]:
    """Spectral density and trace of one block's Hessian over one draw of the training data."""
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.curvature import block_named, spectrum
    from qbert_core.tasks import task_named
    from qbert_core.tasks.data import read_table

    task = task_named(args.task)
    checkpoint = load_checkpoint(args.model)
    name = args.block_name if args.layer is None else f"bert.encoder.layer.{args.layer}"
    block = block_named(checkpoint.config, name)
    examples = task.examples(read_table(args.train, split="train", limit=args.limit), checkpoint, args.train)
    result = spectrum(
        checkpoint,
        task,
        examples,
        block,
        fraction=args.fraction,
        steps=args.steps,
        probes=args.probes,
        seed=args.seed,
        events=Progress(),
    )
    return result.to_json()


def landscape_command(args: argparse.Namespace) -> dict[str, Any]:
    """Loss of a layer around its weights, over the two directions of largest curvature."""
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.curvature import landscape
    from qbert_core.tasks import task_named
    from qbert_core.tasks.data import read_table

    task = task_named(args.task)
    checkpoint = load_checkpoint(args.model)
    plan = read_plan(args.plan, checkpoint, task)
    examples = task.examples(read_table(args.train, split="train", limit=args.limit), checkpoint, args.train)
    result = landscape(
        checkpoint,
        task,
        examples,
        args.layer,
        plan,
        steps=args.steps,
        span=args.span,
        normalise=args.normalise,
        fraction=args.fraction,
        tolerance=args.tolerance,
        seed=args.seed,
        events=Progress(),
    )
    return result.to_json()


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
        print(f"warning: {args.sensitivity} was computed for another model", file=sys.stderr)
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


def sweep_command(args: argparse.Namespace) -> dict[str, Any]:
    """The paper's experiments: many plans measured, with finetuning off and, if wanted, on.

    --limit holds for --data and --train alike.
    """
    from qbert_core.allocation import experiments
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.evaluation import calibration
    from qbert_core.quantization import calibrate
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
    sensitivity = None
    if args.methods:
        experiment = "methods"
        sensitivity = sweep_sensitivity(args, checkpoint, task, train)
        variants = experiments.methods(config, task.name, sensitivity, args.high)
    elif args.groups is not None:
        experiment = "groups"
        counts = [count.strip() for count in args.groups.split(",")]
        variants = experiments.group_counts(config, task.name, counts, plan)
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
        finetuning=finetuning,
        events=Progress(),
        warn=lambda line: print(f"warning: {line}", file=sys.stderr),
    )
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
        "rows": [row.to_json() for row in rows],
        "seconds": time.perf_counter() - started,
    }


def check_sweep_options(args: argparse.Namespace) -> None:
    """Raise `InputError` for an option that this experiment does not read, or one that is missing."""
    own = args.methods and args.sensitivity is None  # a sensitivity must be computed
    edited = args.groups is not None or args.one_at_a_time
    for option, given, needs, there in (
        ("--plan", args.plan is not None, "--groups or --one-at-a-time", edited),
        ("--sensitivity", args.sensitivity is not None, "--methods", args.methods),
        ("--high", args.high is not None, "--methods", args.methods),
        ("--runs", args.runs is not None, "--methods without --sensitivity", own),
        ("--fraction", args.fraction is not None, "--methods without --sensitivity", own),
        ("--epochs", args.epochs is not None, "--finetune", args.finetune),
        ("--lr", args.lr is not None, "--finetune", args.finetune),
        ("--seeds", args.seeds is not None, "--finetune", args.finetune),
        ("--finetune", args.finetune, "--train", args.train is not None),
        ("--methods", own, "--sensitivity FILE, or --train to compute one on", args.train is not None),
    ):
        if given and not there:
            raise InputError(f"{option} needs {needs}")


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
        warn=lambda line: print(f"warning: {line}", file=sys.stderr),
    )


def finetune_command(args: argparse.Namespace) -> dict[str, Any]:
    """Finetuning in full precision, or for a plan; the metrics are those of what was saved, read back."""
    from qbert_core.checkpoints import load_base, load_checkpoint
    from qbert_core.evaluation import Evaluator
    from qbert_core.quantization import calibrate
    from qbert_core.quantization.trained import TrainedQuantization
    from qbert_core.tasks import task_named
    from qbert_core.tasks.data import read_table
    from qbert_core.training import discard_state, finetune, recipe_for

    task = task_named(args.task)
    names = ("epochs", "lr", "batch_size", "warmup", "weight_decay", "average", "ema", "freeze")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    recipe = replace(recipe_for(task.name, args.plan is not None), **given, seed=args.seed)
    folder = writable_folder(args.save)
    plan = None
    report: dict[str, Any] = {}
    if args.plan is None:
        base = load_base(args.model, task.head, task.default_labels(), args.seed)
    else:
        base = load_checkpoint(args.model)
        plan = read_plan(args.plan, base, task)
    train = task.examples(read_table(args.train, split="train", limit=args.limit), base, args.train)
    data = task.examples(read_table(args.data), base, args.data)
    if plan is not None:
        before = Evaluator(base, task, data, calibrate(base, task, train)).evaluate(plan, attention=False)
        report = {"baseline": before.baseline.to_json(), "before": before.score.to_json()}
    states = folder / ".training"
    if args.fresh:
        discard_state(states)
    result = finetune(base, task, train, data, recipe, Progress(), plan=plan, resume=states)
    report |= {
        "epochs": recipe.epochs,
        "seconds": result.seconds,
        "train": {"source": args.train, "examples": len(train)},
        "recipe": asdict(recipe),
        "curve": result.curve,
    }
    trained = None if plan is None else TrainedQuantization(plan, result.ranges)
    document = save_and_measure(result.checkpoint, task, data, folder, args.dtype, report, trained)
    discard_state(states)
    return document


def average_command(args: argparse.Namespace) -> dict[str, Any]:
    """The mean of several finetunings of one base, measured as saved."""
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.tasks import task_named
    from qbert_core.tasks.data import read_table
    from qbert_core.training import average

    task = task_named(args.task)
    folder = writable_folder(args.save)
    models = [args.model, *args.others]
    mean = average([load_checkpoint(model) for model in models])
    data = task.examples(read_table(args.data, limit=args.limit), mean, args.data)
    reports = [Path(model) / TRAINING_REPORT for model in models]
    parents = [read_json(str(report)) for report in reports if report.is_file()]
    return save_and_measure(mean, task, data, folder, args.dtype, {"models": models, "parents": parents})


def save_and_measure(
    checkpoint: Checkpoint,
    task: Task,
    data: Examples,
    folder: Path,
    dtype: str,
    report: dict[str, Any],
    trained: TrainedQuantization | None = None,
) -> dict[str, Any]:
    """Save a trained model, read it back, and report the score of what was saved, there too: of the
    plan it was trained for, or of the model in full precision."""
    import torch

    from qbert_core.checkpoints import load_checkpoint, save_checkpoint
    from qbert_core.quantization.trained import load_trained, remove_trained, save_trained
    from qbert_core.training.measure import measure

    remove_trained(folder)  # an earlier one's ranges must not meet these weights
    save_checkpoint(checkpoint, folder, getattr(torch, dtype))
    if trained is not None:
        save_trained(trained, folder)
    saved = load_checkpoint(folder)
    score = measure(saved, task, data, trained=load_trained(folder, saved.config))
    document = {
        "metrics": score.metrics,
        "interval": score.interval,
        "n": score.n,
        "fingerprint": saved.fingerprint,
        "task": task.name,
        "data": {"source": data.source, "examples": len(data)},
        "command": "python -m qbert_core " + shlex.join(sys.argv[1:]),
        "environment": environment(),
        **({} if trained is None else {"plan": trained.plan.to_json(), "plan_digest": trained.plan.digest}),
        **report,
    }
    write_whole(folder / TRAINING_REPORT, json.dumps(document, indent=1) + "\n")
    return document


def environment() -> dict[str, Any]:
    """What a result was computed with."""
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }


class Parser(argparse.ArgumentParser):
    """argparse, with errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def parser() -> Parser:
    """The whole command line."""
    top = Parser(prog="python -m qbert_core", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Command, model: str = "MODEL") -> Parser:
        sub = commands.add_parser(name, help=(run.__doc__ or "").split("\n")[0], description=run.__doc__)
        sub.add_argument("model", metavar=model, help="a folder, a hub id (owner/name) or demo")
        sub.add_argument("--out", default="-", metavar="FILE", help="where the JSON goes (- is stdout)")
        sub.set_defaults(run=run)
        return sub

    def task_and(c: Parser, *sources: str) -> None:
        c.add_argument("--task", required=True, help="sst2, mnli, conll03 or squad")
        for source in sources:
            c.add_argument(source, required=True, help="file, hub:NAME[/CONFIG]:SPLIT or demo")
        c.add_argument("--limit", type=int, metavar="N", help="first N rows")
        c.add_argument("--seed", type=seed, default=0)

    command("info", info_command)
    command("presets", presets_command)

    c = command("sensitivity", sensitivity_command)
    task_and(c, "--train")
    c.add_argument("--runs", type=int, default=10)
    c.add_argument("--fraction", type=float, default=0.1, help="share of the training examples a run")
    c.add_argument("--block", choices=("layer", "module", "site"), default="layer")
    c.add_argument("--tolerance", type=float, default=0.01, help="largest residual of an eigenvalue")
    c.add_argument(
        "--until-stable", action="store_true", help="stop before --runs when the high set is stable"
    )
    c.add_argument("--high", type=int, metavar="K", help="blocks that get the higher bits (default: half)")
    c.add_argument("--confidence", type=float, default=0.95, help="bootstrap probability of that set")
    c.add_argument("--trace", type=int, default=0, metavar="N", help="products for each block's trace, too")
    c.add_argument("--workers", type=int, default=1, metavar="N", help="processes that share the runs")

    c = command("density", density_command)
    task_and(c, "--train")
    which = c.add_mutually_exclusive_group(required=True)
    which.add_argument("--layer", type=int, metavar="I", help="an encoder layer, from 0")
    which.add_argument("--block-name", metavar="NAME", help="a layer, half a layer or a weight matrix")
    c.add_argument("--fraction", type=float, default=0.1, help="share of the training examples")
    c.add_argument("--steps", type=int, default=60, help="Lanczos steps a probe")
    c.add_argument("--probes", type=int, default=4, help="random vectors to average over")

    c = command("landscape", landscape_command)
    task_and(c, "--train")
    c.add_argument("--layer", type=int, required=True, metavar="I", help="an encoder layer, from 0")
    c.add_argument("--fraction", type=float, default=0.1, help="share of the training examples")
    c.add_argument("--tolerance", type=float, default=0.01, help="largest residual of an eigenvalue")
    c.add_argument("--steps", type=int, default=21, help="points an axis")
    c.add_argument("--span", type=float, metavar="S", help="axes from -S to S (default: by the curvature)")
    c.add_argument(
        "--normalise",
        choices=("none", "filter"),
        default="none",
        help="length of the directions: 1, or row for row that of the weights (Li et al. 2018)",
    )
    c.add_argument("--plan", default="qbert-4", help="a plan's JSON file or a preset's name")

    c = command("allocate", allocate_command)
    c.add_argument("--sensitivity", required=True, metavar="FILE", help="what the sensitivity command wrote")
    c.add_argument("--bits", required=True, help="two widths, for example 2,4")
    c.add_argument("--high", type=int, required=True, metavar="K", help="layers that get the higher one")
    c.add_argument("--rule", choices=tuple(METHODS), default="omega")
    c.add_argument("--groups", type=int, default=128)
    c.add_argument("--embedding-bits", type=int, default=8)

    c = command("evaluate", evaluate_command)
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

    c = command("sweep", sweep_command)
    task_and(c, "--data")
    which = c.add_mutually_exclusive_group(required=True)
    which.add_argument("--methods", action="store_true", help="baseline, directq, qbert, mixed precision")
    which.add_argument("--groups", metavar="LIST", help="group counts: numbers, heads, 128-equivalent, rows")
    which.add_argument("--modules", action="store_true", help="embedding tables, attention, ffn alone")
    which.add_argument(
        "--one-at-a-time", action="store_true", help="every layer and table alone, and all but it"
    )
    c.add_argument("--plan", help="whose bits --groups and --one-at-a-time take: a file or a preset's name")
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

    c = command("finetune", finetune_command, "BASE")
    task_and(c, "--train", "--data")
    c.add_argument("--save", required=True, metavar="DIR")
    c.add_argument("--plan", help="train for this plan: a plan's JSON file or a preset's name")
    c.add_argument("--fresh", action="store_true", help="start over where an interrupted run would go on")
    recipe = c.add_argument_group("recipe", "the paper's for the task, where not given")
    recipe.add_argument("--epochs", type=int)
    recipe.add_argument("--lr", type=float, help="peak learning rate")
    recipe.add_argument("--batch-size", type=int)
    recipe.add_argument("--warmup", type=float, help="share of all steps")
    recipe.add_argument("--weight-decay", type=float)
    recipe.add_argument("--average", type=float, help="share of the last steps to average over; no --plan")
    recipe.add_argument("--ema", type=float, help="decay a step of the average an input range is")
    recipe.add_argument("--freeze", type=float, help="share of the steps after which input ranges stay")
    c.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="as stored")

    c = command("average", average_command)
    c.add_argument("others", nargs="+", metavar="MODEL", help="more finetunings of the same base")
    task_and(c, "--data")
    c.add_argument("--save", required=True, metavar="DIR")
    c.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="as stored")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        if args.out != "-" and not Path(args.out).absolute().parent.is_dir():
            raise InputError(f"--out {args.out}: there is no folder {Path(args.out).absolute().parent}")
        text = json.dumps(args.run(args), indent=1, allow_nan=False) + "\n"
        if args.out == "-":
            sys.stdout.write(text)
        else:
            write_whole(Path(args.out), text)
    except InputError as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {_os_error(error, args.out)}; nothing was changed", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def writable_folder(path: str) -> Path:
    """The folder, made and tried: an hour of training must not end at a wrong --save."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.partial"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"--save {path}: {error.strerror}; give a folder that can be written") from None
    return folder


def _os_error(error: OSError, out: str) -> str:
    return f"{error.filename or out}: {error.strerror}" if error.strerror else str(error)


def seed(text: str) -> int:
    """A seed, for argparse: a whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"seed is {text}; expected a whole number from 0")
    return int(text)


def read_plan(plan: str, checkpoint: Checkpoint, task: Task) -> Plan:
    """A plan by its file (a PLAN document, or what `allocate` writes), by a preset's name, or `trained`:
    the one that the checkpoint was trained for."""
    from qbert_core.quantization import preset_named, sites_of
    from qbert_core.quantization.plan import parse_plan
    from qbert_core.quantization.trained import load_trained

    if plan == "trained":
        trained = load_trained(checkpoint.folder, checkpoint.config)
        if trained is None:
            raise InputError(f"--plan trained: {checkpoint.name} was not trained for a plan; give a plan")
        return trained.plan
    if not Path(plan).is_file():
        return preset_named(checkpoint.config, task.name, plan)
    document = read_json(plan)
    if isinstance(document, dict) and "plan" in document:
        document = document["plan"]
    return parse_plan(document, sites_of(checkpoint.config), plan)


def read_json(path: str) -> object:
    """A JSON file's content; `InputError` when it is not there or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON: {error}") from None


def whole_numbers(text: str, option: str) -> list[int]:
    """A comma-separated list of whole numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option} {text!r}; expected whole numbers with commas, for example 2,4") from None


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` so that a full disk or a kill leaves the old file as it was."""
    if path.exists() and not path.is_file():  # a device or pipe must be written to, not replaced
        path.write_text(text, encoding="utf-8")
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        partial.unlink(missing_ok=True)
