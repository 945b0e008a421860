"""How much data a ranking needs: lambda over draws of growing size, and when its high set is stable.

On real training rows (`../shared/data`) of one task and a model finetuned on it, layer by layer. Three
questions. How do mean, spread and sign of lambda change as a draw grows? How sure is the set of the K most
sensitive layers after all runs of a size? And is `--until-stable` right: runs of one size are put in random
orders, the rule stops each of them, and the set it stopped with is compared with the set that all runs of that
size give.

Finished runs are kept in a file beside the result (`--runs-file`), so that the study can be interrupted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import Others
from benchmarks.realdata import FILES, training_data
from benchmarks.record import begin, parser, save
from qbert_core.checkpoints import load_checkpoint
from qbert_core.curvature import blocks_of, draw, run_blocks, stability
from qbert_core.tasks import task_named
from qbert_core.tasks.data import read_table

CLAIM = "A ranking that is stable for the bits needs a small part of the paper's 10 runs x 10 % of the data"
SIZES = {16: 100, 64: 60, 256: 12, 1024: 4}  # rows a run -> runs
ORDERS = 60  # random orders of the runs of one size
CONFIDENCE = 0.95
PAPER = (10, 0.1)  # runs, share of the data


def main() -> None:
    options = parser(__doc__, 1)
    options.add_argument("--model", default="demo")
    options.add_argument("--task", default="sst2", choices=tuple(FILES))
    options.add_argument("--sizes", default=",".join(f"{n}x{runs}" for n, runs in SIZES.items()))
    options.add_argument("--high", type=int, default=3)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--runs-file", type=Path, default=Path("curvature_data.runs.jsonl"))
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    began = begin()
    sizes = {int(n): int(runs) for n, runs in (part.split("x") for part in arguments.sizes.split(","))}
    samples = measure(arguments, sizes)
    pools = {n: [s for s in samples if s["rows"] == n] for n in sizes}
    total = samples[0]["of"]
    name = "curvature_data" if arguments.task == "sst2" else f"curvature_data_{arguments.task}"
    save(
        name, CLAIM, arguments, began, samples,
        [sizes_table(pools), sets_table(pools, arguments.high), stop_table(pools, arguments, total)], [],
        command=f"python -m benchmarks.curvature_data {' '.join(sys.argv[1:])}".strip(),
    )  # fmt: skip


def measure(arguments: Any, sizes: dict[int, int]) -> list[dict[str, Any]]:
    """Every run of every size; those in the file are taken from there."""
    checkpoint, task = load_checkpoint(arguments.model), task_named(arguments.task)
    data = str(training_data(arguments.task))
    examples = task.examples(read_table(data, split="train"), checkpoint, data)
    blocks = blocks_of(checkpoint.config)
    known: dict[tuple[int, int], dict[str, Any]] = {}
    if arguments.runs_file.is_file():
        for line in arguments.runs_file.read_text().splitlines():
            run = json.loads(line)
            if (run["model"], run["data"]) == (checkpoint.fingerprint, examples.fingerprint):
                known[run["rows"], run["round"]] = run
    for rows, runs in sizes.items():
        for number in range(runs):
            if (rows, number) in known:
                continue
            others = Others()
            chosen = examples.take(draw(len(examples), rows / len(examples), arguments.seed, number))
            *_, result = run_blocks(checkpoint, task, chosen, blocks, number, 0.01, arguments.seed)
            known[rows, number] = {
                "variant": f"{rows} rows", "rows": rows, "round": number, "of": len(examples),
                "tokens": int(chosen.lengths.sum()), "lambdas": list(result.lambdas),
                "residual": max(result.residuals), "risk": max(result.risks), "products": result.products,
                "seconds": result.seconds, "others": others.seconds() / result.seconds, "kept": True,
                "disturbed": False, "model": checkpoint.fingerprint, "data": examples.fingerprint,
            }  # fmt: skip
            with arguments.runs_file.open("a") as file:
                file.write(json.dumps(known[rows, number]) + "\n")
            print(
                f"{rows} rows, run {number + 1} of {runs}: {result.seconds:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    return [known[rows, number] for rows, runs in sizes.items() for number in range(runs)]


def lambdas_of(pool: list[dict[str, Any]]) -> np.ndarray:
    return np.array([run["lambdas"] for run in pool])


def sizes_table(pools: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """Mean, spread, sign and Omega of every layer, size by size."""
    rows = []
    for n, pool in pools.items():
        values = lambdas_of(pool)
        for layer, column in enumerate(values.T):
            rows.append([
                f"{n}", f"L{layer + 1}", f"{len(column)}", f"{column.mean():.2f}", f"{column.std():.2f}",
                f"{abs(column.mean()) + column.std():.2f}", f"{np.abs(column).mean():.2f}",
                f"{int((column < 0).sum())} of {len(column)}",
            ])  # fmt: skip
    columns = ["rows a run", "layer", "runs", "mean", "std", "Omega", "mean magnitude", "negative"]
    return {"title": "Eigenvalues as the draw grows", "columns": columns, "rows": rows}


def sets_table(pools: dict[int, list[dict[str, Any]]], high: int) -> dict[str, Any]:
    """The ranking after all runs of a size, and how sure its set is."""
    rows = []
    for n, pool in pools.items():
        values = lambdas_of(pool)
        omegas = np.abs(values.mean(0)) + values.std(0)
        found = stability(values.tolist(), high=high, confidence=CONFIDENCE)
        order = " ".join(f"L{i + 1}" for i in np.argsort(-omegas, kind="stable"))
        by_mean = " ".join(f"L{i + 1}" for i in np.argsort(-np.abs(values.mean(0)), kind="stable"))
        sure = "" if found is None else f"{found.probability:.3f}"
        chosen = "" if found is None else " ".join(f"L{i + 1}" for i in found.chosen)
        rows.append([f"{n}", f"{len(pool)}", order, by_mean, chosen, sure])
    columns = ["rows a run", "runs", "by Omega", "by mean alone", f"set of {high}", "bootstrap probability"]
    return {"title": "Rankings", "columns": columns, "rows": rows}


def stop_table(pools: dict[int, list[dict[str, Any]]], arguments: Any, total: int) -> dict[str, Any]:
    """The stopping rule on random orders of the runs of a size."""
    rows = []
    paper = PAPER[0] * PAPER[1] * total
    for n, pool in pools.items():
        if len(pool) < 20:
            continue
        values = lambdas_of(pool)
        for high in range(1, values.shape[1]):
            truth = stability(values.tolist(), high=high, confidence=CONFIDENCE)
            assert truth is not None
            needed, right, never = [], 0, 0
            for order in range(ORDERS):
                mixed = values[np.random.default_rng([arguments.seed, order]).permutation(len(values))]
                found = None
                for runs in range(3, len(values) + 1):
                    found = stability(mixed[:runs].tolist(), high=high, confidence=CONFIDENCE, before=found)
                    if found is not None and found.stable_after is not None:
                        break
                assert found is not None
                if found.stable_after is None:
                    never += 1
                    continue
                needed.append(found.stable_after)
                right += found.chosen == truth.chosen
            middle = float(np.median(needed)) if needed else float("nan")
            rows.append([
                f"{n}", f"{high}", f"{truth.probability:.3f}",
                f"{middle:g} ({min(needed)} to {max(needed)})" if needed else "never",
                f"{right} of {len(needed)}", f"{never} of {ORDERS}",
                f"{paper / (middle * n):.0f}" if needed else "",
            ])  # fmt: skip
    columns = ["rows a run", "high", "probability after all runs", "runs until stable, median (range)",
               "same set as all runs", "never stable", "paper's 10 x 10 % of examples, times ours"]  # fmt: skip
    return {"title": "--until-stable on random orders of the runs", "columns": columns, "rows": rows}


if __name__ == "__main__":
    main()
