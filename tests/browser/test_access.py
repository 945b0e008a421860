"""Every page under axe: what a machine can tell of WCAG 2 A and AA, and of an orderly outline of headings; and
whether anything is cut off or covered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import PAGES, PATIENCE, go_to, rest, watched
from tests.browser.crowded import crowded
from tests.browser.test_curvature_pages import Own, button, choose, fill, own  # noqa: F401
from tests.server import app_server

TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
OUTLINE = ["heading-order", "page-has-heading-one", "empty-heading"]  # good practice, and in our hands


@dataclass(frozen=True)
class Theirs:
    """A violation in Streamlit's or plotly's own markup: elements of `selector` under `rule`, and why neither a
    parameter nor a style reaches it."""

    rule: str
    selector: str
    reason: str


THEIRS = (
    Theirs("list", "[data-testid=stSidebarNavItems]", "st.navigation puts each section's pages into a div"),
    Theirs("listitem", "[data-testid=stSidebarNavItems] li", "the same div lies between list and items"),
)


@dataclass(frozen=True)
class Look:
    """A theme, and a window in pixels."""

    scheme: Literal["light", "dark"]
    width: int
    height: int


LOOKS = (Look("light", 1280, 800), Look("dark", 1600, 1000))


def violations(page: Page, theirs: set[Theirs]) -> list[tuple[str, str, str]]:
    """Rule, the element and what is wrong with it, for all that is ours; of THEIRS those met go to `theirs`."""
    options = {
        "runOnly": {"type": "tag", "values": TAGS},
        "rules": {rule: {"enabled": True} for rule in OUTLINE},
    }
    found = []
    for violation in Axe().run(page, options=options).response["violations"]:
        for node in violation["nodes"]:
            target = node["target"][0]
            known = [t for t in THEIRS if t.rule == violation["id"] and is_of(page, target, t.selector)]
            theirs.update(known)
            if not known:
                found.append((violation["id"], node["html"][:300], node["failureSummary"][:400]))
    return found


# Streamlit makes pale what waits for a run of the page that is under way.
WATCH_PALE = """() => {
    const look = () => { if (document.querySelector('[data-stale=true]')) window.pale = true; };
    window.watching?.disconnect();
    window.watching = new MutationObserver(look);
    window.watching.observe(document.body, { subtree: true, childList: true, attributeFilter: ['data-stale'] });
    window.pale = false;
    look();
}"""


def wrong(page: Page, theirs: set[Theirs]) -> tuple[list[tuple[str, str, str]], dict[str, Any]]:
    """What axe finds, and what does not fit, in a page at rest: where it was drawn anew meanwhile, looked at again."""
    for _ in range(20):
        rest(page)
        page.evaluate(WATCH_PALE)
        found = violations(page, theirs), crowded(page)
        if not page.evaluate("window.pale"):
            break
    return found


def is_of(page: Page, target: Any, selector: str) -> bool:
    found = page.evaluate("([t, s]) => document.querySelector(t)?.matches(s) ?? false", [target, selector])
    return bool(found)


def check(page: Page, *looks: Look) -> None:
    """Every page, with each of its tabs, in each of the looks."""
    found, theirs = {}, set[Theirs]()
    for path, title in PAGES.items():
        go_to(page, path)
        tabs = page.get_by_test_id("stMain").get_by_role("tab")
        for index in range(max(tabs.count(), 1)):
            if index:
                tabs.nth(index).click()
            for look in looks:
                page.set_viewport_size({"width": look.width, "height": look.height})
                page.emulate_media(color_scheme=look.scheme)
                found[f"{title} {index}, {look.scheme}"] = wrong(page, theirs)
    assert {place: what for place, what in found.items() if any(what)} == {}
    assert theirs == set(THEIRS), "what Streamlit has mended need not be listed"


def test_nothing_of_ours_is_wrong_or_cut_off_on_pages_as_they_are_at_first(visit, own: Own) -> None:  # noqa: F811
    seen = visit(own.link("/"))
    seen.state()
    check(seen.page, LOOKS[0])  # the others are looked at with results
    assert seen.errors == []


def start(page: Page, count: int) -> None:
    """Press Start, and wait for the sidebar's list: a page that is left at once forgets the press."""
    button(page, "Start").click()
    expect(page.locator('[class*="st-key-job-"]')).to_have_count(count)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose jobs are those of this module: they are counted below."""
    with app_server(tmp_path_factory.mktemp("server"), warm=False) as fresh, watched(fresh) as address:
        yield address


@pytest.fixture(scope="module")
def results(browser: Browser, server: str, own: Own) -> None:  # noqa: F811
    """Have something to show on every page that starts a job; the server keeps it for the tests below."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(server + own.link("/sensitivity"))
    fill(page, "Training data", own.data)
    fill(page, "Runs", "3")
    start(page, 1)
    go_to(page, "landscape")
    choose(page, "Grid", "11²")
    start(page, 2)
    for count, path in enumerate(("finetune", "compare"), 3):
        go_to(page, path)
        start(page, count)
    ended = page.get_by_test_id("stSidebar").get_by_role("link", name=re.compile("^done: "))
    expect(ended).to_have_count(4)
    context.close()


def test_nothing_of_ours_is_wrong_or_cut_off_on_pages_with_results(visit, own: Own, results: None) -> None:  # noqa: F811
    seen = visit(own.link("/"))
    seen.state()
    check(seen.page, *LOOKS)
    assert seen.errors == []
