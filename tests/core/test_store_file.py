"""The file of a store: brought to today's version whole or not at all, and every failure told in a line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from qbert_core.runtime.store import Store, StoreError, UnitKey, file, schema, unit_key

ROOT = Path(__file__).resolve().parents[2]
as_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="takes root: mounts, and becomes nobody"
)


def key(number: int) -> UnitKey:
    return unit_key("test", model="m", number=number)


def version_0(path: Path, units: int, size: int = 10) -> dict[UnitKey, Any]:
    """A store as the first version left it."""
    values = {key(number): {"number": number, "text": "x" * size} for number in range(units)}
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS units (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
        )
        rows = [(k.digest, json.dumps(value)) for k, value in values.items()]
        connection.executemany("INSERT INTO units VALUES (?, ?)", rows)
    return values


def facts(path: Path) -> tuple[int, str]:
    """Version, and what SQLite says of the file's soundness."""
    with closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (sound,) = connection.execute("PRAGMA integrity_check").fetchone()
    return version, sound


def python(code: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE, **options
    )


class TestMigration:
    def test_a_store_of_the_first_version_keeps_its_units(self, tmp_path: Path) -> None:
        path = tmp_path / "s.sqlite"
        values = version_0(path, 20)
        store = Store(path)
        assert [store.get(k) for k in values] == list(values.values())
        assert facts(path) == (len(schema.MIGRATIONS), "ok")
        # what was asked for says now what it answers
        assert {entry.unit_key for entry in store.entries()} == set(values)
        assert all(entry.bytes == len(json.dumps(values[entry.unit_key])) for entry in store.entries())  # type: ignore[index]

    def test_units_nobody_asked_for_yet_are_listed_without_a_description(self, tmp_path: Path) -> None:
        values = version_0(tmp_path / "s.sqlite", 3)
        store = Store(tmp_path / "s.sqlite")
        store.put(key(99), 1)
        described = {entry.key: entry.kind for entry in store.entries()}
        assert described == {**{k.digest: None for k in values}, key(99).digest: "test"}

    @pytest.mark.parametrize("newer", [len(schema.MIGRATIONS) + 1, 1000])
    def test_a_newer_version_is_refused_and_left_alone(self, tmp_path: Path, newer: int) -> None:
        path = tmp_path / "s.sqlite"
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE units (something, entirely, new)")
            connection.execute(f"PRAGMA user_version={newer}")
        before = path.read_bytes()
        for call in (
            lambda: Store(path).get(key(1)),
            lambda: Store(path).put(key(1), 1),
            Store(path).entries,
        ):
            with pytest.raises(StoreError, match=r"newer version .* update the program") as caught:
                call()
            assert "\n" not in str(caught.value)
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["s.sqlite"]

    @pytest.mark.parametrize(
        "script",
        [
            "CREATE TABLE units (something, entirely, different)",
            "CREATE TABLE other (key, value)",
            "CREATE TABLE units (key, value); CREATE TABLE other (a)",
            "PRAGMA application_id=7",
        ],
    )
    def test_a_database_of_another_program_is_refused_and_left_alone(
        self, tmp_path: Path, script: str
    ) -> None:
        path = tmp_path / "s.sqlite"
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(script)
        before = path.read_bytes()
        for call in (lambda: Store(path).get(key(1)), lambda: Store(path).put(key(1), 1)):
            with pytest.raises(StoreError, match=r"another program|no store"):
                call()
        assert path.read_bytes() == before

    def test_a_step_that_fails_changes_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "s.sqlite"
        values = version_0(path, 5)

        def second(database: Any) -> None:
            database.execute_sql("ALTER TABLE units ADD COLUMN more TEXT")
            database.execute_sql("INSERT INTO nowhere VALUES (1)")

        with monkeypatch.context() as patch:
            patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, second))
            with pytest.raises(StoreError, match="nowhere"):
                Store(path).get(key(0))
        with closing(sqlite3.connect(path)) as connection:
            columns = [row[1] for row in connection.execute("PRAGMA table_info(units)")]
        assert (columns, facts(path)) == (["key", "value"], (0, "ok"))
        assert [Store(path).get(k) for k in values] == list(values.values())

    def test_later_steps_build_on_earlier_ones(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "s.sqlite"
        Store(path).put(key(1), "kept")
        steps: list[int] = []

        def later(number: int) -> Any:
            def step(database: Any) -> None:
                steps.append(number)
                database.execute_sql(f"CREATE TABLE added_{number} (a)")

            return step

        monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, later(2), later(3)))
        assert [Store(path).get(key(1)) for _ in range(2)] == ["kept", "kept"]
        assert steps == [2, 3]
        assert facts(path) == (3, "ok")

    def test_many_processes_at_once_bring_it_there_once(self, tmp_path: Path) -> None:
        path = tmp_path / "s.sqlite"
        values = version_0(path, 500, 2000)
        code = (
            "import sys; from pathlib import Path; from qbert_core.runtime.store import Store, unit_key\n"
            "print('ready', flush=True); sys.stdin.read()\n"
            "s, n = Store(Path(sys.argv[1])), int(sys.argv[2])\n"
            "assert s.get(unit_key('test', model='m', number=n))['number'] == n\n"
            "s.put(unit_key('test', model='m', number=1000 + n), n)"
        )
        processes = [python(code, str(path), str(n), stdin=subprocess.PIPE) for n in range(4)]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        assert [process.wait(60) for process in processes] == [0] * 4
        store = Store(path)
        assert [store.get(k) for k in values] == list(values.values())
        assert [store.get(key(1000 + n)) for n in range(4)] == [0, 1, 2, 3]
        assert facts(path) == (len(schema.MIGRATIONS), "ok")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
    def test_a_kill_in_the_middle_leaves_the_old_version_or_the_new_one(self, tmp_path: Path) -> None:
        """At every statement of the migration, and at every fifth of its time."""
        path = tmp_path / "s.sqlite"
        values = version_0(tmp_path / "old", 300, 2000)
        versions = []
        for statement in range(1, 40):
            for ending in ("", "-wal", "-shm"):
                path.with_name(f"s.sqlite{ending}").unlink(missing_ok=True)
            shutil.copy(tmp_path / "old", path)
            child = os.fork()
            if child == 0:
                kill_at(statement)
                Store(path).get(key(0))
                os._exit(0)
            _, status = os.waitpid(child, 0)
            versions.append(facts(path)[0])
            assert facts(path)[1] == "ok"
            assert Store(path).get(key(7)) == values[key(7)]
            assert len(Store(path).entries()) == len(values)
            if os.waitstatus_to_exitcode(status) == 0:
                break
        assert os.waitstatus_to_exitcode(status) == 0, "the last one was to get through"
        assert versions.count(0) > 5
        assert versions == sorted(versions)


