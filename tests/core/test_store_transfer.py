"""Units taken from one store to another in a file that is not trusted; and the command `store`."""

from __future__ import annotations

import gzip
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qbert_core.cli import main
from qbert_core.errors import InputError
from qbert_core.runtime.store import Store, StoreError, UnitKey, unit_key
from qbert_core.runtime.store import transfer as module
from qbert_core.runtime.store.transfer import export_units, import_units
from tests.core.test_store_limit import json_values

ROOT = Path(__file__).resolve().parents[2]
Unit = tuple[UnitKey, Any, float | None]

texts = st.none() | st.text(max_size=20)
keys = st.builds(
    lambda kind, model, data, plan, x: unit_key(kind, model=model, data=data, plan=plan, x=x),
    st.text(max_size=20), texts, texts, texts, json_values,
)  # fmt: skip
units = st.lists(
    st.tuples(keys, json_values.filter(lambda value: value is not None), st.none() | st.floats(0, 1e6)),
    max_size=8,
    unique_by=lambda unit: unit[0].digest,
)


def filled(path: Path, units: list[Unit]) -> Store:
    store = Store(path, 10**8)
    store.put(unit_key("first"), 1)
    for key, value, seconds in units:
        store.put(key, value, seconds=seconds)
    return store


def contents(store: Store) -> dict[str, Any]:
    return {
        entry.key: (entry, store.get(entry.unit_key))
        for entry in store.entries()
        if entry.unit_key is not None
    }


@settings(deadline=None, max_examples=10)
@given(units, units)
def test_an_import_adds_what_was_exported_and_changes_nothing_that_was_there(tmp_path_factory, theirs, mine):
    folder = tmp_path_factory.mktemp("transfer")
    source, target = filled(folder / "a", theirs), filled(folder / "b", mine)
    before = contents(target)
    written = export_units(source, folder / "units.gz")
    added = import_units(target, folder / "units.gz")
    assert written.units == len(theirs) + 1
    assert contents(target) == {**contents(source), **before}
    assert added.units == len(contents(target)) - len(before)
    assert added.left_out == written.units - added.units
    assert import_units(target, folder / "units.gz").units == 0
    assert contents(target) == {**contents(source), **before}
    # and back, through a file that is the same
    export_units(target, folder / "back.gz")
    empty = Store(folder / "c", 10**8)
    import_units(empty, folder / "back.gz")
    assert contents(empty) == contents(target)


def line(**changes: Any) -> dict[str, Any]:
    """A unit's line; `key` follows from the rest unless it is given."""
    unit: dict[str, Any] = {
        "kind": "k", "model": "m", "data": None, "plan": None, "settings": {"a": 1}, "seconds": 1.0,
        "created": 1e9, "used": 1e9, "value": [1, 2],
    } | {name: value for name, value in changes.items() if name != "key"}  # fmt: skip
    if "key" in changes:
        return {"key": changes["key"], **unit}
    try:
        settings = json.dumps(unit.get("settings"), sort_keys=True)
        digest = UnitKey(unit["kind"], unit["model"], unit["data"], unit["plan"], settings).digest
    except (TypeError, KeyError):
        digest = "0" * 64
    return {"key": digest, **unit}


