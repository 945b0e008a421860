"""Runs in worker processes: the same numbers, and a clear end whatever happens."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature import Analysis, RunResult, Sensitivity, blocks_of, sensitivity
from qbert_core.errors import Cancelled, InputError
from qbert_core.parallel import torch_threads
from qbert_core.runtime import dispatch
from qbert_core.runtime.dispatch import Dispatcher
from qbert_core.runtime.events import Silent
from qbert_core.runtime.executors import in_processes, on_executor
from qbert_core.runtime.lanes import Lane, shares
from qbert_core.runtime.worker import BlockTask, Missing, Name, Parcel, engine, pack, perform
from qbert_core.tasks import Examples, task_named
from tests.places import check_place

SST2 = task_named("sst2")
SENTENCES = ("good", "a bad film", "very slow", "they like it", "clever", "the actor was great", "awful")


@pytest.fixture(scope="module")
def examples(tiny: Checkpoint) -> Examples:
    table = pd.DataFrame({"sentence": SENTENCES, "label": [i % 2 for i in range(len(SENTENCES))]})
    return SST2.examples(table, tiny, "seven sentences")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many as the workers have: sums in another order have other last digits."""
    with torch_threads(1):
        yield


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


class AtOnce(Executor):
    """The smallest executor: `submit` does it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.mark.parametrize(("granularity", "shards"), [("layer", 1), ("site", 2)])
@pytest.mark.parametrize("kind", ["at once", "threads", "a pool of processes", "processes"])
def test_every_executor_gives_the_numbers_of_one_process(
    tiny: Checkpoint, examples: Examples, kind: str, granularity: str, shards: int
) -> None:
    if kind == "processes":
        check_place(partial(in_processes, workers=2), tiny, examples, granularity, shards)
    elif kind == "at once":
        check_place(partial(on_executor, executor=AtOnce(), workers=2), tiny, examples, granularity, shards)
    else:
        context = multiprocessing.get_context("spawn")
        pool = ThreadPoolExecutor(2) if kind == "threads" else ProcessPoolExecutor(2, context)
        with pool:
            check_place(partial(on_executor, executor=pool, workers=2), tiny, examples, granularity, shards)


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


class Once(Silent):
    """At the third look, sends one worker a signal."""

    def __init__(self, sent: signal.Signals) -> None:
        self.sent = sent
        self.hit: int | None = None

    def progress(self, done: int, total: int, partial: Any = None) -> None:
        if self.hit is None and done >= 3:
            self.hit = workers_of(os.getpid())[0]
            os.kill(self.hit, self.sent)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_stands_still_costs_nothing_but_time(
    tiny: Checkpoint, examples: Examples, sent: signal.Signals
) -> None:
    """One that stands still is not waited for: others do its task again."""
    events = Once(sent)
    analysis = Analysis(tiny, SST2, examples, blocks_of(tiny.config), 0.5, 0.01, 2)
    found = sensitivity(
        tiny, SST2, examples, runs=8, fraction=0.5, seed=2, events=events,
        compute=in_processes(analysis, 2, events),
    )  # fmt: skip
    here = sensitivity(tiny, SST2, examples, runs=8, fraction=0.5, seed=2)
    assert events.hit is not None
    assert replace(found, seconds=0.0) == replace(here, seconds=0.0)
    assert workers_of(os.getpid()) == []


class Puppets:
    """A crew of two whose futures the test settles itself."""

    def __init__(self) -> None:
        self.sent: list[tuple[Lane, BlockTask, list[Name], Future[Any]]] = []
        self.crew = [self.lane("a"), self.lane("b")]
        self.gone: list[str] = []

    def lane(self, name: str) -> Lane:
        def submit(
            do: Any, session: str, engine: str, threads: int, task: BlockTask, names: list[Name], *things: Any
        ) -> Any:
            future: Future[Any] = Future()
            self.sent.append((lane, task, list(names), future))
            return future

        lane = Lane(name, submit)
        return lane

    def lanes(self) -> list[Lane]:
        return self.crew

    def hand_over(self, parcel: Parcel) -> bytes:
        return parcel.data

    def forget(self, parcel: Parcel) -> None:
        pass

    def lost(self, lane: Lane) -> None:
        self.gone.append(lane.name)
        self.crew = [self.lane(lane.name + "'") if there is lane else there for there in self.crew]

    def is_loss(self, error: BaseException) -> bool:
        return isinstance(error, OSError)

    def close(self, session: str) -> None:
        pass

    def wait(self, count: int) -> list[tuple[Lane, BlockTask, list[Name], Future[Any]]]:
        deadline = time.monotonic() + 20
        while len(self.sent) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(self.sent) == count
        return self.sent


MODEL = pack("model", "a model")


def block(run: int, index: int = 0) -> BlockTask:
    return BlockTask((MODEL.name,), run, index, 1.0)


def test_what_belongs_together_stays_with_a_worker_until_another_has_nothing_to_do() -> None:
    crew = Puppets()
    with Dispatcher(crew) as dispatcher:
        futures = [dispatcher.submit(block(run, index), [MODEL]) for run in (0, 1) for index in (0, 1, 2)]
        (a, first, _, f0), (b, second, _, f1) = crew.wait(2)
        assert {first.run, second.run} == {0, 1}
        f0.set_result("x")
        assert crew.wait(3)[2][:2] == (a, block(first.run, 1))
        assert crew.sent[2][2] == []  # it has the model by now
        crew.sent[2][3].set_result("x")
        assert crew.wait(4)[3][:2] == (a, block(first.run, 2))
        crew.sent[3][3].set_result("x")
        assert crew.wait(5)[4][:2] == (a, block(second.run, 2))  # from the end of the other's
        crew.sent[4][3].set_result("x")
        f1.set_result("x")
        crew.wait(6)[5][3].set_result("x")
        assert [future.result(5) for future in futures] == ["x"] * 6
        assert b is not a


def test_a_task_that_loses_three_workers_is_given_up() -> None:
    crew = Puppets()
    with Dispatcher(crew) as dispatcher:
        future = dispatcher.submit(block(0), [MODEL])
        for count in (1, 2, 3):
            crew.wait(count)[-1][3].set_exception(ConnectionResetError())
        with pytest.raises(InputError, match="3 workers ended during the same task"):
            future.result(5)
        with pytest.raises(InputError):
            dispatcher.submit(block(1), [MODEL])


def test_a_worker_that_lacks_something_gets_it() -> None:
    crew = Puppets()
    with Dispatcher(crew) as dispatcher:
        future = dispatcher.submit(block(0), [MODEL])
        assert crew.wait(1)[0][2] == [MODEL.name]
        crew.sent[0][3].set_result(Missing())
        assert crew.wait(2)[1][2] == [MODEL.name]
        crew.sent[1][3].set_result(7)
        assert future.result(5) == 7


def test_a_hung_worker_is_given_up_and_a_slow_one_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "HUNG_UNKNOWN", 0.5)
    monkeypatch.setattr(dispatch, "HUNG", (1000.0, 1000.0))
    crew = Puppets()
    with Dispatcher(crew) as dispatcher:
        hung = dispatcher.submit(block(0), [MODEL])
        lane = crew.wait(1)[0][0]
        crew.wait(2)  # nothing is known of how long it takes: given up after HUNG_UNKNOWN
        assert crew.gone == [lane.name]
        crew.sent[1][3].set_result(1)
        assert hung.result(5) == 1
        slow = dispatcher.submit(block(1), [MODEL])
        crew.wait(4)  # twice, on both lanes
        assert crew.sent[2][1] == crew.sent[3][1] == block(1)
        assert crew.sent[2][0] is not crew.sent[3][0]
        crew.sent[3][3].set_result(2)
        assert slow.result(5) == 2
        crew.sent[2][3].set_result("late, and nobody's")


def test_an_error_of_a_task_is_the_callers(tiny: Checkpoint, examples: Examples) -> None:
    crew = Puppets()
    with Dispatcher(crew) as dispatcher:
        future = dispatcher.submit(block(0), [MODEL])
        crew.wait(1)[0][3].set_exception(InputError("no label"))
        with pytest.raises(InputError, match="no label"):
            future.result(5)
        open_one = dispatcher.submit(block(1), [MODEL])
    with pytest.raises(Cancelled):
        open_one.result(5)
    assert crew.gone == []


def test_bytes_that_are_not_what_their_name_says_are_not_unpickled(tmp_path: Path) -> None:
    task = block(0)
    file = tmp_path / "model"
    for other in (pack("model", "another model").data, str(file), str(tmp_path / "nothing")):
        file.write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % str(tmp_path / "harm").encode())
        with pytest.raises(InputError, match=r"not the one that was sent|a worker cannot read"):
            perform("session", engine(), 1, task, [MODEL.name], other)
    assert not (tmp_path / "harm").exists()


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


def test_a_worker_of_another_version_is_refused() -> None:
    with pytest.raises(InputError, match="another version of qbert_core or torch"):
        perform("session", "another", 1, block(0), [])
