"""Every layer's top Hessian eigenvalue over several draws of data, to a residual of 1 %.

A sample of a peer is one draw, all layers. Ours is one call of `sensitivity` for all the draws, made
several times between the peers' samples; a draw gets the part of the call's time that its run took.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import curvature_libraries as libraries
from benchmarks import curvature_peers as peers
from benchmarks.curvature_peers import Kept, Names, Problem, Product, Solved, Stop
from benchmarks.machine import Patience, load_average
from benchmarks.record import Sample, Table, begin, goal, measured, parser, save, spread
from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.curvature import RunResult, blocks_of, draw, sensitivity
from qbert_core.tasks import Examples, Task, length_batches, task_named
from qbert_core.tasks.data import read_table

SST2 = Path(__file__).resolve().parents[2] / "shared" / "data" / "sst2" / "train.parquet"
TOLERANCE = 0.01  # residual
AGREEMENT = 0.02  # an eigenvalue further from the largest, relatively, is a wrong one
TOKENS = 256  # padded tokens a batch where sentences are sorted by length
WIDTH = 128  # what the authors pad to
USUAL_STEPS = 20  # eigsh's own choice of a basis for one eigenvalue
FAR = 18  # Lanczos steps that find the largest eigenvalue for certain; about 8 are enough
TRIES = 2  # a sample may take minutes
CLAIM = "All layers' eigenvalues at least 8 times as fast as the authors' iteration, to the same accuracy"
OURS, AUTHORS, AUTHORS_WIDE, PYHESSIAN = "ours", "authors", f"authors, padded to {WIDTH}", "PyHessian"
GOALS = {AUTHORS: 1 / 8, AUTHORS_WIDE: 1 / 30, PYHESSIAN: 1 / 4}  # ours to the peer, at most
LIBRARIES_GOAL = 1 / 2

Solver = Callable[[nn.Module, Problem, Sequence[int], Sequence[Product]], Solved]


class Subject:
    """One model and its draws of training examples."""

    def __init__(self, checkpoint: Checkpoint, task: Task, examples: Examples, rows: int, seed: int) -> None:
        self.checkpoint, self.task, self.examples = checkpoint, task, examples
        self.fraction, self.seed = rows / len(examples), seed
        self.model = peers.load_model(checkpoint)
        listed = [name for name, _ in self.model.named_parameters()]
        self.blocks: list[Names] = [
            tuple(name for name in listed if name in block.parameters)
            for block in blocks_of(checkpoint.config, "layer")
        ]

    def draw(self, number: int) -> Draw:
        chosen = self.examples.take(draw(len(self.examples), self.fraction, self.seed, number))
        return Draw(self, number, chosen, self.blocks)

    def ours(self, draws: int) -> dict[str, Any]:
        """All draws in one call, and what of its time each took."""
        runs: list[RunResult] = []
        began = time.perf_counter()
        sensitivity(
            self.checkpoint,
            self.task,
            self.examples,
            runs=draws,
            fraction=self.fraction,
            granularity="layer",
            tolerance=TOLERANCE,
            seed=self.seed,
            on_run=runs.append,
        )
        seconds = time.perf_counter() - began
        # a run's own seconds need not add up to the call's: runs may overlap, and something goes before
        scale = seconds / sum(run.seconds for run in runs)
        by_draw = [
            {
                "seconds": run.seconds * scale,
                "lambdas": list(run.lambdas),
                "residuals": list(run.residuals),
                "products": run.products,
                "rounded": run.rounded,  # of the products
            }
            for run in sorted(runs, key=lambda run: run.run)
        ]
        return {"seconds": seconds, "draws": by_draw}

    def warm_up(self, variants: Mapping[str, Engine]) -> None:
        """Everything once on two sentences, so that no sample pays for first calls."""
        few = self.examples.take([0, 1])
        sensitivity(self.checkpoint, self.task, few, runs=1, fraction=1.0, seed=self.seed)
        for engine in variants.values():
            engine.solve(Draw(self, 0, few, self.blocks[-1:]))


@dataclass(frozen=True)
class Draw:
    """The examples of one run, and the problem they pose the peers."""

    subject: Subject
    number: int
    examples: Examples
    blocks: list[Names]

    @property
    def tokens(self) -> int:
        """Real ones."""
        return int(self.examples.lengths.sum())

    def problem(self, batching: str, limit: int = 0) -> Problem:
        """In one batch, `padded` to the longest sentence or to `WIDTH`; or `bucketed` by length."""
        everything = range(len(self.examples))
        cuts = length_batches(self.examples.lengths, TOKENS) if batching == "bucketed" else [everything]
        width = WIDTH if batching == "wide" else None
        batches = [peers.inputs(self.subject.task, self.examples, cut, width) for cut in cuts]
        return Problem(batches, self.blocks, self.seeds, TOLERANCE, limit)

    @cached_property
    def seeds(self) -> list[int]:
        """Of the peers' random start vectors, one a block."""
        numbers = random.Random(f"{self.subject.seed} {self.number}")
        return [numbers.randrange(2**31) for _ in self.blocks]

    @cached_property
    def exact(self) -> list[Product]:
        """Hv of each block by transformers' model and two plain gradients, kept for this draw."""
        batches = self.problem("bucketed").batches
        return [Kept(self.subject.model, batches, names).product(names) for names in self.blocks]

    @cached_property
    def krylov(self) -> list[Tensor]:
        """Each block's Hessian in a Krylov basis begun at its start vector, far beyond the accuracy."""
        starts = [
            peers.start(self.subject.model, names, seed)
            for names, seed in zip(self.blocks, self.seeds, strict=True)
        ]
        return [peers.lanczos(product, v, FAR)[0] for product, v in zip(self.exact, starts, strict=True)]

    @cached_property
    def largest(self) -> list[float]:
        """Each block's eigenvalue of largest magnitude, by nothing of ours."""
        spectra = [torch.linalg.eigvalsh(matrix) for matrix in self.krylov]
        return [float(values[values.abs().argmax()]) for values in spectra]

    def steps(self, *, arpack: bool) -> list[int]:
        """The fewest Lanczos steps that are enough, one a block; ARPACK begins at H times the start.

        In the Krylov basis Lanczos goes the same way as in the whole space, and costs nothing.
        """
        firsts = [matrix[0] if arpack else torch.eye(FAR, dtype=matrix.dtype)[0] for matrix in self.krylov]
        return [
            peers.fewest_steps(matrix.mv, first, FAR - 1, TOLERANCE)
            for matrix, first in zip(self.krylov, firsts, strict=True)
        ]


