"""A job over a kill of the real server: it ends with it, goes on in the next, and its result stays."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.app.conftest import write_table
from tests.app.test_jobs_limits import gone_within
from tests.browser.conftest import PATIENCE, ROOT
from tests.tiny import make_tiny


@contextmanager
def serving(home: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "--server.port", str(port)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "QBERT_HOME": str(home)},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def sidebar(page: Page):
    return page.get_by_test_id("stSidebar")


def said(page: Page, text: str | re.Pattern[str]):
    """A text the sidebar shows; Streamlit keeps a second, hidden copy of what has a tooltip."""
    return sidebar(page).get_by_text(text).filter(visible=True)


def jobs_below(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes of its jobs; the engine's ends with the server as well."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "sensitivity" in child.cmdline()]


def test_a_job_survives_a_killed_server_and_its_result_the_next_restart(
    browser: Browser, tmp_path: Path, free_port: int
) -> None:
    model, data = make_tiny(tmp_path / "tiny"), write_table(tmp_path / "sixty.csv")
    home = tmp_path / "home"
    link = f"http://127.0.0.1:{free_port}/sensitivity?model={model}&data={data}"
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    with serving(home, free_port) as process:
        page.goto(link)
        field = page.get_by_role("textbox", name="Training data")
        field.fill(str(data))
        field.press("Enter")
        runs = page.get_by_role("spinbutton", name="Runs")
        runs.fill("60")
        runs.press("Enter")
        page.wait_for_timeout(1500)
        page.get_by_role("button", name="Start", exact=True).click()
        expect(said(page, re.compile(r"run \d+ of 60"))).to_be_visible()
        page.goto(link)
        expect(said(page, re.compile(r"run \d+ of 60"))).to_be_visible()
        below = jobs_below(process)
        assert len(below) == 2, "the keeper and the command"
        process.send_signal(signal.SIGKILL)
        assert gone_within(below, 1.5)
    with serving(home, free_port):
        page.goto(link)
        expect(sidebar(page).get_by_role("link", name="Sensitivity of tiny")).to_have_count(1)
        expect(said(page, "done: Sensitivity of tiny")).to_be_visible()
        summary = page.get_by_text(re.compile(r"60 runs of 6 examples each, \d+ Hessian-vector products"))
        expect(summary).to_be_visible()
        words = summary.inner_text()
    with serving(home, free_port):
        page.goto(link)
        expect(page.get_by_text(words)).to_be_visible()
        box = sidebar(page).locator(".st-key-jobs")
        expect(box).to_be_visible()
        wide = box.evaluate("e => [e.scrollWidth, e.clientWidth]")
        assert wide[0] <= wide[1], "nothing sticks out of the sidebar"
    context.close()


def test_a_job_is_cancelled_from_another_page(browser: Browser, tmp_path: Path, free_port: int) -> None:
    model, data = make_tiny(tmp_path / "tiny"), write_table(tmp_path / "sixty.csv")
    address = f"http://127.0.0.1:{free_port}"
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    with serving(tmp_path / "home", free_port) as process:
        page.goto(f"{address}/sensitivity?model={model}&data={data}")
        field = page.get_by_role("textbox", name="Training data")
        field.fill(str(data))
        field.press("Enter")
        runs = page.get_by_role("spinbutton", name="Runs")
        runs.fill("100")
        runs.press("Enter")
        page.wait_for_timeout(1500)
        page.get_by_role("button", name="Start", exact=True).click()
        expect(said(page, re.compile(r"run \d+ of 100"))).to_be_visible()
        page.get_by_role("link", name="Compare").click()
        expect(page.get_by_role("heading", name="Compare", exact=True)).to_be_visible()
        below = jobs_below(process)
        cancel = sidebar(page).locator("[class*=st-key-cancel-job] button").filter(visible=True)
        expect(cancel).to_have_count(1)
        cancel.click()
        expect(said(page, "cancelled: Sensitivity of tiny")).to_be_visible()
        assert gone_within(below, 1.0)
        said(page, "cancelled: Sensitivity of tiny").click()
        expect(page.get_by_role("heading", name="Sensitivity", exact=True)).to_be_visible()
        expect(page.get_by_text(re.compile("Finished runs are kept: Start goes on"))).to_be_visible()
    context.close()
