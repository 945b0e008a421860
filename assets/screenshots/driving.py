"""The app driven as a person would, for pictures: slowly, and each step only when the page stands still."""

from __future__ import annotations

import re
import time

from playwright.sync_api import Browser, Page

SIZE = (1280, 800)
PATIENCE = 900_000  # ms: for a job on a machine that does other things too
QUIET = 2.0  # seconds without a running job after which all are taken to be done


def new_page(chromium: Browser, scheme: str, size: tuple[int, int] = SIZE) -> Page:
    """A browser of its own, in one theme; its cache serves all pages that follow."""
    viewport = {"width": size[0], "height": size[1]}
    page = chromium.new_context(viewport=viewport, color_scheme=scheme).new_page()
    page.set_default_timeout(PATIENCE)
    return page


def go(page: Page, link: str) -> None:
    """A new session at `link`, once its script has run."""
    page.goto(link)
    page.get_by_role("heading", level=1).first.wait_for()
    page.get_by_text(re.compile("^n = ")).first.wait_for()  # the sidebar, when the data are loaded
    settled(page)


def settled(page: Page) -> None:
    """Wait until the script has run."""
    page.wait_for_timeout(800)
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()


def measured(page: Page) -> None:
    """Wait until the page's numbers are current and complete, where it has any."""
    settled(page)
    if page.locator(".state").count():
        page.locator('.state[data-state="current"]').filter(has_not_text="so far").first.wait_for()
    settled(page)


def finished(page: Page) -> None:
    """Wait until no job has been under way for a while."""
    since = time.monotonic()
    while time.monotonic() - since < QUIET:
        page.wait_for_timeout(250)
        if page.locator(".st-key-jobs [data-testid=stProgress]").count():
            since = time.monotonic()


def fill(page: Page, label: str, value: str) -> None:
    """Put a number into a field."""
    box = page.get_by_role("spinbutton", name=label)
    box.fill(value)
    box.press("Enter")
    settled(page)


def still(page: Page) -> bytes:
    """The page as PNG, once nothing in it moves: charts grow in, and a busy machine draws late."""
    page.mouse.move(page.viewport_size["width"] / 2, 4)
    before, now = b"", page.screenshot()
    while before != now:
        page.wait_for_timeout(2500)
        before, now = now, page.screenshot()
    return now
