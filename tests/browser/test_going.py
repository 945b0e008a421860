"""Pages that lead to another page by themselves, on a line where answers take their time."""

from __future__ import annotations

from urllib.parse import urlsplit

from playwright.sync_api import expect

from tests.browser.conftest import rest
from tests.browser.test_curvature_pages import Own, button, fill, own  # noqa: F401
from tests.slowline import slow_line

LATE = 1.7  # seconds: longer than the jobs' list takes to ask again


def test_bits_are_applied_while_an_analysis_runs_and_answers_are_late(visit, server: str, own: Own) -> None:  # noqa: F811
    with slow_line(urlsplit(server).port or 0) as line:
        seen = visit(line.address + own.link("/sensitivity"))
        page = seen.page
        fill(page, "Training data", own.data)
        fill(page, "Runs", "100")
        button(page, "Start").click()
        apply = button(page, "Apply these bits")
        apply.wait_for()
        line.delay = LATE
        apply.click()
        expect(page.get_by_role("heading", name="Bits", exact=True)).to_be_visible()
        page.wait_for_timeout(LATE * 2500)  # whatever was asked of the page before is answered
        expect(page.get_by_role("heading", name="Bits", exact=True)).to_be_visible()
        line.delay = 0.0
        rest(page)
        assert seen.state().startswith("ranked 2/4")
        page.go_back()
        expect(page.get_by_role("heading", name="Sensitivity", exact=True)).to_be_visible()
        button(page, "Cancel").click()
        expect(button(page, "Start")).to_be_visible()
        assert seen.errors == []
