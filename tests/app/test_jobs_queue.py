"""Turns between sessions, a limit for each, and jobs that two of them want."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import jobs as jobs_module
from app.job import Job
from app.jobs import MAX_ACTIVE, MAX_RUNNING, Jobs
from qbert_core.errors import InputError
from tests.app.tools import until

FOREVER = "import time; time.sleep(600)"


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    """A registry whose jobs are processes that wait."""

    def start(arguments: list[str]) -> subprocess.Popen[str]:
        command = [sys.executable, "-S", "-c", FOREVER, *arguments]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)

    monkeypatch.setattr(jobs_module, "_start", start)
    jobs = Jobs()
    yield jobs
    for job in jobs.all():
        job.cancel()


def run_all(jobs: Jobs) -> list[str]:
    """The names in the order in which they began."""
    order: list[str] = []
    while any(job.active for job in jobs.all()):
        until(lambda: any(job.state == "running" for job in jobs.all()), "one runs")
        running = next(job for job in reversed(jobs.all()) if job.state == "running")
        order.append(running.name)
        running.cancel()
        until(lambda running=running: running not in jobs._taken, "its place is free")
    return order


def test_sessions_take_turns(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "MAX_RUNNING", 1)
    names = ["a1", "a2", "a3", "b1", "b2", "c1"]
    started = {name: jobs.start(name, name[0], [name]) for name in names}
    assert [jobs.before(started[name]) for name in ("b1", "c1", "a2", "b2", "a3")] == [0, 1, 2, 3, 4]
    assert run_all(jobs) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_session_that_comes_back_does_not_pass_those_that_wait(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "MAX_RUNNING", 1)
    first = jobs.start("a1", "a", ["a1"])
    jobs.start("b1", "b", ["b1"])
    jobs.start("b2", "b", ["b2"])
    first.cancel()
    until(lambda: jobs.latest(["b1"]).state == "running", "b's turn")
    jobs.start("a2", "a", ["a2"])
    assert run_all(jobs) == ["b1", "a2", "b2"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=14), st.integers(1, 3))
def test_nobody_waits_for_two_turns_of_another(owners: list[str], places: int) -> None:
    """Between two jobs taken of one session, every session that waits had a turn."""
    jobs = Jobs()
    jobs._jobs = [Job(f"{n}", owner, [f"{n}"]) for n, owner in enumerate(owners)][::-1]
    order = jobs._in_order()
    assert sorted(job.name for job in order) == sorted(job.name for job in jobs._jobs)
    for owner in set(owners):
        mine = [job.name for job in order if job.owners == (owner,)]
        assert mine == sorted(mine, key=int), "a session's own jobs keep their order"
        taken = [place for place, job in enumerate(order) if job.owners == (owner,)]
        for early, late in pairwise(taken):
            between = {job.owners[0] for job in order[early + 1 : late]}
            waiting = {job.owners[0] for job in order[late:]} - {owner}
            assert waiting <= between


def test_a_session_has_a_limit_and_is_told_what_to_do(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    started = [jobs.start(str(n), "me", [str(n)]) for n in range(MAX_ACTIVE)]
    with pytest.raises(InputError, match=f"You have {MAX_ACTIVE} jobs .* Cancel one in the sidebar, or wait"):
        jobs.start("more", "me", ["more"])
    assert jobs.latest(["more"]) is None
    assert jobs.start("same", "me", ["0"]) is started[0], "no new job"
    jobs.start("other", "you", ["other"])
    started[-1].cancel()
    jobs.start("more", "me", ["more"])
    monkeypatch.setenv("QBERT_SESSION_JOBS", "6")
    jobs.start("fifth", "me", ["fifth"])


def test_a_job_two_sessions_want_goes_on_when_one_leaves(jobs: Jobs) -> None:
    job = jobs.start("x", "me", ["x"])
    assert jobs.start("x", "you", ["x"]) is job
    assert not jobs.leave(job, "me")
    assert job.active
    assert jobs.leave(job, "you")
    assert job.state == "cancelled"


def test_a_job_cancelled_while_it_waits_never_starts(jobs: Jobs) -> None:
    started = [jobs.start(str(n), "me", [str(n)]) for n in range(MAX_RUNNING + 1)]
    last = started[-1]
    assert last.state == "waiting"
    last.cancel()
    for job in started[:-1]:
        job.cancel()
    until(lambda: not jobs._taken, "all places free")
    assert last._process is None