@dataclass(frozen=True)
class Engine:
    """A peer: how it solves a draw, and how many draws it gets."""

    solve: Callable[[Draw], Solved]
    draws: int
    tokens: Callable[[Draw], int]  # padded ones that a product runs through

    def sample(self, draw: Draw) -> dict[str, Any]:
        solved = self.solve(draw)
        own = {} if solved.own is solved.accurate else {"own": _columns(solved.own)}
        return {**_columns(solved.accurate), **own, "tokens": self.tokens(draw)}


def engines(subject: Subject, options: argparse.Namespace) -> dict[str, Engine]:
    """The peers by name; without those whose library is not installed."""
    absent, slow = libraries.missing(), options.slow_draws
    made: dict[str, Engine] = {}

    def add(name: str, draws: int, batching: str, solve: Callable[[Draw, Problem], Solved]) -> None:
        made[name] = Engine(
            lambda draw: solve(draw, draw.problem(batching, options.limit)),
            draws,
            lambda draw: draw.problem(batching).tokens,
        )

    model = subject.model
    add(AUTHORS, slow, "padded", lambda _, problem: peers.authors(model, problem))
    add(AUTHORS_WIDE, options.slowest_draws, "wide", lambda _, problem: peers.authors(model, problem))
    add(PYHESSIAN, slow, "padded", lambda _, problem: peers.pyhessian(model, problem, whole=True))
    add(
        f"{PYHESSIAN}, products cut to the layer",
        slow,
        "padded",
        lambda _, problem: peers.pyhessian(model, problem, whole=False),
    )

    def add_library(name: str, solve: Solver, steps: Callable[[Draw], list[int]]) -> None:
        if name in absent:
            print(f"{name} is not installed, so its lines are left out: {libraries.INSTALL}", file=sys.stderr)
            return
        own = libraries.model_for(name, subject.checkpoint)

        def told(draw: Draw, problem: Problem) -> Solved:
            return solve(own, problem, steps(draw), draw.exact)

        def usual(draw: Draw, problem: Problem) -> Solved:
            return solve(own, problem, [USUAL_STEPS] * len(draw.blocks), draw.exact)

        add(f"{name}, sorted by length", options.draws, "bucketed", told)
        add(f"{name}, one batch", slow, "padded", told)
        add(f"{name}, sorted by length, {USUAL_STEPS} steps", options.slowest_draws, "bucketed", usual)

    add_library("hessian-eigenthings", libraries.eigenthings, lambda draw: draw.steps(arpack=False))
    add_library("curvlinops", libraries.curvlinops, lambda draw: draw.steps(arpack=True))
    return made


