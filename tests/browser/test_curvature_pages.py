"""Sensitivity's confidence and density and the loss landscape, in a browser, on a model of a few kilobytes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Locator, Page, expect

from app.figures import fmt_loss
from tests.app.conftest import write_table
from tests.browser.conftest import nav, rest
from tests.server import ROOT
from tests.tiny import make_tiny


@dataclass(frozen=True)
class Own:
    """A tiny model, its data, and the link that opens a page with both."""

    model: str
    data: str

    def link(self, path: str) -> str:
        return f"{path}?{urlencode({'model': self.model, 'data': self.data})}"

    def run(self, command: str, out: Path, *options: str) -> dict[str, Any]:
        """What the command line says, without the app."""
        arguments = [command, self.model, "--task", "sst2", "--train", self.data, *options, "--out", str(out)]
        # in a process, as the app's jobs: another number of threads may end at another step within the tolerance
        done = subprocess.run([sys.executable, "-m", "qbert_core", *arguments], cwd=ROOT, check=False)
        assert done.returncode == 0
        document: dict[str, Any] = json.loads(out.read_text())
        return document


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Own:
    folder = tmp_path_factory.mktemp("own")
    return Own(str(make_tiny(folder / "tiny")), str(write_table(folder / "sixty.csv")))


def fill(page: Page, label: str, value: str) -> None:
    rest(page)
    role = "spinbutton" if label in ("Runs", "Share (%)") else "textbox"
    box = page.get_by_role(role, name=label)
    box.fill(value)
    box.press("Enter")
    rest(page)


def choose(page: Page, label: str, option: str) -> None:
    rest(page)  # another box may take this one's place
    box = page.get_by_role("combobox", name=label)
    box.scroll_into_view_if_needed()  # a list closes when the page scrolls
    page.wait_for_timeout(200)
    box.click()
    page.get_by_role("option", name=option, exact=True).click()
    rest(page)


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def card(page: Page, label: str) -> Locator:
    return page.locator(f'.card[aria-label="{label}"] .value')


def plot(page: Page, key: str, expression: str) -> Any:
    """The value of a chart's `expression`, asked of plotly itself, once it is drawn and that is neither false nor
    an empty list: a chart that is drawn anew is without its marks for a moment."""
    chart = f"document.querySelector('.st-key-{key} .js-plotly-plot')"
    found = page.wait_for_function(
        f"() => {{ const plot = {chart}, value = plot?._fullData && ({expression});"
        " return value?.length === 0 ? null : value }"
    )
    return found.json_value()


def test_a_landscape_shows_what_the_command_line_says(visit, own, tmp_path):
    seen = visit(own.link("/landscape"))
    page = seen.page
    expect(page.get_by_text("No landscape yet")).to_have_count(2)
    fill(page, "Training data", own.data)
    choose(page, "Layer", "L2")
    choose(page, "Bits", "directq-2")
    choose(page, "Grid", "11²")
    button(page, "Start").click()
    expect(button(page, "Cancel").or_(card(page, "Loss, trained"))).to_be_visible()
    expect(button(page, "Start")).to_be_visible()
    expected = own.run("landscape", tmp_path / "out", "--layer", "1", "--steps", "11", "--plan", "directq-2")
    quantized = expected["quantized"]
    expect(card(page, "Loss, trained")).to_have_text(fmt_loss(expected["loss_at_zero"]))
    # the plane's directions are found to a residual of 1 %, by other steps where there are other threads
    shown = float(card(page, "Where the plan falls on the plane").inner_text())
    assert shown == pytest.approx(quantized["loss_at_projection"], rel=0.01)
    expect(card(page, "Really, L2 quantized")).to_have_text(fmt_loss(quantized["loss"]))
    expect(page.get_by_text("directq-2 moves L2's weights by")).to_be_visible()
    for key, axes in (
        ("landscape-contour", "plot._fullLayout"),
        ("landscape-surface", "plot._fullLayout.scene"),
    ):
        assert plot(page, key, "plot._fullData[0]?.z?.length === 11")
        low, high = plot(page, key, f"{axes}.xaxis.range")
        assert low < quantized["x"] < high
    assert plot(page, "landscape-surface", "!!plot.querySelector('canvas')"), "drawn by WebGL"
    assert seen.foreign == []
    assert seen.errors == []

    choose(page, "Layer", "L1")
    expect(page.get_by_text("an earlier landscape")).to_be_visible()
    choose(page, "Layer", "L2")
    expect(page.get_by_text("an earlier landscape")).to_have_count(0)
    page.reload()
    expect(card(page, "Really, L2 quantized")).to_have_text(fmt_loss(quantized["loss"]))


def test_the_plan_of_the_session_is_what_is_projected(visit, own):
    seen = visit(own.link("/"))
    page = seen.page
    seen.state()
    page.get_by_role("button", name="Set all layers").click()
    slider = page.get_by_role("slider", name="Bits")
    slider.focus()
    slider.press("ArrowLeft")
    slider.press("ArrowLeft")
    button(page, "Apply").click()
    page.get_by_role("combobox").first.wait_for()
    # until the page has heard of the change, the state line still speaks of the plan before it
    expect(page.locator(".state")).not_to_contain_text("qbert-4")
    expect(page.locator('.state[data-state="current"]')).to_contain_text("measured")
    name = page.locator(".state").inner_text().split(":")[0]
    nav(page, "landscape").click()
    expect(page.get_by_role("heading", name="Loss landscape")).to_be_visible()
    fill(page, "Training data", own.data)
    choose(page, "Grid", "11²")
    button(page, "Start").click()
    expect(page.get_by_text(f"{name} moves L1's weights by")).to_be_visible()


def test_cancel_keeps_the_points_so_far_and_a_turned_surface_stays_turned(visit):
    page = visit("/landscape").page
    fill(page, "Share (%)", "1")
    choose(page, "Grid", "41²")
    button(page, "Start").click()
    assert plot(page, "landscape-surface", "plot._fullData[0]?.z?.length >= 2")
    button(page, "Cancel").click()
    expect(page.get_by_text(re.compile(r"Cancelled after \d+ points"))).to_be_visible()
    expect(button(page, "Start")).to_be_visible()
    expect(card(page, "Loss, trained")).to_be_visible()

    canvas = page.locator(".st-key-landscape-surface canvas").first
    expect(canvas).to_be_visible()
    page.wait_for_timeout(1000)
    assert 2 <= plot(page, "landscape-surface", "plot._fullData[0]?.z?.length") < 41
    camera = "Object.values(plot._fullLayout.scene._scene.getCamera().eye)"
    before = plot(page, "landscape-surface", camera)
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 90, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    page.wait_for_timeout(1000)
    turned = plot(page, "landscape-surface", camera)
    assert max(abs(a - b) for a, b in zip(before, turned, strict=True)) > 0.1
    choose(page, "Layer", "L4")
    expect(page.get_by_text("an earlier landscape")).to_be_visible()
    assert plot(page, "landscape-surface", camera) == pytest.approx(turned, abs=1e-6)


def test_runs_end_when_the_ranking_is_stable_and_the_page_says_how_sure_it_is(visit, own):
    page = visit(own.link("/sensitivity")).page
    fill(page, "Training data", own.data)
    fill(page, "Runs", "60")
    fill(page, "Share (%)", "50")
    page.get_by_text("Stop when the ranking is stable").click()
    expect(page.get_by_text("sure of the 1 highest of 3 layers")).to_be_visible()
    page.get_by_text("90 %", exact=True).click()
    button(page, "Start").click()
    expect(page.get_by_text("The ranking is stable: no more of the 60 runs were needed")).to_be_visible()
    sure = page.get_by_text(re.compile("the most sensitive with probability .* stable at 90.% since run"))
    expect(sure).to_be_visible()
    since = int(re.search(r"since run (\d+)", sure.inner_text())[1])
    assert 5 <= since < 60
    page.get_by_role("tab", name="Confidence").click()
    expect(
        page.locator(".st-key-rank-confidence .hm image, .st-key-rank-confidence .heatmaplayer").first
    ).to_be_attached()
    expect(page.get_by_text(f"stable after {since} runs")).to_be_visible()
    history = plot(page, "stability", "Array.from(plot._fullData[0].y)")
    assert len(history) == since - 2, "from the third run to the one it became stable with"
    assert history[-1] >= 0.9
    assert all(probability < 0.9 for probability in history[2:-1]), "the fifth could have been the last"
    assert plot(page, "rank-confidence", "[plot._fullData[0].zmin, plot._fullData[0].zmax]") == [0, 1]


def test_a_density_arrives_beside_the_analysis(visit, own):
    page = visit(own.link("/sensitivity")).page
    fill(page, "Training data", own.data)
    page.get_by_role("tab", name="Density").click()
    expect(page.get_by_text("No density yet")).to_be_visible()
    choose(page, "Block", "L3")
    button(page, "Start density").click()
    expect(page.get_by_text("4 of 4 probes")).to_be_visible()
    expect(button(page, "Start density")).to_be_visible()
    rest(page)
    expect(page.get_by_text("Their sum is")).to_be_visible()
    expect(page.get_by_role("combobox", name="Block")).to_have_value("L3")
    # asked first: before the figure is drawn it has no marks, but an axis
    ends = plot(page, "density", "plot._fullLayout.shapes.filter(s => s.x0 === s.x1).map(s => s.x0)")
    low, high = plot(page, "density", "plot._fullLayout.xaxis.range")
    assert low <= ends[0] < ends[1] <= high
    assert plot(page, "density", "plot._fullLayout.yaxis.type") == "log"
    drawn = "plot.querySelectorAll('.shapelayer path').length"
    assert plot(page, "density", drawn) == 3, "both ends and the height of one eigenvalue"
    box = page.locator(".st-key-density .js-plotly-plot").bounding_box()
    assert box is not None
    assert box["width"] > 500, "a chart that was hidden has its full width"
    choose(page, "Block", "L1")
    expect(page.get_by_text("No density yet")).to_be_visible()
