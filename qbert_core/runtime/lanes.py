"""Workers one by one: a lane leads to one worker, a crew is the lanes there are.

Every lane is a `concurrent.futures.Executor` underneath. With a lane a worker, work can go where its data is,
and one worker can be given up without the others.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Protocol

from qbert_core.errors import InputError
from qbert_core.runtime.worker import Parcel

Submit = Callable[..., "Future[Any]"]


class Lane:
    """The way to one worker. `holds`: names of the parcels it has been given."""

    def __init__(self, name: str, submit: Submit, depth: int = 1) -> None:
        self.name = name
        self.submit = submit
        self.depth = depth  # tasks that may be under way at once, waiting ones included
        self.holds: set[Any] = set()


class Crew(Protocol):
    """The workers there are, and how large things reach them. Used by one thread."""

    def lanes(self) -> list[Lane]:
        """The lanes there are now; may be asked often. `InputError` where there will be none any more."""

    def hand_over(self, parcel: Parcel) -> Any:
        """What to submit for a parcel: bytes, the path of a file, or what becomes bytes on the way."""

    def forget(self, parcel: Parcel) -> None:
        """No task needs the parcel any more."""

    def lost(self, lane: Lane) -> None:
        """The lane's worker died or hangs: end it, and find another where possible."""

    def is_loss(self, error: BaseException) -> bool:
        """Whether a future's error says that the worker is gone, not that the task is wrong."""

    def close(self, session: str) -> None:
        """End what the session has under way, at once."""


class ExecutorCrew:
    """Any executor with `workers` workers. It is the caller's: nobody here ends it."""

    def __init__(self, executor: Executor, workers: int) -> None:
        _check(workers)
        self._lanes = [Lane(f"worker {index}", executor.submit) for index in range(workers)]

    def lanes(self) -> list[Lane]:
        return self._lanes

    def hand_over(self, parcel: Parcel) -> bytes:
        return parcel.data

    def forget(self, parcel: Parcel) -> None:
        pass

    def lost(self, lane: Lane) -> None:
        raise InputError("the executor's workers are gone; finished runs are kept: start again")

    def is_loss(self, error: BaseException) -> bool:
        return isinstance(error, BrokenExecutor)

    def close(self, session: str) -> None:
        pass


class ProcessCrew:
    """`workers` processes on this machine, each with its own cores (Linux): threads of two workers on one
    core would wait for each other at every barrier. One that dies is replaced."""

    def __init__(self, workers: int) -> None:
        _check(workers)
        self._folder = tempfile.TemporaryDirectory(prefix="qbert-")
        self._cores = shares(workers)
        self._pools: dict[Lane, ProcessPoolExecutor] = {}
        self._order = [self._start(place) for place in range(workers)]

    def lanes(self) -> list[Lane]:
        return self._order

    def hand_over(self, parcel: Parcel) -> str:
        path = Path(self._folder.name) / parcel.name.digest
        if not path.exists():
            try:
                path.write_bytes(parcel.data)
            except OSError as error:
                raise InputError(
                    f"{len(parcel.data) / 2**20:.0f} MB for the workers cannot be written to {path.parent}: "
                    f"{error.strerror}; TMPDIR says where"
                ) from None
        return str(path)

    def forget(self, parcel: Parcel) -> None:
        (Path(self._folder.name) / parcel.name.digest).unlink(missing_ok=True)

    def lost(self, lane: Lane) -> None:
        self._end(lane)
        place = self._order.index(lane)
        self._order[place] = self._start(place)

    def is_loss(self, error: BaseException) -> bool:
        return isinstance(error, BrokenExecutor)

    def close(self, session: str) -> None:
        for lane in list(self._pools):
            self._end(lane)
        self._folder.cleanup()

    def _start(self, place: int) -> Lane:
        context = multiprocessing.get_context("spawn")  # a fork would inherit locked thread pools
        pool = ProcessPoolExecutor(1, context, _begin, (self._cores[place],))
        lane = Lane(f"process {place}", pool.submit)
        self._pools[lane] = pool
        return lane

    def _end(self, lane: Lane) -> None:
        pool = self._pools.pop(lane)
        # the pool itself can only wait for what is under way, and a task takes seconds
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(cancel_futures=True)


def shares(workers: int) -> list[tuple[int, ...]]:
    """The cores this process may use, dealt out evenly; where there are fewer than workers, all to all."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not cores:
        return [tuple(range(max(1, (os.cpu_count() or 1) // workers)))] * workers
    if len(cores) < workers:
        return [tuple(cores)] * workers
    return [tuple(cores[i::workers]) for i in range(workers)]


def _check(workers: int) -> None:
    if workers < 1:
        raise InputError(f"workers is {workers}; expected at least 1")


def _begin(cores: tuple[int, ...]) -> None:
    """In a new worker process: take its cores, leave Ctrl-C to the parent, and end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
