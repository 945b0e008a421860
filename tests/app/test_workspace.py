"""Opening a model and its data: once for everybody, a clear line when it fails, a bounded number kept."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app.engine import EngineDied, Failed
from app.workspace import KEPT, Opening, Source, Workspace, Workspaces, open_workspace
from qbert_core.checkpoints import Checkpoint
from qbert_core.errors import InputError
from tests.app.tools import PATIENCE, until


def opened(workspaces: Workspaces, source: Source) -> Workspace:
    opening = workspaces.open(source, PATIENCE)
    assert opening.workspace, opening.error
    return opening.workspace


class Loads:
    """Loads a source: counts, and waits while it is held."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.sources: list[Source] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, source: Source) -> Workspace:
        self.sources.append(source)
        assert self.free.wait(PATIENCE)
        if source.model == "bad":
            raise InputError("bad: no such folder")
        return replace(self.workspace, source=source)


@pytest.fixture
def loads(workspace: Workspace) -> Loads:
    return Loads(workspace)


def everybody(count: int, ask: Callable[[], Opening]) -> list[Opening]:
    """What `count` threads get that ask at once; a thread that raised is missing."""
    answers: list[Opening] = []
    threads = [threading.Thread(target=lambda: answers.append(ask())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return answers


def test_a_source_becomes_a_workspace(workspace: Workspace, source: Source) -> None:
    assert workspace.source == source
    assert len(workspace.examples) == 60
    assert workspace.baseline.name == "baseline"
    assert not any(entry.quantized for _, entry in workspace.baseline.entries)
    assert open_workspace(replace(source, limit=7)).examples.source == source.data
    assert len(open_workspace(replace(source, limit=7)).examples) == 7


def test_the_key_names_the_content_not_the_place(
    workspace: Workspace, tiny: Checkpoint, table: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny.folder, tmp_path / "elsewhere")
    data = shutil.copy(table, tmp_path / "other.csv")
    assert open_workspace(Source(str(model), str(data))).key == workspace.key
    assert open_workspace(Source(str(model), str(data), 59)).key != workspace.key


@pytest.mark.parametrize(
    ("model", "data", "line"),
    [
        ("nowhere", "", "nowhere: no such folder; give a folder, a hub id like owner/name, or demo"),
        ("", "nowhere.csv", "nowhere.csv: no such file"),
        ("", "model.safetensors", "the name must end in .parquet .csv"),
        ("", "columns.csv", "column label is missing; found: sentence"),
        ("", "label.csv", "row 2: label 'maybe' is not one of the model's: 0 (negative), 1 (positive)"),
        ("", "empty.csv", "the file is empty"),
        ("", "head.csv", "no rows"),
    ],
)
def test_a_bad_source_gives_one_line_that_says_what_would_be_right(
    tiny: Checkpoint, tmp_path: Path, model: str, data: str, line: str
) -> None:
    (tmp_path / "columns.csv").write_text("sentence\ngood\n")
    (tmp_path / "label.csv").write_text("sentence,label\ngood,1\nbad,maybe\n")
    (tmp_path / "head.csv").write_text("sentence,label\n")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "model.safetensors").write_bytes(b"x")
    source = Source(model or str(tiny.folder), str(tmp_path / data))
    opening = Workspaces(open_workspace).open(source, PATIENCE)
    assert opening.workspace is None
    assert opening.error is not None
    assert line in opening.error
    assert "\n" not in opening.error


def test_asking_again_after_an_error_tries_again(tiny: Checkpoint, table: Path, tmp_path: Path) -> None:
    source = Source(str(tmp_path / "later"), str(table))
    workspaces = Workspaces(open_workspace)
    assert "no such folder" in (workspaces.open(source, PATIENCE).error or "")
    shutil.copytree(tiny.folder, tmp_path / "later")
    assert opened(workspaces, source).checkpoint.name == "later"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "demo: not enough memory to load it; try a smaller row limit"),
        (RuntimeError("/home/me/secret"), "demo: loading failed (RuntimeError)"),
        (Failed("KeyError"), "demo: loading failed (KeyError)"),
        (EngineDied("the process that loaded it ended"), "demo: the process that loaded it ended"),
    ],
)
def test_what_nobody_foresaw_is_a_line_too(error: Exception, line: str) -> None:
    def fail(source: Source) -> Workspace:
        raise error

    assert Workspaces(fail).open(Source(), PATIENCE).error == line


def test_opening_does_not_wait_longer_than_it_is_told(loads: Loads) -> None:
    loads.free.clear()
    workspaces = Workspaces(loads)
    assert not workspaces.open(Source("a"), 0.01).done
    assert not workspaces.open(Source("a")).done
    loads.free.set()
    assert opened(workspaces, Source("a"))
    assert len(loads.sources) == 1


def test_many_sessions_share_one_loading(loads: Loads) -> None:
    workspaces = Workspaces(loads)
    loads.free.clear()
    threading.Timer(0.2, loads.free.set).start()
    answers = everybody(12, lambda: workspaces.open(Source("a"), PATIENCE))
    assert len(answers) == 12
    assert len({id(answer.workspace) for answer in answers}) == 1
    assert answers[0].workspace is not None
    assert loads.sources == [Source("a")]


def test_everybody_who_waits_for_a_bad_source_is_told(loads: Loads) -> None:
    workspaces = Workspaces(loads)
    loads.free.clear()
    threading.Timer(0.2, loads.free.set).start()
    answers = everybody(8, lambda: workspaces.open(Source("bad"), PATIENCE))
    assert [answer.error for answer in answers] == ["bad: no such folder"] * 8


def test_only_a_few_are_kept_and_those_in_use_longest(loads: Loads) -> None:
    workspaces = Workspaces(loads)
    first = opened(workspaces, Source("0"))
    for number in range(1, 3 * KEPT):
        opened(workspaces, Source(str(number)))
        assert opened(workspaces, Source("0")) is first, "used again and again"
    assert len(workspaces._opened) == KEPT
    assert len(loads.sources) == 3 * KEPT
    opened(workspaces, Source("1"))
    assert loads.sources[-1] == Source("1"), "let go, so loaded anew"
    assert len(workspaces._opened) == KEPT


def test_what_was_just_loaded_is_not_let_go_for_what_is_older(loads: Loads) -> None:
    workspaces = Workspaces(loads)
    for number in range(KEPT):
        opened(workspaces, Source(str(number)))
    loads.free.clear()
    answers: list[Opening] = []
    waiting = threading.Thread(target=lambda: answers.append(workspaces.open(Source("new"), PATIENCE)))
    waiting.start()
    until(lambda: Source("new") in loads.sources, "the new one begun")
    for number in range(KEPT):  # the other sessions' pages are drawn meanwhile
        opened(workspaces, Source(str(number)))
    loads.free.set()
    waiting.join(PATIENCE)
    assert [answer.workspace for answer in answers] == [opened(workspaces, Source("new"))]
    assert loads.sources.count(Source("new")) == 1


def test_a_failed_loading_lets_nothing_else_go(loads: Loads) -> None:
    workspaces = Workspaces(loads)
    kept = [opened(workspaces, Source(str(number))) for number in range(KEPT)]
    assert workspaces.open(Source("bad"), PATIENCE).error
    assert [opened(workspaces, Source(str(number))) for number in range(KEPT)] == kept
