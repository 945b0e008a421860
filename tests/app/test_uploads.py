"""Uploads: kept for one session, bounded, opened under limits, and in no link."""

from __future__ import annotations

import io
import os
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from app import uploads as module
from app.uploads import MB, PREFIX, Given, Uploads, examine, home, is_upload, new_key, shown, sweep
from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.errors import InputError

CSV = b"sentence,label\na good film,1\na dull one,0\n"


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Without the process that opens an upload, which takes seconds; returns what it would have opened."""
    seen: list[Path] = []
    monkeypatch.setattr(module, "examine", seen.append)
    return seen


@pytest.fixture
def mine() -> Uploads:
    return Uploads(new_key(), megabytes=50)


def given(name: str, content: bytes) -> Given:
    return Given(name, io.BytesIO(content))


def files_of(model: Path) -> list[Given]:
    return [given(p.name, p.read_bytes()) for p in model.iterdir() if p.name in module.FILES]


def zip_of(model: Path, name: str = "model.zip") -> Given:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in model.iterdir():
            archive.write(path, f"{model.name}/{path.name}")
    return Given(name, made)


def said(call: Any, *arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_model_and_data_are_kept_and_opened(tiny: Checkpoint, mine: Uploads) -> None:
    names = mine.store([*files_of(tiny.folder), given("reviews.csv", CSV)])
    assert names == ("upload:model", "upload:reviews.csv")
    model = mine.path_of("upload:model")
    assert load_checkpoint(model).fingerprint == tiny.fingerprint
    assert Path(mine.path_of("upload:reviews.csv")).read_bytes() == CSV
    assert mine.store([zip_of(tiny.folder, "My model (2).zip")]) == ("upload:My-model-2", None)
    assert load_checkpoint(mine.path_of("upload:My-model-2")).fingerprint == tiny.fingerprint
    assert all((path.stat().st_mode & 0o077) == 0 for path in home().rglob("*"))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", b"sentence,label\n\0,1\n", "upload:a.csv: line 2 holds a zero byte"),
        ("a.parquet", b"PAR1PAR1", "upload:a.parquet: not readable as parquet"),
        ("broken.zip", b"PK", "broken.zip: not a .zip, or cut off"),
    ],
)
def test_what_cannot_be_opened_is_named_and_not_kept(
    mine: Uploads, name: str, content: bytes, expected: str
) -> None:
    message = said(mine.store, [given(name, content)])
    assert message.startswith(expected)
    assert mine.key not in message
    assert mine.names() == []
    assert not [path for path in home().rglob("*") if path.is_file()]


def test_a_model_with_a_hole_is_not_kept_though_its_data_are_sound(tiny: Checkpoint, mine: Uploads) -> None:
    files = [f if f.name != "config.json" else given("config.json", b"{}") for f in files_of(tiny.folder)]
    message = said(mine.store, [*files, given("a.csv", CSV)])
    assert message.startswith("upload:model: model_type None is not a BERT")
    assert mine.names() == []


def test_opening_is_limited_in_memory_and_time(
    mine: Uploads, monkeypatch: pytest.MonkeyPatch, unlimited: list[Path]
) -> None:
    mine.store([given("a.csv", CSV)])
    path = Path(mine.path_of("upload:a.csv"))
    monkeypatch.undo()
    monkeypatch.setenv("QBERT_HOME", str(home().parent))
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    assert "takes more than 0 s to open" in said(examine, path)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], "no files"),
        ([("a.exe", b"MZ")], "a.exe: neither a data file"),
        ([("model.bin", b"cos\nsystem")], "model.bin: neither a data file"),
        ([("a.csv", CSV), ("b.csv", CSV)], "more than one model or data file"),
        ([("a.zip", b""), ("b.zip", b"")], "more than one model or data file"),
        ([("config.json", b"{}"), ("config.json", b"{}")], "two files have the same name"),
        ([("config.json", b"{}")], "a model needs config.json, model.safetensors"),
        ([("../../etc/x", b"")], "../../etc/x: neither a data file"),
        ([("a.csv", bytes(51 * MB))], "51 MB, more than the 50 allowed"),
    ],
)  # fmt: skip
def test_other_files_are_refused(
    mine: Uploads, unlimited: list[Path], files: list[tuple[str, bytes]], expected: str
) -> None:
    assert expected in said(mine.store, [given(*file) for file in files])
    assert not home().exists() or not [path for path in home().rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "name",
    [
        "../../x.csv",
        "/etc/x.csv",
        "a/b.csv",
        "<img src=x>.csv",
        "\u202egnp.csv",
        ".hidden.csv",
        "x" * 999 + ".csv",
    ],
)
def test_a_name_says_nothing_about_where_a_file_goes(mine: Uploads, unlimited: list[Path], name: str) -> None:
    _, kept = mine.store([given(name, CSV)])
    assert kept is not None
    path = Path(mine.path_of(kept))
    assert path.parent == mine.folder
    assert path == unlimited[0]
    assert all(c.isascii() and (c.isalnum() or c in "_-.") for c in path.name)
    assert len(path.name) < 60


def test_nobody_sees_another_sessions_uploads(mine: Uploads, unlimited: list[Path], tmp_path: Path) -> None:
    mine.store([given("a.csv", CSV)])
    path = mine.path_of("upload:a.csv")
    other = Uploads(new_key())
    assert other.names() == []
    assert "not among this session's uploads (none yet)" in said(other.path_of, "upload:a.csv")
    (tmp_path / "way").symlink_to(path)
    ways = (
        path,
        f"{home()}/../uploads/{mine.key}/a.csv",
        str(home()),
        str(mine.folder),
        str(tmp_path / "way"),
    )
    for way in ways:
        message = said(other.path_of, way)
        assert message.endswith("not among this session's uploads; give upload:NAME")
    nobody = new_key()
    absent = str(home() / nobody / "a.csv")
    assert said(other.path_of, absent).replace(nobody, "") == said(other.path_of, path).replace(mine.key, "")
    assert mine.path_of(path) == path
    assert other.path_of("demo") == "demo"
    assert other.path_of("/elsewhere/a.csv") == "/elsewhere/a.csv"
    assert is_upload(path)
    assert shown(path) == "upload:a.csv"
    assert shown("/elsewhere/a.csv") == "/elsewhere/a.csv"


def test_names_do_not_collide(mine: Uploads, unlimited: list[Path]) -> None:
    names = [mine.store([given(name, CSV)])[1] for name in ("a.csv", "a.csv", "A.csv", "a.tsv")]
    assert names == ["upload:a.csv", "upload:a-2.csv", "upload:A-3.csv", "upload:a.tsv"]


def test_a_session_and_the_server_have_limits(
    mine: Uploads, unlimited: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(module.MAX_ITEMS):
        mine.store([given("a.csv", CSV)])
    assert "this session has 8 uploads" in said(mine.store, [given("a.csv", CSV)])
    other = Uploads(new_key())
    monkeypatch.setattr(module, "ALL_BYTES", module._bytes_in(home()) + len(CSV))
    other.store([given("a.csv", CSV)])
    assert "no room for another upload" in said(other.store, [given("a.csv", CSV)])
    monkeypatch.setattr(module, "ALL_BYTES", 2**40)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 2**40, 1000))
    assert "no room for another upload" in said(other.store, [given("a.csv", CSV)])


def test_uploads_of_sessions_that_are_gone_are_removed(
    unlimited: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, idle, here = (Uploads(new_key()) for _ in range(3))
    for session in (old, idle, here):
        session.store([given("a.csv", CSV)])
    now = time.time()
    os.utime(old.folder, (now - 25 * 3600,) * 2)
    os.utime(idle.folder, (now - 2 * 3600,) * 2)
    sweep(now)
    assert [bool(session.names()) for session in (old, idle, here)] == [False, True, True]
    monkeypatch.setattr(module, "ALL_BYTES", 2 * len(CSV) - 1)
    idle.seen()
    sweep(now)  # seen just now: it stays
    assert idle.names()
    os.utime(idle.folder, (now - 2 * 3600,) * 2)
    sweep(now)
    assert [bool(session.names()) for session in (idle, here)] == [False, True]


def test_a_full_disk_leaves_nothing(mine: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_file", full)
    with pytest.raises(OSError, match="No space"):
        mine.store([given("a.csv", CSV)])
    assert mine.names() == []
    assert PREFIX == "upload:"
