"""What the Hessian analysis costs: layers x examples x length x width, up to BERT-base, with peak memory.

Random weights and token ids: time and memory do not depend on what they are, the number of Lanczos steps does, so
one product is measured, not a whole eigenvalue. One size at a time is varied around the demo's (6 layers, 64
examples of 16 tokens, 384 wide); BERT-base is the last line. Each size runs in a process of its own, so that peak
memory is its own; the product is the first layer's, the dearest one.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import Others
from benchmarks.record import ROOT, begin, parser, save, spread

CLAIM = "One product's time grows in proportion to layers, examples and the square of width"
USUAL = {"layers": 6, "examples": 64, "length": 16, "hidden": 384}
VARIED = {
    "layers": (3, 12),
    "examples": (16, 256, 1024),
    "length": (32, 64, 128),
    "hidden": (192, 768),
}
BERT_BASE = {"layers": 12, "examples": 64, "length": 32, "hidden": 768}


def main() -> None:
    options = parser(__doc__, 3)
    options.add_argument("--one", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.one:
        print(json.dumps(measure(json.loads(arguments.one), arguments.repeats)))
        return
    began = begin()
    sizes = [
        USUAL,
        *({**USUAL, name: value} for name, values in VARIED.items() for value in values),
        BERT_BASE,
    ]
    samples = []
    for size in sizes:
        others, started = Others(), time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.curvature_cost", "--one", json.dumps(size),
                   "--repeats", str(arguments.repeats)]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        taken = others.seconds() / (time.perf_counter() - started)
        samples.append({
            **size, **json.loads(done.stdout.splitlines()[-1]), "variant": json.dumps(size), "round": 0,
            "others": round(taken, 3), "kept": True, "disturbed": False,
        })  # fmt: skip
        print(size, done.stdout.splitlines()[-1], file=sys.stderr, flush=True)
    save("curvature_cost", CLAIM, arguments, began, samples, [table(samples), growth(samples)], [])


def measure(size: dict[str, int], repeats: int) -> dict[str, Any]:
    """Seconds to linearize, seconds a product, and megabytes, of one size."""
    from benchmarks.growth import random_examples
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.curvature import BlockHessian, LayerInputs, blocks_of, random_start
    from qbert_core.tasks import task_named
    from tests.tiny import make_tiny

    with tempfile.TemporaryDirectory() as folder:
        make_tiny(
            Path(folder), "sequence", layers=size["layers"], hidden=size["hidden"], heads=12,
            intermediate=4 * size["hidden"], positions=512,
        )  # fmt: skip
        checkpoint = load_checkpoint(folder)
    before = resident()
    examples = random_examples(size["examples"], size["length"], 20, 0)
    inputs = LayerInputs(checkpoint, task_named("sst2"), examples)
    hessian = BlockHessian(inputs, blocks_of(checkpoint.config)[0])
    v = random_start(hessian.size, 0)
    started = time.perf_counter()
    for index in range(len(inputs.batches)):
        inputs.linearized(index, 0)
    linearized = time.perf_counter() - started
    seconds: dict[str, list[float]] = {"exact": [], "rounded": []}
    for _ in range(repeats + 1):
        for name in seconds:
            started = time.perf_counter()
            hessian.matvec(v, fast=name == "rounded")
            seconds[name].append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds": min(seconds["exact"][1:]), "exact": spread(seconds["exact"][1:]),
        "rounded": spread(seconds["rounded"][1:]), "linearized": linearized,
        "model_mb": before, "peak_mb": peak, "parameters": hessian.size, "threads": torch.get_num_threads(),
    }  # fmt: skip


def resident() -> float:
    """Megabytes the process holds now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def table(samples: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [
        [
            f"{s['layers']}", f"{s['examples']}", f"{s['length']}", f"{s['hidden']}", s["linearized"], s["exact"],
            s["rounded"], f"{s['model_mb']:.0f}", f"{s['peak_mb']:.0f}",
        ]
        for s in samples
    ]  # fmt: skip
    columns = ["layers", "examples", "length", "width", "linearize, s", "exact product, s", "rounded product, s",
               "memory before, MB", "peak memory, MB"]  # fmt: skip
    return {
        "title": "A product of the first layer",
        "columns": columns,
        "rows": rows,
    }


def growth(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Slope of log seconds over log size, from the smallest to the largest of each."""
    rows = []
    for name in VARIED:
        alike = [s for s in samples if all(s[other] == USUAL[other] for other in USUAL if other != name)]
        alike.sort(key=lambda s: s[name])
        first, last = alike[0], alike[-1]
        steps = math.log(last[name] / first[name])
        rows.append([
            name, f"{first[name]} to {last[name]}",
            *(f"{math.log(last[kind]['median'] / first[kind]['median']) / steps:.2f}" for kind in ("exact", "rounded")),
        ])  # fmt: skip
    return {"title": "Exponent of the growth", "columns": ["of", "range", "exact", "rounded"], "rows": rows}


if __name__ == "__main__":
    main()