def kill_at(statement: int) -> None:
    """This process dies just before its so manieth statement."""
    from peewee import SqliteDatabase

    execute, left = SqliteDatabase.execute_sql, [statement]

    def execute_sql(self: Any, *arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return execute(self, *arguments, **options)

    SqliteDatabase.execute_sql = execute_sql  # type: ignore[method-assign]


class TestDamage:
    def test_a_page_overwritten_is_an_error_in_a_line(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "s.sqlite")
        for number in range(200):
            store.put(key(number), "x" * 500)
        with open(store.path, "r+b") as damaged:  # noqa: PTH123  (a file opened to be damaged)
            damaged.seek(4096)
            damaged.write(b"\xff" * 40960)
        told = [message for number in range(200) if (message := refusal(store, key(number)))]
        assert told
        assert all("move it away" in message and "\n" not in message for message in told)

    def test_an_empty_file_becomes_a_store(self, tmp_path: Path) -> None:
        path = tmp_path / "s.sqlite"
        path.touch()
        assert Store(path).get(key(1)) is None
        Store(path).put(key(1), 1)
        assert Store(path).get(key(1)) == 1

    @pytest.mark.parametrize("length", [1, 50, 99, 100, 512, 2000, 4096, 5000, 20_000])
    def test_a_file_cut_off_is_refused_in_a_line_or_was_cut_to_nothing(
        self, tmp_path: Path, length: int
    ) -> None:
        whole = Store(tmp_path / "whole")
        for number in range(50):
            whole.put(key(number), "x" * 500)
        path = tmp_path / "s.sqlite"
        path.write_bytes(whole.path.read_bytes()[:length])
        told = [message for number in range(50) if (message := refusal(Store(path), key(number)))]
        if told:
            assert all(str(path) in message and "\n" not in message for message in told)
        else:  # less than a page is an empty file to SQLite
            assert length < 512
            Store(path).put(key(1), 1)
            assert Store(path).get(key(1)) == 1


def refusal(store: Store, at: UnitKey) -> str | None:
    """What the store says when it cannot read a unit; that it reads no wrong one."""
    try:
        found = store.get(at)
    except StoreError as error:
        return str(error)
    assert found in (None, "x" * 500)
    return None


class TestOthers:
    def test_a_lock_held_too_long_is_told_and_costs_nothing_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = Store(tmp_path / "s.sqlite")
        store.put(key(1), "kept")
        code = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "c.execute('BEGIN IMMEDIATE'); print('locked', flush=True); sys.stdin.read()"
        )
        holder = python(code, str(store.path), stdin=subprocess.PIPE)
        assert holder.stdout is not None
        holder.stdout.readline()
        monkeypatch.setattr(file, "PATIENCE", 0.3)
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"locked by another process, for more than 0.3 seconds"):
            store.put(key(2), 2)
        assert 0.2 < time.monotonic() - began < 5
        assert store.get(key(1)) == "kept"  # readers do not wait
        assert time.monotonic() - began < 5
        holder.communicate()
        store.put(key(2), 2)
        assert store.get(key(2)) == 2

    def test_an_old_reader_does_not_wait_to_note_a_use(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = Store(tmp_path / "s.sqlite")
        store.put(key(1), "kept")
        with closing(sqlite3.connect(store.path, isolation_level=None)) as connection:
            connection.execute("UPDATE units SET used = 5")
            connection.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            assert store.get(key(1)) == "kept"
            assert time.monotonic() - began < file.PATIENCE / 2
        assert store.entries()[0].used == 5
        store.get(key(1))
        assert store.entries()[0].used == pytest.approx(time.time(), abs=100)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def attempt(store: Store, number: int) -> str | None:
    """What the store says when it cannot keep a unit of 20 kB."""
    try:
        store.put(key(number), "x" * 20_000)
    except StoreError as error:
        return str(error)
    return None


@as_root
class TestDisk:
    def test_a_full_disk_keeps_what_was_there_and_works_again_when_there_is_room(
        self, small_disk: Path
    ) -> None:
        store = Store(small_disk / "s.sqlite")
        kept = 0
        while not (told := attempt(store, kept)):
            kept += 1
        assert "disk is full" in told or "disk I/O" in told
        assert 5 < kept < 100
        assert [store.get(key(number)) for number in range(kept)] == ["x" * 20_000] * kept
        assert store.get(key(kept)) is None
        with pytest.raises(StoreError):
            store.put(key(kept), "x" * 20_000)
        subprocess.run(["mount", "-o", "remount,size=2m", small_disk], check=True)
        store.put(key(kept), "x" * 20_000)
        assert [store.get(key(number)) for number in range(kept + 1)] == ["x" * 20_000] * (kept + 1)
        assert facts(store.path)[1] == "ok"

    def test_a_full_disk_costs_a_sensitivity_one_warning(self, small_disk: Path, tiny: Any) -> None:
        import pandas as pd

        from qbert_core.runtime.events import Silent
        from qbert_core.runtime.sensitivity import stored_sensitivity
        from qbert_core.tasks import task_named

        task = task_named("sst2")
        examples = task.examples(
            pd.DataFrame({"sentence": ["good", "bad"] * 4, "label": [1, 0] * 4}), tiny, "x"
        )
        warned: list[str] = []

        def run(store: Store) -> Any:
            return stored_sensitivity(
                tiny, task, examples, store, runs=3, fraction=0.5, granularity="layer", tolerance=0.01, seed=0,
                events=Silent(), warn=warned.append,
            )  # fmt: skip

        (small_disk / "filler").write_bytes(b"x" * (2**20 - 8192))
        full = run(Store(small_disk / "s.sqlite"))
        assert len(warned) == 1
        assert "cannot be kept for a restart" in warned[0]
        (small_disk / "filler").unlink()
        assert [b.lambdas for b in run(Store(small_disk / "s.sqlite")).blocks] == [
            b.lambdas for b in full.blocks
        ]
        assert len(warned) == 1

    @pytest.mark.parametrize("version", [0, 1])
    def test_a_home_that_cannot_be_written_is_still_read(self, small_disk: Path, version: int) -> None:
        store = Store(small_disk / "s.sqlite")
        if version:
            store.put(key(1), {"number": 1})
        else:
            version_0(store.path, 3)
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        assert store.get(key(1))["number"] == 1  # type: ignore[index]
        assert store.get(key(100)) is None
        with pytest.raises(StoreError, match=r"readonly|read-only|unable to open"):
            store.put(key(2), 2)
        with pytest.raises(StoreError, match="Read-only"):
            Store(small_disk / "new" / "s.sqlite").put(key(1), 1)
        assert Store(small_disk / "new" / "s.sqlite").get(key(1)) is None

    def test_another_user_s_store_is_read_and_never_written(self, small_disk: Path) -> None:
        small_disk.chmod(0o755)
        store = Store(small_disk / "s.sqlite")
        store.put(key(1), "theirs")
        above = small_disk.parents
        last = next((at for at, folder in enumerate(above) if folder.name.startswith("pytest-of-")), 1)
        for folder in above[: last + 1]:
            folder.chmod(0o755)  # pytest's own are for one user
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setuid(65534)
                assert store.get(key(1)) == "theirs"
                try:
                    store.put(key(2), 2)
                except StoreError:
                    code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("known", [False, True])
def test_ctrl_c_at_any_moment_of_a_put_keeps_the_old_value_or_the_new(tmp_path: Path, known: bool) -> None:
    """Before every line that Python runs for it, the library's own included, until one gets through."""
    store = Store(tmp_path / "s.sqlite")
    store.put(key(1), "another")
    moment, seen, interrupted = 0, [], True
    while interrupted:
        moment += 1 if moment < 20 else 11
        if known:
            store.put(key(2), "old")
        left = [moment]

        def trace(frame: Any, event: str, argument: Any, left: list[int] = left) -> Any:
            if event == "line":
                left[0] -= 1
                if left[0] == 0:
                    raise KeyboardInterrupt
            return trace

        interrupted = False
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            store.put(key(2), "new")
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.settrace(before)
        found = store.get(key(2))
        seen.append(found)
        assert found in (("old", "new") if known else (None, "new"))
        assert interrupted or found == "new"
        with closing(sqlite3.connect(store.path, timeout=0)) as connection:  # nobody holds a lock
            connection.execute("BEGIN IMMEDIATE")
            if not known:
                connection.execute("DELETE FROM units WHERE key = ?", (key(2).digest,))
            connection.commit()
    assert moment > 50
    assert store.get(key(1)) == "another"
    assert facts(store.path)[1] == "ok"
    assert len(set(seen)) == 2


@pytest.mark.parametrize("shift", [-10 * 365 * 86400, 10 * 365 * 86400])
def test_a_clock_that_jumps_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    store = Store(tmp_path / "s.sqlite", limit=200_000)
    store.put(key(0), "x" * 5000)
    now = time.time
    monkeypatch.setattr("time.time", lambda: now() + shift)
    store.put(key(1), "x" * 5000)
    assert [store.get(key(0)), store.get(key(1))] == ["x" * 5000] * 2
    # both are used now, by the clock as it is
    assert all(abs(entry.used - (now() + shift)) < 100 for entry in store.entries())
    for number in range(2, 100):
        store.put(key(number), "x" * 5000)
        assert store.get(key(number)) == "x" * 5000
    assert store.file_bytes() < 2 * 200_000
