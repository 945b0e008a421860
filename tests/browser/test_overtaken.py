"""What runs of a page and requests for a part of it do to each other when they come close together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import taken
from tests.server import ROOT, serving

# The press waits in line while the browser is busy, and so does the next request for the part, behind it: that
# is sent after the click, and before what the click asks for.
PRESS = """button => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => button.click();
    port2.postMessage("press");
    const end = performance.now() + 100;
    while (performance.now() < end);
}"""

# A link that the page itself follows, to a file that is ready, is followed a second later: a line far away.
LATE = """() => {
    const click = HTMLAnchorElement.prototype.click;
    HTMLAnchorElement.prototype.click = function () { setTimeout(() => click.call(this), 1000); };
}"""


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a page beside this file."""
    script = str(Path(__file__).with_name(request.param))
    command = ("streamlit", "run", script, "--server.headless=true", "--server.port")
    with serving(command, tmp_path / "server.log", {**os.environ, "PYTHONPATH": str(ROOT)}) as started:
        yield started.address


@pytest.mark.parametrize("server", ["overtaken.py"], indirect=True)
def test_what_an_overtaken_run_declares_late_does_not_stay(visit) -> None:
    seen = visit()
    page = seen.page
    expect(page.get_by_text("part of run 1")).to_be_visible()
    page.get_by_role("button", name="Further").click()
    expect(page.get_by_text("run 2 stands still")).to_be_visible()
    page.get_by_role("button", name="Further").click()
    expect(page.get_by_text("part of run 3")).to_be_visible()
    page.wait_for_timeout(2000)  # it is drawn again meanwhile, ten times a second
    expect(page.get_by_text("part of run 3")).to_be_visible()
    assert seen.errors == []


@pytest.mark.parametrize("server", ["pressed.py"], indirect=True)
def test_a_press_counts_once_while_a_part_is_asked_for(visit) -> None:
    seen = visit()
    page = seen.page
    expect(page.get_by_text("pressed 0 times")).to_be_visible()
    for times in range(1, 11):
        page.get_by_role("button", name="Press").evaluate(PRESS)
        expect(page.get_by_text(f"pressed {times} times")).to_be_visible()
    page.wait_for_timeout(500)
    expect(page.get_by_text("pressed 10 times")).to_be_visible()
    assert seen.errors == []


@pytest.mark.parametrize("server", ["forgotten.py"], indirect=True)
def test_a_press_is_not_forgotten_when_something_else_is_used_at_once(visit) -> None:
    seen = visit()
    page = seen.page
    expect(page.get_by_text("acted 0 times")).to_be_visible()
    page.get_by_role("button", name="Act").click()
    page.wait_for_timeout(200)  # the run that is told of the press has begun
    page.get_by_role("button", name="Other").click()
    expect(page.get_by_text("acted 1 times")).to_be_visible()
    page.get_by_role("button", name="Other").click()
    page.wait_for_timeout(1500)
    expect(page.get_by_text("acted 1 times")).to_be_visible()
    assert seen.errors == []


@pytest.mark.parametrize("server", ["delivered.py"], indirect=True)
def test_what_was_chosen_stays_when_a_part_is_asked_for_at_the_end_of_a_run(visit) -> None:
    seen = visit()
    page = seen.page
    letter = page.get_by_role("combobox", name="Letter")
    letter.click()
    page.get_by_role("option", name="b", exact=True).click()
    expect(letter).to_have_value("b")
    for number in range(1, 4):
        page.get_by_role("button", name="Again").click()
        expect(page.get_by_text(f"part of run {number}")).to_be_visible()
        page.wait_for_timeout(1500)  # the part is drawn again meanwhile
        expect(letter).to_have_value("b", timeout=1000)
    assert seen.errors == []


@pytest.mark.parametrize("server", ["ended.py"], indirect=True)
def test_the_last_of_a_run_is_delivered_when_a_part_is_asked_for_as_it_ends(visit) -> None:
    seen = visit()
    page = seen.page
    expect(page.get_by_text("the end of run 0")).to_be_visible()
    for number in range(1, 4):
        page.get_by_role("button", name="Again").click()
        expect(page.get_by_text(f"the end of run {number}")).to_be_visible()
        expect(page.get_by_text(f"the end of run {number - 1}")).to_have_count(0)
    assert seen.errors == []


@pytest.mark.parametrize("server", ["parts.py"], indirect=True)
def test_a_press_is_not_forgotten_by_a_part_that_is_drawn_before_that_of_its_button(visit) -> None:
    seen = visit()
    page = seen.page
    for times in range(1, 6):
        for name in ("Left", "Right"):  # one of them is drawn after the other
            page.get_by_role("button", name=name).click()
            expect(page.get_by_text(f"{name}: {times} times")).to_be_visible()
    page.wait_for_timeout(1000)
    expect(page.get_by_text("Left: 5 times")).to_be_visible()
    expect(page.get_by_text("Right: 5 times")).to_be_visible()
    assert seen.errors == []


@pytest.mark.parametrize("server", ["toasted.py"], indirect=True)
def test_what_is_said_in_passing_is_heard_when_the_page_is_asked_for_anew(visit) -> None:
    seen = visit()
    page = seen.page
    expect(page.get_by_text("at rest")).to_be_visible()
    page.get_by_role("button", name="Say").click()
    expect(page.get_by_text("about to speak")).to_be_visible()
    page.get_by_role("button", name="Other").click()
    expect(page.get_by_text("in passing")).to_be_visible()
    expect(page.get_by_text("at rest")).to_be_visible()
    assert seen.errors == []


@pytest.mark.parametrize("server", ["taken.py"], indirect=True)
def test_a_file_is_made_though_its_button_is_drawn_when_it_is_pressed(visit) -> None:
    seen = visit()
    page = seen.page
    expect(page.get_by_text("the end of run 0")).to_be_visible()
    page.get_by_role("button", name="Late").click()
    expect(page.get_by_text("run 1 is under way")).to_be_visible()
    assert taken(page, "Made").read_text() == "made by run 1"
    assert seen.errors == []


@pytest.mark.parametrize("server", ["taken.py"], indirect=True)
def test_a_file_waits_for_the_browser(visit) -> None:
    seen, other = visit(), visit()
    page = seen.page
    for each in (page, other.page):  # parts of both are drawn twenty times a second
        expect(each.get_by_text("the end of run 0")).to_be_visible()
    page.evaluate(LATE)
    assert taken(page, "Made").read_text() == "made by run 0"
    page.get_by_role("button", name="Slow").click()
    expect(page.get_by_text("run 1 is under way")).to_be_visible()
    assert taken(page, "Drawn").read_text() == "drawn"
    assert seen.errors == []
