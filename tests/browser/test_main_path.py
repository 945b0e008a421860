"""The app as a person meets it: the demo, an edit, undo, a link, an analysis, a model of one's own."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from app.figures import fmt_percent
from app.link import plan_to_text
from qbert_core.checkpoints import load_checkpoint
from qbert_core.evaluation import Evaluator, calibration
from qbert_core.quantization import SitePlan, preset_named
from qbert_core.tasks import task_named
from qbert_core.tasks.data import read_table
from tests.browser.conftest import PATIENCE, ours
from tests.server import ROOT
from tests.tiny import make_tiny


def test_which_tracebacks_count() -> None:
    foreign = 'Traceback (most recent call last):\n  File "/x/.venv/streamlit/a.py", line 1\nE: closed\n'
    own = f'Traceback (most recent call last):\n  File "{ROOT}/app/main.py", line 1\nE: bad\n'
    assert ours(foreign) == []
    assert len(ours(foreign + own + foreign)) == 1


@pytest.fixture(scope="module")
def engine() -> Evaluator:
    """The demo measured without the app."""
    demo, task = load_checkpoint("demo"), task_named("sst2")
    data = task.examples(read_table("demo"), demo, "demo")
    return Evaluator(demo, task, data, calibration(demo, task, data, None))


def test_the_demo_shows_live_numbers_with_no_question_asked_and_no_foreign_request(visit, engine):
    bits = visit()
    assert bits.state().startswith("qbert-4: all 400 sentences")
    expected = engine.evaluate(preset_named(engine.checkpoint.config, "sst2", "qbert-4"))
    assert bits.value("Accuracy") == fmt_percent(expected.score.metrics["accuracy"])
    assert bits.value("Size") == f"{expected.size.size_mb:.1f}\N{NO-BREAK SPACE}MB"
    assert bits.value("Effective bits") == f"{expected.size.effective_bits:.2f}"
    assert "n = 400" in bits.page.locator('.card[aria-label="Accuracy"]').inner_text()
    expect(bits.page.locator(".st-key-kl .heatmaplayer image, .st-key-kl .hm image").first).to_be_attached()
    expect(bits.page.locator(".st-key-scatter .scatterlayer").first).to_be_attached()
    bits.page.wait_for_timeout(1000)
    assert bits.foreign == []
    assert bits.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/sensitivity"])
def test_nothing_is_cut_off_and_a_direct_visit_works(visit, scheme, path):
    seen = visit(path, scheme)
    heading = "Sensitivity" if path == "/sensitivity" else "Bits"
    expect(seen.page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
    if path == "/":
        seen.state()
    width = seen.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert width[0] <= width[1]
    cut = seen.page.eval_on_selector_all(
        ".card *", "es => es.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)"
    )
    assert cut == []
    background = seen.page.eval_on_selector("[data-testid=stApp]", "e => getComputedStyle(e).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    assert seen.errors == []


def test_an_edit_ends_at_the_engines_numbers_and_undo_redo_reset_go_back_and_forth(visit, engine):
    bits = visit()
    bits.state()
    start = preset_named(engine.checkpoint.config, "sst2", "qbert-4")
    attention = ("self.query", "self.key", "self.value", "output.dense")
    own = start.with_sites({f"bert.encoder.layer.2.attention.{name}": SitePlan(2, 128) for name in attention})
    bits.edit(2, "Attention", "2")
    bits.expect_plan(own)
    expected = engine.evaluate(own)
    assert bits.value("Accuracy") == fmt_percent(expected.score.metrics["accuracy"])
    assert bits.value("Size") == f"{expected.size.size_mb:.1f}\N{NO-BREAK SPACE}MB"

    bits.page.locator(".st-key-undo button").first.click()
    bits.expect_plan(start)
    bits.page.locator(".st-key-redo button").first.click()
    bits.expect_plan(own)
    bits.page.locator(".st-key-reset button").first.click()
    bits.expect_plan(start)


def test_the_link_restores_the_plan_elsewhere_and_a_reload_keeps_it(visit, engine):
    bits = visit()
    bits.state()
    bits.page.get_by_role("combobox").first.click()
    bits.page.get_by_role("option", name="directq-3").click()
    plan = preset_named(engine.checkpoint.config, "sst2", "directq-3")
    bits.expect_plan(plan)
    link = bits.page.url
    assert "plan=" in link
    visit(link).expect_plan(plan)
    bits.page.reload()
    bits.expect_plan(plan)


def test_the_home_page_by_a_name_of_its_own(visit, engine):
    plan = preset_named(engine.checkpoint.config, "sst2", "directq-3")
    bits = visit(f"/bits?plan={plan_to_text(plan)}")
    bits.expect_plan(plan)
    expect(bits.page.get_by_text("Page not found")).to_have_count(0)
    assert bits.page.get_by_test_id("stSidebarNav").get_by_role("link", name="Bits", exact=True).count() == 1
    assert bits.errors == []


def test_a_broken_link_says_so_and_starts_as_usual(visit):
    bits = visit("/?plan=nonsense")
    expect(bits.page.get_by_text("the link's plan cannot be read")).to_be_visible()
    assert bits.state().startswith("qbert-4")


def test_two_people_edit_at_once_and_each_keeps_the_own_plan(visit, engine):
    config = engine.checkpoint.config
    one, two = visit(), visit()
    one.state()
    two.state()
    one.page.get_by_role("combobox").first.click()
    two.page.get_by_role("combobox").first.click()
    one.page.get_by_role("option", name="directq-2").click()
    two.page.get_by_role("option", name="qbert-3").click()
    for person, name in ((one, "directq-2"), (two, "qbert-3")):
        plan = preset_named(config, "sst2", name)
        person.expect_plan(plan)
        assert person.value("Accuracy") == fmt_percent(engine.evaluate(plan).score.metrics["accuracy"])


def test_a_click_in_the_scatter_restores_the_plan(visit, engine):
    bits = visit(width=1280, height=1400)
    bits.state()
    plan = preset_named(engine.checkpoint.config, "sst2", "directq-4")
    wanted = re.compile("directq-4")
    expect(bits.page.locator(".st-key-scatter .annotation", has_text=wanted)).to_be_visible()
    # the place of the mark, asked of plotly itself
    place = bits.page.evaluate(
        """digest => {
            const plot = document.querySelector('.st-key-scatter .js-plotly-plot');
            const box = plot.getBoundingClientRect(), layout = plot._fullLayout;
            for (const trace of plot._fullData) for (let i = 0; i < (trace.customdata || []).length; i++)
                if (trace.customdata[i] && trace.customdata[i][0] === digest)
                    return [box.x + layout.xaxis._offset + layout.xaxis.d2p(trace.x[i]),
                            box.y + layout.yaxis._offset + layout.yaxis.d2p(trace.y[i])];
        }""",
        plan.digest,
    )
    bits.page.mouse.move(place[0] - 3, place[1])
    bits.page.mouse.move(*place, steps=3)
    bits.page.wait_for_timeout(300)
    bits.page.mouse.click(*place)
    bits.expect_plan(plan)


def number(page: Page, label: str, value: str) -> None:
    box = page.get_by_role("spinbutton", name=label)
    box.fill(value)
    box.press("Enter")
    page.wait_for_timeout(500)


def test_an_analysis_runs_fills_in_and_its_bits_are_applied(visit):
    seen = visit("/sensitivity")
    expect(seen.page.get_by_text("Press Start")).to_have_count(2)
    number(seen.page, "Runs", "2")
    number(seen.page, "Share (%)", "1")
    seen.page.get_by_role("button", name="Start").click()
    expect(seen.page.get_by_text("2 runs of 6 examples each")).to_be_visible(timeout=PATIENCE)
    expect(seen.page.get_by_text("Ranking, from 2 complete runs")).to_be_visible()
    expect(seen.page.locator(".st-key-samples .scatterlayer .point").first).to_be_attached()
    seen.page.get_by_role("button", name="Apply these bits").click()
    expect(seen.page.get_by_role("heading", name="Bits", exact=True)).to_be_visible()
    assert seen.state().startswith("ranked 2/4")
    expect(seen.page.locator(".plan-table tbody .omega")).to_have_text([re.compile(r"^\d")] * 6)
    assert "plan=" in seen.page.url


def test_an_analysis_can_be_cancelled(visit):
    seen = visit("/sensitivity")
    number(seen.page, "Runs", "50")
    seen.page.get_by_role("button", name="Start").click()
    cancel = seen.page.locator(".st-key-cancel-sensitivity button").first
    cancel.click()
    expect(seen.page.get_by_text("Cancelled", exact=False).first).to_be_visible()
    expect(seen.page.get_by_role("button", name="Start")).to_be_visible()
    expect(seen.page.get_by_text("running")).to_have_count(0)


def load(page: Page, model: str, data: str) -> None:
    if not page.get_by_role("button", name="Load", exact=True).is_visible():
        page.get_by_text("Model and data").click()
    page.get_by_role("textbox", name="Model").fill(model)
    page.get_by_role("textbox", name="Data").fill(data)
    page.get_by_role("button", name="Load", exact=True).click()


def test_a_model_and_data_of_ones_own_and_a_wrong_path(visit, tmp_path):
    folder = make_tiny(tmp_path / "own")
    data = tmp_path / "own.csv"
    data.write_text("sentence,label\n" + "a good film,1\na dull story,0\n" * 10)
    bits = visit()
    bits.state()
    load(bits.page, str(tmp_path / "nothing"), "demo")
    expect(bits.page.get_by_text("no such folder")).to_be_visible()
    assert "all 400 sentences" in bits.state()

    load(bits.page, str(folder), str(data))
    expect(bits.page.get_by_text("3 layers, 2 heads, 16 wide")).to_be_visible()
    expect(bits.page.locator(".state")).to_contain_text("all 20 sentences", timeout=PATIENCE)
    assert "model=" in bits.page.url
    expect(bits.page.get_by_text("no such folder")).to_have_count(0)
