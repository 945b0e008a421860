"""`finetune` and `average`: models made and measured as saved."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbert_core.cli.inputs import read_json, read_plan, writable_folder, write_whole
from qbert_core.cli.parser import Commands, task_and
from qbert_core.cli.progress import Progress

if TYPE_CHECKING:
    from qbert_core.checkpoints import Checkpoint
    from qbert_core.quantization.trained import TrainedQuantization
    from qbert_core.tasks import Examples, Task
    from qbert_core.training import Recipe


def finetune_command(args: argparse.Namespace) -> dict[str, Any]:
    """Finetuning in full precision, or for a plan; the metrics are those of what was saved, read back."""
    from qbert_core.errors import InputError
    from qbert_core.runtime.states import held
    from qbert_core.tasks import task_named
    from qbert_core.training import recipe_for

    task = task_named(args.task)
    names = ("epochs", "lr", "batch_size", "warmup", "weight_decay", "average", "ema", "freeze")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    recipe = replace(recipe_for(task.name, args.plan is not None), **given, seed=args.seed)
    folder = writable_folder(args.save)
    with held(folder) as ours:
        if not ours:
            raise InputError(f"--save {args.save}: another finetuning writes there; wait, or give another folder")
        return _finetune(args, task, recipe, folder)


def _finetune(args: argparse.Namespace, task: Task, recipe: Recipe, folder: Path) -> dict[str, Any]:
    from qbert_core.checkpoints import load_base, load_checkpoint
    from qbert_core.evaluation import Evaluator
    from qbert_core.quantization import calibrate
    from qbert_core.quantization.trained import TrainedQuantization
    from qbert_core.tasks.data import read_table
    from qbert_core.training import discard_state, finetune
    from qbert_core.training.layout import STATES

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
    states = folder / STATES
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
    from qbert_core.training.layout import REPORT

    task = task_named(args.task)
    folder = writable_folder(args.save)
    models = [args.model, *args.others]
    mean = average([load_checkpoint(model) for model in models])
    data = task.examples(read_table(args.data, limit=args.limit), mean, args.data)
    reports = [Path(model) / REPORT for model in models]
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
    from qbert_core.training.layout import REPORT
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
    write_whole(folder / REPORT, json.dumps(document, indent=1) + "\n")
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


def add(commands: Commands) -> None:
    """This file's commands and their options."""
    c = commands.add("finetune", finetune_command, "BASE")
    task_and(c, "--train", "--data")
    c.add_argument("--save", required=True, metavar="DIR", help="where the model goes")
    c.add_argument("--plan", help="train for this plan: a plan's JSON file or a preset's name")
    c.add_argument("--fresh", action="store_true", help="start over where an interrupted run would go on")
    recipe = c.add_argument_group("recipe", "the paper's for the task, where not given")
    recipe.add_argument("--epochs", type=int, help="passes over the training data")
    recipe.add_argument("--lr", type=float, help="peak learning rate")
    recipe.add_argument("--batch-size", type=int, help="examples a step")
    recipe.add_argument("--warmup", type=float, help="share of all steps in which the rate rises")
    recipe.add_argument("--weight-decay", type=float, help="not on biases and LayerNorm")
    recipe.add_argument("--average", type=float, help="share of the last steps to average over; no --plan")
    recipe.add_argument("--ema", type=float, help="decay a step of the average an input range is")
    recipe.add_argument("--freeze", type=float, help="share of the steps after which input ranges stay")
    c.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="as stored")

    c = commands.add("average", average_command)
    c.add_argument("others", nargs="+", metavar="MODEL", help="more finetunings of the same base")
    task_and(c, "--data")
    c.add_argument("--save", required=True, metavar="DIR", help="where the model goes")
    c.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="as stored")
