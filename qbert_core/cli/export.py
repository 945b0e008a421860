"""`export`: a plan's model as files others can open."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbert_core.cli.inputs import read_json, read_plan, write_whole
from qbert_core.cli.parser import Commands, seed
from qbert_core.cli.progress import Progress, warn
from qbert_core.errors import InputError

if TYPE_CHECKING:
    from qbert_core.checkpoints import Checkpoint
    from qbert_core.curvature import Sensitivity
    from qbert_core.export import Export
    from qbert_core.quantization import ActivationRanges, Plan
    from qbert_core.tasks import Examples, Task


def export_command(args: argparse.Namespace) -> dict[str, Any]:
    """A packed checkpoint for transformers (--save) and an HTML report (--report) of a plan."""
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.export import export_checkpoint
    from qbert_core.export.card import opening_code
    from qbert_core.tasks import task_named
    from qbert_core.tasks.data import read_table

    if args.save is None and args.report is None:
        raise InputError(
            "nothing to write; give --save DIR for a checkpoint, --report FILE for a report, or both"
        )
    checkpoint = load_checkpoint(args.model)
    task = task_named(args.task or checkpoint.task)
    task.check_model(checkpoint.config)
    plan = read_plan(args.plan, checkpoint, task)
    sensitivity = _sensitivity(args)
    examples = None
    if args.data is not None:
        examples = task.examples(read_table(args.data, limit=args.limit), checkpoint, args.data)
    if args.report is not None:
        if examples is None:
            raise InputError("--report needs --data: the examples that its numbers are measured on")
        if not Path(args.report).absolute().parent.is_dir():
            raise InputError(
                f"--report {args.report}: there is no folder {Path(args.report).absolute().parent}"
            )
    ranges = _ranges(checkpoint, task, plan, args.train, examples)
    document: dict[str, Any] = {
        "model": checkpoint.fingerprint,
        "task": task.name,
        "plan": plan.to_json(),
        "plan_digest": plan.digest,
        "activations": None
        if ranges is None
        else {"source": ranges.source, "examples": ranges.examples, "digest": ranges.digest},
    }
    written = None
    if args.save is not None:
        with _ended_as_interrupted():
            written = export_checkpoint(
                checkpoint, plan, Path(args.save), layout=args.layout, ranges=ranges, replace=args.replace,
                events=Progress(),
            )  # fmt: skip
        document |= {
            "folder": str(written.folder),
            "files": list(written.files),
            "size_mb": written.size["file"],
            "promised_mb": written.size["promised"],
            "size": written.size,
            "layout": written.layout,
            "stored_bits": sorted(set(written.widths.values())),
            "checked": written.checked,
            "seconds": written.seconds,
            "open_with": opening_code(checkpoint.config.head, written.layout, str(written.folder)),
        }
    if args.report is not None and examples is not None:
        document |= _report(args, checkpoint, task, plan, examples, ranges, sensitivity, written)
    return document


def _sensitivity(args: argparse.Namespace) -> Sensitivity | None:
    from qbert_core.curvature import Sensitivity

    if args.sensitivity is None:
        return None
    if args.report is None:
        raise InputError("--sensitivity goes into the report; give --report FILE, too")
    return Sensitivity.from_json(read_json(args.sensitivity))


def _ranges(
    checkpoint: Checkpoint, task: Task, plan: Plan, train: str | None, examples: Examples | None
) -> ActivationRanges | None:
    """The activation ranges an evaluation would use, None where the plan needs none or nothing is there to
    calibrate on."""
    from qbert_core.evaluation import calibration

    linear = any(e.quantized for site, e in plan.entries if ".encoder." in site)
    if plan.activation_bits != 8 or not linear:
        return None
    ranges = calibration(checkpoint, task, examples, train)
    if ranges is None:
        warn(
            "the plan has 8-bit activations, but there are no data to find their ranges on; the weights are "
            "exported without (give --train or --data)"
        )
    return ranges


def _report(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    task: Task,
    plan: Plan,
    examples: Examples,
    ranges: ActivationRanges | None,
    sensitivity: Sensitivity | None,
    written: Export | None,
) -> dict[str, Any]:
    """Measure the plan and write the report."""
    from types import MappingProxyType

    from qbert_core.evaluation import Evaluator
    from qbert_core.evaluation.paired import paired_difference
    from qbert_core.export.environment import environment
    from qbert_core.export.report import Source, report
    from qbert_core.quantization import ActivationRanges

    if sensitivity is not None and sensitivity.model not in (None, checkpoint.fingerprint):
        warn(f"{args.sensitivity} was computed for another model")
    used = ranges or ActivationRanges(MappingProxyType({}), "none needed", 0)
    evaluator = Evaluator(checkpoint, task, examples, used, seed=args.seed)
    result = evaluator.evaluate(plan, events=Progress())
    calibrated = "none" if ranges is None else f"{ranges.source}, {ranges.examples:,} examples"
    text = report(
        checkpoint.config,
        plan,
        Source(checkpoint.name, checkpoint.fingerprint, task.name, args.data, len(examples), calibrated),
        environment(),
        ["python -m qbert_core " + shlex.join(sys.argv[1:])],
        evaluation=result,
        difference=paired_difference(
            task, result.baseline_grades.tolist(), result.grades.tolist(), args.seed
        ),
        sensitivity=sensitivity,
        size=None if written is None else written.size,
    )
    write_whole(Path(args.report), text)
    return {
        "report": str(Path(args.report).absolute()),
        "metrics": result.score.metrics,
        "baseline": result.baseline.to_json(),
        "n": result.n,
        "interval": result.score.interval,
    }


@contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """Take a polite request to end (SIGTERM) like Ctrl-C, so that what is half written is removed."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def add(commands: Commands) -> None:
    """This file's commands and their options."""
    c = commands.add("export", export_command)
    c.add_argument(
        "--plan", required=True, help="a plan's JSON file, a preset's name, or trained: the finetuned one's"
    )
    c.add_argument("--save", metavar="DIR", help="a new or empty folder for the packed checkpoint")
    c.add_argument(
        "--layout",
        choices=("one-width", "mixed"),
        default="one-width",
        help="one-width opens with transformers' from_pretrained; mixed stores every site at its own bits",
    )
    c.add_argument("--replace", action="store_true", help="overwrite an earlier export in DIR")
    c.add_argument("--report", metavar="FILE", help="write an HTML report, measured on --data")
    c.add_argument("--sensitivity", metavar="FILE", help="what the sensitivity command wrote, for the report")
    c.add_argument("--task", help="sst2, mnli, conll03 or squad (default: what the model is for)")
    c.add_argument("--data", help="examples to measure the report on: file, hub:NAME[/CONFIG]:SPLIT or demo")
    c.add_argument("--limit", type=int, metavar="N", help="first N rows of --data")
    c.add_argument(
        "--train",
        help="data to calibrate activation ranges on (default: the model's own, the demo's, or --data)",
    )
    c.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="of the order that examples are measured in"
    )
