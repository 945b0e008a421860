"""Weights looked at in the background: asked for by pages, answered by the engine's process.

One worker thread serves all sessions in the order of asking: an answer takes milliseconds. Answers are
kept by content, a fixed number of them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import Any
from weakref import ref

from app.engine import EngineDied, Failed
from app.workspace import Measures, Workspace
from qbert_core.errors import InputError
from qbert_core.quantization import GroupAnatomy, SiteAnatomy

MAX_LOOKS = 2000  # of at most 5 KB; the 147 sites of a 24-layer model under a dozen plans


@dataclass(frozen=True)
class OneGroup:
    """A group, from 0, of a site that is split into `groups`."""

    site: str
    bits: int
    groups: int
    group: int

    def ask(self, evaluator: Measures) -> GroupAnatomy:
        return evaluator.group_anatomy(self.site, self.bits, self.groups, self.group)


@dataclass(frozen=True)
class ErrorsByCount:
    """The error of a site at each of `counts` groups."""

    site: str
    bits: int
    counts: tuple[int, ...]

    def ask(self, evaluator: Measures) -> tuple[float, ...]:
        return evaluator.errors_by_count(self.site, self.bits, self.counts)


@dataclass(frozen=True)
class ErrorsByWidth:
    """The error of a site in `groups` groups at each of `widths` bits."""

    site: str
    groups: int
    widths: tuple[int, ...]

    def ask(self, evaluator: Measures) -> tuple[float, ...]:
        return evaluator.errors_by_width(self.site, self.groups, self.widths)


@dataclass(frozen=True)
class WholeSite:
    """A site at `bits` (32: left as it is), split into `groups`."""

    site: str
    bits: int
    groups: int
    clip: float

    def ask(self, evaluator: Measures) -> SiteAnatomy:
        return evaluator.site_anatomy(self.site, self.bits, self.groups, self.clip)


Question = OneGroup | ErrorsByCount | ErrorsByWidth | WholeSite


@dataclass(frozen=True)
class Answer:
    """What the question's `ask` found, or why there is nothing."""

    found: Any = None
    error: str | None = None


class Weights:
    """The registry pages talk to: `look`, and again until the answer is there."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="weights")
        self._lock = threading.Lock()
        self._answers: OrderedDict[tuple[str, object], Future[Answer | None]] = OrderedDict()

    def close(self) -> None:
        """Answer nothing more, after the question under way."""
        self._pool.shutdown(cancel_futures=True)

    def known(self, workspace: Workspace, question: Question) -> Answer | None:
        """The answer where it is there; nothing is asked."""
        future = self._answers.get((workspace.key, question))
        return _answered(future) if future else None

    def look(self, workspace: Workspace, question: Question, timeout: float = 0.0) -> Answer | None:
        """The answer, or None while it is not there after at most `timeout` seconds. What failed is tried
        again when another question was asked in between."""
        key = (workspace.key, question)
        with self._lock:
            future = self._answers.get(key)
            if future is None or (future.done() and _answered(future) is None):  # the model is loaded again
                self._drop_errors()
                # a session that ended must not keep the model
                future = self._pool.submit(_answer, ref(workspace), question)
                self._answers[key] = future
            self._answers.move_to_end(key)
            while len(self._answers) > MAX_LOOKS:
                self._answers.popitem(last=False)[1].cancel()
        try:
            return future.result(timeout)
        except NotYet:
            return None

    def _drop_errors(self) -> None:
        for key, future in list(self._answers.items()):
            answer = _answered(future)
            if answer and answer.error:
                del self._answers[key]


def _answered(future: Future[Answer | None]) -> Answer | None:
    """None where it is still to come, and where nobody held the model when its turn came."""
    return future.result() if future.done() and not future.cancelled() else None


def _answer(there: ref[Workspace], question: Question) -> Answer | None:
    """None when nobody holds the workspace any more."""
    workspace = there()
    if workspace is None:
        return None
    try:
        return Answer(question.ask(workspace.evaluator))
    except (InputError, EngineDied) as error:
        return Answer(error=str(error))
    except MemoryError:
        return Answer(error="not enough memory to look at these weights")
    except Failed as error:
        return Answer(error=f"these weights could not be looked at ({error})")
