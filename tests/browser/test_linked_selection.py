"""A layer chosen by a click, in a browser: marked everywhere, no chart built anew, taken away by a second click."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.conftest import PATIENCE, nav, rest

# the middle of a cell or mark, asked of plotly itself: of the trace that has `customdata`, the point `index`
PLACE = """([key, index]) => {
    const plot = document.querySelector(`.st-key-${key} .js-plotly-plot`);
    const box = plot.getBoundingClientRect(), layout = plot._fullLayout;
    const trace = plot._fullData.find(t => t.customdata && t.customdata.length > index);
    return [box.x + layout.xaxis._offset + layout.xaxis.d2p(trace.x[index]),
            box.y + layout.yaxis._offset + layout.yaxis.d2p(trace.y[index])];
}"""


def click(page: Page, key: str, index: int) -> None:
    """Click the point `index` of a chart, once the page stands still: while it is drawn it may be there twice."""
    rest(page)
    page.locator(f".st-key-{key}").scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    x, y = page.evaluate(PLACE, [key, index])
    page.mouse.move(x - 3, y)
    page.mouse.move(x, y, steps=3)
    page.wait_for_timeout(300)
    page.mouse.click(x, y)


def outline(page: Page, name: str):
    return page.locator(f".st-key-outlined-{name} .layer-outline")


def test_a_click_marks_a_layer_everywhere_and_a_second_click_takes_it_away(visit):
    bits = visit(width=1280, height=1200)
    page = bits.page
    bits.state()
    expect(page.locator(".st-key-kl .scatterlayer").first).to_be_attached()
    page.evaluate("window.chart = document.querySelector('.st-key-kl .js-plotly-plot')")
    heads = page.evaluate("window.chart._fullData[0].z[0].length")
    click(page, "kl", 2 * heads + 4)  # layer 3, head 5
    expect(outline(page, "kl")).to_have_attribute("data-layer", "3")
    page.wait_for_url("**layer=3**", timeout=PATIENCE)
    expect(page.get_by_role("button", name="Layer L3 is marked")).to_be_visible()

    # it lies on the row that was clicked
    box = outline(page, "kl").bounding_box()
    x, y = page.evaluate(PLACE, ["kl", 2 * heads + 4])
    assert box is not None
    assert box["x"] < x < box["x"] + box["width"]
    assert abs(box["y"] + box["height"] / 2 - y) < 2

    # the layer table marks it, too
    expect(page.locator("tr[aria-selected=true]")).to_have_count(1)
    expect(page.locator("tr[aria-selected=true]")).to_contain_text("L3")

    # the chart is the same element as before the click, drawn all the time
    assert page.evaluate("window.chart === document.querySelector('.st-key-kl .js-plotly-plot')")
    assert page.evaluate("window.chart.isConnected && window.chart.querySelectorAll('.hm image').length > 0")

    # another page, and a fresh visit by the link
    link = page.url
    nav(page, "sensitivity").click()
    expect(page.get_by_role("heading", name="Sensitivity", exact=True)).to_be_visible()
    page.wait_for_url("**layer=3**", timeout=PATIENCE)
    nav(page, "attention").click()
    expect(page.get_by_role("combobox", name="Layer")).to_have_value("L3")
    other = visit(link)
    expect(outline(other.page, "kl")).to_have_attribute("data-layer", "3")

    nav(page, "").click()
    bits.state()
    expect(outline(page, "kl")).to_have_attribute("data-layer", "3")
    page.wait_for_timeout(500)
    click(page, "kl", 2 * heads + 4)
    expect(page.get_by_role("button", name="Layer L3 is marked")).to_have_count(0)
    expect(page.locator(".layer-outline[data-layer]")).to_have_count(0)
    expect(page.locator("tr[aria-selected=true]")).to_have_count(0)
    assert "layer=" not in page.url
    # its name in the layer table does the same, both ways
    bits.cell(1, "Mark").click()
    expect(outline(page, "kl")).to_have_attribute("data-layer", "2")
    bits.cell(1, "Mark").click()
    expect(page.locator(".layer-outline[data-layer]")).to_have_count(0)
    assert bits.errors == other.errors == []


def test_every_site_is_sorted_by_numbers_and_a_ticked_row_marks_its_layer(visit):
    bits = visit(width=1280, height=1200)
    page = bits.page
    bits.state()
    page.get_by_text("Every site", exact=True).click()
    expect(page.get_by_text("All 39 sites of qbert-4")).to_be_visible()
    table = page.locator(".st-key-sites-table").get_by_test_id("stDataFrame")
    rest(page)  # with the last numbers the page is drawn once more
    table.scroll_into_view_if_needed()
    rest(page)
    box = table.bounding_box()
    assert box is not None
    # the first row of layer 2 is the tenth: three tables, six sites of layer 1; ticks are at the left
    page.mouse.click(box["x"] + 18, box["y"] + 35 * 10 + 17)
    expect(outline(page, "kl")).to_have_attribute("data-layer", "2")
    rest(page)
    page.mouse.click(box["x"] + 18, box["y"] + 35 * 10 + 17)
    expect(page.locator(".layer-outline[data-layer]")).to_have_count(0)
    assert bits.errors == []
