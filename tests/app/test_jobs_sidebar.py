"""Jobs in the sidebar and on pages: how far they are, whose they are, and what a session may do."""

from __future__ import annotations

import secrets
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

from app import job as job_module
from app import jobs as jobs_module
from app import registries, state
from app.job import Job
from app.jobs import MAX_ACTIVE
from app.jobwords import fmt_seconds
from app.workspace import Source, Workspace
from qbert_core.access import VARIABLE, Access
from tests.app.speaker import Speaker
from tests.app.test_curvature_pages import at_page, choose, landscape, press, words
from tests.app.test_pages import Visit, demo, visit  # noqa: F401
from tests.app.tools import until


@pytest.fixture(autouse=True)
def quiet(speaker: Speaker) -> Speaker:
    return speaker


def texts(at: AppTest) -> str:
    """What the sidebar says of jobs."""
    bars = [bar.proto.text for bar in at.sidebar.get("progress")]
    links = [link.proto.label for link in at.sidebar.get("page_link")]
    return "\n".join([*bars, *links, *(c.value for c in at.sidebar.caption)]).replace("\\", "")


def sensitivity(n: int = 0, runs: int = 10) -> list[str]:
    return ["sensitivity", "demo", "--runs", str(runs), "--seed", str(n)]


def test_a_running_job_says_how_far_it_is(quiet: Speaker) -> None:
    quiet.say(*[None] * 12, total=30)
    job = registries.jobs().start("Sensitivity of demo", "somebody", sensitivity())
    until(lambda: job.done == 12, "twelve units")
    at = visit().run()
    assert "Sensitivity of demo" in texts(at)
    assert "run 5 of 10" in texts(at)
    (bar,) = at.sidebar.get("progress")
    assert bar.proto.value == 40


def test_waiting_jobs_say_how_many_come_before_them() -> None:
    for n in range(4):
        registries.jobs().start(f"number {n}", "me", sensitivity(n))
    said = texts(visit().run())
    assert "waits, next in turn" in said
    assert "waits, 1 before it" in said


def test_the_button_beside_a_job_ends_that_job_and_no_other() -> None:
    one, other = (registries.jobs().start(f"number {n}", "me", sensitivity(n)) for n in range(2))
    seen = visit()
    seen.run()
    seen.press(f"cancel-job-{other.key}")
    assert (one.active, other.state) == (True, "cancelled")
    assert "cancelled: number 1" in texts(seen.run())


def test_a_job_that_hangs_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "SILENCE", 0.2)
    job = registries.jobs().start("x", "me", sensitivity())
    until(lambda: job.silent_since is not None, "it is marked")
    assert f"no sign of life since {job.silent_since:%H:%M}" in texts(visit().run())


def test_names_are_text_and_nothing_else() -> None:
    registries.jobs().start("**bold** [x](http://evil) <b>", "me", sensitivity())
    links = [link.proto.label for link in visit().run().sidebar.get("page_link")]
    assert links == ["\\*\\*bold\\*\\* \\[x\\]\\(http\\://evil\\) \\<b\\>"]


class TestOthers:
    """A server for others keeps sessions apart; on one's own machine there is one person."""

    @pytest.fixture
    def served(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(VARIABLE, Access((), hub=False).to_text())

    @pytest.mark.usefixtures("served")
    def test_another_s_job_has_no_name_and_no_button(self) -> None:
        job = registries.jobs().start("Finetune secret plan", "somebody", sensitivity())
        at = visit().run()
        assert "another session’s job: " in texts(at)
        assert "secret" not in texts(at)
        assert not [b for b in at.sidebar.button if "cancel-job" in (b.key or "")]
        job.cancel()

    @pytest.mark.usefixtures("served")
    def test_another_s_result_is_not_shown_for_other_settings(self, quiet: Speaker, source: Source) -> None:
        quiet.say({"n": 1})
        job = registries.jobs().start("x", "somebody", ["landscape", source.model, "--layer", "0"])
        until(lambda: job.done, "it runs")
        at = at_page(source, "landscape").run()
        assert not at.main.get("progress")
        assert "an earlier landscape" not in words(at)

    def test_on_one_s_own_machine_every_job_is_shown(self) -> None:
        registries.jobs().start("Finetune my plan", "an earlier browser", sensitivity())
        at = visit().run()
        assert "Finetune my plan" in texts(at)
        assert [b for b in at.sidebar.button if "cancel-job" in (b.key or "")]


def cookie(token: bytes) -> str:
    """As the server makes it: masked anew each time (Tornado's format, version 2)."""
    mask = secrets.token_bytes(4)
    masked = bytes(b ^ mask[i % 4] for i, b in enumerate(token))
    return f"2|{mask.hex()}|{masked.hex()}|1795438154"


def test_a_browser_keeps_its_jobs_over_a_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    def owner(value: str | None) -> str:
        context = SimpleNamespace(cookies={} if value is None else {state.TOKEN: value})
        monkeypatch.setattr(state.st, "context", context)
        monkeypatch.setattr(state, "session", lambda: "this session")
        return state.owner()

    one, other = secrets.token_bytes(16), secrets.token_bytes(16)
    assert owner(cookie(one)) == owner(cookie(one)) != owner(cookie(other))
    assert one.hex() not in owner(cookie(one)), "the token itself is kept nowhere"
    for odd in (None, "", "x", "2|", "2|zz|00|1", "2|00|00|1", "1|00000000|00|1", "2|é|00|1"):
        assert owner(odd) == "this session"


def test_too_many_jobs_are_told_on_the_page(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    page = at_page(source, "landscape")
    choose(page, "Training data", source.data)
    monkeypatch.setattr(state, "owner", lambda: "me")
    for n in range(MAX_ACTIVE):
        registries.jobs().start(f"number {n}", "me", sensitivity(n))
    at = press(page, "Start")
    assert f"You have {MAX_ACTIVE} jobs waiting or running" in at.main.error[0].value
    assert len(at.main.error) == 1
    assert len(registries.jobs().all()) == MAX_ACTIVE


def test_a_stored_result_is_shown_by_the_next_server(
    source: Source, quiet: Speaker, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet.give(landscape(workspace.start))
    page = at_page(source, "landscape")
    choose(page, "Training data", source.data)
    empty = words(page.at)
    press(page, "Start")
    until(lambda: registries.jobs().all() and not registries.jobs()._taken, "its end, written down")
    shown = words(page.run())
    assert shown != empty
    registries.jobs.cache_clear()  # the server ends, another starts
    monkeypatch.setattr(jobs_module, "_start", None)
    again: Visit = at_page(source, "landscape")
    choose(again, "Training data", source.data)
    assert words(again.run()) == shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5999, "100 min"), (7200, "2.0 h")]
)
def test_times_are_as_exact_as_estimates_are(seconds: float, text: str) -> None:
    assert fmt_seconds(seconds) == text


def test_a_job_can_be_made_without_a_folder() -> None:
    job = Job("x", "me", ["info"])
    assert (job.number, job.result, job.size()) == (0, None, 0)
    job.keep()
    job.forget()
