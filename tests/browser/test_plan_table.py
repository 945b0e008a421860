"""The tables of page Bits: cells as controls, quick edits, mixed cells, more layers than fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from app.link import plan_to_text
from qbert_core.checkpoints import load_checkpoint
from qbert_core.quantization import Plan, SitePlan, preset_named, sites_of
from tests.app.conftest import write_table
from tests.browser.conftest import rest
from tests.tiny import make_tiny

LAYERS = 30  # more than the table shows at once


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Plan]:
    """A link to a model of many layers, and the plan it opens with."""
    folder = tmp_path_factory.mktemp("many")
    model, data = make_tiny(folder / "tiny", layers=LAYERS), write_table(folder / "sixty.csv")
    start = preset_named(load_checkpoint(model).config, "sst2", "qbert-4")
    return f"/?model={model}&data={data}", start


def feed_forward(start: Plan, bits: dict[int, int]) -> Plan:
    names = ("intermediate.dense", "output.dense")
    return start.with_sites(
        {f"bert.encoder.layer.{i}.{name}": SitePlan(b, 128) for i, b in bits.items() for name in names}
    )


def test_quick_edits_all_arrive_and_are_undone_one_by_one(visit, many: tuple[str, Plan]) -> None:
    link, start = many
    seen = visit(link)
    seen.state()
    wanted = {layer: 2 + layer for layer in range(5)}
    seen.cell(0, "FFN bits of").focus()
    for layer, bits in wanted.items():  # faster than the server answers
        if layer:
            seen.page.keyboard.press("ArrowDown")
        seen.page.keyboard.press(str(bits))
    plan = feed_forward(start, wanted)
    seen.expect_plan(plan)
    assert [seen.cell(layer, "FFN bits of").input_value() for layer in wanted] == list("23456")
    focused = seen.page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused == "FFN bits of L5", "numbers that arrive leave the focus where it is"
    for gone in (4, 3):
        seen.page.keyboard.press("Control+z")
        wanted[gone] = 4
        seen.expect_plan(feed_forward(start, wanted))
        expect(seen.cell(gone, "FFN bits of")).to_have_value("4")
    seen.page.keyboard.press("Control+y")
    wanted[3] = 5
    seen.expect_plan(feed_forward(start, wanted))
    assert seen.errors == []


def test_a_table_that_scrolls_keeps_its_head_and_marks_its_last_layer(visit, many: tuple[str, Plan]) -> None:
    link, _ = many
    seen = visit(f"{link}&layer={LAYERS}")
    seen.state()
    row = seen.page.locator("tr[aria-selected=true]")
    expect(row).to_have_count(1)
    seen.cell(LAYERS - 1, "Lock").scroll_into_view_if_needed()
    rest(seen.page)
    frame = seen.page.locator(".plan-table .frame").first.bounding_box()
    head = seen.page.locator(".plan-table thead th").first.bounding_box()
    marked = row.bounding_box()
    assert frame is not None
    assert head is not None
    assert marked is not None
    assert frame["y"] <= head["y"] + 2
    assert head["y"] + head["height"] <= marked["y"]
    assert marked["y"] + marked["height"] <= frame["y"] + frame["height"] + 1
    assert seen.errors == []


def test_a_cell_whose_sites_differ_says_so_until_it_is_set(visit, many: tuple[str, Plan]) -> None:
    link, start = many
    query = "bert.encoder.layer.1.attention.self.query"
    seen = visit(f"{link}&plan={plan_to_text(start.with_sites({query: SitePlan(3, 7)}))}")
    seen.state()
    cell = seen.cell(1, "Attention bits of")
    expect(cell).to_have_value("mixed")
    expect(seen.cell(1, "Groups of")).to_have_value("")
    cell.select_option("2")
    expect(cell).to_have_value("2")
    expect(cell.locator("option", has_text="mixed")).to_have_count(0)
    attention = {
        s.name
        for s in sites_of(load_checkpoint(link.split("=")[1].split("&")[0]).config)
        if s.layer == 1 and s.kind == "attention"
    }
    seen.expect_plan(start.with_sites({name: SitePlan(2, 7 if name == query else 128) for name in attention}))
    groups = seen.cell(1, "Groups of")
    groups.fill("9")
    groups.press("Enter")
    expect(groups).to_have_value("9")
    layer = {name: entry for name, entry in start.entries if ".layer.1." in name}
    seen.expect_plan(
        start.with_sites({n: SitePlan(2 if n in attention else e.bits, 9) for n, e in layer.items()})
    )
    assert seen.errors == []


def test_an_embedding_table_is_changed_like_a_layer(visit, many: tuple[str, Plan]) -> None:
    link, start = many
    seen = visit(link)
    seen.state()
    name = "bert.embeddings.word_embeddings"
    seen.page.get_by_label("Bits of Word", exact=True).select_option("fp32")
    seen.expect_plan(start.with_sites({name: SitePlan(32, start.sites[name].groups)}))
    assert seen.errors == []


def test_another_model_has_its_own_rows_and_none_of_the_edits_before(visit, tmp_path: Path) -> None:
    seen = visit()
    seen.state()
    seen.edit(5, "FFN", "2")
    expect(seen.cell(5, "FFN bits of")).to_have_value("2")
    model, data = make_tiny(tmp_path / "tiny"), write_table(tmp_path / "sixty.csv")
    page = seen.page
    page.get_by_text("Model and data").click()
    page.get_by_role("textbox", name="Model").fill(str(model))
    page.get_by_role("textbox", name="Data").fill(str(data))
    page.get_by_role("button", name="Load", exact=True).click()
    expect(page.get_by_text("3 layers, 2 heads, 16 wide")).to_be_visible()
    seen.expect_plan(preset_named(load_checkpoint(model).config, "sst2", "qbert-4"))
    expect(page.locator(".plan-table tbody tr")).to_have_count(3 + 3)
    seen.edit(2, "FFN", "8")
    expect(seen.cell(2, "FFN bits of")).to_have_value("8")
    assert seen.errors == []
