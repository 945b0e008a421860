"""The store of finished units: whole or not at all, whatever happens."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature import Sensitivity
from qbert_core.errors import Cancelled
from qbert_core.runtime.events import Flag, Silent
from qbert_core.runtime.sensitivity import stored_sensitivity
from qbert_core.runtime.store import Store, StoreError, UnitKey, default_path, unit_key
from qbert_core.tasks import Examples, task_named

ROOT = Path(__file__).resolve().parents[2]


def key(name: str) -> UnitKey:
    return unit_key("test", model="m", name=name)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_what_was_put_is_found_and_the_newest_counts(tmp_path):
    store = Store(tmp_path / "deep" / "store.sqlite")
    assert store.get(key("a")) is None
    assert not store.path.exists()
    store.put(key("a"), {"x": [1, 2.5, None]})
    store.put(key("a"), {"x": [0.1 + 0.2]})
    assert Store(store.path).get(key("a")) == {"x": [0.1 + 0.2]}
    assert store.get(key("b")) is None


def test_keys_depend_on_every_setting_and_not_on_their_order():
    assert unit_key("k", a=1, b=2) == unit_key("k", b=2, a=1)
    questions = (
        unit_key("k", a=1), unit_key("k", a=2), unit_key("l", a=1), unit_key("k", b=1), unit_key("k", model="a"),
        unit_key("k", data="a"), unit_key("k", plan="a"), unit_key("k", plan="a", data="a"),
    )  # fmt: skip
    assert len({question.digest for question in questions}) == len(questions)


def test_a_digest_is_that_of_the_first_stores():
    """What was finished before stores had a schema is still found."""
    text = json.dumps(
        ["k", {"a": [1, 0.1], "data": "d", "model": "m", "plan": "p", "z": None}], sort_keys=True
    )
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert unit_key("k", model="m", data="d", plan="p", z=None, a=(1, 0.1)).digest == digest


def test_the_store_lies_where_qbert_home_says(monkeypatch, tmp_path):
    monkeypatch.setenv("QBERT_HOME", str(tmp_path))
    assert default_path() == tmp_path / "store.sqlite"
    monkeypatch.delenv("QBERT_HOME")
    assert default_path() == Path.home() / ".cache" / "qbert-studio" / "store.sqlite"


def test_a_process_killed_inside_a_write_leaves_the_old_value(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    store.put(key("a"), "old")
    done = python(
        "import os, sqlite3\n"
        f"c = sqlite3.connect({str(store.path)!r}, isolation_level=None)\n"
        "c.execute('BEGIN IMMEDIATE')\n"
        "c.execute('UPDATE units SET value = ?', ('\"new\"',))\n"
        "os._exit(9)\n"
    )
    assert done.returncode == 9
    assert store.get(key("a")) == "old"
    store.put(key("a"), "newer")
    assert store.get(key("a")) == "newer"


def test_two_processes_may_write_at_once(tmp_path):
    path = tmp_path / "s.sqlite"
    code = (
        "import sys; from pathlib import Path; from qbert_core.runtime.store import Store, unit_key\n"
        "for i in range(40): Store(Path(sys.argv[1])).put(unit_key(sys.argv[2], i=i), i)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name], cwd=ROOT) for name in "ab"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    assert [Store(path).get(unit_key(name, i=i)) for name in "ab" for i in range(40)] == [
        *range(40),
        *range(40),
    ]


def test_what_is_no_store_says_so(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    text = tmp_path / "text"
    text.write_text("this is not a database, and long enough to be looked at " * 20)
    under_a_file = tmp_path / "text" / "store.sqlite"
    for path in (folder, text, under_a_file):
        with pytest.raises(StoreError, match=str(path)):
            Store(path).put(key("a"), 1)
    assert text.read_text().startswith("this is not")


def test_a_full_disk_is_a_store_error_and_keeps_what_was_there(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    store.put(key("a"), "kept")
    # a file size limit answers like a full disk, for that process alone
    done = python(
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from pathlib import Path; from qbert_core.runtime.store import Store, StoreError, unit_key\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "try:\n"
        f"    Store(Path({str(store.path)!r})).put(unit_key('test', model='m', name='b'), 'x' * 100000)\n"
        "except StoreError as error: print('refused', error)\n"
    )
    assert done.stdout.startswith("refused"), done.stderr
    assert store.get(key("a")) == "kept"
    assert store.get(key("b")) is None


@pytest.fixture
def examples(tiny: Checkpoint) -> Examples:
    import pandas as pd

    table = pd.DataFrame(
        {"sentence": ["a great film", "dull", "i love this", "an awful movie"] * 4, "label": [1, 0, 1, 0] * 4}
    )
    return task_named("sst2").examples(table, tiny, "made up")


def analyse(
    tiny: Checkpoint, examples: Examples, store: Store, events: Silent, warnings: list[str]
) -> Sensitivity:
    return stored_sensitivity(
        tiny, task_named("sst2"), examples, store, runs=3, fraction=0.5, granularity="layer", tolerance=0.01,
        seed=0, events=events, warn=warnings.append,
    )  # fmt: skip


class StopAfter(Flag):
    """Cancels once `blocks` eigenvalues are done."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks

    def progress(self, done: int, total: int, partial: object = None) -> None:
        if done >= self.blocks:
            self.cancel()


