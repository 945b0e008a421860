"""Learn in a browser, on a model of a few kilobytes: nothing told too early, nothing fetched, nothing cut off."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, expect

from app.lessons.texts import LESSONS
from tests.app.conftest import write_table
from tests.browser.conftest import rest, taken
from tests.browser.crowded import CUT
from tests.browser.test_curvature_pages import plot
from tests.tiny import make_tiny

# formulas that are wider than their column
WIDE = """es => es.filter(e => {
    const box = e.getBoundingClientRect(), column = e.closest('[data-testid=stColumn]').getBoundingClientRect();
    return box.left < column.left - 1 || box.right > column.right + 1;
}).map(e => e.innerText)"""
TEXTS = ".card .label, .card .value, .card .note, .told div"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("own")
    return {"model": str(make_tiny(folder / "tiny")), "data": str(write_table(folder / "sixty.csv"))}


def link(own: dict[str, str], **more: object) -> str:
    return f"/learn?{urlencode({**own, **more})}"


def next_step(page: Page) -> None:
    """Its name is that of its icon; with a tooltip it is in the page twice."""
    page.locator(".st-key-learn-next button").first.click()


def overflowing(page: Page) -> list[str]:
    """Numbers and formulas that do not fit their places."""
    cut: list[str] = page.locator(TEXTS).evaluate_all(CUT)
    cut += page.locator(".katex-display").evaluate_all(WIDE)
    return cut


def test_a_lesson_from_its_link_through_prediction_to_the_next_one(visit, own):
    seen = visit(link(own, lesson=3, bits=3))
    page = seen.page
    expect(page.get_by_text(LESSONS[2].text)).to_be_visible()
    expect(page.locator(".katex-display")).to_have_count(len(LESSONS[2].formulas))
    expect(page.get_by_role("button", name="Reveal")).to_be_disabled()
    expect(page.locator(".told")).to_have_count(0)
    rest(page)
    lines = plot(
        page, "lesson-levels", "plot._fullData.filter(t => t.name.startsWith('levels')).map(t => t.x)"
    )
    assert len({x for line in lines for x in line if x is not None}) == 2**3
    assert overflowing(page) == []
    page.get_by_text("Doubles", exact=True).click()
    rest(page)
    page.get_by_role("button", name="Reveal").click()
    truth = page.locator('.told[data-truth="known"]')
    expect(truth).to_contain_text("Doubles")
    said = truth.inner_text()
    rest(page)
    page.get_by_role("slider", name="Bits").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator('.card[aria-label="Levels used"] .value')).to_contain_text("of 16")
    assert truth.inner_text() == said, "what was asked stays beside its answer"
    rest(page)
    page.reload()
    expect(page.locator('.card[aria-label="Levels used"] .value')).to_contain_text("of 16")
    rest(page)
    next_step(page)
    expect(page.get_by_text(LESSONS[3].text)).to_be_visible()
    page.wait_for_url(re.compile("lesson=4"))
    assert not seen.foreign
    assert not seen.errors


def test_every_step_fits_also_large_and_the_hand_out_stands_alone(visit, own, tmp_path: Path):
    seen = visit(link(own, lesson=1, large=1), scheme="dark")
    page = seen.page
    size = "() => parseFloat(getComputedStyle(document.documentElement).fontSize)"
    for lesson in LESSONS:
        expect(page.get_by_text(lesson.text)).to_be_visible()
        rest(page)
        page.wait_for_function(f"({size})() > 20")
        assert overflowing(page) == []
        wide = page.get_by_test_id("stMain").evaluate("e => e.scrollWidth - e.clientWidth")
        assert wide == 0
        if lesson is not LESSONS[-1]:
            next_step(page)
    saved = tmp_path / "handout.html"
    saved.write_bytes(taken(page, "Hand-out").read_bytes())
    alone = page.context.new_page()
    asked: list[str] = []
    alone.on("request", lambda request: asked.append(request.url))
    alone.goto(saved.as_uri())
    assert asked == [saved.as_uri()]
    expect(alone.locator("section")).to_have_count(len(LESSONS))
    assert alone.locator("math").first.bounding_box()["height"] > 5
    assert not seen.foreign
    assert not seen.errors
