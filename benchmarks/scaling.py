"""How a sensitivity analysis grows with workers: speed of 1 and 2, what a task costs on top, and a cost model.

Processes and a real Dask cluster (scheduler and workers in processes of their own, a core each) compute the
demo's runs on SST-2 rows. The cost model is fitted to products at widths 384 and 768 on one core; what it says
of 64 workers is a prediction under the assumptions that are named in its table, not a measurement.
"""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.growth import random_examples
from benchmarks.record import ROOT, begin, goal, parser, ratio, rounds, save, spread, values
from qbert_core.checkpoints import load_checkpoint
from qbert_core.curvature import (
    Analysis,
    BlockHessian,
    LayerInputs,
    blocks_of,
    random_start,
    sensitivity,
    shards_of_a_run,
)
from qbert_core.curvature.shards import cut
from qbert_core.runtime.cluster import Cluster, DaskCrew
from qbert_core.runtime.events import Silent
from qbert_core.runtime.executors import on_crew
from qbert_core.runtime.lanes import Crew, ProcessCrew
from qbert_core.runtime.worker import pack
from qbert_core.tasks import Examples, task_named
from qbert_core.tasks.base import make_examples
from qbert_core.tasks.data import read_table
from tests.tiny import make_tiny

CLAIM = "Two workers do an analysis at least 1.9 times as fast as one, with the same numbers"
PORT = 18799
# runs, rows a run, shards, layers: in shards fewer layers, for a shard's task must be as long as in earnest
SIZES = {"whole units": (10, 16, 1, slice(None)), "products in shards": (1, 320, 4, slice(2, 4))}
BASE = "768, 12 layers (BERT-base)"
WIDTHS = {"384, 6 layers": (6, 384, 12), BASE: (12, 768, 12)}
FIT_TOKENS = (512, 1024)
GBIT = 10.0  # assumed, of the client's network
WORKERS = 64


def main() -> None:
    options = parser(__doc__, 2)
    options.add_argument("--data", default="../shared/data/sst2/train.parquet")
    options.add_argument("--mnli", default="../shared/data/mnli/train_9k.parquet")
    options.add_argument("--mnli-rows", type=int, default=392_702, help="of the whole training set")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    began = begin()
    checkpoint, task = load_checkpoint("demo"), task_named("sst2")
    most = max(runs * rows for runs, rows, *_ in SIZES.values())
    examples = task.examples(read_table(arguments.data, split="train", limit=most), checkpoint, "sst2")
    found: dict[str, Any] = {}

    def analysed(hire: Callable[[], Crew], size: str) -> dict[str, float]:
        runs, rows, shards, layers = SIZES[size]
        analysis = Analysis(
            checkpoint, task, examples, blocks_of(checkpoint.config)[layers], rows / len(examples), 0.01,
            arguments.seed, 0, shards,
        )  # fmt: skip
        crew = hire()
        with contextlib.closing(_Kept(crew)) as kept:
            warm = Analysis(checkpoint, task, examples.take(range(4)), analysis.blocks[-1:], 1.0, 0.5, 0)
            list(on_crew(warm, lambda: kept, Silent())(range(4)))
            started = time.perf_counter()
            results = {
                result.run: result for result in on_crew(analysis, lambda: kept, Silent())(range(runs))
            }
            seconds = time.perf_counter() - started
        found.setdefault(size, []).append([results[run].lambdas for run in range(runs)])
        return {"seconds": seconds, "products": sum(result.products for result in results.values())}

    with cluster() as start_worker:
        variants: dict[str, Callable[[], dict[str, float]]] = {}
        for size in SIZES:
            for workers in (1, 2):
                variants[f"processes, {size}, {workers}"] = lambda size=size, workers=workers: analysed(
                    lambda: ProcessCrew(workers), size
                )
                variants[f"Dask, {size}, {workers}"] = lambda size=size, workers=workers: analysed(
                    lambda: _FirstOf(Cluster(f"tcp://127.0.0.1:{PORT}"), workers), size
                )
        start_worker(0)
        start_worker(1)
        samples = rounds(variants, arguments.repeats, seed=arguments.seed, patience=arguments.patience)
        overheads = [
            overhead(lambda: ProcessCrew(1)),
            overhead(lambda: _FirstOf(Cluster(f"tcp://127.0.0.1:{PORT}"), 1)),
        ]
    same = all(lambdas == all_of[0] for all_of in found.values() for lambdas in all_of)
    speeds, goals = [], []
    for size in SIZES:
        for kind in ("processes", "Dask"):
            one, two = (values(samples, f"{kind}, {size}, {workers}") for workers in (1, 2))
            speeds.append([kind, size, spread(one), spread(two), ratio(one, two)])
            goals.append(goal(f"{kind}, {size}: time of two workers to one's", ratio(two, one), 1 / 1.9))
    products = statistics.mean(s["products"] for s in samples if "whole" in s["variant"]) / (
        SIZES["whole units"][0] * checkpoint.config.layers
    )
    client = {name: client_steps(hidden) for name, (_, hidden, _) in WIDTHS.items()}
    fits = {name: fitted(*shape) for name, shape in WIDTHS.items()}
    lengths = mnli_tokens(checkpoint, arguments.mnli)
    tables = [
        {
            "title": f"1 and 2 workers, SST-2 rows of the demo; lambdas all bit for bit the same: {same}",
            "columns": ["kind", "units", "1 worker, s", "2 workers, s", "times as fast"],
            "rows": speeds,
        },
        {
            "title": "What a task costs on top of its computation, one worker",
            "columns": ["kind", "a task that sends numbers, ms"],
            "rows": [["processes", overheads[0]], ["Dask", overheads[1]]],
        },
        client_table(client),
        threads_table(checkpoint, task, examples, arguments.seed),
        fit_table(fits),
        prediction(fits[BASE], client[BASE], lengths, arguments.mnli_rows, products),
    ]
    save("scaling", CLAIM, arguments, began, samples, tables, goals)


