"""Interleaved repeats, their ratios, and the JSON they end in."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.machine import Others, Patience, facts, load_average

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TRIES = 4  # of one measurement, when other processes disturb it

Sample = dict[str, Any]  # round, variant, seconds and what else was measured, others, kept
Table = dict[str, Any]  # title, columns, rows; a cell is a text, a number or a spread


def parser(doc: str | None, repeats: int) -> argparse.ArgumentParser:
    """The options every script has."""
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    made.add_argument("--repeats", type=int, default=repeats)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument(
        "--patience", type=float, default=900, help="seconds to wait for a quiet machine, in total"
    )
    made.add_argument("--out", type=Path, help="where the JSON goes instead of benchmarks/results")
    return made


def rounds(
    variants: Mapping[str, Callable[[], dict[str, float]]], repeats: int, *, seed: int, patience: float
) -> list[Sample]:
    """Measure every variant once a round, in an order drawn anew for each round.

    A variant times itself and returns at least `seconds`. One unrecorded round goes first. What other
    processes took is noted beside every sample; a disturbed one is repeated and marked `kept: false`.
    """
    draw, waiting = random.Random(seed), Patience(patience)
    samples: list[Sample] = []
    for number in range(-1, repeats):
        order = list(variants)
        draw.shuffle(order)
        for variant in order:
            tried = measured(variants[variant], waiting, TRIES if number >= 0 else 1)
            if number >= 0:
                samples += [{"round": number, "variant": variant, **sample} for sample in tried]
        print(f"round {number + 1} of {repeats}, load {load_average()[0]}", file=sys.stderr, flush=True)
    return samples


def measured(variant: Callable[[], dict[str, Any]], patience: Patience, tries: int) -> list[Sample]:
    """Measure until nobody disturbs it, at most `tries` times and while patience lasts; the best is kept."""
    tried = [_measure(variant, patience)]
    while tried[-1]["disturbed"] and len(tried) < tries and patience.left:
        tried.append(_measure(variant, patience))
    best = min(tried, key=lambda sample: (sample["disturbed"], sample["others"]))
    return [{**sample, "kept": sample is best} for sample in tried]


def _measure(variant: Callable[[], dict[str, Any]], patience: Patience) -> Sample:
    patience.wait()
    others, began = Others(), time.perf_counter()
    numbers = variant()
    taken, elapsed = others.seconds(), time.perf_counter() - began
    return {**numbers, "others": round(taken / elapsed, 3), "disturbed": is_disturbed(taken, elapsed)}


def is_disturbed(taken: float, elapsed: float) -> bool:
    """Whether others took so many CPU seconds that a time is worth little; the kernel counts in
    hundredths of a second."""
    return taken > 0.03 + 0.1 * elapsed


def values(samples: Sequence[Sample], variant: str, key: str = "seconds") -> list[float]:
    """What was kept of a variant, in the order of the rounds."""
    return [s[key] for s in samples if s["variant"] == variant and s["kept"]]


def spread(numbers: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(numbers), "min": min(numbers), "max": max(numbers)}


def ratio(numbers: Sequence[float], to: Sequence[float]) -> dict[str, float]:
    """The spread of the ratios round by round."""
    return spread([a / b for a, b in zip(numbers, to, strict=True)])


def goal(what: str, value: dict[str, float] | float, limit: float) -> dict[str, Any]:
    """A claim as a number that must not exceed `limit`; a spread is judged by its median."""
    number = value["median"] if isinstance(value, dict) else value
    return {"what": what, "value": value, "limit": limit, "met": number <= limit}


def save(
    name: str,
    claim: str,
    arguments: argparse.Namespace,
    began: tuple[datetime, list[float]],
    samples: Sequence[Sample],
    tables: Sequence[Table],
    goals: Sequence[dict[str, Any]],
    **more: Any,
) -> dict[str, Any]:
    """Write results/NAME.json, print its tables, and return it."""
    from benchmarks.table import render

    kept = [s["others"] for s in samples if s["kept"]]
    document = {
        "name": name,
        "claim": claim,
        "command": f"python -m benchmarks.{name} {' '.join(sys.argv[1:])}".strip(),
        "date": began[0].isoformat(timespec="seconds"),
        "minutes": round((datetime.now(UTC) - began[0]).total_seconds() / 60, 1),
        "commit": commit(),
        "machine": facts(),
        "load_average": {"before": began[1], "after": load_average()},
        "cores_taken_by_others": {"median": statistics.median(kept), "max": max(kept)},
        "repeated_because_disturbed": sum(s["disturbed"] and not s["kept"] for s in samples),
        "settings": {key: str(value) for key, value in vars(arguments).items() if key != "out"},
        **more,
        "goals": list(goals),
        "tables": list(tables),
        "samples": list(samples),
    }
    path = arguments.out or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_json(document), encoding="utf-8")
    print(render(document))
    return document


def begin() -> tuple[datetime, list[float]]:
    """Now, and the load before anything is measured."""
    return datetime.now(UTC), load_average()


def commit() -> str:
    """What is checked out."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _json(document: dict[str, Any]) -> str:
    """Indented, a sample a line, numbers with six digits."""
    short = rounded(document)
    samples = ",\n".join("    " + json.dumps(s) for s in short.pop("samples"))
    return json.dumps(short, indent=1)[:-2] + f',\n "samples": [\n{samples}\n ]\n}}\n'


def rounded(document: dict[str, Any]) -> dict[str, Any]:
    """JSON with numbers of six digits."""
    made: dict[str, Any] = json.loads(
        json.dumps(document), parse_float=lambda text: float(f"{float(text):.6g}")
    )
    return made
