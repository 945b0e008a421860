"""Runs in worker processes: the same numbers, and a clear end whatever happens."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature import Analysis, RunResult, Sensitivity, blocks_of, sensitivity
from qbert_core.errors import Cancelled, InputError
from qbert_core.runtime.events import Silent
from qbert_core.runtime.executors import in_processes
from qbert_core.runtime.lanes import shares
from qbert_core.tasks import Examples, task_named

SST2 = task_named("sst2")
SENTENCES = ("good", "a bad film", "very slow", "they like it", "clever", "the actor was great", "awful")


@pytest.fixture(scope="module")
def examples(tiny: Checkpoint) -> Examples:
    table = pd.DataFrame({"sentence": SENTENCES, "label": [i % 2 for i in range(len(SENTENCES))]})
    return SST2.examples(table, tiny, "seven sentences")


def analysed(
    tiny: Checkpoint, examples: Examples, workers: int, runs: int = 6, events: Silent | None = None
) -> tuple[Sensitivity, list[RunResult]]:
    analysis = Analysis(tiny, SST2, examples, blocks_of(tiny.config), 0.5, 0.01, 2)
    kept: list[RunResult] = []
    result = sensitivity(
        tiny, SST2, examples, runs=runs, fraction=0.5, seed=2, on_run=kept.append,
        compute=in_processes(analysis, workers, events or Silent()),
    )  # fmt: skip
    return result, kept


def test_workers_find_what_one_process_finds(tiny: Checkpoint, examples: Examples) -> None:
    inline = sensitivity(tiny, SST2, examples, runs=6, fraction=0.5, seed=2)
    found, kept = analysed(tiny, examples, 2)
    assert sorted(run.run for run in kept) == list(range(6))
    for ours, theirs in zip(found.blocks, inline.blocks, strict=True):
        assert ours.lambdas == pytest.approx(theirs.lambdas, rel=1e-5)
    assert found.hvp_count == pytest.approx(inline.hvp_count, abs=2)
    assert found.stability is not None
    assert inline.stability is not None
    assert found.stability.chosen == inline.stability.chosen


class Hook(Silent):
    """Does something to the workers at the first look, then notes when looks stop."""

    def __init__(self, act: str) -> None:
        self.act = act
        self.looks = 0

    def check(self) -> None:
        self.looks += 1
        children = workers_of(os.getpid())
        if self.looks > 2 and children:
            if self.act == "cancel":
                raise Cancelled
            os.kill(children[0], signal.SIGKILL)


def workers_of(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_text()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z" and "spawn_main" in command:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
@pytest.mark.parametrize(("act", "error"), [("cancel", Cancelled), ("kill", InputError)])
def test_workers_end_at_once_when_cancelled_or_broken(
    tiny: Checkpoint, examples: Examples, act: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        analysed(tiny, examples, 2, runs=2000, events=Hook(act))
    if act == "kill":
        assert "fewer --workers" in str(caught.value)
    deadline = time.monotonic() + 5
    while workers_of(os.getpid()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers_of(os.getpid()) == []


def test_no_workers_are_refused(tiny: Checkpoint, examples: Examples) -> None:
    with pytest.raises(InputError, match="workers is 0; expected at least 1"):
        analysed(tiny, examples, 0)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="pins threads to cores on Linux")
def test_cores_are_dealt_out_once() -> None:
    cores = sorted(os.sched_getaffinity(0))
    for workers in range(1, len(cores) + 1):
        dealt = shares(workers)
        assert sorted(core for share in dealt for core in share) == cores
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    assert shares(len(cores) + 1) == [tuple(cores)] * (len(cores) + 1)
