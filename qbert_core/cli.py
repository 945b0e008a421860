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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qbert_core.errors import InputError

Command = Callable[[argparse.Namespace], dict[str, Any]]


class Progress:
    """Events printed to stderr, at most a few a second."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._last = 0.0

    def progress(self, done: int, total: int, partial: Any = None) -> None:
        now = time.perf_counter()
        if done < total and now - self._last < 0.5:
            return
        self._last = now
        text = json.dumps(partial) if isinstance(partial, dict) else ""
        print(f"{done}/{total}  {now - self._started:.1f} s  {text}", file=sys.stderr, flush=True)

    def check(self) -> None:
        """Nothing to do: Ctrl-C arrives as KeyboardInterrupt."""


def finetune_command(args: argparse.Namespace) -> dict[str, Any]:
    """Full-precision finetuning; the metrics are those of the saved checkpoint, read back."""
    import torch

    from qbert_core.checkpoints import load_base, load_checkpoint, save_checkpoint
    from qbert_core.tasks import task_named
    from qbert_core.tasks.data import read_table
    from qbert_core.training import Recipe, finetune
    from qbert_core.training.finetune import measure

    task = task_named(args.task)
    recipe = Recipe(
        epochs=args.epochs,
        lr=args.lr,
        batch_size=args.batch_size,
        warmup=args.warmup,
        weight_decay=args.weight_decay,
        average=args.average,
        seed=args.seed,
    )
    folder = Path(args.save)
    base = load_base(args.model, task.head, task.default_labels(), args.seed)
    train = task.examples(read_table(args.train, split="train", limit=args.limit), base, args.train)
    data = task.examples(read_table(args.data), base, args.data)
    result = finetune(base, task, train, data, recipe, Progress())
    save_checkpoint(result.checkpoint, folder, getattr(torch, args.dtype))
    saved = load_checkpoint(folder)
    score = measure(saved, task, data)
    report = {
        "metrics": score.metrics,
        "interval": score.interval,
        "n": score.n,
        "epochs": recipe.epochs,
        "seconds": result.seconds,
        "fingerprint": saved.fingerprint,
        "task": task.name,
        "train": {"source": args.train, "examples": len(train)},
        "data": {"source": args.data, "examples": len(data)},
        "recipe": asdict(recipe),
        "command": "python -m qbert_core " + shlex.join(sys.argv[1:]),
        "environment": environment(),
        "curve": result.curve,
    }
    (folder / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def environment() -> dict[str, Any]:
    """What a result was computed with."""
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="python -m qbert_core", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Command, model: str = "MODEL") -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=(run.__doc__ or "").split("\n")[0], description=run.__doc__)
        sub.add_argument("model", metavar=model, help="a folder, a hub id (owner/name) or demo")
        sub.add_argument("--out", default="-", metavar="FILE", help="where the JSON goes (- is stdout)")
        sub.set_defaults(run=run)
        return sub

    c = command("finetune", finetune_command, "BASE")
    c.add_argument("--task", required=True)
    c.add_argument("--train", required=True, help="file, hub:NAME[/CONFIG]:SPLIT or demo")
    c.add_argument("--data", required=True, help="evaluation data, likewise")
    c.add_argument("--save", required=True, metavar="DIR")
    c.add_argument("--epochs", type=int, default=3)
    c.add_argument("--lr", type=float, default=2e-5, help="peak learning rate")
    c.add_argument("--batch-size", type=int, default=32)
    c.add_argument("--warmup", type=float, default=0.1, help="share of all steps")
    c.add_argument("--weight-decay", type=float, default=0.01)
    c.add_argument("--average", type=float, default=0.0, help="share of the last steps to average over")
    c.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="as stored")
    c.add_argument("--limit", type=int, help="first N rows of --train")
    c.add_argument("--seed", type=int, default=0)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        text = json.dumps(args.run(args), indent=1, allow_nan=False) + "\n"
        if args.out == "-":
            sys.stdout.write(text)
        else:
            write_whole(Path(args.out), text)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or args.out}: {error.strerror}; nothing was changed", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` so that a full disk or a kill leaves the old file as it was."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
