"""What runs in a worker, whatever executor brought it there: units of a sensitivity analysis.

Large things (the model, the analysis, a product's vector) have names by content. A worker keeps the last
few; a task that names one the worker does not have is answered with `Missing`, and comes again with it.
"""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from qbert_core.curvature import Analysis, BlockResult, LayerInputs, ShardedRun, ShardStates
from qbert_core.errors import Cancelled, InputError
from qbert_core.runtime.events import Silent

KEPT = {"model": 1, "analysis": 2, "vector": 4}  # of each kind; two products may be under way


@dataclass(frozen=True)
class Name:
    """What a large thing is called: its kind (of `KEPT`) and a digest of its bytes."""

    kind: str
    digest: str


@dataclass(frozen=True, eq=False)
class Parcel:
    """A large thing as bytes, for `Name`d delivery."""

    name: Name
    data: bytes


@dataclass(frozen=True)
class Missing:
    """The answer of a worker that lacks something a task names."""


@dataclass(frozen=True)
class BlockTask:
    """Unit (run, index) of an analysis, whole."""

    needs: tuple[Name, ...]  # model, analysis
    run: int
    index: int
    work: float  # relative to other tasks of its kind

    @property
    def group(self) -> tuple[int, ...]:
        """Tasks of a group share what is linearized: best done by the same worker."""
        return (self.run,)


@dataclass(frozen=True)
class ShardTask:
    """One shard's part of a product of unit (run, index)."""

    needs: tuple[Name, ...]  # model, analysis, vector
    run: int
    index: int
    shard: int
    fast: bool
    work: float

    @property
    def group(self) -> tuple[int, ...]:
        return (self.run, self.shard)


Task = BlockTask | ShardTask
ShardSums = tuple[np.ndarray[Any, Any], int]  # (n,) sums, and what they have terms of


def pack(kind: str, value: Any) -> Parcel:
    """`value` as bytes, named by them."""
    data = pickle.dumps(value, protocol=5)
    return Parcel(Name(kind, hashlib.sha256(data).hexdigest()), data)


def pack_analysis(analysis: Analysis) -> tuple[Parcel, Parcel]:
    """The model, and all else a worker needs to know of an analysis, the text of its examples left out."""
    analysis.rounds  # noqa: B018 (decided here, not by each worker's hardware)
    without_text = replace(analysis.examples, rows=pd.DataFrame(index=range(len(analysis.examples))))
    bare = replace(analysis, examples=without_text, checkpoint=None)  # type: ignore[arg-type]
    return pack("model", analysis.checkpoint), pack("analysis", (bare, analysis.rounds))


def perform(
    session: str, expected: str, threads: int, task: Task, names: Sequence[Name], *delivered: bytes | str
) -> BlockResult | ShardSums | Missing:
    """Do `task`. `delivered` are the bytes, or the path of a file with the bytes, of `names`.

    `expected` is the caller's `engine()`. Raises `InputError` where it is not the worker's, or bytes are
    not what their name says; `Cancelled` after `stop(session)`.
    """
    if engine() != expected:
        raise InputError(
            "a worker runs another version of qbert_core or torch, so its numbers would differ; expected "
            "the same as here"
        )
    with _one_at_a_time:  # what is kept serves one task at a time, and threads are counted a process
        torch.set_num_threads(threads)
        for name, where in zip(names, delivered, strict=True):
            _worker.keep(name, where)
        return _worker.perform(session, task)


def stop(session: str) -> None:
    """End what is done for `session` here, between two steps of it, and refuse more."""
    _stopped.add(session)


@cache
def engine() -> str:
    """A digest of the source that decides the numbers, and torch's version: equal engines, equal numbers."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256(torch.__version__.encode())
    for room in ("bert", "checkpoints", "curvature", "runtime", "tasks"):
        for file in sorted((root / room).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


class _Stop(Silent):
    def __init__(self, session: str) -> None:
        self._session = session

    def check(self) -> None:
        if self._session in _stopped:
            raise Cancelled


class _Worker:
    """What this process keeps between tasks."""

    def __init__(self) -> None:
        self._things: dict[str, dict[Name, Any]] = {kind: {} for kind in KEPT}
        self._inputs: dict[tuple[Name, int], LayerInputs] = {}  # the last run's
        self._runs: dict[tuple[Name, int], ShardedRun] = {}  # the last two
        self._states: tuple[Name | None, ShardStates] = (None, ShardStates())

    def keep(self, name: Name, where: bytes | str) -> None:
        things = self._things[name.kind]
        if name in things:
            return
        try:
            data = Path(where).read_bytes() if isinstance(where, str) else where
        except OSError as error:
            raise InputError(
                f"a worker cannot read {where!r} ({error.strerror}); expected a folder all share"
            ) from None
        if hashlib.sha256(data).hexdigest() != name.digest:  # before anything in it is believed
            raise InputError(
                f"a {name.kind} of {len(data)} bytes is not the one that was sent; its file was changed"
            )
        _kept(things, name, lambda: pickle.loads(data), KEPT[name.kind])

    def perform(self, session: str, task: Task) -> BlockResult | ShardSums | Missing:
        if any(name not in self._things[name.kind] for name in task.needs):
            return Missing()
        events = _Stop(session)
        events.check()
        model, question = task.needs[:2]
        bare, rounds = self._things["analysis"][question]
        analysis: Analysis = replace(bare, checkpoint=self._things["model"][model])
        analysis.__dict__["rounds"] = rounds
        if isinstance(task, BlockTask):
            return self._block(question, analysis, task, events)
        return self._shard(question, analysis, task, events)

    def _block(self, question: Name, analysis: Analysis, task: BlockTask, events: _Stop) -> BlockResult:
        def make() -> LayerInputs:
            inputs = analysis.inputs(task.run)
            inputs.linearize()
            return inputs

        inputs = _kept(self._inputs, (question, task.run), make, 1)
        return analysis.block(inputs, task.run, task.index, events)

    def _shard(self, question: Name, analysis: Analysis, task: ShardTask, events: _Stop) -> ShardSums:
        if self._states[0] != question:
            self._states = question, ShardStates(places=2)
        run = _kept(self._runs, (question, task.run), lambda: ShardedRun(analysis, task.run), 2)
        vector, rows = self._things["vector"][task.needs[2]]
        tables = {name: torch.from_numpy(kept) for name, kept in rows.items()}
        total, count = run.sums(
            self._states[1], task.index, task.shard, tables, torch.from_numpy(vector), task.fast, events
        )
        return total.numpy(), count


def _kept(things: dict[Any, Any], key: Any, make: Callable[[], Any], most: int) -> Any:
    """The thing under `key`, made where there is none; the oldest make room first, or both are in memory."""
    if key not in things:
        while len(things) >= most:
            del things[next(iter(things))]
        things[key] = make()
    return things[key]


_one_at_a_time = threading.Lock()
_stopped: set[str] = set()
_worker = _Worker()
