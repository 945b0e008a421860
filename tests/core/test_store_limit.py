"""The store's limit: never exceeded, never at the cost of what is kept, what is worth least goes first."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_core.errors import InputError
from qbert_core.runtime import states
from qbert_core.runtime.store import Store, StoreError, UnitKey, limit_bytes, unit_key
from qbert_core.runtime.store.upkeep import DAY, STATE_DAYS, collect, training_home

ROOT = Path(__file__).resolve().parents[2]
EMPTY = 40_000  # bytes that a file without a unit takes at most
HYPOTHESIS = settings(deadline=None, max_examples=25)


def key(number: int) -> UnitKey:
    return unit_key("test", model="m", number=number)


def fresh(tmp_path_factory: pytest.TempPathFactory, limit: int) -> Store:
    return Store(tmp_path_factory.mktemp("store") / "s.sqlite", limit)


def age(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """As if so many seconds had passed."""
    now = time.time() + seconds
    monkeypatch.setattr("time.time", lambda: now)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@HYPOTHESIS
@given(st.text(), json_values, st.dictionaries(st.text(), json_values, max_size=3), st.none() | st.text())
def test_whatever_was_put_comes_back(tmp_path_factory, kind, value, options, plan):
    store = fresh(tmp_path_factory, 10**8)
    at = UnitKey(kind, None, "data", plan, unit_key("", **{"x": options}).settings)
    store.put(at, value, seconds=1.5)
    assert store.get(at) == (None if value is None else value)
    (entry,) = store.entries()
    assert (entry.unit_key, entry.key, entry.seconds) == (at, at.digest, 1.5)
    assert store.get(UnitKey(kind, "another", "data", plan, at.settings)) is None


puts = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 60_000), st.booleans()), max_size=25)


@HYPOTHESIS
@given(puts, st.integers(EMPTY, 300_000))
def test_the_limit_is_never_exceeded_and_what_is_kept_never_goes(tmp_path_factory, puts, limit):
    store = fresh(tmp_path_factory, limit)
    kept: dict[int, int] = {}
    for number, size, keep in puts:
        try:
            store.put(key(number), "x" * size, kept=keep)
        except StoreError:  # what is kept leaves no room for one that is not
            assert not keep
            assert sum(kept.values()) + size > limit - EMPTY - 2000 * len(kept)
        else:
            if keep or number in kept:
                kept[number] = size
            assert store.get(key(number)) == "x" * size, "what was just put is there"
        assert [store.get(key(n)) for n in kept] == ["x" * size for size in kept.values()]
        room_for_kept = sum(size + 4096 for size in kept.values()) + EMPTY
        assert store.path.stat().st_size <= max(limit + 70_000, room_for_kept)
        assert sum(entry.bytes for entry in store.entries()) <= max(limit, room_for_kept)
    removed = collect(store, limit=0)
    assert {entry.key for entry in store.entries()} == {key(number).digest for number in kept}
    assert removed.units >= 0
    assert [store.get(key(n)) for n in kept] == ["x" * size for size in kept.values()]


def test_of_equal_units_the_least_recently_used_goes_first(tmp_path, monkeypatch):
    store = Store(tmp_path / "s.sqlite", 200_000)
    for number in range(8):
        age(monkeypatch, 2 * 3600)
        store.put(key(number), "x" * 20_000, seconds=5)
    age(monkeypatch, 2 * 3600)
    assert store.get(key(0)) is not None  # used again
    store.put(key(8), "x" * 20_000, seconds=5)
    store.put(key(9), "x" * 20_000, seconds=5)
    left = [number for number in range(10) if store.get(key(number)) is not None]
    assert left[0] == 0
    assert left[1:] == list(range(10 - len(left) + 1, 10))
    assert len(left) > 5


@pytest.mark.parametrize(
    ("first", "second"),  # (bytes, seconds): the second is worth less a byte
    [((20_000, 50.0), (20_000, 5.0)), ((5_000, 10.0), (40_000, 10.0)), ((20_000, 50.0), (20_000, None))],
)
def test_what_saves_fewer_seconds_a_byte_goes_first(tmp_path, monkeypatch, first, second):
    for order in ((first, second), (second, first)):
        store = Store(tmp_path / f"{order[0]}", 150_000)
        for number, (size, seconds) in enumerate(order):
            store.put(key(number), "x" * size, seconds=seconds)
        age(monkeypatch, 10 * 3600)
        removed = collect(store, limit=store.path.stat().st_size - 4096)
        assert removed.units == 1
        (left,) = (entry for entry in store.entries())
        assert left.bytes == first[0] + 2
        assert left.seconds == first[1]


def test_a_unit_larger_than_the_store_is_refused_and_pushes_nothing_out(tmp_path):
    store = Store(tmp_path / "s.sqlite", 100_000)
    store.put(key(1), "small")
    with pytest.raises(StoreError, match=r"no room for a unit of 0.2 MB .* raise QBERT_STORE_MB"):
        store.put(key(2), "x" * 200_000)
    assert store.get(key(1)) == "small"


def test_a_kept_unit_that_is_put_again_stays_kept(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    store.put(key(1), "mine", kept=True)
    store.put(key(1), "newer")
    assert [entry.kept for entry in store.entries()] == [True]
    collect(store, limit=0, older_than=0)
    assert store.get(key(1)) == "newer"


@pytest.mark.parametrize("text", ["0", "-1", "much", "inf", "nan"])
def test_a_limit_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("QBERT_STORE_MB", text)
    with pytest.raises(InputError, match=f"QBERT_STORE_MB is {text}; expected"):
        Store()


def test_the_limit_is_that_of_the_environment(monkeypatch):
    monkeypatch.delenv("QBERT_STORE_MB", raising=False)
    assert limit_bytes() == 2 * 2**30
    monkeypatch.setenv("QBERT_STORE_MB", "0.5")
    assert Store().limit == 2**19


class TestCollect:
    def test_what_was_not_used_for_long_goes_and_the_file_shrinks(self, tmp_path, monkeypatch):
        store = Store(tmp_path / "s.sqlite")
        for number in range(20):
            store.put(key(number), "x" * 20_000, kept=number == 3)
        before = store.file_bytes()
        age(monkeypatch, 10 * DAY)
        store.put(key(99), "new")
        dry = collect(store, limit=store.limit, older_than=5 * DAY, dry_run=True)
        assert len(store.entries()) == 21
        removed = collect(store, limit=store.limit, older_than=5 * DAY)
        assert (removed.units, removed.unit_bytes) == (dry.units, dry.unit_bytes) == (19, 19 * 20_002)
        assert {entry.key for entry in store.entries()} == {key(3).digest, key(99).digest}
        assert store.file_bytes() < before / 4
        assert removed.used_bytes == store.path.stat().st_size

    def test_a_reader_costs_only_the_smaller_file(self, tmp_path, monkeypatch):
        monkeypatch.setattr("qbert_core.runtime.store.file.PATIENCE", 0.2)
        store = Store(tmp_path / "s.sqlite")
        for number in range(10):
            store.put(key(number), "x" * 20_000)
        with closing(sqlite3.connect(store.path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM units").fetchone()
            assert collect(store, limit=EMPTY).units > 5
        assert sum(entry.bytes for entry in store.entries()) < EMPTY

    def test_models_and_plans_are_never_touched(self, tmp_path):
        store = Store(tmp_path / "s.sqlite")
        store.put(key(1), 1)
        mine = [tmp_path / "models" / "one" / "model.safetensors", tmp_path / "plan.json",
                tmp_path / "models" / "one" / ".training" / "state.safetensors"]  # fmt: skip
        for file in mine:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("mine")
            os.utime(file, (0, 0))
        collect(store, limit=0, older_than=0)
        assert [file.read_text() for file in mine] == ["mine"] * 3
        assert store.entries() == []

    def test_stopped_trainings_are_swept_after_a_while_and_those_under_way_never(self, tmp_path):
        store = Store(tmp_path / "s.sqlite")
        home = training_home(store)
        for name, days in (("old", STATE_DAYS + 1), ("young", 1), ("used", STATE_DAYS + 1)):
            (home / name).mkdir(parents=True)
            (home / name / "state.safetensors").write_bytes(b"x" * 1000)
            for path in (home / name / "state.safetensors", home / name):
                os.utime(path, (time.time() - days * DAY,) * 2)
        code = (
            "import sys; from pathlib import Path; from qbert_core.runtime.states import state_folder\n"
            "with state_folder(Path(sys.argv[1]), 'used') as folder:\n"
            "    print(folder is not None, flush=True); sys.stdin.read()"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", code, str(home)], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert {s.folder.name: s.in_use for s in states.leftovers(home)} == {
            "old": False, "young": False, "used": True
        }  # fmt: skip
        dry = collect(store, limit=10**6, dry_run=True)
        assert {path.name for path in home.iterdir()} == {"old", "young", "used"}
        removed = collect(store, limit=10**6)
        assert removed.states == dry.states == (home / "old",)
        assert removed.state_bytes == 1000
        assert removed.used_bytes == dry.used_bytes == 2000
        with states.state_folder(home, "used") as folder:
            assert folder is None, "two trainings never share a folder"
        holder.kill()  # a lock is not left behind by a kill
        holder.wait()
        assert collect(store, limit=10**6, older_than=0).states != ()
        assert not list(home.iterdir())

    def test_what_trainings_hold_counts(self, tmp_path):
        store = Store(tmp_path / "s.sqlite")
        for number in range(10):
            store.put(key(number), "x" * 20_000)
        state = training_home(store) / "one"
        state.mkdir(parents=True)
        (state / "state.safetensors").write_bytes(b"x" * 150_000)
        removed = collect(store, limit=300_000)
        assert removed.units > 0
        assert removed.used_bytes <= 300_000
        assert (state / "state.safetensors").exists()


def test_a_folder_removed_between_two_calls_is_made_again(tmp_path, monkeypatch):
    """Tidying up may take the folder away just when a training wants its lock."""
    real, swept = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not swept:
            swept.append(True)
            shutil.rmtree(tmp_path / "home" / "one")
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with states.state_folder(tmp_path / "home", "one") as folder:
        assert folder is not None
        assert folder.is_dir()
        (folder / "state").write_text("x")
    assert (tmp_path / "home" / "one" / "state").exists()
    with states.state_folder(tmp_path / "home", "two") as folder:
        pass
    assert not (tmp_path / "home" / "two").exists(), "an empty one is not left behind"
