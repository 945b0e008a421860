"""The main path without a mouse: a preset, a cell, undo, a job and its end, another page, an export."""

from __future__ import annotations

import re
import zipfile

from playwright.sync_api import Page, expect

from qbert_core.checkpoints import load_checkpoint
from qbert_core.quantization import SitePlan, preset_named
from qbert_core.quantization.plan import FULL
from tests.browser.conftest import rest
from tests.browser.test_curvature_pages import Own, choose, own  # noqa: F401

MOST = 120  # Tab presses until something counts as out of reach
ATTENTION = ("self.query", "self.key", "self.value", "output.dense")
FEED_FORWARD = ("intermediate.dense", "output.dense")


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the focus is on or inside an element of `selector`."""
    rest(page)
    for _ in range(MOST):
        page.keyboard.press("Tab")
        if page.evaluate("s => !!document.activeElement?.closest(s)", selector):
            return
    raise AssertionError(f"{selector} is not reached with {MOST} presses of Tab")


def shows_focus(page: Page) -> bool:
    """Whether what has the focus looks another way than without it."""
    box = page.evaluate("document.activeElement.getBoundingClientRect().toJSON()")
    wide = max(0, box["x"] - 6), max(0, box["y"] - 6), box["width"] + 12, box["height"] + 12
    clip = dict(zip(("x", "y", "width", "height"), wide, strict=True))
    page.wait_for_timeout(400)  # colours change slowly
    focused = page.screenshot(clip=clip, caret="hide")  # type: ignore[arg-type]
    page.evaluate("window.focused = document.activeElement; window.focused.blur()")
    page.wait_for_timeout(400)
    other = page.screenshot(clip=clip, caret="hide")  # type: ignore[arg-type]
    page.evaluate("window.focused.focus()")
    return focused != other


def focused(page: Page) -> str:
    """The name of what has the focus."""
    name: str = page.evaluate("(({ ariaLabel, innerText }) => ariaLabel ?? innerText)(document.activeElement)")
    return name


def test_what_a_choice_replaces_leaves_the_focus_to_what_takes_its_place(visit, own: Own) -> None:  # noqa: F811
    seen = visit(own.link("/"))
    page, keys = seen.page, seen.page.keyboard
    seen.state()
    for selector, text, presses, name in (
        (".stSelectbox input", "directq-2", ["Enter"], "Start from"),
        ("[class*=st-key-budget-mb] input", "", ["End"], "Size budget, MB"),
        ("[class*=st-key-activation] [role=radio]", "", ["ArrowRight", "Space"], "fp32"),
    ):
        tab_to(page, f"[data-testid=stMain] {selector}")
        before = seen.digest()
        keys.type(text)
        for key in presses:
            keys.press(key)
        page.wait_for_function("plan => document.querySelector('.state').dataset.plan !== plan", arg=before)
        rest(page)
        assert focused(page) == name
    choose(page, "Start from", "qbert-3")  # with the mouse
    seen.expect_plan(preset_named(load_checkpoint(own.model).config, "sst2", "qbert-3"))
    rest(page)
    assert focused(page) == "Start from"
    assert seen.errors == []


def test_the_main_path_by_keyboard(visit, own: Own) -> None:  # noqa: F811
    seen = visit(own.link("/"))
    page, keys = seen.page, seen.page.keyboard
    seen.state()
    config = load_checkpoint(own.model).config
    start, chosen = (preset_named(config, "sst2", name) for name in ("qbert-4", "directq-2"))

    tab_to(page, ".stSelectbox input")
    assert shows_focus(page)
    keys.type("directq-2")
    keys.press("Enter")
    seen.expect_plan(chosen)
    tab_to(page, ".st-key-undo button")
    assert shows_focus(page)
    keys.press("Enter")
    seen.expect_plan(start)

    tab_to(page, ".plan-table table")
    assert shows_focus(page)
    for key in ("ArrowRight", "ArrowDown", "2"):  # L2's attention
        keys.press(key)
    edited = start.with_sites(
        {f"bert.encoder.layer.1.attention.{name}": SitePlan(2, 128) for name in ATTENTION}
    )
    seen.expect_plan(edited)
    keys.press("ArrowRight")
    assert shows_focus(page)
    keys.press("f")  # as in fp32
    seen.expect_plan(
        edited.with_sites({f"bert.encoder.layer.1.{n}": SitePlan(FULL, 128) for n in FEED_FORWARD})
    )
    keys.press("Control+z")
    seen.expect_plan(edited)
    keys.press("ArrowRight")
    keys.type("7")
    keys.press("ArrowLeft")  # within what is typed
    keys.type("1")
    keys.press("Enter")
    groups = {name: SitePlan(entry.bits, 17) for name, entry in edited.entries if ".layer.1." in name}
    seen.expect_plan(edited.with_sites(groups))
    keys.type("nine")  # all of it is selected again
    keys.press("Enter")
    expect(page.get_by_text("groups 'nine'; expected a whole number from 1")).to_be_visible()
    expect(seen.cell(1, "Groups of")).to_have_value("17")

    tab_to(page, "[data-testid=stSidebarNavLink][href*=sensitivity]")
    assert shows_focus(page)
    keys.press("Enter")
    expect(page.get_by_role("heading", name="Sensitivity", exact=True)).to_be_visible()
    for label, value in (("Training data", own.data), ("Runs", "100")):
        tab_to(page, f'.stMain input[aria-label="{label}"]')
        assert shows_focus(page)
        keys.press("Control+a")
        keys.type(value)
        keys.press("Enter")
    tab_to(page, ".stMain [data-testid=stBaseButton-primary]")
    assert shows_focus(page)
    keys.press("Enter")
    job = page.get_by_test_id("stSidebar").locator(".st-key-jobs")
    expect(job).to_contain_text(re.compile(r"run \d+ of 100"))
    tab_to(page, ".st-key-jobs [class*=st-key-cancel-job-] button")
    keys.press("Enter")
    expect(job).to_contain_text("cancelled: Sensitivity of tiny")

    tab_to(page, "[data-testid=stSidebarNavLink][href*=export]")
    keys.press("Enter")
    expect(page.get_by_role("heading", name="Export", exact=True)).to_be_visible()
    tab_to(page, ".st-key-start-export button")
    assert shows_focus(page)
    keys.press("Enter")
    expect(page.get_by_role("button", name="Folder as ZIP")).to_be_visible()
    tab_to(page, "[class*=st-key-zip-] button")
    with page.expect_download() as download:
        keys.press("Enter")
    assert zipfile.is_zipfile(download.value.path())
    assert seen.errors == []
