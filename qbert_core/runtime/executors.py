"""Runs of an analysis in processes of their own, each with its share of the cores."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature import Block, Compute, RunResult, draw, run_blocks
from qbert_core.errors import InputError
from qbert_core.runtime.events import Events
from qbert_core.tasks import Examples, Task

POLL = 0.2  # seconds between two looks whether to cancel


@dataclass(frozen=True, eq=False)
class Analysis:
    """What every run needs; sent to each worker once."""

    checkpoint: Checkpoint
    task: Task
    examples: Examples
    blocks: tuple[Block, ...]
    fraction: float
    tolerance: float
    seed: int
    trace: int = 0

    def run(self, number: int) -> RunResult:
        """One run, whole."""
        chosen = self.examples.take(draw(len(self.examples), self.fraction, self.seed, number))
        *_, result = run_blocks(
            self.checkpoint, self.task, chosen, self.blocks, number, self.tolerance, self.seed, self.trace
        )
        return result


def in_processes(analysis: Analysis, workers: int, events: Events) -> Compute:
    """Compute runs in `workers` processes, whole runs in the order they finish.

    Runs share nothing, so processes with few threads each do more of them than one process with all
    threads. Every worker has its own cores (Linux): threads of two workers on one core wait for each
    other at every barrier. A cancel, or leaving the iteration early, ends the workers at once. Raises
    `InputError` where a worker dies.
    """
    if workers < 1:
        raise InputError(f"workers is {workers}; expected at least 1")

    def compute(runs: Sequence[int]) -> Iterator[RunResult]:
        if not runs:
            return
        context = multiprocessing.get_context("spawn")  # a fork would inherit locked thread pools
        places = context.SimpleQueue()
        count = min(workers, len(runs))
        for place in shares(count):
            places.put(place)
        pool = ProcessPoolExecutor(count, context, _start, (analysis, places))
        try:
            open_runs: set[Future[RunResult]] = {pool.submit(_run, run) for run in runs}
            while open_runs:
                events.check()
                done, open_runs = wait(open_runs, POLL, FIRST_COMPLETED)
                yield from sorted((future.result() for future in done), key=lambda result: result.run)
        except BrokenProcessPool:
            raise InputError(
                "a worker process was ended from outside, perhaps for want of memory; finished runs are "
                "kept: start again with fewer --workers"
            ) from None
        finally:
            # the pool itself can only wait for what is under way, and a run takes long
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(cancel_futures=True)

    return compute


def shares(workers: int) -> list[tuple[int, ...]]:
    """The cores this process may use, dealt out evenly; where there are fewer than workers, all to all."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not cores:
        return [tuple(range(max(1, (os.cpu_count() or 1) // workers)))] * workers
    if len(cores) < workers:
        return [tuple(cores)] * workers
    return [tuple(cores[i::workers]) for i in range(workers)]


_analysis: Analysis | None = None


def _start(analysis: Analysis, places: multiprocessing.SimpleQueue[tuple[int, ...]]) -> None:
    global _analysis
    import torch

    cores = places.get()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    _analysis = analysis


def _run(number: int) -> RunResult:
    assert _analysis is not None
    return _analysis.run(number)
