"""What a job takes of the machine: memory and processor time of its processes, and the limits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

MB = 2**20
SHARE = 0.4  # of the machine's memory: two jobs, and something left for the server
CGROUP = Path("/sys/fs/cgroup/memory.max")  # where a container is allowed less than the machine has
VARIABLE = "QBERT_JOB_MEMORY_MB"
SILENCE = 600.0  # seconds without progress and without work after which a job seems to hang
WORK = 1.0  # seconds of processor time that are work; waiting in a loop takes less in SILENCE


@dataclass(frozen=True)
class Load:
    """Of all processes of a job: bytes of memory, and seconds of processor time so far."""

    memory: int
    cpu: float


def load_of(pid: int) -> Load:
    """What the process and all that it started take now. Pages that several of them share count once."""
    private, shared, cpu = 0, 0, 0.0
    try:
        top = psutil.Process(pid)
        processes = [top, *top.children(recursive=True)]
    except psutil.Error:
        return Load(0, 0.0)
    for process in processes:
        try:
            with process.oneshot():
                memory, times = process.memory_info(), process.cpu_times()
        except psutil.Error:  # it ended meanwhile
            continue
        both = getattr(memory, "shared", 0)
        private += memory.rss - both
        shared = max(shared, both)
        cpu += times.user + times.system
    return Load(private + shared, cpu)


def memory_limit() -> int:
    """Bytes a job may take: $QBERT_JOB_MEMORY_MB, else a share of what the machine or container has."""
    asked = os.environ.get(VARIABLE, "")
    if asked.isdecimal() and int(asked):
        return int(asked) * MB
    whole = psutil.virtual_memory().total
    try:
        allowed = CGROUP.read_text().strip()
    except OSError:
        allowed = ""
    if allowed.isdecimal():
        whole = min(whole, int(allowed))
    return int(SHARE * whole)


def too_much(taken: int, limit: int) -> str:
    """The line for a job that was ended for its memory."""
    return (
        f"it took {taken / MB:,.0f} MB of memory and was ended: a job may take {limit / MB:,.0f} MB. Fewer rows, "
        f"a smaller share or batch, or fewer workers take less; ${VARIABLE} sets another limit"
    )


class SignsOfLife:
    """When a job last did something: it reported, or took a second of processor time."""

    def __init__(self, now: float) -> None:
        self._last = now
        self._cpu = 0.0

    def saw(self, now: float, cpu: float, reported: float) -> float:
        """Seconds of silence at `now`, with `cpu` seconds taken in all and the last report at `reported`."""
        if cpu < self._cpu or cpu - self._cpu >= WORK:  # less: a worker ended, and took its count with it
            self._last, self._cpu = now, cpu
        self._last = max(self._last, reported)
        return now - self._last