def written(path: Path, *lines: Any, header: Any = None) -> Path:
    """An export by hand."""
    header = header or {"format": "qbert-studio store", "version": 1, "units": len(lines)}
    rows = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in (header, *lines)]
    path.write_bytes(gzip.compress(b"\n".join(rows) + b"\n"))
    return path


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in line().items() if key != name}


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty": (lambda p: (p.write_bytes(b""), p)[1], "line 1 is not readable|damaged"),
    "not gzip": (lambda p: (p.write_bytes(b"hello" * 100), p)[1], "damaged, or no export"),
    "a gzip of something else": (lambda p: (p.write_bytes(gzip.compress(b"hello")), p)[1], "line 1 is not read"),
    "another format": (lambda p: written(p, header={"format": "x", "units": 0}), "no export of a store"),
    "a newer version": (
        lambda p: written(p, header={"format": "qbert-studio store", "version": 2, "units": 0}),
        "of version 2, this program reads 1",
    ),
    "a list": (lambda p: written(p, []), "line 2 is not a JSON object"),
    "no JSON": (lambda p: written(p, b"{"), "line 2 is not readable as JSON"),
    "not unicode": (lambda p: written(p, b'{"a": "\xff\xfe"}'), "line 2 is not readable as JSON"),
    "deep": (lambda p: written(p, b"[" * 100_000), "line 2 is not readable as JSON"),
    "a digit too many": (lambda p: written(p, b'{"a": ' + b"9" * 5000 + b"}"), "line 2"),
    "too few units": (lambda p: written(p, line(), header={**HEADER, "units": 2}), "1 units, but its first"),
    "too many units": (lambda p: written(p, line(), header={**HEADER, "units": 0}), "1 units, but its first"),
    "a field missing": (lambda p: written(p, without("plan")), "line 2 does not have the fields"),
    "a field too many": (lambda p: written(p, line(more=1)), "line 2 does not have the fields"),
    "kept": (lambda p: written(p, line(kept=True)), "line 2 does not have the fields"),
    "another key": (lambda p: written(p, line(), line(key="0" * 64)), "line 3: key is not the digest"),
    "no key": (lambda p: written(p, line(key=7)), "line 2: key is not the digest"),
    "another's key": (lambda p: written(p, line(key=line()["key"], model="n")), "key is not the digest"),
    "a kind of number": (lambda p: written(p, line(kind=3)), "kind is not a text"),
    "half a character": (lambda p: written(p, line(model="\ud800")), "model is not a text or null"),
    "a model of list": (lambda p: written(p, line(model=["m"])), "model is not a text or null"),
    "settings of text": (lambda p: written(p, line(settings="x")), "settings is not a JSON object"),
    "seconds of text": (lambda p: written(p, line(seconds="x")), "seconds is not a number"),
    "negative seconds": (lambda p: written(p, line(seconds=-1)), "seconds is not a number"),
    "nan seconds": (lambda p: written(p, line(seconds=float("nan"))), "seconds is not a number"),
    "endless used": (lambda p: written(p, line(used=float("inf"))), "used is not a number"),
    "no created": (lambda p: written(p, line(created=None)), "created is not a number"),
    "huge created": (lambda p: written(p, line(created=10**400)), "created is not a number"),
}  # fmt: skip
HEADER = {"format": "qbert-studio store", "version": 1}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_a_line_and_nothing_is_added(name: str, tmp_path: Path) -> None:
    make, message = BAD[name]
    store = filled(tmp_path / "s.sqlite", [])
    before = contents(store)
    path = make(tmp_path / "units.gz")
    with pytest.raises(InputError, match=message) as caught:
        import_units(store, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert contents(store) == before


def test_the_good_line_of_these_tests_is_good(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    assert import_units(store, written(tmp_path / "units.gz", line(), line(model="n"))).units == 2
    assert store.get(unit_key("k", model="n", a=1)) == [1, 2]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_damaged_anywhere_is_refused_or_adds_the_right_units(tmp_path: Path, data: Any) -> None:
    source = tmp_path / "source.gz"
    if not source.exists():
        written(source, *[line(model=f"{n}", value=["x" * n]) for n in range(20)])
    whole = source.read_bytes()
    right = {line(model=f"{n}")["key"]: ["x" * n] for n in range(20)}
    if data.draw(st.booleans()):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        at = data.draw(st.integers(0, len(whole) - 1))
        damaged = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    path, home = tmp_path / "damaged.gz", tmp_path / "damaged.sqlite"
    path.write_bytes(damaged)
    for file in tmp_path.glob("damaged.sqlite*"):
        file.unlink()
    store = Store(home)
    refused = False
    try:
        import_units(store, path)
    except InputError:
        refused = True
    if refused:
        assert store.entries() == []
    else:
        assert {key: value for key, (_, value) in contents(store).items()} == right


def test_times_to_come_are_now(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    import_units(store, written(tmp_path / "units.gz", line(created=1e12, used=1e12)))
    store.put(unit_key("now"), 1)
    (now,) = (entry.used for entry in store.entries() if entry.kind == "now")
    assert all(entry.used <= now and entry.created <= now for entry in store.entries())


def test_more_than_the_store_may_hold_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite", 100_000)
    path = written(tmp_path / "units.gz", *[line(model=f"{n}", value="x" * 20_000) for n in range(6)])
    with pytest.raises(InputError, match=r"holds more than the 0.0953674 MB .* raise QBERT_STORE_MB"):
        import_units(store, path)
    assert store.entries() == []


def test_a_bomb_takes_bounded_memory(tmp_path: Path) -> None:
    """200 MB of JSON in a line, in a file of one: refused within 600 MB of address space."""
    bombs = {"flat": b"1,", "deep": b"[", "text": b"x"}
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from qbert_core.runtime.store import Store; from qbert_core.runtime.store.transfer import import_units\n"
        "from qbert_core.errors import InputError\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 600 * 2**20,) * 2)\n"
        "try: import_units(Store(Path(sys.argv[1])), Path(sys.argv[2]))\n"
        "except InputError as error: print(error)\n"
    )
    for name, bomb in bombs.items():
        path = tmp_path / name
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(json.dumps({**HEADER, "units": 1}).encode() + b"\n")
            for _ in range(200):
                file.write(bomb * (2**20 // len(bomb)))
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "s.sqlite"), str(path)],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "line 2 has more than 160 MB" in done.stdout, done.stderr


def test_very_many_values_in_a_line_are_refused_before_they_are_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINE_VALUES", 1000)
    path = written(tmp_path / "units.gz", line(value=[[]] * 600))
    with pytest.raises(InputError, match="line 2 holds more than 1000 values"):
        import_units(Store(tmp_path / "s.sqlite"), path)


def test_an_export_that_fails_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    store = filled(tmp_path / "s.sqlite", [])
    out = tmp_path / "units.gz"
    out.write_text("old")
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("UPDATE units SET value = '{'")
    with pytest.raises(StoreError, match="cannot be read"):
        export_units(store, out)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.sqlite", "units.gz"]


Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command, in a home of its own: exit code, document, what it says on stderr."""
    monkeypatch.setenv("QBERT_HOME", str(tmp_path / "home"))

    def run(*arguments: str) -> tuple[int, Any, str]:
        try:
            code = main(["store", *arguments])
        except SystemExit as stop:  # argparse's way
            code = int(str(stop.code))
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if captured.out.startswith("{") else None, captured.err

    return run


class TestCommand:
    def test_ls_says_what_is_there(self, run: Run, tmp_path: Path) -> None:
        code, document, _ = run("ls")
        assert (code, document["units"], document["kinds"], document["file_bytes"]) == (0, [], [], 0)
        assert not (tmp_path / "home").exists(), "looking makes nothing"
        store = Store()
        for number in range(3):
            store.put(unit_key("a", model="m", number=number, infinite=float("inf")), number, seconds=2.0)
        store.put(unit_key("b", plan="p"), "x" * 100, kept=True)
        code, document, _ = run("ls", "--limit", "2")
        assert code == 0
        assert document["kinds"] == [
            {"kind": "b", "units": 1, "bytes": 102, "seconds": 0.0, "kept": 1},
            {"kind": "a", "units": 3, "bytes": 3, "seconds": 6.0, "kept": 0},
        ]
        assert [unit["kind"] for unit in document["units"]] == ["b", "a"]
        assert document["units"][1]["settings"] == {"number": 2, "infinite": "Infinity"}
        assert document["limit_bytes"] == 2**31
        _, document, _ = run("ls", "--kind", "a")
        assert [unit["settings"]["number"] for unit in document["units"]] == [2, 1, 0]

    def test_gc_removes_and_dry_run_only_says(self, run: Run) -> None:
        store = Store()
        for number in range(20):
            store.put(unit_key("a", number=number), "x" * 10_000, kept=number == 7)
        code, dry, _ = run("gc", "--max-mb", "0.1", "--dry-run")
        assert code == 0
        assert len(store.entries()) == 20
        code, document, _ = run("gc", "--max-mb", "0.1")
        assert code == 0
        assert document["removed"] == dry["removed"]
        assert document["removed"]["units"] == 20 - len(store.entries()) > 5
        assert document["file_bytes"]["after"] <= 0.1 * 2**20 < document["file_bytes"]["before"]
        assert store.get(unit_key("a", number=7)) == "x" * 10_000
        run("gc", "--older-than", "0")
        assert [entry.kept for entry in store.entries()] == [True]

    def test_export_and_import_carry_units_to_another_home(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        at = unit_key("a", model="m")
        Store().put(at, [0.1 + 0.2])
        code, document, _ = run("export", str(tmp_path / "units.gz"))
        assert (code, document["units"], document["left_out"]) == (0, 1, 0)
        assert document["file_bytes"] == (tmp_path / "units.gz").stat().st_size
        monkeypatch.setenv("QBERT_HOME", str(tmp_path / "other"))
        code, document, _ = run("import", str(tmp_path / "units.gz"))
        assert (code, document["added"], document["known_before"]) == (0, 1, 0)
        assert Store().get(at) == [0.1 + 0.2]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "error: the following arguments are required: COMMAND"),
            (["tidy"], "error: argument COMMAND: invalid choice: 'tidy'"),
            (["ls", "--limit", "-1"], "error: --limit is -1; expected at least 0"),
            (["gc", "--max-mb", "-1"], "error: argument --max-mb: -1 is not a number of at least 0"),
            (["gc", "--older-than", "nan"], "error: argument --older-than: nan is not a number"),
            (["export", "nowhere/units.gz"], "error: nowhere/units.gz: not a file that can be written"),
            (["export", "units.gz"], "error: "),  # there is no store
            (["import", "nowhere"], "error: nowhere: no such file"),
            (["import", "."], "error: .: a folder; expected a file"),
        ],
    )
    def test_it_refuses_in_one_line(
        self, run: Run, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        code, document, told = run(*arguments)
        assert (code, document) == (2, None)
        assert told.startswith(message)
        assert told.count("\n") == 1

    def test_a_damaged_store_is_told_in_one_line(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "store.sqlite").write_text("no database " * 100)
        for arguments in (["ls"], ["gc"], ["export", str(tmp_path / "x")]):
            code, document, told = run(*arguments)
            assert (code, document) == (2, None)
            assert "is not a database; nothing can be kept in it: move it away" in told
            assert told.count("\n") == 1