class _Kept:
    """A crew that outlives its dispatcher, so that starting it is not timed."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def __getattr__(self, name: str) -> Any:
        return getattr(self._crew, name)

    def close(self, session: str | None = None) -> None:
        if session is None:
            self._crew.close("")


class _FirstOf(DaskCrew):
    """The first workers of a cluster, by address."""

    def __init__(self, cluster: Cluster, count: int) -> None:
        super().__init__(cluster)
        self._count = count
        deadline = time.monotonic() + 60
        while len(self.lanes()) < count and time.monotonic() < deadline:
            time.sleep(0.1)

    def lanes(self) -> list[Any]:
        return sorted(super().lanes(), key=lambda lane: lane.name)[: self._count]


@contextlib.contextmanager
def cluster() -> Iterator[Callable[[int], None]]:
    """A scheduler; the function given starts a worker on a core."""
    processes: list[subprocess.Popen[bytes]] = []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(kind: str, *options: str) -> int:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options, "--no-dashboard"]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        processes.append(process)
        return process.pid

    with tempfile.TemporaryDirectory() as folder:

        def worker(core: int) -> None:
            where = ["--local-directory", folder, "--nthreads", "1", "--no-nanny"]
            pid = start("worker", f"tcp://127.0.0.1:{PORT}", *where)
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(pid, {cores[core % len(cores)]})

        start("scheduler", "--host", "127.0.0.1", "--port", str(PORT))
        try:
            yield worker
        finally:
            for process in reversed(processes):
                process.kill()
                process.wait()


def overhead(hire: Callable[[], Crew], runs: int = 40) -> float:
    """Milliseconds a task takes beyond what its worker computes, with a model of nearly no computation."""
    with tempfile.TemporaryDirectory() as folder:
        tiny = load_checkpoint(str(make_tiny(Path(folder) / "tiny", layers=1, hidden=8, intermediate=8)))
    examples = random_examples(runs, 4, 20, 0)
    analysis = Analysis(tiny, task_named("sst2"), examples, blocks_of(tiny.config), 1 / runs, 0.5, 0)
    with contextlib.closing(_Kept(hire())) as kept:
        list(on_crew(analysis, lambda: kept, Silent())(range(4)))
        started = time.perf_counter()
        results = list(on_crew(analysis, lambda: kept, Silent())(range(4, runs)))
        seconds = time.perf_counter() - started
    return 1000 * (seconds - sum(result.seconds for result in results)) / len(results)


def client_steps(hidden: int) -> dict[str, float]:
    """Seconds of what the client itself does for a product with a layer of this width."""
    n = layer_size(hidden)
    v, total = torch.randn(n), torch.zeros(n, dtype=torch.float64)
    basis = torch.randn(16, n)
    return {
        "pack": _least(lambda: pack("vector", (v.numpy(), {}))),
        "add": _least(lambda: total.add_(v)),
        "orthogonalise": _least(lambda: [v - (basis @ v) @ basis for _ in range(2)]),
    }


def layer_size(hidden: int) -> int:
    """Parameters of an encoder layer."""
    return 12 * hidden**2 + 13 * hidden


def client_table(client: dict[str, dict[str, float]]) -> dict[str, Any]:
    rows = [
        [
            name,
            f"{4 * layer_size(hidden) / 2**20:.1f}",
            *(f"{1000 * seconds:.0f}" for seconds in client[name].values()),
        ]
        for name, (_, hidden, _) in WIDTHS.items()
    ]
    columns = [
        "width",
        "a vector, MB",
        "name and pack it, ms",
        "add a shard's sums, ms",
        "Lanczos step of 16, ms",
    ]
    return {"title": "What the client does for a product", "columns": columns, "rows": rows}


def _least(step: Callable[[], Any], times: int = 5) -> float:
    """CPU seconds of a step on one thread: others on the core are not counted."""
    taken = []
    for _ in range(times):
        started = time.process_time()
        step()
        taken.append(time.process_time() - started)
    return min(taken)


def threads_table(checkpoint: Any, task: Any, examples: Examples, seed: int) -> dict[str, Any]:
    """Whether the number of threads shows in the numbers."""
    found = {}
    for threads in (1, 1, 2):
        torch.set_num_threads(threads)
        result = sensitivity(checkpoint, task, examples.take(range(16)), runs=1, fraction=1.0, seed=seed)
        found.setdefault(threads, []).append(np.array([block.lambdas[0] for block in result.blocks]))
    torch.set_num_threads(1)
    again = np.abs(found[1][1] / found[1][0] - 1).max()
    other = np.abs(found[2][0] / found[1][0] - 1).max()
    return {
        "title": "Largest relative difference of a lambda (16 rows, six layers) from that with one thread",
        "columns": ["one thread again", "two threads"],
        "rows": [[f"{again:.1e}", f"{other:.1e}"]],
    }


def fitted(layers: int, hidden: int, heads: int) -> dict[str, Any]:
    """t = a + tokens (b layers passed + c), seconds of a shard's part of a product, nothing kept, rounded."""
    with tempfile.TemporaryDirectory() as folder:
        made = make_tiny(
            Path(folder) / "model", "sequence", layers=layers, hidden=hidden, heads=heads,
            intermediate=4 * hidden, positions=64, scale=0.02,
        )  # fmt: skip
        checkpoint = load_checkpoint(str(made))
    rows, seconds = [], []
    for tokens in FIT_TOKENS:
        examples = random_examples(tokens // 32, 32, 20, 0)
        for layer in (0, layers // 2, layers - 2):
            inputs = LayerInputs(checkpoint, task_named("sst2"), examples, keep_bytes=0)
            hessian = BlockHessian(inputs, blocks_of(checkpoint.config)[layer])
            v = random_start(hessian.size, 0)
            hessian.sums(v, hessian.has_fast)
            seconds.append(_least(lambda hessian=hessian, v=v: hessian.sums(v, hessian.has_fast), 2))
            rows.append([1.0, tokens * (layers - layer), tokens])
            print(
                f"width {hidden}, {tokens} tokens, layer {layer}: {seconds[-1]:.2f} s",
                file=sys.stderr,
                flush=True,
            )
    (a, b, c), *_ = np.linalg.lstsq(np.array(rows), np.array(seconds), rcond=None)
    off = np.abs(np.array(rows) @ np.array([a, b, c]) / np.array(seconds) - 1).max()
    return {
        "a": a,
        "b": b,
        "c": c,
        "off": off,
        "layers": layers,
        "hidden": hidden,
        "config": checkpoint.config,
    }


def fit_table(fits: dict[str, dict[str, Any]]) -> dict[str, Any]:
    rows = [
        [name, f"{f['a']:.2f}", f"{1e3 * f['b']:.3f}", f"{1e3 * f['c']:.3f}", f"{100 * f['off']:.0f} %"]
        for name, f in fits.items()
    ]
    return {
        "title": "Seconds of a shard's part of a product, nothing kept: a + tokens (b layers passed + c)",
        "columns": ["width", "a, s", "b, ms a token and layer", "c, ms a token", "farthest sample"],
        "rows": rows,
    }


def mnli_tokens(checkpoint: Any, data: str) -> float:
    """Mean tokens of an MNLI pair, by the demo's tokenizer, at most 128."""
    table = read_table(data, split="train", limit=2000)
    lengths = [
        min(128, len(checkpoint.tokenizer.encode(str(a), str(b)).ids))
        for a, b in zip(table["premise"], table["hypothesis"], strict=True)
    ]
    return float(np.mean(lengths))


def prediction(
    fit: dict[str, Any], client: dict[str, float], length: float, rows: int, products: float
) -> dict[str, Any]:
    """10 runs of 10 % of MNLI with BERT-base on `WORKERS` one-core workers like this core."""
    count, layers = round(0.1 * rows), fit["layers"]
    n = layer_size(fit["hidden"])
    lengths = [round(length)] * count
    ids = [[0] * tokens for tokens in lengths]
    examples = make_examples(ids, ids, [0] * count, pd.DataFrame(index=range(count)), "mnli")
    shards = len(cut(examples, shards_of_a_run(fit["config"], examples, 1.0)))
    tokens = count * length
    task = [fit["a"] + tokens / shards * (fit["b"] * (layers - layer) + fit["c"]) for layer in range(layers)]
    compute = [shards * seconds / WORKERS for seconds in task]  # of a product
    waves = [math.ceil(shards / WORKERS) * seconds for seconds in task]
    sent = (shards + WORKERS) * 4 * n / (GBIT * 1e9 / 8)
    here = client["pack"] + shards * client["add"] + client["orthogonalise"]
    product = [max(wave, sent, here) for wave in waves]
    hours = 10 * products * sum(product) / 3600
    one = 10 * products * sum(shards * seconds for seconds in task) / 3600
    return {
        "title": f"BERT-base, 10 runs of {count} MNLI pairs, predicted",
        "columns": ["what", "value"],
        "rows": [
            ["tokens of a pair, mean (measured, 2,000 pairs)", f"{length:.1f}"],
            ["products a block (measured, demo)", f"{products:.1f}"],
            ["shards of a run", f"{shards}"],
            ["a task: first layer, last layer, s", f"{task[0]:.1f}, {task[-1]:.1f}"],
            [
                f"a product on {WORKERS} workers: first layer, last layer, s",
                f"{product[0]:.0f}, {product[-1]:.0f}",
            ],
            [f"of it what the client's network is busy, at an assumed {GBIT:g} Gbit/s, s", f"{sent:.0f}"],
            ["of it what the client computes itself, s", f"{here:.0f}"],
            ["all, one worker, hours", f"{one:.0f}"],
            [f"all, {WORKERS} workers, hours", f"{hours:.1f}"],
            [f"efficiency of {WORKERS} workers", f"{one / hours / WORKERS:.2f}"],
            ["bound by the computing alone, hours", f"{10 * products * sum(compute) / 3600:.1f}"],
        ],
    }


if __name__ == "__main__":
    main()
