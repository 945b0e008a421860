"""From an edit in the layer table to its numbers on screen, in a real browser on the demo.

Peer: the engine alone, given the same edits in a process without a page; the difference is what the
app and the browser add. The clock starts at the key press that sets a cell and stops at the frame
that shows numbers of exactly the edited plan (its digest is on the state line). No edit leads to a plan
that was measured before.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from app.figures import fmt_percent, layer_label
from app.table import edited_plan
from app.workspace import Source, Workspace, open_workspace
from benchmarks.app_server import Server, browser, new_page, running_app
from benchmarks.machine import Others, Patience, load_average
from benchmarks.record import Sample, Table, begin, goal, is_disturbed, parser, save
from benchmarks.stream import timed_stream
from qbert_core.quantization import Plan, sites_of

WATCH = Path(__file__).with_name("watch.js")
COLUMNS = ("Attention", "FFN")
BITS = range(2, 9)
THINKING = 0.5  # seconds between the numbers of one edit and the next
HAND = 0.1  # seconds from one key to the next
LOST = 20  # seconds after which an edit counts as lost
CLAIM = "An edit shows first numbers and final numbers fast enough to tune by hand"
PRESETS_SHOWN = """count => {
    const shown = new Set();
    for (const plot of document.querySelectorAll(".js-plotly-plot"))
        for (const trace of plot.data ?? [])
            for (const point of trace.customdata ?? []) if (point[0]?.length === 16) shown.add(point[0]);
    return shown.size >= count;
}"""


@dataclass(frozen=True)
class Edit:
    """One cell of the layer table, and the plan the table makes with it."""

    layer: int
    column: int  # of COLUMNS
    bits: int
    plan: Plan


class Edits:
    """Random cells, one after the other, each to a plan that was not there before."""

    def __init__(self, workspace: Workspace, seed: int) -> None:
        self._start = workspace.start
        self._sites = sites_of(workspace.checkpoint.config)
        self._layers = workspace.checkpoint.config.layers
        self._seen = {plan.digest for plan in workspace.presets}
        self._draw = random.Random(seed)
        self._cells: dict[int, dict[str, Any]] = {}

    def start_over(self) -> None:
        """The table is as a new session finds it."""
        self._cells = {}

    def next(self) -> Edit:
        while True:
            layer, column = self._draw.randrange(self._layers), self._draw.randrange(len(COLUMNS))
            bits = self._draw.choice(BITS)
            cells = {**self._cells, layer: {**self._cells.get(layer, {}), COLUMNS[column]: str(bits)}}
            plan = edited_plan(self._start, self._sites, cells, {})
            if plan.digest not in self._seen:
                self._seen.add(plan.digest)
                self._cells = cells
                return Edit(layer, column, bits, plan)


def in_browser(page: Page, edit: Edit) -> dict[str, Any] | None:
    """Make the edit as a person does; seconds to first and to final numbers, and what is shown.

    None when the page never shows all numbers of that plan."""
    page.get_by_label(f"{COLUMNS[edit.column]} bits of {layer_label(edit.layer)}", exact=True).focus()
    page.wait_for_timeout(1000 * HAND)
    page.evaluate("plan => watchPlan(plan)", edit.plan.digest)
    page.keyboard.press(str(edit.bits))
    try:
        page.wait_for_function("() => watched().final !== null", timeout=1000 * LOST, polling=100)
    except PlaywrightTimeout:
        return None
    seen = page.evaluate("watched()")
    return {
        "first": (seen["first"] - seen["pressed"]) / 1000,
        "final": (seen["final"] - seen["pressed"]) / 1000,
        "first_n": seen["n"],
        "accuracy": seen["accuracy"],
    }


def in_engine(workspace: Workspace, plan: Plan) -> dict[str, Any]:
    """The same edit without app and browser."""
    first, final, result = timed_stream(workspace.evaluator, plan)
    accuracy = fmt_percent(result.score.metrics["accuracy"])
    return {"engine_first": first, "engine_final": final, "engine_accuracy": accuracy}


def open_page(chromium: Browser, server: Server, presets: int) -> Page:
    page = new_page(chromium)
    page.add_init_script(path=WATCH)
    page.goto(server.address)
    page.wait_for_function(PRESETS_SHOWN, arg=presets, timeout=300_000, polling=200)
    return page


def measure(
    chromium: Browser, server: Server, workspace: Workspace, number: int, seed: int, patience: Patience
) -> list[Sample]:
    samples: list[Sample] = []
    edits = Edits(workspace, seed)
    page = open_page(chromium, server, len(workspace.presets))
    while sum(s["kept"] for s in samples) < number and len(samples) < 3 * number:
        edit = edits.next()
        time.sleep(THINKING)
        patience.wait()
        others, began = Others(), time.perf_counter()
        measured = in_browser(page, edit)
        taken, elapsed = others.seconds(), time.perf_counter() - began
        disturbed = is_disturbed(taken, elapsed)
        sample: Sample = {
            "round": len(samples),
            "variant": f"L{edit.layer + 1} {COLUMNS[edit.column]} {edit.bits}",
            "others": round(taken / elapsed, 3),
            "disturbed": disturbed,
            "lost": measured is None,
            "kept": measured is not None and not (disturbed and patience.left),
        }
        samples.append(sample)
        if measured is None:
            page.close()
            page = open_page(chromium, server, len(workspace.presets))
            edits.start_over()
            continue
        sample |= {**measured, **in_engine(workspace, edit.plan)}
        if sample["accuracy"] != sample["engine_accuracy"]:
            raise SystemExit(f"the page shows {sample['accuracy']}, the engine {sample['engine_accuracy']}")
        if len(samples) % 10 == 0:
            print(f"{len(samples)} edits, load {load_average()[0]}", file=sys.stderr, flush=True)
    return samples


def tables(samples: list[Sample]) -> list[Table]:
    kept = [s for s in samples if s["kept"]]
    rows = []
    for what in ("first", "final"):
        page, engine = ([s[key] for s in kept] for key in (what, f"engine_{what}"))
        added = [a - b for a, b in zip(page, engine, strict=True)]
        for name, times in (
            ("on screen", page),
            ("engine alone", engine),
            ("the app and the browser add", added),
        ):
            rows.append(
                [f"{what} numbers, {name}", *(percentile(times, p) for p in (50, 95)), max(times), len(times)]
            )
    lost = sum(s["lost"] for s in samples)
    rows.append([f"edits lost (not on screen after {LOST} s)", "", "", lost, len(samples)])
    return [{"title": "Seconds from an edit", "columns": ["what", "p50", "p95", "worst", "n"], "rows": rows}]


def goals(samples: list[Sample]) -> list[dict[str, Any]]:
    times = {what: [s[what] for s in samples if s["kept"]] for what in ("first", "final")}
    return [
        goal(f"{what} numbers on screen, p{percent}, seconds", percentile(times[what], percent), limit)
        for what, percent, limit in (("first", 50, 0.3), ("first", 95, 1.0), ("final", 50, 1.0))
    ]


def percentile(numbers: list[float], percent: int) -> float:
    return float(np.percentile(numbers, percent))


def main() -> None:
    options = parser(__doc__, 30)
    arguments = options.parse_args()
    workspace = open_workspace(Source())
    for plan in workspace.presets:
        workspace.evaluator.evaluate(plan)
    with running_app() as server, browser() as chromium:
        server.answers()
        began = begin()
        samples = measure(
            chromium, server, workspace, arguments.repeats, arguments.seed, Patience(arguments.patience)
        )
        version = chromium.version
    save(
        "live", CLAIM, arguments, began, samples, tables(samples), goals(samples),
        measured={"model": workspace.checkpoint.fingerprint, "examples": len(workspace.examples), "chromium": version},
    )  # fmt: skip


if __name__ == "__main__":
    main()
