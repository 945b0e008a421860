"""Fixtures for every room, and the rule that what QBERT_REQUIRE names must not be skipped."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

# Before anything imports the hub's client: a test that asks for the network fails at once, here and in CI.
os.environ["HF_HUB_OFFLINE"] = "1"
# Two workers whose threads each wait for work on every core take as long as one worker for all.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from qbert_core.checkpoints import Checkpoint, load_checkpoint
from tests.chromium import find_chromium
from tests.tiny import make_tiny

# No test is about how long an example takes, and a busy machine takes longer for one than for the next.
settings.register_profile("untimed", parent=settings.default, deadline=None)
settings.load_profile("untimed")

SHARED = Path(__file__).resolve().parents[2] / "shared"
# fixture -> marker of every test that uses it, so that `-m "not browser"` needs no decorators
MARKERS = {"chromium": "browser", "shared": "shared"}
REQUIRED = set(filter(None, os.environ.get("QBERT_REQUIRE", "").split(",")))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and a real checkpoint, beside the checkout; never copied into it."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared")
    return SHARED


@pytest.fixture(autouse=True)
def main_module() -> Iterator[None]:
    """Streamlit's AppTest puts the page's script in the place of the main module and leaves it there;
    processes that are spawned later would run the app first."""
    before = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = before


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium to give Playwright as `executable_path`."""
    path = find_chromium()
    if path is None:
        pytest.skip("needs Chromium: `make test` installs one")
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A random sentiment model of 3 layers, 2 heads, hidden 16; other shapes: tests.tiny.make_tiny."""
    return load_checkpoint(make_tiny(tmp_path_factory.mktemp("checkpoints") / "tiny"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture, marker in MARKERS.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if any(item.get_closest_marker(name) for name in REQUIRED):
        forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if REQUIRED:  # a module that skips itself does not say for want of what
        forbid_skip(report)
    return report


def forbid_skip(report: Any) -> None:
    """Make a skipped report a failed one; an expected failure, which pytest counts as skipped, stays."""
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"{reason}; forbidden by QBERT_REQUIRE={','.join(sorted(REQUIRED))}"
