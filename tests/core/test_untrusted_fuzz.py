"""Some hundred hostile files of every kind, under limits; `python -m benchmarks.fuzz` tries 10,000."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fuzz, mutations
from benchmarks.fuzz import one, run
from benchmarks.mutations import KINDS, make_sound, mutated

CASES = 20  # of each kind


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sound(tmp_path_factory.mktemp("sound"))


def test_hostile_files_are_used_or_refused_in_one_line(sound: Path) -> None:
    reports = run([(kind, seed) for seed in range(CASES) for kind in KINDS], sound, workers=1)
    assert len(reports) == CASES * len(KINDS)
    assert [(r["kind"], r["seed"], r["wrong"]) for r in reports if r["wrong"]] == []
    refused = Counter(r["kind"] for r in reports if r["outcome"] == "refused")
    assert set(refused) == set(KINDS), "mutations of some kind break nothing"
    assert sum(r["outcome"] == "used" for r in reports) > 20, "mutations break everything"


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_is_named_by_kind_and_seed(sound: Path, kind: str) -> None:
    if kind == "zip":  # its entries are stamped with the time of packing
        return
    assert [mutated(kind, sound, seed) for seed in range(5)] == [
        mutated(kind, sound, seed) for seed in range(5)
    ]


@pytest.mark.parametrize(
    ("do", "expected"),
    [
        (lambda folder, sound: 1 / 0, "ZeroDivisionError"),
        (lambda folder, sound: str(len(bytearray(os.urandom(1000)) * (fuzz.MEMORY // 900))), "used after"),
        (
            lambda folder, sound: (_ for _ in ()).throw(fuzz_error("two\nlines")),
            "in other than one short line",
        ),
    ],
)
def test_the_harness_sees_what_goes_wrong(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, do: Any, expected: str
) -> None:
    monkeypatch.setitem(mutations.TARGETS, "plan", do)
    assert expected in one("plan", 0, sound, tmp_path, [])["wrong"]


def fuzz_error(text: str) -> Exception:
    from qbert_core.errors import InputError

    return InputError(text)


def test_the_harness_sees_programs_connections_and_files_elsewhere(sound: Path, tmp_path: Path) -> None:
    """In a process of its own: an audit hook stays for good."""
    library, scratch = tmp_path / "library", tmp_path / "scratch"
    for folder in (library, scratch):
        folder.mkdir()
        (folder / f"in_{folder.name}.py").write_text("")
        subprocess.run([sys.executable, "-m", "compileall", "-q", folder], check=True)
    (library / "first.py").write_text("")  # its bytecode is written when it is imported
    script = f"""
import os, pickle, socket, subprocess, sys
from benchmarks.fuzz import _note
seen = []
sys.path[:0] = [{str(library)!r}, {str(scratch)!r}]
sys.addaudithook(lambda event, details: _note(event, details, {str(scratch)!r}, seen))
open({str(scratch / "inside")!r}, "w").close()
open({str(sound / "plan.json")!r}).close()
import in_library, first
assert os.path.exists(first.__cached__)
assert not seen, seen
for name, act in [
    ("marshal.loads", lambda: __import__("in_scratch")),
    ("subprocess.Popen", lambda: subprocess.run(["true"])),
    ("os.system", lambda: os.system("true")),
    ("open for writing", lambda: open({str(tmp_path / "outside")!r}, "w").close()),
    ("os.remove", lambda: os.remove({str(tmp_path / "outside")!r})),
    ("os.symlink", lambda: os.symlink("/", {str(tmp_path / "link")!r})),
    ("pickle.find_class", lambda: pickle.loads(b"cos\\ngetcwd\\n(tR.")),
    ("socket.connect", lambda: socket.socket().connect_ex(("127.0.0.1", 9))),
]:
    seen.clear()
    act()
    assert any(entry.startswith(name) for entry in seen), (name, seen)
print("all seen")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
    )
    assert done.stdout == "all seen\n", done.stderr
