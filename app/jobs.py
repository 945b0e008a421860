"""Long computations as processes of their own: the command line, watched.

A job survives reloads and is seen by every page; it can be cancelled for good at any moment because
it is a process. What it had finished lies in the engine's store, so starting it again resumes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MAX_JOBS = 50  # finished ones are forgotten first
MAX_RUNNING = 2
MAX_POINTS = 5000  # of a curve that are kept
CURVES = ("finetune",)  # commands whose partial results are the points of a curve, small and all wanted
GRACE = 0.5  # seconds between asking a process to stop and killing it


class Job:
    """One command under way or ended. `state` is waiting, running, done, cancelled or failed."""

    def __init__(self, name: str, owner: str, arguments: Sequence[str]) -> None:
        self.name = name
        self.owner = owner  # session that started it
        self.arguments = tuple(arguments)
        self.state = "waiting"
        self.done = 0
        self.total = 0
        self.partial: Any = None  # the latest partial result, JSON
        self.points: list[Any] = []  # all of them, where a job sends points of a curve
        self.result: Any = None
        self.error: str | None = None
        self.started: float | None = None
        self.ended: float | None = None
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    @property
    def active(self) -> bool:
        return self.state in ("waiting", "running")

    @property
    def remaining(self) -> float | None:
        """Seconds to go, judged by the units done since the start; None before the second unit."""
        if self.state != "running" or self.started is None or self.done < 1 or not self.total:
            return None
        return (time.monotonic() - self.started) / self.done * (self.total - self.done)

    def option(self, name: str) -> str:
        """What the job was started with, for example `option("--runs")`."""
        return self.arguments[self.arguments.index(name) + 1]

    def cancel(self) -> None:
        """Stop the process: asked first, killed half a second later."""
        with self._lock:
            if not self.active:
                return
            self.state = "cancelled"
            self.ended = time.monotonic()
            process = self._process
        if process is not None:
            process.terminate()
            threading.Timer(GRACE, process.kill).start()

    def run(self) -> None:
        """Run to the end, in the calling thread."""
        with tempfile.TemporaryDirectory(prefix="qbert-job-") as folder:
            out = Path(folder) / "result.json"
            with self._lock:
                if self.state != "waiting":
                    return
                try:
                    self._process = _start([*self.arguments, "--out", str(out)])
                except OSError as error:
                    self._end("failed", f"the process could not be started: {error.strerror}")
                    return
                self.state = "running"
                self.started = time.monotonic()
            last = self._watch(self._process)
            code = self._process.wait()
            with self._lock:
                if self.state == "cancelled":
                    return
                if code == 0 and out.is_file():
                    self.result = json.loads(out.read_text(encoding="utf-8"))
                    self._end("done")
                else:
                    self._end("failed", last or _how_it_ended(code))

    def _watch(self, process: subprocess.Popen[str]) -> str:
        """Follow the process's progress; returns its error line."""
        last = ""
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                if line.startswith("{"):
                    try:
                        event = json.loads(line)
                        done, total, partial = event["done"], event["total"], event["partial"]
                    except (ValueError, KeyError):  # cut off: the process was killed while it wrote
                        continue
                    self.done, self.total = done, total
                    if partial is not None:  # not every unit has a new one
                        self.partial = partial
                        if self.arguments[0] in CURVES and len(self.points) < MAX_POINTS:
                            self.points.append(partial)
                elif line.startswith("error:"):
                    last = line.removeprefix("error:").strip()
        return last

    def _end(self, state: str, error: str | None = None) -> None:
        self.state, self.error, self.ended = state, error, time.monotonic()


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"the process was killed (signal {-code}); the machine may have run out of memory"
    return f"the process ended with code {code}"


def _start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    # the page's own work goes first: a low priority, and threads that sleep instead of spinning, which
    # would take the cores from the live numbers at every barrier
    environment = {**os.environ, "QBERT_PROGRESS": "json", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "qbert_core", *arguments]
    if os.name == "posix":
        command = ["nice", "-n", "19", *command]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    )


class Jobs:
    """Every job of this server, newest first; at most `MAX_RUNNING` run at once, the others wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: list[Job] = []
        self._slots = threading.Semaphore(MAX_RUNNING)

    def start(self, name: str, owner: str, arguments: Sequence[str]) -> Job:
        """Queue a command. The same command that is already under way is joined, not run twice."""
        with self._lock:
            for job in self._jobs:
                if job.active and job.arguments == tuple(arguments):
                    return job
            job = Job(name, owner, arguments)
            self._jobs.insert(0, job)
            finished = [j for j in self._jobs if not j.active]
            for old in finished[MAX_JOBS:]:
                self._jobs.remove(old)
        threading.Thread(target=self._run, args=(job,), daemon=True).start()
        return job

    def all(self) -> list[Job]:
        with self._lock:
            return list(self._jobs)

    def latest(self, arguments: Sequence[str]) -> Job | None:
        """The newest job with these arguments."""
        return next((job for job in self.all() if job.arguments == tuple(arguments)), None)

    def _run(self, job: Job) -> None:
        with self._slots:
            job.run()
