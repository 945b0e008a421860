"""A job over a kill of the real server: it ends with it, goes on in the next, and its result stays."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import psutil
from playwright.sync_api import Browser, Page, expect

from tests.app.conftest import write_table
from tests.app.test_jobs_limits import gone_within
from tests.browser.conftest import PATIENCE
from tests.server import app_server, free_port
from tests.tiny import make_tiny


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
    browser: Browser, tmp_path: Path
) -> None:
    model, data = make_tiny(tmp_path / "tiny"), write_table(tmp_path / "sixty.csv")
    port = free_port()
    link = f"http://127.0.0.1:{port}/sensitivity?model={model}&data={data}"
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    with app_server(tmp_path, port=port, warm=False) as server:
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
        below = jobs_below(server.process)
        assert len(below) == 2, "the keeper and the command"
        server.process.kill()
        assert gone_within(below, 1.5)
    with app_server(tmp_path, port=port, warm=False) as server:
        page.goto(link)
        expect(sidebar(page).get_by_role("link", name="Sensitivity of tiny")).to_have_count(1)
        expect(said(page, "done: Sensitivity of tiny")).to_be_visible()
        summary = page.get_by_text(re.compile(r"60 runs of 6 examples each, \d+ Hessian-vector products"))
        expect(summary).to_be_visible()
        words = summary.inner_text()
        server.process.kill()
    with app_server(tmp_path, port=port, warm=False):
        page.goto(link)
        expect(page.get_by_text(words)).to_be_visible()
        box = sidebar(page).locator(".st-key-jobs")
        expect(box).to_be_visible()
        wide = box.evaluate("e => [e.scrollWidth, e.clientWidth]")
        assert wide[0] <= wide[1], "nothing sticks out of the sidebar"
    context.close()


def test_a_job_is_cancelled_from_another_page(browser: Browser, tmp_path: Path) -> None:
    model, data = make_tiny(tmp_path / "tiny"), write_table(tmp_path / "sixty.csv")
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    with app_server(tmp_path, warm=False) as server:
        page.goto(f"{server.address}/sensitivity?model={model}&data={data}")
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
        below = jobs_below(server.process)
        cancel = sidebar(page).locator("[class*=st-key-cancel-job] button").filter(visible=True)
        expect(cancel).to_have_count(1)
        cancel.click()
        expect(said(page, "cancelled: Sensitivity of tiny")).to_be_visible()
        assert gone_within(below, 1.0)
        said(page, "cancelled: Sensitivity of tiny").click()
        expect(page.get_by_role("heading", name="Sensitivity", exact=True)).to_be_visible()
        expect(page.get_by_text(re.compile("Finished runs are kept: Start goes on"))).to_be_visible()
    context.close()
