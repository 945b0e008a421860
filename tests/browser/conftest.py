"""A server of one's own, a browser, and pages in it that note what they ask for and complain about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from app.figures import layer_label
from qbert_core.quantization import Plan
from tests.browser.asked import listen, wait_until_heard
from tests.server import ROOT, Server, app_server

# the last one: surfaces are drawn by WebGL, in software here
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--enable-unsafe-swiftshader"]
PATIENCE = 120_000  # ms: the tests are about what appears, not about how fast
PAGES = {  # path -> title
    "": "Bits",
    "sensitivity": "Sensitivity",
    "attention": "Attention",
    "examples": "Examples",
    "compare": "Compare",
    "landscape": "Loss landscape",
    "finetune": "Finetune",
    "export": "Export",
    "learn": "Learn",
}
expect.set_options(timeout=PATIENCE)


def rest(page: Page) -> None:
    """Wait until the script has run: a list that is open while the page is drawn anew is closed again."""
    page.wait_for_timeout(500)  # a page asks a moment after something was used
    wait_until_heard(page)
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()


def nav(page: Page, path: str) -> Locator:
    """The sidebar's link to a page; jobs have links there too."""
    return page.get_by_test_id("stSidebarNav").get_by_role("link", name=PAGES[path], exact=True)


def go_to(page: Page, path: str) -> None:
    """Choose a page in the sidebar, as a person does: the session goes on."""
    nav(page, path).click()
    expect(page.get_by_role("heading", name=PAGES[path], level=1)).to_be_visible()
    rest(page)


def taken(page: Page, label: str) -> Path:
    """The file a download button gives."""
    with page.expect_download() as download:
        page.get_by_role("button", name=label, exact=True).click()
    return Path(download.value.path())


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server, with a store of its own, for every test that can share one: each that is started loads
    the demo and measures all its presets, half a minute of a core."""
    with app_server(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="module")
def server(running: Server) -> Iterator[str]:
    """The app's address. The jobs of other tests are in the sidebar, too."""
    with watched(running) as address:
        yield address


@contextmanager
def watched(server: Server) -> Iterator[str]:
    """A server's address; AssertionError at the end of the block where our code failed meanwhile."""
    before = server.log.stat().st_size
    yield server.address
    log = server.log.read_bytes()[before:].decode()
    assert not ours(log), log


def ours(log: str) -> list[str]:
    """The tracebacks in a server's log that passed through our code. The server's own say nothing about
    us: it logs one whenever a tab closes while its connection is being made."""
    frames = (f'File "{ROOT / "app"}', f'File "{ROOT / "qbert_core"}')
    return [part for part in log.split("Traceback")[1:] if any(frame in part for frame in frames)]


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        new_context = made.new_context

        def listening(**options: Any) -> BrowserContext:
            context = new_context(**options)
            context.on("page", listen)
            return context

        made.new_context = listening  # type: ignore[method-assign]
        yield made
        made.close()


@dataclass
class Visit:
    """A page, and what it asked for and complained about."""

    page: Page
    foreign: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def state(self) -> str:
        """The line over the numbers once they are current and complete."""
        line = self.page.locator('.state[data-state="current"]')
        expect(line).to_contain_text("sentences measured", timeout=PATIENCE)
        return line.inner_text()

    def value(self, label: str) -> str:
        return self.page.locator(f'.card[aria-label="{label}"] .value').inner_text()

    def digest(self) -> str:
        return self.page.locator(".state").get_attribute("data-plan") or ""

    def expect_plan(self, plan: Plan) -> None:
        """Wait until the numbers shown are those of `plan`, all of them."""
        line = self.page.locator(f'.state[data-state="current"][data-plan="{plan.digest}"]')
        expect(line).to_contain_text("sentences measured", timeout=PATIENCE)

    def edit(self, row: int, column: str, bits: str) -> None:
        """Choose `bits` in a cell of the layer table."""
        self.cell(row, f"{column} bits of").select_option(bits)

    def click_lock(self, row: int) -> None:
        """Lock a row of the layer table, or open it."""
        self.cell(row, "Lock").click()

    def cell(self, row: int, says: str) -> Locator:
        """What a person changes in a row of the layer table, by its name for a screen reader."""
        return self.page.get_by_label(f"{says} {layer_label(row)}", exact=True)


@pytest.fixture
def contexts(browser: Browser) -> Iterator[list[BrowserContext]]:
    opened: list[BrowserContext] = []
    yield opened
    for context in opened:
        context.close()


@pytest.fixture
def visit(browser: Browser, contexts: list[BrowserContext], server: str):
    def open_page(path: str = "/", scheme: str = "light", width: int = 1280, height: int = 800) -> Visit:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        made = Visit(context.new_page())
        made.page.set_default_timeout(PATIENCE)

        def note(url: str) -> None:
            if not url.startswith((server, server.replace("http", "ws"), "data:", "blob:")):
                made.foreign.append(url)

        made.page.on("request", lambda request: note(request.url))
        made.page.on("pageerror", lambda error: made.errors.append(str(error)))
        made.page.goto(path if path.startswith("http") else server + path)
        return made

    return open_page
