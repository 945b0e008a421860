"""A tiny model, a small table, and nothing kept from one test to the next."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.components.v2 import manifest_scanner

from app import jobs as jobs_module
from app.inspections import Inspections
from app.live import Live
from app.workspace import Source, Workspace, open_workspace
from qbert_core.checkpoints import Checkpoint
from tests.app.speaker import Speaker

SENTENCES = (
    "a good film , great fun",
    "a bad and boring story",
    "it was not so funny but i love the music",
    "never slow , very clever",
    "dull",
    "the actor made it awful and the plot was poor , poor , poor",
)


def write_table(path: Path, rows: int = 60) -> Path:
    """A sentiment table whose sentences differ in length, so that there are several batches."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence", "label"])
        for row in range(rows):
            text = " ".join(SENTENCES[(row + extra) % len(SENTENCES)] for extra in range(1 + row % 3))
            writer.writerow([f"{text} {'!' * (row % 7)}".strip(), row % 2])
    return path


@pytest.fixture(scope="session", autouse=True)
def installed_components() -> Iterator[None]:
    """Streamlit's search for components among all installed packages, once and not for every `AppTest`: some
    0.1 s each."""
    found = manifest_scanner.scan_component_manifests()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", lambda: found)
        yield


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for everything that is kept between runs."""
    folder = tmp_path / "home"
    monkeypatch.setenv("QBERT_HOME", str(folder))
    return folder


@pytest.fixture(autouse=True)
def no_work_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every worker a test starts ends with it: one still inside torch when the interpreter ends aborts it."""
    made: list[Live | Inspections] = []

    def note(kind: type[Any]) -> None:
        start = kind.__init__

        def noted(worker: Any) -> None:
            made.append(worker)
            start(worker)

        monkeypatch.setattr(kind, "__init__", noted)

    for kind in (Live, Inspections):
        note(kind)
    yield
    for worker in made:
        worker.close()


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 sentences in a csv."""
    return write_table(tmp_path_factory.mktemp("data") / "sixty.csv")


@pytest.fixture(scope="session")
def source(tiny: Checkpoint, table: Path) -> Source:
    """The tiny model on 60 sentences."""
    return Source(str(tiny.folder), str(table))


@pytest.fixture(scope="session")
def workspace(source: Source) -> Workspace:
    """`source`, opened."""
    opened = open_workspace(source)
    assert len(opened.evaluator._order) > 2, "the tests need a plan to take several batches"
    return opened


@pytest.fixture
def speaker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Speaker:
    made = Speaker(tmp_path)
    made.say()
    monkeypatch.setattr(jobs_module, "_start", made.start)
    return made


@pytest.fixture
def folder(home: Path) -> Path:
    """Where plan files are; of this test only."""
    return home / "plans"
