"""The page Export in a browser, on a model of a few kilobytes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect

from qbert_core.checkpoints import load_checkpoint
from qbert_core.export import load_exported
from qbert_core.quantization import preset_named
from tests.app.conftest import write_table
from tests.browser.conftest import taken
from tests.tiny import make_tiny


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("own")
    return {"model": str(make_tiny(folder / "tiny")), "data": str(write_table(folder / "sixty.csv"))}


def test_what_is_taken_away_opens_again(visit: Any, own: dict[str, str], tmp_path: Path) -> None:
    seen = visit(f"/export?{urlencode(own)}")
    page = seen.page
    expect(page.get_by_text("in one file that asks nobody")).to_be_visible()

    plan = json.loads(taken(page, "Plan as JSON").read_text())
    assert plan["name"] == "qbert-4"
    table = list(csv.DictReader(taken(page, "Sites as CSV").open()))
    assert {row["site"]: int(row["bits"]) for row in table} == {
        s: e["bits"] for s, e in plan["sites"].items()
    }

    report = tmp_path / "report.html"
    report.write_bytes(taken(page, "Report as HTML").read_bytes())
    asked: list[str] = []
    other = page.context.new_page()
    other.on("request", lambda request: asked.append(request.url))
    other.goto(report.as_uri())
    expect(other.get_by_role("heading", name="qbert-4", exact=True)).to_be_visible()
    assert asked == [report.as_uri()]
    other.close()

    plan["sites"]["bert.encoder.layer.0.output.dense"]["bits"] = 2
    plan["name"] = "from a file"
    page.get_by_test_id("stMain").locator("input[type=file]").set_input_files(
        {"name": "mine.json", "mimeType": "application/json", "buffer": json.dumps(plan).encode()}
    )
    expect(page.get_by_text("is the session's plan now")).to_be_visible()

    page.get_by_role("button", name="Export", exact=True).click()
    expect(page.get_by_role("button", name="Folder as ZIP")).to_be_visible()
    folder = Path(page.get_by_test_id("stCode").first.inner_text().strip())
    opened = load_exported(folder)
    assert opened.plan.to_json()["sites"] == plan["sites"]
    start = preset_named(load_checkpoint(own["model"]).config, "sst2", "qbert-4")
    assert opened.plan.digest != start.digest
    assert not seen.foreign
    assert not seen.errors


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off(visit: Any, own: dict[str, str], scheme: str) -> None:
    page = visit(f"/export?{urlencode(own)}", scheme=scheme).page
    expect(page.get_by_text("in one file that asks nobody")).to_be_visible()
    main = page.get_by_test_id("stMain")
    assert main.evaluate("e => e.scrollWidth <= e.clientWidth")
    labels = page.locator("[data-testid=stMain] button p")
    assert (
        labels.evaluate_all("es => es.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)")
        == []
    )
