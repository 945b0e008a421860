"""Edits of the demo measured in whole batches a thread, against torch's own way: every operation split.

Beside none, one and two processes that each keep a core busy, as a browser does that shows the numbers. Each
measurement is a process of its own, because OpenMP reads its settings once; torch's threads sleep while they
wait for each other, or spin as long as OpenMP lets them by itself.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

from app.table import edited_plan
from app.workspace import Source, open_workspace
from benchmarks.record import ROOT, Sample, Table, begin, parser, ratio, rounds, save, spread, values
from benchmarks.stream import timed_stream
from qbert_core.evaluation import evaluator
from qbert_core.quantization import sites_of

CLAIM = "Whole batches a thread are faster than splitting every operation, unless nothing else runs and threads spin"
EDITS = 10
SLOWEST = 150  # seconds of a process, after which it is ended: what it measured counts as at least that
BUSY = (0, 1, 2)
SLEEP, SPIN = {"OMP_WAIT_POLICY": "PASSIVE"}, {"OMP_WAIT_POLICY": "", "GOMP_SPINCOUNT": "300000"}
WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "whole batches, threads sleep (ours)": ("batches", SLEEP),
    "operations split, threads sleep": ("operations", SLEEP),
    "operations split, threads spin": ("operations", SPIN),
}


def one_after_the_other(work: Callable[[Any, Event], Any], items: Iterable[Any]) -> Generator[Any]:
    """What `in_order` is with torch's own threads: a loop."""
    for item in items:
        yield work(item, Event())


def edits(way: str) -> None:
    """Print the mean seconds to the first and the last numbers of edits that visit every layer."""
    if way == "operations":
        evaluator.in_order = one_after_the_other
    workspace, draw = open_workspace(Source()), random.Random(0)
    sites, plan, seen = sites_of(workspace.checkpoint.config), workspace.start, []
    workspace.evaluator.evaluate(plan)
    for number in range(-2, EDITS):  # the first two bring the caches to where they stay
        layer = number % workspace.checkpoint.config.layers
        before = plan
        while plan.digest == before.digest:
            cell = {draw.choice(("Attention", "FFN")): str(draw.randrange(2, 9))}
            plan = edited_plan(before, sites, {layer: cell}, {})
        first, last, _ = timed_stream(workspace.evaluator, plan)
        if number >= 0:
            seen.append((first, last))
    first, last = (sum(times) / len(seen) for times in zip(*seen, strict=True))
    print(json.dumps({"first": first, "seconds": last}))


def measure(way: str, settings: dict[str, str], busy: int) -> dict[str, float]:
    """In a process of its own, beside `busy` others."""
    command = [sys.executable, "-m", "benchmarks.threads", "--edits", way]
    environment = {name: value for name, value in {**os.environ, **settings}.items() if value}
    with hungry(busy):
        began = time.perf_counter()
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                check=True,
                timeout=SLOWEST,
            )
        except subprocess.TimeoutExpired:
            return dict.fromkeys(("first", "seconds"), (time.perf_counter() - began) / (EDITS + 2))
    found: dict[str, float] = json.loads(done.stdout)
    return found


@contextmanager
def hungry(count: int) -> Iterator[None]:
    """So many processes that do nothing but keep a core busy each."""
    others = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def tables(samples: list[Sample]) -> list[Table]:
    found, names = [], ["nothing else runs", "one process", "two processes"]
    for key, title in (
        ("seconds", "Mean seconds to the last numbers"),
        ("first", "Mean seconds to the first"),
    ):
        rows = []
        for way in WAYS:
            times = [values(samples, f"{way}, {busy} busy", key) for busy in BUSY]
            rows.append([way, *(spread(seconds) for seconds in times)])
        found.append({"title": f"{title} of {EDITS} edits", "columns": ["way", *names], "rows": rows})
    ours, *others = WAYS
    rows = [
        [
            f"ours to: {other}",
            *(ratio(*(values(samples, f"{w}, {b} busy") for w in (ours, other))) for b in BUSY),
        ]
        for other in others
    ]
    return [*found, {"title": "Ratios, to the last numbers", "columns": ["ratio", *names], "rows": rows}]


def main() -> None:
    options = parser(__doc__, 3)
    options.add_argument("--edits", help="for the processes that this one starts")
    arguments = options.parse_args()
    if arguments.edits:
        edits(arguments.edits)
        return
    variants = {
        f"{name}, {busy} busy": (lambda way=way, busy=busy: measure(*way, busy))
        for name, way in WAYS.items()
        for busy in BUSY
    }
    began = begin()
    samples = rounds(variants, arguments.repeats, seed=arguments.seed, patience=arguments.patience)
    save("threads", CLAIM, arguments, began, samples, tables(samples), [])


if __name__ == "__main__":
    main()
