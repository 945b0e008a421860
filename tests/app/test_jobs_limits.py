"""What ends a job: cancel, with all its processes; memory; and what only marks it: silence."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app import job as job_module
from app import jobload
from app import jobs as jobs_module
from app.job import Job
from app.jobload import MB, Load, SignsOfLife, load_of, memory_limit
from app.jobs import Jobs
from tests.app.tools import until

KEEPER = Path(jobs_module.__file__).with_name("keeper.py")
EVENT = '{"done": 1, "total": 4, "partial": null}'
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
TELL = f"import sys; print({EVENT!r}, file=sys.stderr, flush=True)"
WORKERS = f"""
import multiprocessing, time
{DEAF}
def work(): {DEAF}; time.sleep(600)
if __name__ == "__main__":
    for _ in range(3):
        multiprocessing.get_context("spawn").Process(target=work).start()
    {TELL}
    time.sleep(600)
"""


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Jobs]:
    """A registry whose jobs are scripts, under the same keeper as always."""
    start = jobs_module._start
    popen = job_module.subprocess.Popen

    def script(arguments: list[str]):
        file = tmp_path / f"script-{abs(hash(arguments[0]))}.py"
        file.write_text(arguments[0])

        def swapped(command: list[str], **options):
            assert command[3] == str(KEEPER)
            return popen([*command[:4], sys.executable, str(file), *arguments[1:]], **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jobs_module.subprocess, "Popen", swapped)
            return start(arguments)

    monkeypatch.setattr(jobs_module, "_start", script)
    jobs = Jobs()
    yield jobs
    for job in jobs.all():
        job.cancel()


def processes_of(job: Job) -> list[psutil.Process]:
    top = psutil.Process(job._process.pid)
    return [top, *top.children(recursive=True)]


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two questions
        return False


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if lives(process)]


def gone_within(processes: list[psutil.Process], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while living(processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


class TestCancel:
    def test_one_that_ignores_the_request_is_gone_within_a_second(self, jobs: Jobs) -> None:
        job = jobs.start("x", "me", [f"{DEAF}; {TELL}; import time; time.sleep(600)"])
        until(lambda: job.done, "it runs")
        processes = processes_of(job)
        assert len(processes) == 2
        job.cancel()
        assert gone_within(processes, 1.0)
        assert job.state == "cancelled"

    def test_its_workers_go_with_it(self, jobs: Jobs) -> None:
        job = jobs.start("x", "me", [WORKERS])
        until(lambda: job.done, "it runs")
        processes = processes_of(job)
        assert len(processes) >= 5
        job.cancel()
        assert gone_within(processes, 1.0)

    def test_one_that_listens_is_not_killed(self, jobs: Jobs, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        polite = (
            "import signal, sys, time\n"
            f"signal.signal(signal.SIGTERM, lambda *_: (open({str(mark)!r}, 'w').close(), sys.exit(0)))\n"
            f"{TELL}\ntime.sleep(600)"
        )
        job = jobs.start("x", "me", [polite])
        until(lambda: job.done, "it runs")
        job.cancel()
        until(mark.exists, "it was asked")

    def test_workers_that_a_killed_job_leaves_are_ended(self, jobs: Jobs) -> None:
        job = jobs.start("x", "me", [WORKERS])
        until(lambda: job.done, "it runs")
        processes = processes_of(job)
        processes[1].kill()
        assert gone_within(processes, 5.0)
        until(lambda: not job.active, "its end noticed")
        assert job.error == "the process was killed (signal 9); the machine may have run out of memory"

    def test_so_are_those_of_a_killed_keeper(self, jobs: Jobs) -> None:
        job = jobs.start("x", "me", [WORKERS])
        until(lambda: job.done, "it runs")
        processes = processes_of(job)
        processes[0].kill()
        assert gone_within(processes, 5.0)
        until(lambda: not job.active, "its end noticed")
        assert job.state == "failed"


class TestShutdown:
    def test_a_job_that_the_machine_ends_is_not_a_failure_yet(
        self, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its server is about to end, too; what is on disk then is taken up by the next."""
        monkeypatch.setattr(job_module, "PARTING", 2.0)
        job = jobs.start("x", "me", [f"{TELL}; import time; time.sleep(600)"])
        until(lambda: job.done, "it runs")
        processes = processes_of(job)
        for process in processes:
            process.terminate()
        assert gone_within(processes, 1.5)
        assert job.state == "running"
        assert job._folder.read().state in ("waiting", "running"), "the next server takes it up"
        until(lambda: not job.active, "its end")
        assert job.error.startswith("the process was killed (signal 15)")


