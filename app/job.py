"""One long computation: the command line as a process, watched and written down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from app.eta import Pace
from app.jobload import SILENCE, SignsOfLife, load_of, memory_limit, too_much
from app.jobrecords import RESULT, JobFolder, Record

MAX_POINTS = 5000  # of a curve that are kept
CURVES = ("finetune",)  # commands whose partial results are the points of a curve, small and all wanted
GRACE = 0.5  # seconds between asking a process to stop and killing it
LOOK = 0.5  # seconds between looks at what a process takes
PARTING = 5.0  # seconds between a job's end by a SIGTERM not ours and its record as failed
WRITE = 1.0  # seconds between two records of progress, at least

Start = Callable[[list[str]], subprocess.Popen[str]]


class Job:
    """One command under way or ended. `state` is waiting, running, done, cancelled or failed."""

    def __init__(
        self, name: str, owner: str, arguments: Sequence[str], folder: JobFolder | None = None
    ) -> None:
        self.key = uuid.uuid4().hex[:8]  # names it on a page
        self.name = name
        self.owners = (owner,)  # sessions that asked for it
        self.arguments = tuple(arguments)
        self.state = "waiting"
        self.done = 0
        self.total = 0
        self.partial: Any = None  # the latest partial result, JSON
        self.points: list[Any] = []  # all of them, where a job sends points of a curve
        self.error: str | None = None
        self.started: float | None = None  # by the monotonic clock, like `ended`; None in an earlier server
        self.ended: float | None = None
        self.silent_since: datetime | None = None  # set while it seems to hang
        self._result: Any = None
        self._pace: Pace | None = None
        self._reported = 0.0
        self._exit: int | None = None
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.RLock()
        self._folder = folder
        self._writing = threading.Lock()
        self._written = 0.0
        self._complained = False

    @classmethod
    def from_record(cls, record: Record, folder: JobFolder) -> Job:
        """A job of an earlier server: as it ended, or waiting again with what it had said so far."""
        job = cls(record.name, "", record.arguments, folder)
        job.owners = record.owners
        job.done, job.total, job.partial = record.done, record.total, record.partial
        job.points = list(record.points)
        job.state, job.error = record.state, record.error
        if job.active:
            # the server may have died between the result and the record that says so
            job.state = "done" if folder.result.is_file() else "waiting"
        if job.state == "done" and not folder.result.is_file():
            job.state, job.error = "failed", f"its result is gone from {folder.path}; start it again"
        return job

    @property
    def number(self) -> int:
        """Orders the jobs of a home by age; 0 for one that could not be written down."""
        return self._folder.number if self._folder else 0

    @property
    def active(self) -> bool:
        return self.state in ("waiting", "running")

    @property
    def remaining(self) -> float | None:
        """Seconds to go, judged by the units computed lately; None before the second."""
        pace = self._pace
        if self.state != "running" or pace is None or not self.total:
            return None
        return pace.remaining(time.monotonic(), self.total)

    @property
    def result(self) -> Any:
        """What the command wrote; None unless the job is done. Read when it is first asked for."""
        with self._lock:
            if self._result is None and self.state == "done" and self._folder is not None:
                try:
                    self._result = self._folder.read_result()
                except (OSError, ValueError) as error:
                    self.state, self.error = (
                        "failed",
                        f"its result cannot be read any more ({error}); start it again",
                    )
            return self._result

    @result.setter
    def result(self, document: Any) -> None:
        self._result = document

    def option(self, name: str) -> str:
        """What the job was started with, for example `option("--runs")`."""
        return self.arguments[self.arguments.index(name) + 1]

    def cancel(self) -> None:
        """Stop the processes: asked first, killed half a second later."""
        with self._lock:
            if not self.active:
                return
            self._end("cancelled")
            process = self._process
        if process is not None:
            _signal(process, signal.SIGTERM)
            killer = threading.Timer(GRACE, _signal, (process, signal.SIGKILL))
            killer.daemon = True
            killer.start()
        self.keep()

    def run(self, start: Start) -> None:
        """Run to the end, in the calling thread."""
        if self._folder is not None:
            self._run(start, self._folder.result)
        else:
            with tempfile.TemporaryDirectory(prefix="qbert-job-") as place:
                self._run(start, Path(place) / RESULT)
        self.keep()

    def _run(self, start: Start, out: Path) -> None:
        with self._lock:
            if self.state != "waiting":
                return
            try:
                process = self._process = start([*self.arguments, "--out", str(out)])
            except OSError as error:
                self._end("failed", f"the process could not be started: {error.strerror}")
                return
            self.state = "running"
            self.started = self._reported = time.monotonic()
            self._pace = Pace(self.started)
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(process, ended), daemon=True)
        watcher.start()
        last = self._follow(process)
        code = process.wait()
        ended.set()
        watcher.join()
        if process.stdin is not None:
            process.stdin.close()
        code = code if self._exit is None else self._exit
        if code == -signal.SIGTERM and self.active:
            time.sleep(
                PARTING
            )  # a machine that shuts down asks the server too: then this goes on at its next start
        with self._lock:
            if not self.active:
                return
            if code == 0 and out.is_file():
                try:
                    self.result = json.loads(out.read_text(encoding="utf-8"))
                except (OSError, ValueError) as error:
                    self._end("failed", f"its result cannot be read ({error})")
                else:
                    self._end("done")
            else:
                self._end("failed", last or _how_it_ended(code))

    def _follow(self, process: subprocess.Popen[str]) -> str:
        """Follow the process's progress; returns its error line."""
        last = ""
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                if line.startswith("{"):
                    try:
                        self._note(json.loads(line))
                    except (ValueError, KeyError):  # cut off: the process was killed while it wrote
                        continue
                elif line.startswith("error:"):
                    last = line.removeprefix("error:").strip()
        return last

    def _note(self, event: dict[str, Any]) -> None:
        """Take in one event: of the command, or the keeper's last word. Raises KeyError."""
        if "exit" in event:
            self._exit = int(event["exit"])
            return
        done, total, partial = event["done"], event["total"], event["partial"]
        self._reported = time.monotonic()
        if self._pace is not None:
            self._pace.saw(self._reported, done)
        self.done, self.total = done, total
        if partial is not None:  # not every unit has a new one
            self.partial = partial
            if self.arguments[0] in CURVES and len(self.points) < MAX_POINTS:
                self.points.append(partial)

    def _watch(self, process: subprocess.Popen[str], ended: threading.Event) -> None:
        """Look twice a second: at memory, for signs of life, for progress to write down, and for processes
        that a killed one left behind."""
        limit = memory_limit()
        life = SignsOfLife(time.monotonic())
        while not ended.wait(LOOK):
            load = load_of(process.pid)
            if load.memory > limit:
                with self._lock:
                    if self.active:
                        self._end("failed", too_much(load.memory, limit))
                _signal(process, signal.SIGKILL)
            silence = life.saw(time.monotonic(), load.cpu, self._reported)
            if silence < SILENCE:
                self.silent_since = None
            elif self.silent_since is None:
                self.silent_since = datetime.fromtimestamp(time.time() - silence).astimezone()
            if process.poll() is not None:
                _signal(process, signal.SIGKILL)
            if self._reported > self._written and time.monotonic() - self._written >= WRITE:
                self.keep(sync=False)

    def _end(self, state: str, error: str | None = None) -> None:
        self.state, self.error, self.ended = state, error, time.monotonic()
        self.silent_since = None

    def keep(self, *, sync: bool = True) -> None:
        """Write the job down, as it is now. A disk that is full costs only what a restart would find."""
        if self._folder is None:
            return
        with self._writing:
            self._written = time.monotonic()
            record = Record(
                self.name, self.owners, self.arguments, self.state, self.done, self.total, self.partial,
                tuple(self.points), self.error,
            )  # fmt: skip
            try:
                self._folder.write(record, sync=sync)
            except OSError as error:
                if not self._complained:
                    self._complained = True
                    print(
                        f"{self._folder.path}: a restart will not find this job as it is now: {error}",
                        flush=True,
                    )
            if not self.active:
                self._folder.release()

    def size(self) -> int:
        """Bytes on disk."""
        return self._folder.size() if self._folder else 0

    def forget(self) -> None:
        """Remove what was written down."""
        if self._folder is not None:
            self._folder.remove()


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """To the process, which leads a group, and to all in it."""
    with suppress(ProcessLookupError, PermissionError):  # gone; macOS calls a zombie forbidden
        os.killpg(process.pid, number)


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"the process was killed (signal {-code}); the machine may have run out of memory"
    return f"the process ended with code {code}"
