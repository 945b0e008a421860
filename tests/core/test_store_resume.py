"""A spectrum and a landscape that were stopped go on to the same numbers, bit for bit."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature import Landscape, Spectrum, block_named, landscape, spectrum
from qbert_core.errors import Cancelled, InputError
from qbert_core.quantization import Plan, preset_named
from qbert_core.runtime.events import Silent
from qbert_core.runtime.landscape import stored_landscape
from qbert_core.runtime.spectrum import stored_spectrum
from qbert_core.runtime.store import Store
from qbert_core.tasks import Examples, task_named

TASK = task_named("sst2")
SPECTRUM: dict[str, Any] = {"fraction": 0.5, "steps": 6, "probes": 3, "seed": 0}
LANDSCAPE: dict[str, Any] = {
    "steps": 5, "span": None, "normalise": "filter", "fraction": 0.5, "tolerance": 0.01, "seed": 0
}  # fmt: skip


@pytest.fixture
def examples(tiny: Checkpoint) -> Examples:
    texts = ["a great film", "dull", "i love this", "an awful movie with no plot at all"] * 4
    return TASK.examples(pd.DataFrame({"sentence": texts, "label": [1, 0, 1, 0] * 4}), tiny, "made up")


@pytest.fixture
def plan(tiny: Checkpoint) -> Plan:
    return preset_named(tiny.config, "sst2", "qbert-4")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store.sqlite")


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three points at a time instead of all at once, so that there is something to resume."""
    monkeypatch.setattr("qbert_core.curvature.losses.STACKED", 100)


class StopAt(Silent):
    """Cancels at the n-th question whether to, and keeps what it is told."""

    def __init__(self, number: int | None = None) -> None:
        self.number, self.asked = number, 0
        self.seen: list[tuple[int, int, Any]] = []

    def progress(self, done: int, total: int, partial: Any = None) -> None:
        self.seen.append((done, total, partial))

    def check(self) -> None:
        self.asked += 1
        if self.number is not None and self.asked > self.number:
            raise Cancelled


def no_warning(line: str) -> None:
    raise AssertionError(line)


def timeless(result: Spectrum | Landscape) -> dict[str, Any]:
    return replace(result, seconds=0.0).to_json()


Run = Callable[..., Any]


@pytest.fixture(params=["spectrum", "landscape"])
def runs(request: pytest.FixtureRequest, tiny: Checkpoint, examples: Examples, plan: Plan) -> tuple[Run, Run]:
    """The analysis with a store, and the engine's own without."""
    block = block_named(tiny.config, "bert.encoder.layer.1.ffn")

    def with_store(
        store: Store, events: Silent, warn: Callable[[str], None] = no_warning, **other: Any
    ) -> Any:
        if request.param == "spectrum":
            options = {**SPECTRUM, **other}
            return stored_spectrum(tiny, TASK, examples, block, store, events=events, warn=warn, **options)
        options = {**LANDSCAPE, **other}
        return stored_landscape(tiny, TASK, examples, 1, plan, store, events=events, warn=warn, **options)

    def alone(events: Silent) -> Any:
        if request.param == "spectrum":
            return spectrum(tiny, TASK, examples, block, events=events, **SPECTRUM)
        return landscape(tiny, TASK, examples, 1, plan, events=events, **LANDSCAPE)

    return with_store, alone


def test_stopped_again_and_again_it_ends_in_the_undisturbed_result(
    runs: tuple[Run, Run], store: Store
) -> None:
    with_store, alone = runs
    watched = StopAt()
    expected = alone(watched)
    # far enough for the longest unit, so that every start finishes something more
    stops = 0
    units = [0]
    step = watched.asked // 3
    while True:
        events = StopAt(step)
        try:
            result = with_store(store, events)
            break
        except Cancelled:
            stops += 1
            units.append(len(store.entries()))
            if units[-1] == units[-2]:
                step += watched.asked // 6
    assert stops >= 2
    assert units == sorted(units)
    assert timeless(result) == timeless(expected)
    assert {total for _, total, _ in events.seen} == {watched.seen[-1][1]}
    assert [done for done, _, _ in events.seen] == sorted(done for done, _, _ in events.seen)
    assert events.seen[-1][0] == events.seen[-1][1]
    assert all(entry.seconds is not None and entry.seconds > 0 for entry in store.entries())


