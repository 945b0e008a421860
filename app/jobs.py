"""Long computations as processes of their own: the queue, and what an earlier server left.

A job survives reloads and a restart of the server, and is seen by every page; it can be cancelled for good
at any moment because it is a process. What it had finished lies in the engine's store, so starting it again
resumes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from app.job import Job
from app.jobrecords import Found, JobRecords, Record
from qbert_core.errors import InputError
from qbert_core.runtime.home import cache_home

ROOT = Path(__file__).resolve().parents[1]
MAX_JOBS = 50  # finished ones are forgotten first
MAX_BYTES = 500 * 2**20  # of finished ones on disk; the newest are kept
MAX_RUNNING = 2
MAX_ACTIVE = 4  # of one session, waiting or running; $QBERT_SESSION_JOBS
MAX_OWNERS = 1000  # sessions whose last turn is remembered
LOOK = 2.0  # seconds between looks whether another server has ended
VARIABLE = "QBERT_SESSION_JOBS"


def _start(arguments: list[str]) -> subprocess.Popen[str]:
    # the page's own work goes first: a low priority, and threads that sleep instead of spinning, which
    # would take the cores from the live numbers at every barrier
    environment = {**os.environ, "QBERT_PROGRESS": "json", "OMP_WAIT_POLICY": "PASSIVE"}
    keeper = [sys.executable, "-I", "-S", str(Path(__file__).with_name("keeper.py"))]
    return subprocess.Popen(
        [*keeper, "nice", "-n", "19", sys.executable, "-m", "qbert_core", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,  # never written to: its end tells the keeper that of this server
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )


class Jobs:
    """Every job of this server, newest first; at most `MAX_RUNNING` run at once, the others wait.

    Those that an earlier server of this home left waiting or running go on by themselves.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._lock = threading.RLock()
        self._records = JobRecords(root or cache_home() / "jobs")
        self._jobs: list[Job] = []
        self._taken: set[Job] = set()  # those that have one of the places to run
        self._turns: dict[str, int] = {}  # owner -> when one of its jobs was taken last
        held = self._adopt(self._records.found())
        if held:
            threading.Thread(target=self._inherit, args=(held,), daemon=True).start()

    def _adopt(self, found: Found) -> list[Path]:
        """Take over what another server left; the folders that one still holds."""
        with self._lock:
            for folder, record in found.jobs:
                job = Job.from_record(record, folder)
                if job.state != record.state:
                    job.keep()
                if not job.active:
                    folder.release()  # another server may show it, too
                self._jobs.append(job)
            self._forget()
            self._fill()
        return found.held

    def _inherit(self, held: list[Path]) -> None:
        """Wait for the end of other servers of this home: one that was told to end still holds its jobs while
        the next one starts."""
        while held:
            time.sleep(LOOK)
            held = self._adopt(self._records.found(held))

    def start(self, name: str, owner: str, arguments: Sequence[str]) -> Job:
        """Queue a command. The same command that is already under way is joined, not run twice.

        Raises `InputError` where the owner has as many under way as a session may have.
        """
        with self._lock:
            for job in self._jobs:
                if job.active and job.arguments == tuple(arguments):
                    if owner not in job.owners:
                        job.owners = (*job.owners, owner)
                        job.keep()
                    return job
            self._check_limit(owner)
            job = self._new(name, owner, arguments)
            self._jobs.insert(0, job)
            self._forget()
            self._fill()
        return job

    def leave(self, job: Job, owner: str) -> bool:
        """Cancel the job, unless other sessions want it too: then only this one's wish is taken back.

        Returns whether it was cancelled.
        """
        with self._lock:
            others = tuple(name for name in job.owners if name != owner)
            if others and len(others) < len(job.owners):
                job.owners = others
                job.keep()
                return False
        job.cancel()
        return True

    def all(self) -> list[Job]:
        with self._lock:
            return list(self._jobs)

    def latest(self, arguments: Sequence[str]) -> Job | None:
        """The newest job with these arguments."""
        return next((job for job in self.all() if job.arguments == tuple(arguments)), None)

    def before(self, job: Job) -> int:
        """How many waiting jobs come before this one, as things stand."""
        with self._lock:
            waiting = self._in_order()
        return waiting.index(job) if job in waiting else 0

    def _new(self, name: str, owner: str, arguments: Sequence[str]) -> Job:
        try:
            folder = self._records.create(Record(name, (owner,), tuple(arguments), "waiting"))
        except OSError as error:
            print(f"{self._records.root}: a restart will not find the job {name!r}: {error}", flush=True)
            folder = None
        return Job(name, owner, arguments, folder)

    def _check_limit(self, owner: str) -> None:
        text = os.environ.get(VARIABLE, "")
        most = int(text) if text.isdecimal() and int(text) else MAX_ACTIVE
        count = sum(job.active and owner in job.owners for job in self._jobs)
        if count >= most:
            raise InputError(
                f"You have {count} jobs waiting or running, as many as a session may have. Cancel one in the "
                "sidebar, or wait for one to end"
            )

    def _in_order(self) -> list[Job]:
        """The waiting jobs in the order in which they will be taken: sessions that have fewest running go
        first, of those the one that was served longest ago, and of its jobs the oldest."""
        waiting = [job for job in reversed(self._jobs) if job.state == "waiting" and job not in self._taken]
        turns = dict(self._turns)
        held: dict[str, int] = {}
        for job in self._taken:
            held[job.owners[0]] = held.get(job.owners[0], 0) + 1
        order: list[Job] = []
        now = max(turns.values(), default=0)
        while waiting:
            job = min(waiting, key=lambda job: (held.get(job.owners[0], 0), turns.get(job.owners[0], 0)))
            waiting.remove(job)
            order.append(job)
            now += 1
            turns[job.owners[0]] = now
            held[job.owners[0]] = held.get(job.owners[0], 0) + 1
        return order

    def _fill(self) -> None:
        """Take as many waiting jobs as there are places."""
        for job in self._in_order()[: max(MAX_RUNNING - len(self._taken), 0)]:
            self._taken.add(job)
            self._turns[job.owners[0]] = max(self._turns.values(), default=0) + 1
            if len(self._turns) > MAX_OWNERS:
                del self._turns[min(self._turns, key=self._turns.__getitem__)]
            threading.Thread(target=self._run, args=(job,), daemon=True).start()

    def _run(self, job: Job) -> None:
        try:
            job.run(_start)
        finally:
            with self._lock:
                self._taken.discard(job)
                self._forget()
                self._fill()

    def _forget(self) -> None:
        """Let the oldest finished jobs go, here and on disk."""
        finished = [job for job in self._jobs if not job.active and job not in self._taken]
        active = len(self._jobs) - len(finished)
        size, kept = 0, 0
        for job in finished:
            size += job.size()
            if kept < MAX_JOBS and (size <= MAX_BYTES or not kept):
                kept += 1
            else:
                self._jobs.remove(job)
                job.forget()
        self._records.sweep(MAX_JOBS + active)
