"""Every page under axe: what a machine can tell of WCAG 2 A and AA, and of an orderly outline of headings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import PAGES, go_to
from tests.browser.test_curvature_pages import Own, button, choose, fill, own, rest  # noqa: F401

TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
OUTLINE = ["heading-order", "page-has-heading-one", "empty-heading"]  # good practice, and in our hands


@dataclass(frozen=True)
class Theirs:
    """A violation in Streamlit's or plotly's own markup: elements of `selector` under `rule`, and why neither a
    parameter nor a style reaches it."""

    rule: str
    selector: str
    reason: str


THEIRS: tuple[Theirs, ...] = ()


def violations(page: Page) -> list[tuple[str, str, str]]:
    """Rule, the element and what is wrong with it, for all that is not in THEIRS."""
    options = {
        "runOnly": {"type": "tag", "values": TAGS},
        "rules": {rule: {"enabled": True} for rule in OUTLINE},
    }
    found = []
    for violation in Axe().run(page, options=options).response["violations"]:
        for node in violation["nodes"]:
            target = node["target"][0]
            if not any(t.rule == violation["id"] and is_of(page, target, t.selector) for t in THEIRS):
                found.append((violation["id"], node["html"][:300], node["failureSummary"][:400]))
    return found


def is_of(page: Page, target: Any, selector: str) -> bool:
    found = page.evaluate("([t, s]) => document.querySelector(t)?.matches(s) ?? false", [target, selector])
    return bool(found)


def results(page: Page, own: Own) -> None:  # noqa: F811
    """Have something to show on every page; what is there already is not computed again."""
    go_to(page, "sensitivity")
    fill(page, "Training data", own.data)
    fill(page, "Runs", "3")
    button(page, "Start").click()
    go_to(page, "landscape")
    choose(page, "Grid", "11²")
    button(page, "Start").click()
    go_to(page, "finetune")
    button(page, "Start").click()
    go_to(page, "compare")
    button(page, "Start").click()
    expect(page.locator("[class*=st-key-cancel-job] button")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_of_ours_on_any_page(visit, own: Own, scheme: str) -> None:  # noqa: F811
    seen = visit(own.link("/"), scheme)
    page = seen.page
    seen.state()
    found = {}
    for name in PAGES:  # as they are at first
        go_to(page, name)
        found[f"{name}, empty"] = violations(page)
    results(page, own)
    for name in PAGES:
        go_to(page, name)
        tabs = page.get_by_test_id("stMain").get_by_role("tab")
        for index in range(max(tabs.count(), 1)):
            if tabs.count():
                tabs.nth(index).click()
                rest(page)
            found[f"{name} {index}"] = violations(page)
    assert {place: wrong for place, wrong in found.items() if wrong} == {}
    assert seen.errors == []
