"""`sensitivity`, `density` and `landscape`: the Hessian of the loss."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbert_core.cli.inputs import read_plan
from qbert_core.cli.parser import Commands, task_and
from qbert_core.cli.progress import Progress, warn

if TYPE_CHECKING:
    from qbert_core.runtime.executors import Place


def sensitivity_command(args: argparse.Namespace) -> dict[str, Any]:
    """Top Hessian eigenvalues of every block over draws of the training data, and Omega."""
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.runtime.sensitivity import stored_sensitivity
    from qbert_core.runtime.store import Store
    from qbert_core.tasks import task_named
    from qbert_core.tasks.data import read_table

    place = _place(args)
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
        place=place,
        events=Progress(),
        warn=warn,
    )
    return result.to_json()


def _place(args: argparse.Namespace) -> Place | None:
    """Where the units are computed; None is here, one after the other."""
    import torch

    from qbert_core.errors import InputError
    from qbert_core.runtime.cluster import Cluster, on_cluster
    from qbert_core.runtime.executors import in_processes

    if args.threads is not None and args.threads < 1:
        raise InputError(f"threads is {args.threads}; expected at least 1")
    threads = args.threads or 1
    if args.scheduler is not None:
        cluster = Cluster(
            args.scheduler, args.tls_ca, args.tls_cert, args.tls_key, args.shared_folder, args.insecure
        )
        return partial(on_cluster, cluster=cluster, threads=threads)
    if (args.tls_ca, args.tls_cert, args.tls_key, args.shared_folder) != (None,) * 4 or args.insecure:
        raise InputError("--tls-ca, --tls-cert, --tls-key, --shared-folder and --insecure need --scheduler")
    if args.workers not in (None, 1):
        return partial(in_processes, workers=args.workers, threads=threads)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    return None


def density_command(args: argparse.Namespace) -> dict[str, Any]:
    """Spectral density and trace of one block's Hessian over one draw of the training data."""
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.curvature import block_named
    from qbert_core.runtime.spectrum import stored_spectrum
    from qbert_core.runtime.store import Store
    from qbert_core.tasks import task_named
    from qbert_core.tasks.data import read_table

    task = task_named(args.task)
    checkpoint = load_checkpoint(args.model)
    name = args.block_name if args.layer is None else f"bert.encoder.layer.{args.layer}"
    block = block_named(checkpoint.config, name)
    examples = task.examples(read_table(args.train, split="train", limit=args.limit), checkpoint, args.train)
    result = stored_spectrum(
        checkpoint,
        task,
        examples,
        block,
        Store(),
        fraction=args.fraction,
        steps=args.steps,
        probes=args.probes,
        seed=args.seed,
        events=Progress(),
        warn=warn,
    )
    return result.to_json()


def landscape_command(args: argparse.Namespace) -> dict[str, Any]:
    """Loss of a layer around its weights, over the two directions of largest curvature."""
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.runtime.landscape import stored_landscape
    from qbert_core.runtime.store import Store
    from qbert_core.tasks import task_named
    from qbert_core.tasks.data import read_table

    task = task_named(args.task)
    checkpoint = load_checkpoint(args.model)
    plan = read_plan(args.plan, checkpoint, task)
    examples = task.examples(read_table(args.train, split="train", limit=args.limit), checkpoint, args.train)
    result = stored_landscape(
        checkpoint,
        task,
        examples,
        args.layer,
        plan,
        Store(),
        steps=args.steps,
        span=args.span,
        normalise=args.normalise,
        fraction=args.fraction,
        tolerance=args.tolerance,
        seed=args.seed,
        events=Progress(),
        warn=warn,
    )
    return result.to_json()


def add(commands: Commands) -> None:
    """This file's commands and their options."""
    c = commands.add("sensitivity", sensitivity_command)
    task_and(c, "--train")
    c.add_argument("--runs", type=int, default=10, help="random draws of the training examples")
    c.add_argument("--fraction", type=float, default=0.1, help="share of the training examples a run")
    c.add_argument(
        "--block", choices=("layer", "module", "site"), default="layer", help="a module is half a layer"
    )
    c.add_argument("--tolerance", type=float, default=0.01, help="largest residual of an eigenvalue")
    c.add_argument(
        "--until-stable", action="store_true", help="stop before --runs when the high set is stable"
    )
    c.add_argument("--high", type=int, metavar="K", help="blocks that get the higher bits (default: half)")
    c.add_argument("--confidence", type=float, default=0.95, help="bootstrap probability of that set")
    c.add_argument("--trace", type=int, default=0, metavar="N", help="products for each block's trace, too")
    where = c.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, metavar="N", help="processes that share the work")
    where.add_argument("--scheduler", metavar="ADDRESS", help="a Dask cluster, tls://HOST:PORT")
    c.add_argument(
        "--threads",
        type=int,
        metavar="T",
        help="of each worker (default 1); here without workers (default all)",
    )
    c.add_argument(
        "--tls-ca", type=Path, metavar="FILE", help="the authority's certificate, with --scheduler"
    )
    c.add_argument("--tls-cert", type=Path, metavar="FILE", help="this client's certificate")
    c.add_argument("--tls-key", type=Path, metavar="FILE", help="its key")
    c.add_argument(
        "--shared-folder", type=Path, metavar="DIR", help="one that all workers see; the model goes there"
    )
    c.add_argument(
        "--insecure", action="store_true", help="allow a scheduler beyond this machine without TLS"
    )

    c = commands.add("density", density_command)
    task_and(c, "--train")
    which = c.add_mutually_exclusive_group(required=True)
    which.add_argument("--layer", type=int, metavar="I", help="an encoder layer, from 0")
    which.add_argument("--block-name", metavar="NAME", help="a layer, half a layer or a weight matrix")
    c.add_argument("--fraction", type=float, default=0.1, help="share of the training examples")
    c.add_argument("--steps", type=int, default=60, help="Lanczos steps a probe")
    c.add_argument("--probes", type=int, default=4, help="random vectors to average over")

    c = commands.add("landscape", landscape_command)
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
