"""Jobs outlast the server: what it leaves when it is killed, and what the next one makes of it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import jobrecords
from app import jobs as jobs_module
from app.job import Job
from app.jobrecords import RECORD, JobFolder, JobRecords, Record
from app.jobs import Jobs
from qbert_core.checkpoints import Checkpoint
from qbert_core.cli import main
from tests.app.test_jobs_limits import gone_within, processes_of
from tests.app.tools import until

ROOT = Path(jobs_module.__file__).resolve().parents[1]
LAYERS = 3
RUNS = 40
# the part of a server that holds jobs; says so when they are started
SERVER = """
import json, sys, time
from app.jobs import Jobs
jobs = Jobs()
for number, arguments in enumerate(json.loads(sys.argv[1])):
    jobs.start(f"job {number}", "me", arguments)
print("started", flush=True)
time.sleep(600)
"""


def sensitivity(tiny: Checkpoint, train: Path, runs: int = RUNS, *more: str) -> list[str]:
    asked = ["sensitivity", str(tiny.folder), "--task", "sst2", "--train", str(train)]
    return [*asked, "--runs", str(runs), *more]


@contextmanager
def server(*commands: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process with jobs, in a group of its own like any other's."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, json.dumps(commands)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "started\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def jobs_here() -> Iterator[Jobs]:
    jobs = Jobs()
    try:
        yield jobs
    finally:
        for job in jobs.all():
            job.cancel()
        until(lambda: not jobs._taken, "their ends")


def records(home: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(home.glob(f"jobs/*/{RECORD}"))]


def counted(home: Path) -> int:
    """Units of the first job, as its record says."""
    found = records(home)
    return found[0]["done"] if found else 0


def numbers(document: Any) -> Any:
    """Without the times."""
    if isinstance(document, dict):
        return {key: numbers(value) for key, value in document.items() if key != "seconds"}
    return [numbers(value) for value in document] if isinstance(document, list) else document


class TestKilledServer:
    def test_its_jobs_end_at_once_and_go_on_in_the_next_to_the_same_result(
        self, tiny: Checkpoint, table: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = sensitivity(tiny, table)
        with server(asked) as process:
            until(lambda: counted(home) > 2 * LAYERS, "a record of two runs")
            below = psutil.Process(process.pid).children(recursive=True)
            assert len(below) >= 2
            process.send_signal(signal.SIGKILL)
            assert gone_within(below, 1.5)
        (left,) = records(home)
        assert left["state"] == "running"
        assert 0 < left["done"] < RUNS * LAYERS
        assert left["partial"]["blocks"]

        with jobs_here() as jobs:
            (job,) = jobs.all()
            assert (job.name, job.owners, list(job.arguments)) == ("job 0", ("me",), asked)
            assert job.active
            assert job.partial is not None, "as last seen"
            first: list[int] = []
            until(lambda: job.state == "running", "it goes on")
            job.done = 0
            until(lambda: first.append(job.done) or job.done or not job.active, "the first report")
            until(lambda: not job.active, "its end")
            assert job.state == "done", job.error
            resumed = job.result
        assert first[-1] >= 2 * LAYERS, "what was finished is not computed again"

        monkeypatch.setenv("QBERT_HOME", str(tmp_path / "elsewhere"))
        assert main([*asked, "--out", str(tmp_path / "out.json")]) == 0
        undisturbed = json.loads((tmp_path / "out.json").read_text())
        assert numbers(resumed) == numbers(undisturbed)

    def test_a_server_that_still_ends_leaves_its_jobs_a_moment_later(
        self, tiny: Checkpoint, table: Path, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs_module, "LOOK", 0.05)
        with server(sensitivity(tiny, table)) as process:
            until(lambda: counted(home) > 0, "a record of progress")
            with jobs_here() as jobs:
                assert not jobs.all(), "the other server holds it"
                process.send_signal(signal.SIGKILL)
                until(lambda: any(job.state == "running" for job in jobs.all()), "the job here")
                (job,) = jobs.all()
                assert job.name == "job 0"

    def test_workers_of_a_job_end_with_it(self, tiny: Checkpoint, table: Path, home: Path) -> None:
        with server(sensitivity(tiny, table, 100, "--workers", "2")) as process:
            until(lambda: counted(home) > 0, "a record of progress")
            below = psutil.Process(process.pid).children(recursive=True)
            assert len(below) >= 4, "keeper, command, two workers"
            process.send_signal(signal.SIGKILL)
            assert gone_within(below, 1.5)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_an_orderly_end_leaves_the_same(
        self, tiny: Checkpoint, table: Path, home: Path, number: signal.Signals
    ) -> None:
        with server(sensitivity(tiny, table, 100)) as process:
            until(lambda: records(home)[0]["state"] == "running", "it runs")
            below = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(number)
            assert gone_within(below, 2.0)
        assert records(home)[0]["state"] == "running"

    def test_those_that_waited_go_on_in_their_order(self, tmp_path: Path, home: Path) -> None:
        """The commands fail at once, each with its own line: the order is that of the lines."""
        commands = [["info", f"/nowhere/{n}"] for n in range(4)]
        folders = JobRecords(home / "jobs")
        made = [
            folders.create(Record(str(n), ("me",), tuple(command), "waiting"))
            for n, command in enumerate(commands)
        ]
        for folder in made:
            folder.release()
        with jobs_here() as jobs:
            assert [job.name for job in jobs.all()] == ["3", "2", "1", "0"]
            assert [job.state for job in jobs.all()][:2] == ["waiting", "waiting"]
            assert [jobs.before(job) for job in jobs.all()[:2]] == [1, 0]
            until(lambda: not any(job.active for job in jobs.all()), "their ends")
            assert [job.error.partition(":")[0] for job in jobs.all()] == [c[1] for c in commands[::-1]]

    def test_a_result_written_before_the_kill_is_kept(self, home: Path) -> None:
        folder = JobRecords(home / "jobs").create(Record("x", ("me",), ("info", "demo"), "running"))
        folder.result.write_text('{"answer": 42}')
        folder.release()
        with jobs_here() as jobs:
            (job,) = jobs.all()
            assert (job.state, job.result) == ("done", {"answer": 42})
        assert records(home)[0]["state"] == "done"


class TestTwoServers:
    def test_with_one_home_never_run_one_job_twice(self, tiny: Checkpoint, table: Path, home: Path) -> None:
        with server(sensitivity(tiny, table, 100)):
            until(lambda: records(home)[0]["state"] == "running", "it runs")
            with jobs_here() as jobs:
                assert jobs.all() == [], "it is the other server's"
                own = jobs.start("mine", "me", ["info", "/nowhere"])
                until(lambda: not own.active, "its end")
                assert own.number > 1
        with jobs_here() as jobs:
            assert [job.name for job in jobs.all()] == ["mine", "job 0"]

    def test_finished_jobs_are_shown_by_both(self, home: Path) -> None:
        with jobs_here() as one:
            one.start("x", "me", ["info", "/nowhere"])
            until(lambda: not one._taken, "its end")
            with jobs_here() as two:
                assert [(job.name, job.state) for job in two.all()] == [("x", "failed")]


def finished(home: Path, count: int, size: int = 10) -> list[JobFolder]:
    folders = JobRecords(home / "jobs")
    made = []
    for number in range(count):
        folder = folders.create(Record(str(number), ("me",), ("info", "demo"), "done"))
        folder.result.write_text(json.dumps("x" * size))
        folder.release()
        made.append(folder)
    return made


class TestBounds:
    def test_only_the_newest_are_kept(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jobs_module, "MAX_JOBS", 5)
        finished(home, 9)
        with jobs_here() as jobs:
            assert [job.name for job in jobs.all()] == ["8", "7", "6", "5", "4"]
        assert len(records(home)) == 5

    def test_only_so_many_bytes_are_kept_but_always_the_newest(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs_module, "MAX_BYTES", 25_000)
        finished(home, 6, 10_000)
        with jobs_here() as jobs:
            assert [job.name for job in jobs.all()] == ["5", "4"]
        monkeypatch.setattr(jobs_module, "MAX_BYTES", 10)
        with jobs_here() as jobs:
            assert [job.name for job in jobs.all()] == ["5"]

    def test_folders_that_were_begun_and_never_finished_are_swept(self, home: Path) -> None:
        (home / "jobs" / ".new-abc").mkdir(parents=True)
        (home / "jobs" / "notes").mkdir()
        with jobs_here():
            pass
        assert [path.name for path in (home / "jobs").iterdir()] == ["notes"], "not ours"


class TestDamage:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "null",
            '{"schema": 2}',
            '{"schema": 1}',
            "[" * 100_000,
            "\0",
            '{"schema": 1, "name": 3}',
        ],
    )
    def test_a_damaged_record_is_passed_over_with_a_line(
        self, home: Path, text: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bad, _ = finished(home, 2)
        (bad.path / RECORD).write_text(text)
        with jobs_here() as jobs:
            assert [job.name for job in jobs.all()] == ["1"]
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith(f"{bad.path}: this job is left out, its record cannot be read (")

    def test_bytes_that_are_no_text_are_too(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (bad,) = finished(home, 1)
        (bad.path / RECORD).write_bytes(b"\xff\xfe{")
        with jobs_here() as jobs:
            assert jobs.all() == []
        assert "cannot be read" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "change",
        [
            {"state": "sleeping"}, {"arguments": []}, {"arguments": "rm"}, {"arguments": [1]}, {"owners": None},
            {"done": "1"}, {"done": True}, {"points": {}}, {"error": 3}, {"name": None},
        ],
    )  # fmt: skip
    def test_a_field_of_the_wrong_kind_is_damage(self, change: dict[str, Any]) -> None:
        document = json.loads(json.dumps(Record("x", ("me",), ("info",), "done").to_json()))
        assert Record.from_json(document) == Record("x", ("me",), ("info",), "done")
        with pytest.raises(ValueError, match="field"):
            Record.from_json({**document, **change})

    def test_a_result_that_is_gone_or_damaged_is_a_failure_that_says_so(self, home: Path) -> None:
        gone, damaged = finished(home, 2)
        gone.result.unlink()
        damaged.result.write_text("{")
        with jobs_here() as jobs:
            assert [job.result for job in jobs.all()] == [None, None]
            assert [job.state for job in jobs.all()] == ["failed", "failed"]
            assert all("start it again" in job.error for job in jobs.all())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.builds(
        Record,
        name=st.text(), owners=st.lists(st.text()).map(tuple),
        arguments=st.lists(st.text(), min_size=1).map(tuple), state=st.sampled_from(jobrecords.STATES),
        done=st.integers(), total=st.integers(), partial=json_values,
        points=st.lists(json_values).map(tuple), error=st.none() | st.text(),
    )
)  # fmt: skip
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


@given(json_values)
def test_whatever_is_found_is_a_record_or_refused(document: Any) -> None:
    try:
        Record.from_json({"schema": 1, **document} if isinstance(document, dict) else document)
    except ValueError:
        return
    pytest.fail("nothing generated here has every field")


class TestFullDisk:
    """The record cannot be written; the job goes on."""

    @pytest.fixture
    def full(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        """From its call on, files below the jobs' folder cannot be written."""
        opened = Path.open

        def fill() -> None:
            def refuse(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
                if "w" in mode and RECORD in path.name:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                return opened(path, mode, *arguments, **options)

            monkeypatch.setattr(Path, "open", refuse)

        return fill

    @pytest.fixture
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Jobs count for two seconds and give a result."""
        script = (
            "import json, sys, time\n"
            "for n in range(1, 5):\n"
            "    print(json.dumps({'done': n, 'total': 4, 'partial': None}), file=sys.stderr, flush=True)\n"
            "    time.sleep(0.5)\n"
            "open(sys.argv[-1], 'w').write('{}')"
        )

        def start(arguments: list[str]) -> subprocess.Popen[str]:
            command = [sys.executable, "-S", "-c", script, *arguments]
            return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)

        monkeypatch.setattr(jobs_module, "_start", start)

    @pytest.mark.usefixtures("quick")
    def test_from_the_start(
        self, home: Path, full: Callable[[], None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        full()
        with jobs_here() as jobs:
            job = jobs.start("x", "me", ["info"])
            until(lambda: not job.active, "its end")
            assert (job.state, job.result) == ("done", {})
        assert (
            "a restart will not find the job 'x': [Errno 28] No space left on device"
            in capsys.readouterr().out
        )
        assert list((home / "jobs").iterdir()) == [], "nothing half-made is left"

    @pytest.mark.usefixtures("quick")
    def test_in_the_middle(
        self, home: Path, full: Callable[[], None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with jobs_here() as jobs:
            job = jobs.start("x", "me", ["info"])
            until(lambda: job.done, "it runs")
            full()
            until(lambda: not job.active, "its end")
            assert (job.state, job.result) == ("done", {})
        said = [line for line in capsys.readouterr().out.splitlines() if "a restart will not find" in line]
        assert len(said) == 1, "said once"
        assert records(home)[0]["state"] in ("waiting", "running"), "the record before is whole"

    @pytest.mark.usefixtures("quick")
    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_home_that_cannot_be_written(self, home: Path) -> None:
        home.mkdir()
        home.chmod(0o500)
        with jobs_here() as jobs:
            job = jobs.start("x", "me", ["info"])
            until(lambda: not job.active, "its end")
            assert (job.state, job.result) == ("done", {})

    @pytest.mark.usefixtures("quick")
    def test_a_home_that_is_a_file(self, home: Path) -> None:
        home.write_text("")
        with jobs_here() as jobs:
            job = jobs.start("x", "me", ["info"])
            until(lambda: not job.active, "its end")
            assert (job.state, job.result) == ("done", {})


def test_progress_is_written_at_most_once_a_second(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import json, sys, time\n"
        "for n in range(1, 301):\n"
        "    print(json.dumps({'done': n, 'total': 300, 'partial': n}), file=sys.stderr, flush=True)\n"
        "    time.sleep(0.01)\n"
        "open(sys.argv[-1], 'w').write('{}')"
    )

    def start(arguments: list[str]) -> subprocess.Popen[str]:
        command = [sys.executable, "-S", "-c", script, *arguments]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)

    written: list[float] = []
    write = JobFolder.write

    def noted(folder: JobFolder, record: Record, *, sync: bool) -> None:
        if not sync:
            written.append(time.monotonic())
        write(folder, record, sync=sync)

    monkeypatch.setattr(jobs_module, "_start", start)
    monkeypatch.setattr(JobFolder, "write", noted)
    with jobs_here() as jobs:
        job = jobs.start("x", "me", ["info"])
        until(lambda: not job.active, "its end")
    assert len(written) >= 2
    assert all(later - earlier >= 1.0 for earlier, later in pairwise(written))
    assert (records(home)[0]["done"], records(home)[0]["partial"]) == (300, 300)


def test_the_keepers_group_is_the_jobs_own(tiny: Checkpoint, table: Path) -> None:
    """So Ctrl-C in the server's terminal is not for it, and what ends it ends nothing else."""
    with jobs_here() as jobs:
        job: Job = jobs.start("x", "me", sensitivity(tiny, table, 100))
        until(lambda: job.state == "running" and len(processes_of(job)) > 1, "it runs")
        assert {os.getpgid(p.pid) for p in processes_of(job)} == {job._process.pid}
        assert os.getpgid(0) != job._process.pid