def measure(
    subject: Subject, variants: Mapping[str, Engine], options: argparse.Namespace
) -> tuple[list[Sample], list[list[float]]]:
    """The samples, and the draws' largest eigenvalues.

    A round is a draw; the engines that still have draws left take turns in an order drawn anew. Our
    calls for all the draws are spread over the rounds.
    """
    order, waiting = random.Random(options.seed), Patience(options.patience)
    samples: list[Sample] = []
    truth: list[list[float]] = []

    def take(number: int, name: str, variant: Callable[[], dict[str, Any]]) -> None:
        tried = measured(variant, waiting, TRIES)
        samples.extend({"round": number, "variant": name, **sample} for sample in tried)
        seconds = ", ".join(f"{sample['seconds']:.1f}" for sample in tried)
        print(
            f"draw {number + 1}: {name}: {seconds} s, load {load_average()[0]}", file=sys.stderr, flush=True
        )

    subject.warm_up(variants)
    between = np.linspace(0, options.draws - 1, options.repeats).round().astype(int).tolist()
    for number in range(options.draws):
        draw = subject.draw(number)
        truth.append(draw.largest)  # with the Krylov bases, before anything is timed
        turns = [name for name, engine in variants.items() if engine.draws > number]
        turns += [OURS] * between.count(number)
        order.shuffle(turns)
        for name in turns:
            if name == OURS:
                take(number, OURS, lambda: subject.ours(options.draws))
            else:
                take(number, name, lambda name=name, draw=draw: variants[name].sample(draw))  # type: ignore[misc]
    return samples, truth


class Outcome:
    """What was measured, beside ours on the same draws and the largest eigenvalues there."""

    def __init__(self, samples: Sequence[Sample], truth: Sequence[Sequence[float]]) -> None:
        self._kept = [sample for sample in samples if sample["kept"]]
        self._truth = truth
        self.calls = [sample["draws"] for sample in self._kept if sample["variant"] == OURS]
        self.seconds = [
            statistics.median(run["seconds"] for run in runs) for runs in zip(*self.calls, strict=True)
        ]

    def of(self, name: str) -> list[Sample]:
        """By draw."""
        return sorted((s for s in self._kept if s["variant"] == name), key=lambda s: s["round"])

    def ratio(self, found: Sequence[Sample]) -> dict[str, float]:
        """Ours to what was found, draw by draw."""
        return spread([self.seconds[sample["round"]] / sample["seconds"] for sample in found])

    def quality(self, found: Sequence[Mapping[str, Any]], rounds: Sequence[int]) -> list[str | float]:
        """Residuals beyond the tolerance, the worst, and eigenvalues that are not the largest."""
        residuals = [residual for sample in found for residual in sample["residuals"]]
        pairs = [
            pair
            for sample, number in zip(found, rounds, strict=True)
            for pair in zip(sample["lambdas"], self._truth[number], strict=True)
        ]
        beyond = sum(residual > TOLERANCE for residual in residuals)
        wrong = [value * true < 0 for value, true in pairs if abs(value - true) > AGREEMENT * abs(true)]
        flipped = f", {sum(wrong)} with the other sign" if any(wrong) else ""
        return [f"{beyond} of {len(residuals)}", max(residuals), f"{len(wrong)} of {len(pairs)}{flipped}"]


QUALITY = [f"residual > {TOLERANCE:.0%}", "worst residual", f"off by > {AGREEMENT:.0%}"]


def tables(
    subject: Subject, variants: Mapping[str, Engine], outcome: Outcome
) -> tuple[list[Table], list[dict[str, Any]]]:
    """To the same accuracy; where engines stop by themselves; and the goals."""
    rows = [_ours_row(outcome)]
    own_rows: list[list[Any]] = []
    for name in variants:
        found = outcome.of(name)
        rounds = [sample["round"] for sample in found]
        products = sum(sum(sample["products"]) for sample in found) / len(found)
        times = spread([sample["seconds"] for sample in found])
        quality = outcome.quality(found, rounds)
        padding = spread([s["tokens"] / subject.draw(s["round"]).tokens for s in found])["median"]
        rows.append([name, len(found), times, outcome.ratio(found), products, padding, *quality])
        own = [{**sample["own"], "round": sample["round"]} for sample in found if "own" in sample]
        if own:
            limited = sum(not reached for sample in own for reached in sample["reached"])
            products = sum(sum(sample["products"]) for sample in own) / len(own)
            times = spread([sample["seconds"] for sample in own])
            quality = outcome.quality(own, rounds)
            own_rows.append([name, len(own), times, outcome.ratio(own), products, str(limited), *quality])
    columns = ["engine", "draws", "seconds a draw", "ours to it", "products a draw"]
    made: list[Table] = [
        {
            "title": f"All layers of one draw, to a residual of {TOLERANCE:.0%}",
            "columns": [*columns, "padded tokens to real ones", *QUALITY],
            "rows": rows,
        },
        {
            "title": "The iterations where they stop by themselves",
            "columns": [*columns, "cut off by the limit", *QUALITY],
            "rows": own_rows,
        },
    ]
    return made, goals(outcome, list(variants))


