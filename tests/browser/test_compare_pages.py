"""Compare and Finetune in a browser, with real jobs on a model of a few kilobytes."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from qbert_core.checkpoints import load_checkpoint
from qbert_core.quantization import preset_named
from tests.browser.conftest import rest
from tests.browser.crowded import crowded
from tests.browser.test_curvature_pages import button, fill, own, plot  # noqa: F401

ROW = 35  # pixels of a table row
TABS = {"Groups": "groups", "Modules and embeddings": "modules", "One at a time": "one-at-a-time"}


def turn(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()
    rest(page)


def keys(page: Page, name: str) -> list[str]:
    """The rows whose marks a chart draws, asked of plotly itself."""
    found = plot(
        page,
        name,
        "plot._fullData.flatMap(t => (t.customdata || []).map(c => c[0])).filter(Boolean)",
    )
    return [str(key).split("|")[0] for key in found]


def test_group_counts_run_and_a_click_on_a_row_or_a_mark_chooses_its_plan(visit, own):  # noqa: F811
    seen = visit(own.link("/compare"), height=1400)
    page = seen.page
    expect(page.get_by_text("No methods measured yet")).to_be_visible()
    turn(page, "Groups")
    expect(page.get_by_text("No group count measured yet")).to_be_visible()
    fill(page, "Group counts", "1,2,rows")
    button(page, "Start").click()
    expect(page.get_by_text("4 rows, each on the same 60 sentences")).to_be_visible()
    assert sorted(keys(page, "compare-groups")) == ["groups-1", "groups-2", "groups-rows"]
    table = page.locator(".st-key-compare-table-groups").get_by_test_id("stDataFrame").bounding_box()
    assert table is not None
    page.mouse.click(table["x"] + 16, table["y"] + 2.5 * ROW)
    expect(page.get_by_text("Chosen: groups-1")).to_be_visible()
    place = page.evaluate(
        """() => {
            const plot = document.querySelector('.st-key-compare-groups .js-plotly-plot');
            const box = plot.getBoundingClientRect(), layout = plot._fullLayout;
            for (const trace of plot._fullData) for (let i = 0; i < (trace.customdata || []).length; i++)
                if (trace.customdata[i][1] === 'groups-2')
                    return [box.x + layout.xaxis._offset + layout.xaxis.l2p(Math.log10(trace.x[i])),
                            box.y + layout.yaxis._offset + layout.yaxis.l2p(trace.y[i])];
        }"""
    )
    page.mouse.move(place[0] - 3, place[1])
    page.mouse.move(*place, steps=3)
    page.wait_for_timeout(300)
    page.mouse.click(*place)
    expect(page.get_by_text("Chosen: groups-2")).to_be_visible()
    button(page, "Tune this plan").click()
    expect(page.get_by_role("heading", name="Bits", exact=True)).to_be_visible()
    config = load_checkpoint(own.model).config
    start = preset_named(config, "sst2", "qbert-4")
    expect(page.locator(".state")).to_contain_text("groups-2")
    assert seen.digest() not in ("", start.digest)
    assert seen.foreign == []
    assert seen.errors == []


def test_every_tab_of_compare_shows_its_part_and_nothing_is_cut_off(visit, own):  # noqa: F811
    page = visit(own.link("/compare")).page
    for tab, name in TABS.items():
        turn(page, tab)
        expect(page.locator(f".st-key-compare-{name}")).to_be_visible()
        assert crowded(page) == {}


def test_a_plan_is_finetuned_saved_and_worked_with(visit, own):  # noqa: F811
    seen = visit(own.link("/finetune"))
    page = seen.page
    expect(page.get_by_text("No training yet")).to_be_visible()
    button(page, "Start").click()
    expect(page.get_by_text("Give the training data")).to_be_visible()
    fill(page, "Training data", own.data)
    for label, value in (("Epochs", "6"), ("Learning rate", "0.001")):
        box = page.get_by_role("spinbutton", name=label)
        box.fill(value)
        box.press("Enter")
        rest(page)
    folder = page.get_by_test_id("stCode").inner_text().strip()
    assert not Path(folder).exists()
    button(page, "Start").click()
    expect(page.get_by_text(re.compile(r"Finished: 6 epochs"))).to_be_visible()
    expect(page.get_by_text("measured on all 60 sentences of the data, finetuned on 60")).to_be_visible()
    assert len(plot(page, "training-loss", "Array.from(plot._fullData[0].y)")) == 6
    assert len(plot(page, "training-metric", "Array.from(plot._fullData[0].y)")) == 6
    rest(page)
    assert crowded(page) == {}
    after = seen.value("Plan, finetuned")
    assert (Path(folder) / "quantization.json").is_file()
    button(page, "Work with the finetuned model").click()
    expect(page.get_by_role("heading", name="Bits", exact=True)).to_be_visible()
    seen.state()
    assert seen.value("Accuracy") == after
    expect(page.get_by_test_id("stSidebar").get_by_text(Path(folder).name)).to_be_visible()
    assert seen.foreign == []
    assert seen.errors == []


def test_a_training_is_cancelled(visit, own):  # noqa: F811
    page = visit(own.link("/finetune")).page
    fill(page, "Training data", own.data)
    box = page.get_by_role("spinbutton", name="Epochs")
    box.fill("900")
    box.press("Enter")
    rest(page)
    button(page, "Start").click()
    expect(page.get_by_text(re.compile(r"Step \d+ of 1800"))).to_be_visible()
    page.locator(".st-key-cancel-finetune button").click()
    expect(page.get_by_text(re.compile(r"Start (goes on from there|begins anew)"))).to_be_visible()
    expect(button(page, "Start")).to_be_visible()
