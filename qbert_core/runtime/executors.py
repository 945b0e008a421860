"""An analysis on workers: its units as tasks, their results as runs. The same numbers as here, in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from qbert_core.curvature import Analysis, BlockResult, Compute, RunResult, ShardedRun
from qbert_core.parallel import torch_threads
from qbert_core.runtime.dispatch import Dispatcher
from qbert_core.runtime.events import Events
from qbert_core.runtime.lanes import Crew, ExecutorCrew, ProcessCrew
from qbert_core.runtime.worker import BlockTask, Parcel, ShardTask, pack, pack_analysis

POLL = 0.2  # seconds between two looks whether to cancel
UNDER_WAY = 2  # sharded units at a time: while one takes its Lanczos step, the other's products are computed
AHEAD = 2  # shards a worker that may be computed before the sum has come to them

Unit = tuple[int, int]  # run, block


class Place(Protocol):
    """Where an analysis is computed: `in_processes`, `on_cluster`, .. with their own options filled in."""

    def __call__(self, analysis: Analysis, *, events: Events) -> Compute: ...


def in_processes(analysis: Analysis, workers: int, events: Events, threads: int = 1) -> Compute:
    """Compute runs in `workers` processes with `threads` threads each.

    A cancel, or leaving the iteration early, ends the processes at once. Raises `InputError` where workers
    keep dying.
    """
    return on_crew(analysis, lambda: ProcessCrew(workers), events, threads)


def on_executor(
    analysis: Analysis, executor: Executor, workers: int, events: Events, threads: int = 1
) -> Compute:
    """Compute runs on any executor with `workers` workers. After a cancel it still ends the tasks it began."""
    return on_crew(analysis, lambda: ExecutorCrew(executor, workers), events, threads)


def on_crew(analysis: Analysis, hire: Callable[[], Crew], events: Events, threads: int = 1) -> Compute:
    """Compute runs with the crew that `hire` gives: every run so far, as its blocks arrive."""

    def compute(runs: Sequence[int]) -> Iterator[RunResult]:
        if not runs:
            return
        units = [(run, index) for run in runs for index in range(len(analysis.blocks))]
        arrived: dict[int, dict[int, BlockResult]] = {run: {} for run in runs}
        reported = dict.fromkeys(runs, 0)  # blocks
        parcels = pack_analysis(analysis)
        computed = _whole if analysis.shards == 1 else partial(_in_shards, threads=threads)
        with Dispatcher(hire(), threads) as dispatcher:
            for (run, index), result in computed(analysis, units, dispatcher, parcels, events):
                arrived[run][index] = result
                there = next((i for i in range(len(analysis.blocks)) if i not in arrived[run]), None)
                blocks = len(analysis.blocks) if there is None else there
                if blocks > reported[run]:
                    reported[run] = blocks
                    yield RunResult.of(run, [arrived[run][i] for i in range(blocks)])

    return compute


def _whole(
    analysis: Analysis,
    units: Sequence[Unit],
    dispatcher: Dispatcher,
    parcels: tuple[Parcel, ...],
    events: Events,
) -> Iterator[tuple[Unit, BlockResult]]:
    names = tuple(parcel.name for parcel in parcels)
    futures: dict[Future[BlockResult], Unit] = {
        dispatcher.submit(BlockTask(names, run, index, _work(analysis, index)), parcels): (run, index)
        for run, index in units
    }
    yield from _as_they_arrive(futures, events)


def _in_shards(
    analysis: Analysis,
    units: Sequence[Unit],
    dispatcher: Dispatcher,
    parcels: tuple[Parcel, ...],
    events: Events,
    threads: int,
) -> Iterator[tuple[Unit, BlockResult]]:
    runs: dict[int, ShardedRun] = {}

    def compute(unit: Unit) -> BlockResult:
        run, index = unit
        sharded = runs.get(run) or ShardedRun(analysis, run)
        runs[run] = sharded
        rows = sharded.rows(index)
        plain = {name: kept.numpy() for name, kept in rows.items()}
        work = _work(analysis, index)

        def partials(v: Tensor, fast: bool) -> Iterator[tuple[Tensor, int]]:
            vector = pack("vector", (v.numpy(), plain))
            needed = (*parcels, vector)
            names = tuple(parcel.name for parcel in needed)
            sent: list[Future[tuple[object, int]]] = []
            ahead = max(UNDER_WAY, AHEAD * dispatcher.workers)
            try:
                for shard in range(len(sharded.shards)):
                    while len(sent) < min(len(sharded.shards), shard + ahead):
                        task = ShardTask(names, run, index, len(sent), fast, work * (0.5 if fast else 1))
                        sent.append(dispatcher.submit(task, needed))
                    sums, count = sent[shard].result()
                    sent[shard] = Future()  # its sums may be large
                    yield torch.from_numpy(sums), count
            finally:
                dispatcher.forget(vector)

        return analysis.result(sharded.hessian(index, rows, partials), run, index)

    with torch_threads(threads), ThreadPoolExecutor(UNDER_WAY) as pool:  # Lanczos: its sums take threads, too
        futures = {pool.submit(compute, unit): unit for unit in units}
        try:
            yield from _as_they_arrive(futures, events)
        finally:
            for future in futures:
                future.cancel()
            dispatcher.close()


def _as_they_arrive(
    futures: dict[Future[BlockResult], Unit], events: Events
) -> Iterator[tuple[Unit, BlockResult]]:
    open_futures = set(futures)
    while open_futures:
        events.check()
        done, open_futures = wait(open_futures, POLL, FIRST_COMPLETED)
        for future in sorted(done, key=lambda future: futures[future]):
            yield futures[future], future.result()


def _work(analysis: Analysis, index: int) -> float:
    """Of a block's task, relative to others: layers that a product passes."""
    return analysis.checkpoint.config.layers - max(0, analysis.blocks[index].layer)