def test_a_finished_one_computes_no_product_again(
    runs: tuple[Run, Run], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_store, _ = runs
    first = with_store(store, Silent())

    def no_product(*arguments: object, **options: object) -> None:
        raise AssertionError("a product was computed")

    monkeypatch.setattr("qbert_core.curvature.hvp.BlockHessian.matvec", no_product)
    assert timeless(with_store(store, Silent())) == timeless(first)
    with pytest.raises(AssertionError, match="product"):
        with_store(store, Silent(), seed=1)
    with pytest.raises(AssertionError, match="product"):
        with_store(store, Silent(), fraction=0.25)


def test_units_that_cannot_be_read_cost_one_warning(runs: tuple[Run, Run], store: Store) -> None:
    with_store, _ = runs
    expected = with_store(store, Silent())
    for damage in ("{", "[]", "7", '{"values": 3}', '[1, NaN, "x"]', '{"nodes": [], "weights": []}'):
        with closing(sqlite3.connect(store.path)) as connection, connection:
            connection.execute("UPDATE units SET value = ?", (damage,))
        warned: list[str] = []
        assert timeless(with_store(store, Silent(), warned.append)) == timeless(expected)
        assert len(warned) == 1


def test_a_store_that_fails_costs_one_warning(runs: tuple[Run, Run], tmp_path: Path) -> None:
    with_store, alone = runs
    (tmp_path / "file").write_text("no database " * 100)
    warned: list[str] = []
    result = with_store(Store(tmp_path / "file"), Silent(), warned.append)
    assert timeless(result) == timeless(alone(Silent()))
    assert len(warned) == 1
    assert "cannot be kept for a restart" in warned[0]


def test_wrong_numbers_are_refused_as_without_a_store(runs: tuple[Run, Run], store: Store) -> None:
    with_store, _ = runs
    for wrong in ({"steps": 0}, {"fraction": 2.0}, {"seed": -1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            with_store(store, Silent(), **wrong)


def test_eigenpairs_are_shared_by_all_plans_of_a_layer(
    tiny: Checkpoint, examples: Examples, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str) -> Landscape:
        plan = preset_named(tiny.config, "sst2", name)
        return stored_landscape(
            tiny, TASK, examples, 1, plan, store, events=Silent(), warn=no_warning, **LANDSCAPE
        )

    first = run("qbert-4")
    monkeypatch.setattr("qbert_core.curvature.hvp.BlockHessian.matvec", None)
    other = run("directq-4")
    assert (other.eigenvalues, other.residuals) == (first.eigenvalues, first.residuals)
    assert other.quantized != first.quantized


def test_eigenvectors_of_another_length_are_computed_again(
    tiny: Checkpoint, examples: Examples, plan: Plan, store: Store
) -> None:
    def run(warn: Callable[[str], None]) -> Landscape:
        return stored_landscape(tiny, TASK, examples, 1, plan, store, events=Silent(), warn=warn, **LANDSCAPE)

    expected = run(no_warning)
    with closing(sqlite3.connect(store.path)) as connection, connection:
        (text,) = connection.execute("SELECT value FROM units WHERE kind = 'landscape-eigenpairs'").fetchone()
        short = json.loads(text) | {"vectors": base64.b64encode(np.ones(6, np.float32).tobytes()).decode()}
        connection.execute(
            "UPDATE units SET value = ? WHERE kind = 'landscape-eigenpairs'", (json.dumps(short),)
        )
    warned: list[str] = []
    assert timeless(run(warned.append)) == timeless(expected)
    assert len(warned) == 1
