"""A run of a page that is overtaken by the next one, and what it declares after that."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.server import ROOT, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the page beside this file."""
    log = tmp_path_factory.mktemp("overtaken") / "server.log"
    script = str(Path(__file__).with_name("overtaken.py"))
    command = ("streamlit", "run", script, "--server.headless=true", "--server.port")
    with serving(command, log, {**os.environ, "PYTHONPATH": str(ROOT)}) as started:
        yield started.address


def test_what_an_overtaken_run_declares_late_does_not_stay(visit) -> None:
    seen = visit()
    page = seen.page
    expect(page.get_by_text("part of run 1")).to_be_visible()
    page.get_by_role("button", name="Further").click()
    page.wait_for_timeout(300)
    page.get_by_role("button", name="Further").click()
    expect(page.get_by_text("part of run 3")).to_be_visible()
    page.wait_for_timeout(2000)  # it is drawn again meanwhile, ten times a second
    expect(page.get_by_text("part of run 3")).to_be_visible()
    assert seen.errors == []