class TestMemory:
    def test_a_job_that_takes_too_much_is_ended_and_says_so(
        self, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("QBERT_JOB_MEMORY_MB", "150")
        job = jobs.start("x", "me", ["import time; kept = b'x' * (300 * 2**20); time.sleep(600)"])
        until(lambda: not job.active, "its end", patience=20)
        assert job.state == "failed"
        assert "MB of memory and was ended: a job may take 150 MB" in job.error
        assert "Fewer rows" in job.error
        assert "fewer workers" in job.error
        taken = float(job.error.split("it took ")[1].split(" MB")[0].replace(",", ""))
        assert 150 < taken < 400  # seen on its way to 300, at the earliest above the limit

    def test_what_its_workers_take_counts(self, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("QBERT_JOB_MEMORY_MB", "250")
        script = (
            "import subprocess, sys, time\n"
            "each = 'import time; kept = b\"x\" * (100 * 2**20); time.sleep(600)'\n"
            "for _ in range(3): subprocess.Popen([sys.executable, '-S', '-c', each])\n"
            "time.sleep(600)"
        )
        job = jobs.start("x", "me", [script])
        until(lambda: job._process is not None, "it runs")
        until(lambda: not job.active, "its end", patience=20)
        assert "a job may take 250 MB" in job.error

    def test_a_job_within_the_limit_goes_on(self, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("QBERT_JOB_MEMORY_MB", "400")
        job = jobs.start("x", "me", [f"import time; kept = b'x' * (200 * 2**20); {TELL}; time.sleep(600)"])
        until(lambda: job.done, "it runs")
        time.sleep(1.5)
        assert job.state == "running"

    def test_the_default_is_a_share_of_what_the_machine_or_container_has(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("QBERT_JOB_MEMORY_MB", raising=False)
        total = psutil.virtual_memory().total
        monkeypatch.setattr(jobload, "CGROUP", tmp_path / "none")
        assert memory_limit() == int(0.4 * total)
        monkeypatch.setattr(jobload, "CGROUP", tmp_path / "memory.max")
        (tmp_path / "memory.max").write_text("1000000000\n")
        assert memory_limit() == 400_000_000
        (tmp_path / "memory.max").write_text("max\n")
        assert memory_limit() == int(0.4 * total)
        monkeypatch.setenv("QBERT_JOB_MEMORY_MB", "nonsense")
        assert memory_limit() == int(0.4 * total)

    def test_what_a_process_takes_is_measured(self) -> None:
        block = bytearray(b"x") * (64 * MB)
        before = load_of(psutil.Process().pid).memory
        more = bytearray(b"x") * (64 * MB)
        grown = load_of(psutil.Process().pid).memory - before
        assert len(block) == len(more)
        assert 60 * MB < grown < 70 * MB
        assert load_of(2**22 + 1) == Load(0, 0.0), "a process that is not there"


class TestSilence:
    def test_a_job_without_progress_and_work_is_marked_and_left_alone(
        self, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(job_module, "SILENCE", 1.0)
        job = jobs.start("x", "me", [f"{TELL}; import time; time.sleep(600)"])
        until(lambda: job.silent_since is not None, "it is marked", patience=20)
        assert job.state == "running"
        job.cancel()
        assert job.state == "cancelled"
        assert job.silent_since is None

    def test_reports_and_work_are_signs_of_life(self) -> None:
        life = SignsOfLife(0.0)
        assert life.saw(500.0, 0.4, 0.0) == 500.0, "waiting in a loop is no work"
        assert life.saw(550.0, 1.1, 0.0) == 0.0
        assert life.saw(900.0, 1.9, 0.0) == 350.0
        assert life.saw(1000.0, 1.9, 990.0) == 10.0
        assert life.saw(1100.0, 0.2, 990.0) == 0.0, "a worker ended, so something happened"


def test_the_clock_may_go_back(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    second = TELL.replace("1", "2", 1)
    end = "open(sys.argv[2], 'w').write('{}')"
    script = f"{TELL}; import time; time.sleep(1); {second}; time.sleep(1); {end}"
    job = jobs.start("x", "me", [script])
    until(lambda: job.done, "it runs")
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    until(lambda: job.done == 2, "the second unit")
    left = job.remaining
    assert left is None or 0 <= left < 60
    later = jobs.start("y", "me", ["pass"])
    until(lambda: not job.active and not later.active, "their ends")
    assert job.state == "done"
    assert job.started < job.ended
    assert jobs.all()[0] is later
    assert later.number > job.number


def test_the_keeper_alone_refuses_to_run_among_others() -> None:
    ended = job_module.subprocess.run(
        [sys.executable, str(KEEPER), "true"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "a process group of its own" in ended.stderr


def test_a_command_that_is_not_there_is_a_line(jobs: Jobs) -> None:
    ended = job_module.subprocess.run(
        [sys.executable, str(KEEPER), "/no/such/command"],
        capture_output=True, text=True, check=False, start_new_session=True, stdin=job_module.subprocess.PIPE,
    )  # fmt: skip
    assert ended.stderr == "error: the process could not be started: No such file or directory\n"