def _ours_row(outcome: Outcome) -> list[Any]:
    every = [run for call in outcome.calls for run in call]
    products, rounded = (sum(run[key] for run in every) / len(every) for key in ("products", "rounded"))
    quality = outcome.quality(every, [*range(len(outcome.seconds))] * len(outcome.calls))
    counted = f"{products:.1f}, {rounded:.1f} of them rounded"
    # how its batches are padded is its own affair, and differs between layers
    return [OURS, len(outcome.seconds), spread(outcome.seconds), "1", counted, "", *quality]


def goals(outcome: Outcome, names: Sequence[str]) -> list[dict[str, Any]]:
    """Of those peers that were measured."""
    what = "All layers' eigenvalues, ours to"
    found = [
        goal(f"{what} {name}", outcome.ratio(outcome.of(name)), limit)
        for name, limit in GOALS.items()
        if name in names
    ]
    ratios = [outcome.ratio(outcome.of(name)) for name in names if name.startswith(tuple(libraries.MODULES))]
    if ratios:
        best = max(ratios, key=lambda ratio: ratio["median"])
        found.append(goal(f"{what} the best of the libraries", best, LIBRARIES_GOAL))
    worst = max(residual for call in outcome.calls for run in call for residual in run["residuals"])
    return [*found, goal("Worst residual of ours", worst, TOLERANCE)]


def _columns(stops: Sequence[Stop]) -> dict[str, Any]:
    return {
        "seconds": sum(stop.seconds for stop in stops),
        "lambdas": [stop.value for stop in stops],
        "residuals": [stop.residual for stop in stops],
        "products": [stop.products for stop in stops],
        "reached": [stop.reached for stop in stops],
        "block_seconds": [stop.seconds for stop in stops],
    }


def main() -> None:
    options = parser(__doc__, 3)
    options.add_argument("--model", default="demo")
    options.add_argument("--data", default=str(SST2) if SST2.is_file() else "demo")
    options.add_argument("--rows", type=int, default=64, help="examples a draw")
    options.add_argument("--draws", type=int, default=10, help="of ours and of the libraries at their best")
    options.add_argument("--slow-draws", type=int, default=3, help="of the other peers")
    options.add_argument(
        "--slowest-draws", type=int, default=1, help=f"of what is padded to {WIDTH} or makes too many steps"
    )
    options.add_argument(
        "--limit", type=int, default=100, help="products a layer after which an iteration is given up"
    )
    options.add_argument("--only", default="", metavar="TEXT", help="peers with this in their name")
    options.add_argument(
        "--without", default="-", metavar="TEXT", help="leave out peers with this in their name"
    )
    arguments = options.parse_args()
    checkpoint, task = load_checkpoint(arguments.model), task_named("sst2")
    table = read_table(arguments.data, split="train")
    examples = task.examples(table, checkpoint, arguments.data)
    subject = Subject(checkpoint, task, examples, arguments.rows, arguments.seed)
    variants = {
        name: engine
        for name, engine in engines(subject, arguments).items()
        if arguments.only in name and arguments.without not in name
    }

    began = begin()
    samples, truth = measure(subject, variants, arguments)
    made, reached = tables(subject, variants, Outcome(samples, truth))
    data = {
        "model": checkpoint.name,
        "fingerprint": checkpoint.fingerprint,
        "data": Path(arguments.data).name,
        "data_fingerprint": examples.fingerprint,
        "examples": len(examples),
        "largest": truth,  # eigenvalues, a list a draw
        "missing": libraries.missing(),
        "versions": libraries.versions(),
    }
    save("curvature", CLAIM, arguments, began, samples, made, reached, measured=data)


if __name__ == "__main__":
    main()
