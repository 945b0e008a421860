"""Attention and Examples in a browser, on a model of a few kilobytes."""

from __future__ import annotations

import csv
import json
import re
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, expect

from tests.app.conftest import write_table
from tests.browser.conftest import nav, rest, taken
from tests.browser.crowded import CUT
from tests.browser.test_curvature_pages import choose, plot
from tests.tiny import make_tiny

EVIL = "<img src=x onerror=document.title='hacked'>"
CELLS = "plot._fullData[1].customdata"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("own")
    return {"model": str(make_tiny(folder / "tiny")), "data": str(write_table(folder / "sixty.csv"))}


def link(path: str, own: dict[str, str], **more: str) -> str:
    return f"{path}?{urlencode({**own, **more})}"


def current(page: Page) -> None:
    expect(page.locator('.state[data-state="current"]')).to_contain_text("all 60 sentences measured")
    rest(page)


def drawn(page: Page, key: str) -> Any:
    """The text on a chart's first axis, once it has some."""
    return plot(page, key, "plot._fullLayout.yaxis.ticktext")


def click_cell(page: Page, layer: int, head: int) -> None:
    """Click a cell of the heatmap, 0-based."""
    chart = page.locator(".st-key-attention-kl .js-plotly-plot")
    chart.scroll_into_view_if_needed()
    place = chart.evaluate(
        """(plot, [layer, head]) => {
            const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();
            return [box.left + xaxis._offset + xaxis.d2p(head), box.top + yaxis._offset + yaxis.d2p(layer)];
        }""",
        [layer, head],
    )
    page.mouse.move(*place)
    page.wait_for_timeout(200)
    page.mouse.click(*place)
    rest(page)


def test_a_click_on_a_head_shows_its_maps_and_a_reload_keeps_it(visit, own):
    seen = visit(link("/attention", own, row="0"))
    page = seen.page
    current(page)
    assert plot(page, "attention-kl", f"{CELLS}.length") == 6
    click_cell(page, 2, 1)
    expect(page.get_by_text("L3, head 2: what each token looks at")).to_be_visible()
    choose(page, "Head", "1")
    expect(page.get_by_text("L3, head 1: what each token looks at")).to_be_visible()
    click_cell(page, 2, 1)  # again: a second click on a cell counts as well
    expect(page.get_by_text("L3, head 2: what each token looks at")).to_be_visible()
    page.get_by_text("All heads of this layer").click()
    chart = page.locator(".st-key-heads .js-plotly-plot")
    expect(chart.locator(".heatmaplayer .hm").first).to_be_attached()
    rest(page)
    chart.scroll_into_view_if_needed()
    rest(page)
    place = chart.evaluate(
        """plot => {
            const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect(), marks = plot._fullData.at(-1);
            return [box.left + xaxis._offset + xaxis.d2p(marks.x[0]), box.top + yaxis._offset + yaxis.d2p(marks.y[0])];
        }"""
    )
    page.mouse.move(place[0] + 27, place[1] + 30)
    page.mouse.move(place[0] + 30, place[1] + 30)  # not the middle: the nearest counts
    page.wait_for_timeout(300)
    page.mouse.click(place[0] + 30, place[1] + 30)
    expect(page.get_by_text("L3, head 1: what each token looks at")).to_be_visible()
    choose(page, "Head", "2")
    tokens = drawn(page, "attention-maps")
    assert tokens[0] == "[CLS]"
    scales = plot(page, "attention-maps", "plot._fullData.map(map => [map.zmin, map.zmax])")
    assert scales == [[0, 1], [0, 1], [-1, 1]]
    # all tokens are shown: the first one's attention is a distribution in both models
    sums = plot(page, "attention-maps", "plot._fullData.map(map => map.z[0].reduce((a, b) => a + b))")
    assert sums == pytest.approx([1, 1, 0], abs=1e-5)
    page.reload()
    current(page)
    expect(page.get_by_text("L3, head 2: what each token looks at")).to_be_visible()
    assert drawn(page, "attention-maps") == tokens
    # the presets have their turn after the plan of the page
    expect(page.get_by_text(re.compile("^Mean over the heads of a layer"))).to_be_visible()
    rest(page)
    assert plot(page, "methods-kl", "plot._fullData.map(line => line.name)") == ["qbert-4", "directq-4"]
    assert not seen.foreign
    assert not seen.errors


def test_flips_are_listed_downloaded_and_lead_to_their_attention(visit, own):
    seen = visit(link("/", own))
    page = seen.page
    current(page)
    choose(page, "Start from", "directq-2")
    current(page)
    nav(page, "examples").click()
    current(page)
    assert page.locator(".card .note").evaluate_all(CUT) == []
    wrong, right, other = (int(seen.value(f)) for f in ("Became wrong", "Became right", "Changed otherwise"))
    flips = wrong + right + other
    assert flips, "a plan that changes answers"
    rows = list(csv.DictReader(taken(page, f"All {flips} as CSV").open()))
    assert len(rows) == flips
    assert [row["change"] for row in rows].count("became wrong") == wrong
    expect(page.locator(".answers")).to_contain_text(rows[0]["sentence"])
    expect(page.locator(".answers td.chosen")).to_have_count(2)
    page.get_by_role("button", name="See its attention").click()
    expect(page.get_by_role("heading", name="Attention", exact=True)).to_be_visible()
    listed = page.get_by_role("combobox", name="Sentence")
    expect(listed).to_have_value(f"changed: {rows[0]['row']}. {rows[0]['sentence']}")
    assert not seen.errors


def test_both_models_answer_what_is_typed_and_markup_stays_text(visit, own):
    seen = visit(link("/examples", own), scheme="dark")
    page = seen.page
    current(page)
    page.get_by_role("tab", name="Type your own").click()
    rest(page)
    page.get_by_label("Sentence").fill(f"a good film {EVIL}")
    page.get_by_role("button", name="Ask both models").click()
    expect(page.locator(".answers .text")).to_have_text(f"a good film {EVIL}")
    assert page.locator(".answers img").count() == 0
    cells = page.locator(".answers td.p").all_inner_texts()
    assert len(cells) == 4
    assert sum("✓" in cell for cell in cells) == 2
    rest(page)
    page.get_by_text("Tokens", exact=True).click()
    expect(page.locator("code")).to_contain_text("[CLS] a good film [UNK]")
    assert page.title() != "hacked"
    assert json.dumps(seen.foreign) == "[]"
    assert not seen.errors
