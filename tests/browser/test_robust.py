"""What happens around a page: reload, back and forward, two tabs, a slow machine, zoom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from app.figures import colours_for
from qbert_core.checkpoints import load_checkpoint
from qbert_core.quantization import Plan, SitePlan, preset_named
from tests.app.conftest import write_table
from tests.browser.conftest import PAGES, PATIENCE, Visit, go_to, nav, rest
from tests.browser.crowded import crowded
from tests.browser.test_curvature_pages import Own, choose, own  # noqa: F401
from tests.server import app_server, free_port
from tests.tiny import make_tiny

SLOWER = 4  # times


def preset(own: Own, name: str) -> Plan:  # noqa: F811
    return preset_named(load_checkpoint(own.model).config, "sst2", name)


def test_back_and_forward_go_through_pages_and_plans(visit, own: Own) -> None:  # noqa: F811
    seen = visit(own.link("/"))
    page = seen.page
    seen.state()
    for name in ("directq-2", "qbert-3"):
        choose(page, "Start from", name)
        seen.expect_plan(preset(own, name))
    nav(page, "examples").click()
    expect(page.get_by_role("heading", name="Examples", exact=True)).to_be_visible()
    seen.expect_plan(preset(own, "qbert-3"))
    page.go_back()
    expect(page.get_by_role("heading", name="Bits", exact=True)).to_be_visible()
    seen.expect_plan(preset(own, "qbert-3"))
    page.go_back()
    seen.expect_plan(preset(own, "directq-2"))
    page.go_forward()
    seen.expect_plan(preset(own, "qbert-3"))
    page.go_forward()
    expect(page.get_by_role("heading", name="Examples", exact=True)).to_be_visible()
    seen.expect_plan(preset(own, "qbert-3"))


def test_figures_turn_with_the_page(visit, own: Own) -> None:  # noqa: F811
    seen = visit(own.link("/"))
    page = seen.page
    seen.state()
    label = page.locator(".js-plotly-plot .xtick text").first
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        red, green, blue = (int(colours_for(scheme == "dark").muted[at : at + 2], 16) for at in (1, 3, 5))
        expect(label).to_have_css("fill", f"rgb({red}, {green}, {blue})")
    seen.state()
    assert seen.errors == []


def test_back_goes_through_the_steps_of_a_lesson_and_to_the_page_before(visit, own: Own) -> None:  # noqa: F811
    seen = visit(own.link("/"))
    page = seen.page
    seen.state()
    go_to(page, "learn")
    chosen = page.locator(".st-key-learn-lesson [data-selected=true]").filter(visible=True)
    for number in (2, 3):
        page.locator(".st-key-learn-next button").first.click()
        expect(chosen).to_have_text(re.compile(f"^{number} "))
        rest(page)
    for number in (2, 1):
        page.go_back()
        expect(chosen).to_have_text(re.compile(f"^{number} "))
        rest(page)
    page.go_forward()
    expect(chosen).to_have_text(re.compile("^2 "))
    rest(page)
    page.go_back()
    expect(chosen).to_have_text(re.compile("^1 "))
    rest(page)
    page.go_back()
    expect(page.get_by_role("heading", name="Bits", exact=True)).to_be_visible()


def test_back_goes_through_the_heads_that_were_looked_at(visit, own: Own) -> None:  # noqa: F811
    seen = visit(own.link("/attention"))
    page = seen.page
    seen.state()
    title = page.get_by_role("heading", level=2).filter(has_text="what each token looks at")
    choose(page, "Layer", "L3")
    expect(title).to_contain_text("L3, head 1")
    choose(page, "Head", "2")
    expect(title).to_contain_text("L3, head 2")
    page.go_back()
    expect(title).to_contain_text("L3, head 1")
    rest(page)
    page.go_back()
    expect(title).to_contain_text("L1, head 1")
    page.go_forward()
    expect(title).to_contain_text("L3, head 1")


def test_a_reload_keeps_plan_and_numbers_on_every_page(visit, own: Own) -> None:  # noqa: F811
    seen = visit(own.link("/"))
    page = seen.page
    seen.state()
    choose(page, "Start from", "directq-2")
    seen.expect_plan(preset(own, "directq-2"))
    accuracy = seen.value("Accuracy")
    for path, title in PAGES.items():
        go_to(page, path)
        page.reload()
        expect(page.get_by_role("heading", name=title, level=1)).to_be_visible()
        rest(page)
        assert page.get_by_test_id("stException").count() == 0
    go_to(page, "")
    seen.expect_plan(preset(own, "directq-2"))
    assert seen.value("Accuracy") == accuracy
    assert seen.errors == []


def test_two_tabs_of_one_browser_keep_their_own_plans(visit, own: Own) -> None:  # noqa: F811
    one = visit(own.link("/"))
    one.state()
    two = Visit(one.page.context.new_page())
    two.page.set_default_timeout(PATIENCE)
    two.page.goto(one.page.url)
    two.state()
    choose(one.page, "Start from", "directq-2")
    choose(two.page, "Start from", "qbert-3")
    one.expect_plan(preset(own, "directq-2"))
    two.expect_plan(preset(own, "qbert-3"))
    for tab, name in ((one, "directq-2"), (two, "qbert-3")):
        tab.page.reload()
        tab.expect_plan(preset(own, name))


def test_on_a_slow_machine_the_last_numbers_stand_until_the_new_are_there(visit, own: Own) -> None:  # noqa: F811
    seen = visit(own.link("/"))
    page = seen.page
    seen.state()
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
    page.evaluate(
        """() => {
            window.least = Infinity;
            const look = () => {
                const shown = [...document.querySelectorAll('.card .value')].filter(e => /\\d/.test(e.innerText));
                window.least = Math.min(window.least, shown.length);
                requestAnimationFrame(look);
            };
            look();
        }"""
    )
    for name in ("directq-2", "qbert-3"):
        choose(page, "Start from", name)
        seen.expect_plan(preset(own, name))
    assert page.evaluate("window.least") == 4, "no frame without numbers"
    assert seen.errors == []


def test_a_page_finds_its_plan_again_when_the_server_comes_back(browser: Browser, tmp_path: Path) -> None:
    model, data = make_tiny(tmp_path / "tiny"), write_table(tmp_path / "sixty.csv")
    plan = preset_named(load_checkpoint(model).config, "sst2", "directq-2")
    port = free_port()
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    seen = Visit(context.new_page())
    seen.page.set_default_timeout(PATIENCE)
    with app_server(tmp_path, port=port, warm=False) as server:
        seen.page.goto(f"{server.address}/?model={model}&data={data}")
        seen.state()
        choose(seen.page, "Start from", "directq-2")
        seen.expect_plan(plan)
        before = seen.value("Accuracy")
        for name in ("qbert-4", "directq-2"):  # measured before: nothing on the page asks for news any more
            seen.page.wait_for_timeout(3000)
            choose(seen.page, "Start from", name)
            seen.expect_plan(preset_named(load_checkpoint(model).config, "sst2", name))
        # an edit that was taken back: the browser sends its last edit to the next server, too
        seen.edit(1, "FFN", "8")
        names = ("intermediate.dense", "output.dense")
        seen.expect_plan(plan.with_sites({f"bert.encoder.layer.1.{name}": SitePlan(8, 1) for name in names}))
        seen.page.locator(".st-key-undo button").first.click()
        seen.expect_plan(plan)
        rest(seen.page)
    connected = seen.page.locator("[data-testid=stApp][data-test-connection-state=CONNECTED]")
    expect(connected).to_have_count(0)
    expect(seen.page.locator(".card .value").first).to_be_visible()  # what was shown stays
    with app_server(tmp_path, port=port, warm=False):
        context.set_offline(True)
        seen.page.wait_for_timeout(1500)
        context.set_offline(False)
        expect(connected).to_have_count(1)
        # what was drawn before stays until the new server has drawn the page; it knows of nothing to undo
        expect(seen.page.locator(".st-key-undo button").first).to_be_disabled()
        rest(seen.page)
        seen.expect_plan(plan)  # by the link: the new server knows nothing else
        choose(seen.page, "Start from", "qbert-3")  # when it answers, it is the new server
        seen.expect_plan(preset_named(load_checkpoint(model).config, "sst2", "qbert-3"))
        seen.page.locator(".st-key-undo button").first.click()
        seen.expect_plan(plan)
        assert seen.value("Accuracy") == before
    context.close()


# the smallest page and the largest; 1280x800 at 80 % is what 1600x1000 is at 100 %
@pytest.mark.parametrize(("zoom", "width", "height"), [(1.5, 1280, 800), (0.8, 1600, 1000)])
def test_nothing_is_cut_off_or_covered_when_the_browser_zooms(
    browser: Browser,
    server: str,
    own: Own,  # noqa: F811
    zoom: float,
    width: int,
    height: int,
) -> None:
    """A browser that zooms tells the page of a smaller window with more pixels to each of its own."""
    context = browser.new_context(
        viewport={"width": round(width / zoom), "height": round(height / zoom)}, device_scale_factor=zoom
    )
    seen = Visit(context.new_page())
    seen.page.set_default_timeout(PATIENCE)
    seen.page.goto(server + own.link("/"))
    seen.state()
    found = {}
    for path in PAGES:
        go_to(seen.page, path)
        found[path] = crowded(seen.page)
    assert {path: what for path, what in found.items() if what} == {}
    context.close()
