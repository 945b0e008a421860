"""What several files of this room need: waiting for a thread, an evaluator that can be held, how often a part is
looked at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import pytest

from app import polling
from app.workspace import Workspace
from qbert_core.evaluation import Evaluation, Evaluator, Inspection
from qbert_core.quantization import Plan, SitePlan, sites_of
from qbert_core.runtime.events import Events

PATIENCE = 60.0  # seconds; long, because a busy machine is no failure


def until(true: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait until `true()` is."""
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end, f"waited {patience:.0f} s in vain: {what}"
        time.sleep(0.005)


class Watched:
    """An evaluator that notes what it is asked for, and stops between batches while it is held."""

    def __init__(self, real: Evaluator) -> None:
        self.real = real
        self.begun: list[str] = []  # digests
        self.finished: list[str] = []
        self.inspected: list[object] = []  # examples
        self.errors: dict[str, Exception] = {}  # digest -> what to raise
        self._free = threading.Event()
        self._free.set()

    def hold(self) -> None:
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    def stream(self, plan: Plan, *, events: Events) -> Iterator[Evaluation]:
        self.begun.append(plan.digest)
        if plan.digest in self.errors:
            raise self.errors[plan.digest]
        for result in self.real.stream(plan, events=events):
            if result.complete:
                self.finished.append(plan.digest)
            yield result
            assert self._free.wait(PATIENCE)

    def inspect(
        self, plan: Plan, example: int | Mapping[str, str], *, layers: Collection[int], events: Events
    ) -> Inspection:
        self.inspected.append(example)
        assert self._free.wait(PATIENCE)
        if plan.digest in self.errors:
            raise self.errors[plan.digest]
        return self.real.inspect(plan, example, layers=layers, events=events)

    def errors_by_width(self, site: str, groups: int, widths: Sequence[int]) -> tuple[float, ...]:
        return self.real.errors_by_width(site, groups, widths)


def watched(workspace: Workspace, presets: bool = False) -> tuple[Workspace, Watched]:
    """The workspace with a watched evaluator, without its presets unless asked for."""
    evaluator = Watched(workspace.evaluator)
    return replace(workspace, evaluator=evaluator, presets=workspace.presets if presets else ()), evaluator


def own_plans(workspace: Workspace, count: int) -> list[Plan]:
    """Plans that are no presets, each with another effect on the first layer."""
    sites = sites_of(workspace.checkpoint.config)
    start = next(plan for plan in workspace.presets if plan.name == "qbert-4")
    first = [site.name for site in sites if site.layer == 0]
    return [start.with_sites(dict.fromkeys(first, SitePlan(4, 2 + n)), f"own {n}") for n in range(count)]


def looks_at(monkeypatch: pytest.MonkeyPatch, of: Callable[[Callable[[], None]], bool]) -> list[float | None]:
    """Where the parts whose function is one `of` these are declared from now on: the seconds between two looks."""
    intervals: list[float | None] = []
    part = polling.part

    def noted(draw: Callable[[], None], every: float | None) -> None:
        if of(draw):
            intervals.append(every)
        part(draw, every)

    monkeypatch.setattr(polling, "part", noted)
    return intervals