def test_a_stopped_analysis_goes_on_where_it_stopped_to_the_same_numbers(tiny, examples, tmp_path):
    warnings: list[str] = []
    undisturbed = analyse(tiny, examples, Store(tmp_path / "one"), Silent(), warnings)
    store = Store(tmp_path / "two")
    with pytest.raises(Cancelled):
        analyse(tiny, examples, store, StopAfter(7), warnings)  # in the third of three runs

    class Watch(Silent):
        first: int | None = None

        def progress(self, done: int, total: int, partial: object = None) -> None:
            self.first = done if self.first is None else self.first

    watch = Watch()
    resumed = analyse(tiny, examples, store, watch, warnings)
    assert watch.first == 6  # two runs of three blocks came from the store
    assert [b.lambdas for b in resumed.blocks] == [b.lambdas for b in undisturbed.blocks]
    assert resumed.hvp_count == undisturbed.hvp_count
    assert warnings == []


def test_a_store_that_fails_costs_one_warning_and_no_result(tiny, examples, tmp_path):
    path = tmp_path / "broken"
    path.write_text("not a database " * 100)
    warnings: list[str] = []
    result = analyse(tiny, examples, Store(path), Silent(), warnings)
    assert result.runs == 3
    assert len(warnings) == 1
    assert str(path) in warnings[0]


def test_a_name_too_long_is_a_store_error_like_any_other(tmp_path):
    store = Store(tmp_path / ("x" * 300) / "store.sqlite")
    assert store.get(key("a")) is None
    with pytest.raises(StoreError, match="xxx"):
        store.put(key("a"), 1)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder nobody can write, not even root")
def test_a_folder_that_cannot_be_written_is_a_store_error():
    with pytest.raises(StoreError, match="/proc/nowhere"):
        Store(Path("/proc/nowhere/store.sqlite")).put(key("a"), 1)


def test_a_database_of_something_else_is_a_store_error(tmp_path):
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE units (something, entirely, different)")
        connection.commit()
    for call in (lambda: Store(path).get(key("a")), lambda: Store(path).put(key("a"), 1)):
        with pytest.raises(StoreError, match=str(path)):
            call()


def test_many_threads_may_use_one_store(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: store.put(key(f"k{i}"), [i]), range(64)))
        assert list(pool.map(lambda i: store.get(key(f"k{i}")), range(64))) == [[i] for i in range(64)]


def test_numbers_come_back_to_the_last_bit(tmp_path):
    values = [0.1, -22.5, 1e-300, 2**53 + 1, 1 / 3, -0.0]
    store = Store(tmp_path / "s.sqlite")
    store.put(key("a"), values)
    assert [repr(v) for v in store.get(key("a"))] == [repr(v) for v in values]


def test_a_stored_analysis_computes_no_product_again(tiny, examples, tmp_path, monkeypatch):
    warnings: list[str] = []
    store = Store(tmp_path / "s.sqlite")
    first = analyse(tiny, examples, store, Silent(), warnings)

    def no_product(*args: object, **options: object) -> None:
        raise AssertionError("a Hessian-vector product was computed")

    monkeypatch.setattr("qbert_core.curvature.hvp.BlockHessian.matvec", no_product)
    again = analyse(tiny, examples, store, Silent(), warnings)
    assert again.to_json() == first.to_json()
    other_model = replace(tiny, fingerprint="another")
    with pytest.raises(AssertionError, match="product"):
        analyse(other_model, examples, store, Silent(), warnings)
    with pytest.raises(AssertionError, match="product"):
        analyse(tiny, examples.take(range(15)), store, Silent(), warnings)
    assert warnings == []


@pytest.mark.parametrize("value", ["{", "[]", '{"run": 0}'])
def test_a_unit_that_cannot_be_read_costs_one_warning_and_is_computed_anew(tiny, examples, tmp_path, value):
    warnings: list[str] = []
    store = Store(tmp_path / "s.sqlite")
    first = analyse(tiny, examples, store, Silent(), warnings)
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("UPDATE units SET value = ?", (value,))
        connection.commit()
    again = analyse(tiny, examples, store, Silent(), warnings)
    assert [b.lambdas for b in again.blocks] == [b.lambdas for b in first.blocks]
    assert len(warnings) == 1
