"""Long computations as processes: progress, cancel for good, resume, and a line whenever one dies."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from app import jobs as jobs_module
from app.jobs import MAX_RUNNING, Job, Jobs
from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature import Sensitivity
from qbert_core.runtime.store import default_path
from tests.app.tools import PATIENCE, until

LAYERS = 3
FOREVER = "import time; time.sleep(600)"
EVENT = '{"done": 1, "total": 4, "partial": null}'


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    """A registry whose processes end with the test, whatever happens."""
    jobs = Jobs()
    yield jobs
    for job in jobs.all():
        job.cancel()


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job's first argument is a Python script now, instead of a command of the command line."""

    def start(arguments: list[str]) -> subprocess.Popen[str]:
        command = [sys.executable, "-S", "-c", *arguments]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)

    monkeypatch.setattr(jobs_module, "_start", start)


def sensitivity(tiny: Checkpoint, train: Path | str, runs: int) -> list[str]:
    return ["sensitivity", str(tiny.folder), "--task", "sst2", "--train", str(train), "--runs", str(runs)]


def process_of(job: Job) -> subprocess.Popen[str]:
    until(lambda: job._process is not None, "the process started")
    assert job._process is not None
    return job._process


def alive(pid: int) -> bool:
    """Whether the operating system has the process, also as one that nobody has waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def says(text: str) -> str:
    """A script that writes `text` to its standard error at once."""
    return f"import sys; sys.stderr.write({text!r}); sys.stderr.flush()"


def test_a_sensitivity_job_runs_to_its_end_and_shows_results_on_the_way(
    tiny: Checkpoint, table: Path, jobs: Jobs
) -> None:
    arguments = sensitivity(tiny, table, runs=10)
    job = jobs.start("Sensitivity", "me", arguments)
    assert jobs.latest(arguments) is job
    seen = []
    states = []

    def ended() -> bool:
        states.append(job.state)
        if job.partial is not None:
            seen.append((job.done, job.total, len(job.partial["blocks"][0]["lambdas"])))
        return not job.active

    until(ended, "the job ended")
    assert job.state == "done", job.error
    assert job.error is None
    assert states[0] in ("waiting", "running")
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert any(0 < done < total for done, total, _ in seen)
    assert all(total == 10 * LAYERS for _, total, _ in seen)
    assert all(runs >= done // LAYERS for done, _, runs in seen)
    assert job.done == job.total
    assert job.started is not None
    assert job.ended is not None
    assert job.started < job.ended
    assert job.remaining is None
    result = Sensitivity.from_json(job.result)
    assert [len(block.lambdas) for block in result.blocks] == [10] * LAYERS
    assert result.model == tiny.fingerprint


def test_cancel_ends_the_process_and_starting_again_goes_on_from_there(
    tiny: Checkpoint, table: Path, jobs: Jobs
) -> None:
    arguments = sensitivity(tiny, table, runs=40)
    job = jobs.start("Sensitivity", "me", arguments)
    until(lambda: job.done > 2 * LAYERS, "two runs finished")
    process = process_of(job)
    if sys.platform == "linux":
        (child,) = psutil.Process(process.pid).children()
        assert child.nice() == 19, "the page's own work goes first"
    job.cancel()
    assert job.state == "cancelled"
    assert job.ended is not None
    until(lambda: not alive(process.pid), "the process gone")
    # gone, but perhaps not yet waited for by the job's own thread
    assert process.wait(PATIENCE) in (-signal.SIGTERM, -signal.SIGKILL)
    assert job.state == "cancelled", "the process's death does not make it a failure"
    assert job.error is None
    assert job.result is None

    # mark what the store has: a run that is computed again would not have the mark
    with closing(sqlite3.connect(default_path())) as store, store:
        kept = store.execute("SELECT key, value FROM units").fetchall()
        for key, text in kept:
            run = json.loads(text)
            run["lambdas"] = [1000.0 + run["run"]] * LAYERS
            store.execute("UPDATE units SET value = ? WHERE key = ?", (json.dumps(run), key))
    assert 2 <= len(kept) < 40

    again = jobs.start("Sensitivity", "me", arguments)
    assert again is not job
    until(lambda: not again.active, "the second job ended")
    assert again.state == "done", again.error
    result = Sensitivity.from_json(again.result)
    for block in result.blocks:
        assert len(block.lambdas) == 40
        marked = [value for value in block.lambdas if value >= 1000]
        assert marked == [1000.0 + run for run in range(len(kept))]


def test_a_failing_job_reports_the_command_lines_own_words(
    tiny: Checkpoint, tmp_path: Path, jobs: Jobs
) -> None:
    job = jobs.start("Sensitivity", "me", sensitivity(tiny, tmp_path / "no.csv", runs=1))
    until(lambda: not job.active, "the job ended")
    assert job.state == "failed"
    ending = ".parquet .csv .tsv .json .jsonl"
    assert job.error == f"{tmp_path / 'no.csv'}: no such file; give one that ends in {ending}"
    assert job.result is None


@pytest.mark.usefixtures("scripts")
class TestProcess:
    """What can become of a process, with scripts in its place."""

    def test_progress_is_followed_and_other_lines_are_passed_over(self, jobs: Jobs) -> None:
        lines = f"warning: no store\n{EVENT}\nTraceback?\n\n"
        second = EVENT.replace('"done": 1', '"done": 2') + "\n"
        job = jobs.start("x", "me", [f"{says(lines)}; import time; time.sleep(2); {says(second)}; {FOREVER}"])
        until(lambda: job.done, "an event")
        assert (job.state, job.done, job.total, job.partial) == ("running", 1, 4, None)
        assert job.remaining is None, "the first unit came after loading"
        until(lambda: job.done == 2, "the second event")
        assert job.remaining is not None
        assert job.remaining > 0

    def test_a_process_that_will_not_stop_is_killed(self, jobs: Jobs) -> None:
        deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
        job = jobs.start("x", "me", [f"{deaf}; {says(EVENT + chr(10))}; {FOREVER}"])
        until(lambda: job.done, "an event")
        process = process_of(job)
        job.cancel()
        assert job.state == "cancelled"
        until(lambda: not alive(process.pid), "the process gone")
        assert process.wait(PATIENCE) == -signal.SIGKILL
        assert job.state == "cancelled"

    def test_killed_from_outside_it_failed_with_a_line(self, jobs: Jobs) -> None:
        job = jobs.start("x", "me", [f"{says(EVENT + chr(10))}; {FOREVER}"])
        until(lambda: job.done, "an event")
        os.kill(process_of(job).pid, signal.SIGKILL)
        until(lambda: not job.active, "the death noticed")
        assert job.state == "failed"
        assert job.error == "the process was killed (signal 9); the machine may have run out of memory"

    def test_killed_in_the_middle_of_a_line_it_failed_too(self, jobs: Jobs) -> None:
        job = jobs.start("x", "me", [f"{says(EVENT + chr(10) + EVENT[:-9])}; {FOREVER}"])
        until(lambda: job.done, "an event")
        os.kill(process_of(job).pid, signal.SIGKILL)
        until(lambda: not job.active, "the death noticed")
        assert job.state == "failed"
        assert job.error

    @pytest.mark.parametrize("line", ["{", "{}", '{"done": 1}', "{'done'}", "{\ufffd"])
    def test_a_line_that_is_no_event_stops_nothing(self, jobs: Jobs, line: str) -> None:
        job = jobs.start("x", "me", [says(f"{line}\n{EVENT}\n")])
        until(lambda: not job.active, "the job ended")
        assert job.done == 1

    def test_an_end_without_a_result_failed(self, jobs: Jobs) -> None:
        job = jobs.start("x", "me", ["pass"])
        until(lambda: not job.active, "the job ended")
        assert (job.state, job.error) == ("failed", "the process ended with code 0")

    def test_the_error_line_is_kept_without_its_prefix(self, jobs: Jobs) -> None:
        job = jobs.start("x", "me", [f"{says('error: no such file' + chr(10))}; sys.exit(2)"])
        until(lambda: not job.active, "the job ended")
        assert (job.state, job.error) == ("failed", "no such file")

    def test_the_same_command_under_way_is_joined(self, jobs: Jobs) -> None:
        mine = jobs.start("x", "me", [FOREVER])
        assert jobs.start("x", "you", [FOREVER]) is mine
        assert jobs.start("x", "you", [f"{FOREVER}  # another"]) is not mine
        mine.cancel()
        anew = jobs.start("x", "you", [FOREVER])
        assert anew is not mine
        assert jobs.latest([FOREVER]) is anew

    def test_only_so_many_run_at_once_and_the_others_wait_their_turn(self, jobs: Jobs) -> None:
        started = [jobs.start(str(n), "me", [f"{FOREVER}  # {n}"]) for n in range(MAX_RUNNING + 2)]

        def running() -> list[Job]:
            return [job for job in started if job.state == "running"]

        until(lambda: len(running()) == MAX_RUNNING, "the slots full")
        waiting = [job for job in started if job.state == "waiting"]
        assert len(waiting) == 2
        assert all(job._process is None and job.remaining is None for job in waiting)

        waiting[0].cancel()
        assert waiting[0].state == "cancelled"
        running()[0].cancel()
        until(lambda: waiting[1].state == "running", "the next one's turn")
        assert len(running()) == MAX_RUNNING
        assert waiting[0]._process is None, "cancelled while it waited, so never begun"

    def test_cancelling_twice_or_too_late_changes_nothing(self, jobs: Jobs) -> None:
        write = "import sys; open(sys.argv[2], 'w').write('{}')"
        job = jobs.start("x", "me", [write])
        until(lambda: not job.active, "the job ended")
        job.cancel()
        assert (job.state, job.result) == ("done", {})
        other = jobs.start("x", "me", [FOREVER])
        other.cancel()
        ended = other.ended
        other.cancel()
        assert (other.state, other.ended) == ("cancelled", ended)

    def test_finished_ones_are_forgotten_first(self, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jobs_module, "MAX_JOBS", 3)
        long = jobs.start("long", "me", [FOREVER])
        for number in range(6):
            job = jobs.start(str(number), "me", [f"pass  # {number}"])
            until(lambda job=job: not job.active, "the job ended")
        names = [job.name for job in jobs.all()]
        assert names[:3] == ["5", "4", "3"]
        assert len(names) <= 3 + MAX_RUNNING
        assert long in jobs.all()
        assert long.active


def test_a_process_that_cannot_be_started_is_a_line(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: list[str]) -> subprocess.Popen[str]:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(jobs_module, "_start", fail)
    job = jobs.start("x", "me", ["info", "demo"])
    until(lambda: not job.active, "the job ended")
    assert (job.state, job.error) == ("failed", "the process could not be started: Cannot allocate memory")
