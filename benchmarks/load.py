"""Thirty sessions on one server, a class that follows a lesson: from an edit to its numbers.

Every session walks through the same list of edits of the layer table at its own pace, and now and then tries
something of its own, which it takes back with its next edit. So most plans repeat, as they do where many
people look at one demo, and some are new. The clock starts when an edit is sent and stops when the server has
sent numbers of exactly the edited plan, on all examples.

Peer: one session alone on the same server, beforehand, with other plans.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from app.table import edited_plan
from app.workspace import Source, Workspace, open_workspace
from benchmarks.app_server import Server, running_app
from benchmarks.machine import Others
from benchmarks.record import Sample, Table, begin, goal, parser, save
from benchmarks.session import Session
from qbert_core.quantization import sites_of

CLAIM = "Thirty sessions share one server: with mostly repeated plans, final numbers within 2 s at p95"
COLUMNS = ("Attention", "FFN")
LESSON = 40  # edits
PATIENCE = 60.0  # seconds after which an edit counts as lost
GOAL = 2.0  # seconds, p95
ALONE = "one session"


@dataclass(frozen=True)
class Edit:
    """A cell, its new value, and the plan that makes."""

    row: int
    column: str
    value: Any
    digest: str
    own: bool  # not one of the lesson's


class Pupil:
    """The edits of one session, without end."""

    def __init__(
        self, workspace: Workspace, lesson: list[tuple[int, str, str]], own: float, seed: list[int]
    ) -> None:
        self._start, self._sites = workspace.start, sites_of(workspace.checkpoint.config)
        self._layers = workspace.checkpoint.config.layers
        self._lesson, self._own = lesson, own
        self._draw = random.Random(str(seed))
        self._cells: dict[int, dict[str, Any]] = {}

    def __iter__(self) -> Iterator[Edit]:
        while True:
            for row, column, bits in self._lesson:
                if self._draw.random() < self._own:
                    yield from self._detour()
                yield self._edit(row, column, bits, own=False)

    def _detour(self) -> Iterator[Edit]:
        """A group count nobody else is likely to choose, and back."""
        row = self._draw.randrange(self._layers)
        before = self._cells.get(row, {}).get("Groups", 128)
        yield self._edit(row, "Groups", self._draw.randrange(2, 384), own=True)
        yield self._edit(row, "Groups", before, own=False)

    def _edit(self, row: int, column: str, value: Any, *, own: bool) -> Edit:
        self._cells = {**self._cells, row: {**self._cells.get(row, {}), column: value}}
        plan = edited_plan(self._start, self._sites, self._cells, {})
        return Edit(row, column, value, plan.digest, own)


def lesson_of(workspace: Workspace, seed: int, length: int = LESSON) -> list[tuple[int, str, str]]:
    """Edits that each change something, from the plan a new session begins with."""
    draw = random.Random(seed)
    layers = workspace.checkpoint.config.layers
    now = {(row, column): "4" for row in range(layers) for column in COLUMNS}
    made = []
    for _ in range(length):
        cell = draw.choice(sorted(now))
        now[cell] = draw.choice([str(bits) for bits in range(2, 9) if str(bits) != now[cell]])
        made.append((*cell, now[cell]))
    return made


async def ready(session: Session, examples: int) -> None:
    await session.open()
    await session.until(
        lambda s: s.shown is not None and s.shown.kind == "current" and s.shown.n == examples, 300
    )


async def measured(session: Session, edit: Edit, examples: int) -> Sample:
    """Send an edit; seconds to its first and its final numbers."""
    began = time.perf_counter()
    await session.edit(edit.row, edit.column, edit.value)

    def shows(n: int) -> bool:
        shown = session.shown
        return shown is not None and shown.kind == "current" and shown.plan == edit.digest and shown.n >= n

    sample: Sample = {"plan": edit.digest, "own": edit.own, "kept": True, "disturbed": False}
    try:
        first = await session.until(lambda _: shows(1), PATIENCE)
        final = await session.until(lambda _: shows(examples), PATIENCE)
    except TimeoutError:
        return sample | {"lost": True, "first": None, "final": None}
    return sample | {"lost": False, "first": first - began, "final": final - began}


async def visit(
    session: Session,
    pupil: Pupil,
    draw: random.Random,
    think: float,
    end: float,
    examples: int,
    asked: set[str],
) -> list[Sample]:
    """Edits with pauses until `end`; `asked` holds every plan that anybody has asked for."""
    samples = []
    edits = iter(pupil)
    await asyncio.sleep(draw.uniform(0, think))
    while time.perf_counter() < end:
        edit = next(edits)
        repeated = edit.digest in asked
        asked.add(edit.digest)
        samples.append(await measured(session, edit, examples) | {"repeated": repeated})
        await asyncio.sleep(draw.expovariate(1 / think))
    return samples


class Memory:
    """Resident memory of the server and its engine, watched once a second."""

    def __init__(self, server: Server) -> None:
        self._process = psutil.Process(server.process)
        self.peak = 0.0

    def now(self) -> float:
        """MB of 2^20 bytes."""
        total = 0
        for process in [self._process, *self._process.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        self.peak = max(self.peak, total / 2**20)
        return total / 2**20

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        times = [p.cpu_times() for p in [self._process, *self._process.children(recursive=True)]]
        return sum(t.user + t.system for t in times)

    async def watch(self) -> None:
        while True:
            self.now()
            await asyncio.sleep(1)


async def run(server: Server, workspace: Workspace, arguments: Any) -> tuple[list[Sample], dict[str, float]]:
    examples, memory, asked = (
        len(workspace.examples),
        Memory(server),
        {plan.digest for plan in workspace.presets},
    )
    alone = Session(server.address)
    await ready(alone, examples)
    await asyncio.sleep(arguments.settle)  # until the presets are measured
    facts = {"memory_one": memory.now()}
    samples: list[Sample] = []
    pupil = iter(Pupil(workspace, lesson_of(workspace, arguments.seed + 1), 0.0, [arguments.seed, -1]))
    for _ in range(arguments.alone):
        edit = next(pupil)
        repeated = edit.digest in asked
        asked.add(edit.digest)
        samples.append(await measured(alone, edit, examples) | {"repeated": repeated, "variant": ALONE})
        await asyncio.sleep(1)
    lesson = lesson_of(workspace, arguments.seed)
    sessions = [Session(server.address) for _ in range(arguments.sessions)]
    began = time.perf_counter()
    await asyncio.gather(*(ready(session, examples) for session in sessions))
    facts["all_open"] = time.perf_counter() - began
    watching = asyncio.create_task(memory.watch())
    spent, others, began = memory.cpu(), Others(), time.perf_counter()
    end = began + 60 * arguments.minutes
    several = await asyncio.gather(*(
        visit(
            session, Pupil(workspace, lesson, arguments.own, [arguments.seed, number]),
            random.Random(str([arguments.seed, number, "pauses"])), arguments.think, end, examples, asked,
        )
        for number, session in enumerate(sessions)
    ))  # fmt: skip
    watching.cancel()
    seconds = time.perf_counter() - began
    facts["cores"], facts["others"] = (memory.cpu() - spent) / seconds, others.cores()
    facts["memory_peak"] = memory.peak
    facts["mb_sent"] = sum(s.bytes for s in sessions) / 2**20
    for session in [alone, *sessions]:
        if session.errors:
            raise SystemExit(f"a page showed an error: {session.errors[0]}")
        await session.close()
    facts["memory_after"] = memory.now()
    samples += [sample | {"variant": f"{len(sessions)} sessions"} for own in several for sample in own]
    return [sample | {"others": facts["others"]} for sample in samples], facts


def tables(samples: list[Sample], facts: dict[str, float]) -> list[Table]:
    rows: list[list[Any]] = []
    for variant in dict.fromkeys(s["variant"] for s in samples):
        own = [s for s in samples if s["variant"] == variant]
        for name, kept in (
            ("all edits", own),
            ("plan somebody had asked for", [s for s in own if s["repeated"]]),
            ("new plan", [s for s in own if not s["repeated"]]),
        ):
            found = [s for s in kept if not s["lost"]]
            for what in ("first", "final"):
                times = [s[what] for s in found]
                if times:
                    rows.append([
                        variant, name, what, *(float(np.percentile(times, p)) for p in (50, 95)), max(times),
                        len(times), len(kept) - len(found),
                    ])  # fmt: skip
    return [
        {
            "title": "Seconds from an edit to its numbers",
            "columns": ["sessions", "edits", "numbers", "p50", "p95", "worst", "n", "lost"],
            "rows": rows,
        },
        {
            "title": "The server and its engine",
            "columns": ["what", "value"],
            "rows": [
                ["memory with one session, MB", facts["memory_one"]],
                ["memory at its peak, MB", facts["memory_peak"]],
                ["memory after all have left, MB", facts["memory_after"]],
                ["processor, cores on average", facts["cores"]],
                ["until all sessions showed their numbers, s", facts["all_open"]],
                ["sent to all sessions, MB", facts["mb_sent"]],
                ["different plans asked for", len({s["plan"] for s in samples})],
            ],
        },
    ]


def main() -> None:
    options = parser(__doc__, 1)
    options.add_argument("--sessions", type=int, default=30)
    options.add_argument("--minutes", type=float, default=3)
    options.add_argument(
        "--think", type=float, default=8, help="seconds between two edits of a session, on average"
    )
    options.add_argument(
        "--own", type=float, default=0.1, help="how often a pupil tries something of its own"
    )
    options.add_argument("--alone", type=int, default=15, help="edits of the single session beforehand")
    options.add_argument("--settle", type=float, default=20, help="seconds to wait for the presets")
    arguments = options.parse_args()
    workspace = open_workspace(Source())
    with running_app() as server:
        server.answers()
        began = begin()
        samples, facts = asyncio.run(run(server, workspace, arguments))
    final = [PATIENCE if s["lost"] else s["final"] for s in samples if s["variant"] != ALONE]
    judged = goal(
        f"{arguments.sessions} sessions, final numbers, p95, s", float(np.percentile(final, 95)), GOAL
    )
    save(
        "load", CLAIM, arguments, began, samples, tables(samples, facts), [judged],
        measured={"model": workspace.checkpoint.fingerprint, "examples": len(workspace.examples)},
    )  # fmt: skip


if __name__ == "__main__":
    main()
