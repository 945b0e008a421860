"""What machine this is, and how much of it other processes take while something is measured."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

PROC = Path("/proc")


def facts() -> dict[str, Any]:
    """The machine and the libraries a time depends on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.process_cpu_count() if hasattr(os, "process_cpu_count") else len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "openmp": {
            name: os.environ[name] for name in sorted(os.environ) if name.startswith(("OMP_", "MKL_"))
        },
    }


def load_average() -> list[float]:
    """Of the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


class Others:
    """CPU time spent since construction by processes that are neither this one nor its descendants,
    and by the host's other guests (steal). Always 0 where there is no /proc."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._all, self._own = _all_seconds(), _own_seconds()

    def cores(self) -> float:
        """Cores kept busy by others, on average."""
        return self.seconds() / max(time.perf_counter() - self._began, 1e-9)

    def seconds(self) -> float:
        """CPU seconds taken by others."""
        return max(0.0, (_all_seconds() - self._all) - (_own_seconds() - self._own))


class Patience:
    """Seconds that may go, in total, into waiting for other processes to leave the machine alone."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    @property
    def left(self) -> bool:
        return self._left > 0

    def wait(self, limit: float = 0.1, sample: float = 0.3) -> None:
        """Return once others leave the cores alone for `sample` seconds, or patience has run out."""
        while self._left > 0:
            others = Others()
            time.sleep(sample)
            if others.cores() < limit:
                return
            self._left -= sample


def _cpu_model() -> str:
    try:
        lines = (PROC / "cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _all_seconds() -> float:
    if not PROC.is_dir():
        return 0.0
    # user nice system idle iowait irq softirq steal
    ticks = [int(v) for v in (PROC / "stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """CPU seconds of this process and its descendants, ended ones included."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        parents[int(folder.name)] = int(fields[1])
        ticks[int(folder.name)] = sum(int(v) for v in fields[11:15])  # own and waited-for children's
    own = {os.getpid()}
    grown = True
    while grown:
        found = {pid for pid, parent in parents.items() if parent in own} - own
        own |= found
        grown = bool(found)
    return sum(ticks.get(pid, 0) for pid in own) / os.sysconf("SC_CLK_TCK")
