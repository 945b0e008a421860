"""The size budget in a browser: the slider by keyboard, a lock by a click, and both in the link."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect

from app.link import plan_from_text
from qbert_core.checkpoints import load_checkpoint
from qbert_core.quantization import Plan, SitePlan, plan_size, preset_named, sites_of
from tests.browser.conftest import Visit, rest
from tests.server import app_server

CONFIG = load_checkpoint("demo").config
START = preset_named(CONFIG, "sst2", "qbert-4")


def linked(seen: Visit) -> Plan:
    query = parse_qs(urlsplit(seen.page.url).query)
    return plan_from_text(query["plan"][0], sites_of(CONFIG))


def bits(plan: Plan, layer: int) -> set[int]:
    return {entry.bits for name, entry in plan.entries if f".layer.{layer}." in name}


def smallest_but(layer: int) -> Plan:
    """All layers at 2 bits, one as it was."""
    changes = {
        name: SitePlan(2, entry.groups)
        for name, entry in START.entries
        if ".layer." in name and f".layer.{layer}." not in name
    }
    return START.with_sites(changes)


def test_a_list_that_is_open_stays_open_while_numbers_and_budget_arrive(visit, tmp_path: Path) -> None:
    with app_server(tmp_path) as fresh:  # nothing is measured yet
        seen = visit(fresh.address)
        seen.page.get_by_role("button", name="Set all layers").click()
        expect(seen.page.get_by_text("Looking at the weights")).to_be_visible()
        expect(seen.page.get_by_text(re.compile("^Predicted harm .* By "))).to_be_visible()
        seen.state()
        rest(seen.page)
        expect(seen.page.get_by_role("slider", name="Bits")).to_be_visible()


@pytest.fixture
def page(visit) -> Visit:
    seen = visit()
    seen.state()
    expect(seen.page.locator(".st-key-allocate button").first).to_be_enabled()
    return seen


def test_the_slider_changes_every_layer_but_the_locked_one(page: Visit) -> None:
    page.click_lock(2)
    expect(page.page).to_have_url(re.compile(r"[?&]locks=3(&|$)"))
    expect(page.page.get_by_text("locked: L3")).to_be_visible()
    thumb = page.page.locator("[class*=st-key-budget-mb]").get_by_role("slider").first
    thumb.focus()
    before = urlsplit(page.page.url).query
    for _ in range(15):  # to the smallest plan
        thumb.press("PageDown")
        page.page.wait_for_timeout(50)
    page.page.wait_for_function("old => location.search !== `?${old}`", arg=before)
    plan = smallest_but(2)
    page.expect_plan(plan)
    assert linked(page).digest == plan.digest
    assert [bits(plan, layer) for layer in range(CONFIG.layers)] == [{2}, {2}, {4}, {2}, {2}, {2}]
    assert page.value("Size") == f"{plan_size(CONFIG, plan).size_mb:.1f}\N{NO-BREAK SPACE}MB"

    page.page.reload()
    page.expect_plan(plan)
    expect(page.page.get_by_text("locked: L3")).to_be_visible()
    page.click_lock(2)  # the same click opens it
    expect(page.page).not_to_have_url(re.compile("locks="))


def test_allocate_for_me_keeps_the_size_and_undo_takes_it_back(page: Visit) -> None:
    page.page.locator(".st-key-allocate button").first.click()
    expect(page.page.get_by_text("the least at this size")).to_be_visible()
    plan = linked(page)
    page.expect_plan(plan)
    assert plan_size(CONFIG, plan).size_mb <= plan_size(CONFIG, START).size_mb
    page.page.locator(".st-key-undo button").first.click()
    page.expect_plan(START)
