"""The engine's process as the server sees it: started at the first request, and again when it died.

A thread of the server would share the interpreter with every page that is drawn, and OpenMP's threads
the cores with them: an evaluation of half a second took minutes beside a page that polled.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.engine.channel import Caller, Gone
from qbert_core.errors import InputError
from qbert_core.runtime.events import Events, Silent

if TYPE_CHECKING:  # the process is started before the server spends seconds on importing torch itself
    from app.workspace import Source, Workspace
    from qbert_core.evaluation import Evaluation, Inspection
    from qbert_core.quantization import GroupAnatomy, Plan, SiteAnatomy

ROOT = Path(__file__).resolve().parents[2]
LIVES = 2  # of the process, that one request may cost before it is given up
# OpenMP's threads sleep while they wait for each other. Where they spin, each holds a core the other may
# need: with other processes on one of two cores, loading the demo took 105 s instead of 5.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


class EngineDied(Exception):
    """The engine's process ended; the text is for the person who waits."""


class Life:
    """One process, from its start to its death. `caller` asks it."""

    def __init__(self) -> None:
        here, there = Pipe()
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        with there:
            try:
                self._process = subprocess.Popen(
                    # -P: modules come from the project, whatever lies in the server's working directory
                    [sys.executable, "-P", "-m", "app.engine", str(there.fileno())],
                    env={**ENVIRONMENT, **os.environ, "PYTHONPATH": path},
                    stdin=subprocess.DEVNULL,
                    pass_fds=[there.fileno()],
                    process_group=0,  # Ctrl-C in the terminal is for the server, whose end it notices
                )
            except OSError as error:
                here.close()
                raise EngineDied(f"the engine's process could not be started: {error.strerror}") from None
        self.caller = Caller(here)

    def death(self) -> str:
        """How it ended, in words that follow "the process"; for when the caller says it is gone."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.returncode
        if code == -signal.SIGKILL:
            return "was killed; the machine may have run out of memory"
        return f"ended by signal {-code}" if code < 0 else f"ended with code {code}"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Engine:
    """Opens sources in a process of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._life: Life | None = None
        self._numbers = itertools.count()

    def start(self) -> Life:
        """The running process; a new one where there is none."""
        with self._lock:
            if self._life is None or self._life.caller.gone:
                if self._life is not None:
                    print(f"the engine's process {self._life.death()}; starting another", flush=True)
                self._life = Life()
            return self._life

    def stop(self) -> None:
        """End the process; the next request starts another. (It ends by itself when the server does.)"""
        with self._lock:
            if self._life is not None:
                self._life.kill()
                self._life = None

    def open(self, source: Source) -> Workspace:
        """Load a source there; the workspace has no weights, and an evaluator that asks the process.

        Raises `InputError` for what is wrong with the source, `MemoryError`, `Failed`, `EngineDied`.
        """
        life = self.start()
        number, workspace = self.load(life, source)
        return replace(workspace, evaluator=RemoteEvaluator(self, source, workspace.key, life, number))

    def load(self, life: Life, source: Source) -> tuple[int, Workspace]:
        """Load a source in one life of the process; the number names it there."""
        number = next(self._numbers)
        try:
            (workspace,) = life.caller.ask("open", number, source)
        except Gone:
            raise EngineDied(f"the process that loaded it {life.death()}") from None
        return number, workspace


class RemoteEvaluator:
    """Measures plans in the engine's process; what is loaded there for it is let go together with it."""

    def __init__(self, engine: Engine, source: Source, key: str, life: Life, number: int) -> None:
        self._engine = engine
        self._source = source
        self._key = key
        self._lock = threading.Lock()
        self._move(life, number)

    def stream(self, plan: Plan, *, events: Events) -> Iterator[Evaluation]:
        """As `Evaluator.stream`, number for number; of `events` only `check` is called."""
        seen = 0
        for result in self._ask("measure", plan, events=events):
            if result.n > seen:  # another life begins anew, with the same batches
                seen = result.n
                yield result

    def inspect(
        self, plan: Plan, example: int | Mapping[str, str], *, layers: Collection[int], events: Events
    ) -> Inspection:
        """As `Evaluator.inspect`."""
        asked = example if isinstance(example, int) else dict(example)
        (result,) = self._ask("inspect", plan, asked, tuple(layers), events=events)
        inspection: Inspection = result
        return inspection

    def group_anatomy(self, site: str, bits: int, groups: int, group: int) -> GroupAnatomy:
        """As `Evaluator.group_anatomy`."""
        (result,) = self._ask("group_anatomy", site, bits, groups, group, events=Silent())
        anatomy: GroupAnatomy = result
        return anatomy

    def errors_by_count(self, site: str, bits: int, counts: Sequence[int]) -> tuple[float, ...]:
        """As `Evaluator.errors_by_count`."""
        (result,) = self._ask("errors_by_count", site, bits, tuple(counts), events=Silent())
        errors: tuple[float, ...] = result
        return errors

    def errors_by_width(self, site: str, groups: int, widths: Sequence[int]) -> tuple[float, ...]:
        """As `Evaluator.errors_by_width`."""
        (result,) = self._ask("errors_by_width", site, groups, tuple(widths), events=Silent())
        errors: tuple[float, ...] = result
        return errors

    def site_anatomy(self, site: str, bits: int, groups: int, clip: float) -> SiteAnatomy:
        """As `Evaluator.site_anatomy`."""
        (result,) = self._ask("site_anatomy", site, bits, groups, clip, events=Silent())
        anatomy: SiteAnatomy = result
        return anatomy

    def _ask(self, name: str, *arguments: Any, events: Events) -> Iterator[Any]:
        """Replies to a request about this source. When the process dies, the source is loaded in a new
        one and asked again; `EngineDied` when that one dies too."""
        for lives in range(1, LIVES + 1):
            life, number = self._place()
            try:
                yield from life.caller.ask(name, number, *arguments, events=events)
                return
            except Gone:
                if lives == LIVES:
                    raise EngineDied(f"{LIVES} times the process that measured it {life.death()}") from None

    def _place(self) -> tuple[Life, int]:
        """Where the source is loaded; it is loaded again where that process has died."""
        with self._lock:
            life = self._engine.start()
            if life is not self._life:
                number, workspace = self._engine.load(life, self._source)
                if workspace.key != self._key:
                    life.caller.tell("close", number)
                    raise InputError(
                        f"{self._source.model}: model or data have changed on disk since they were loaded; "
                        f"start the app again to work with what is there now"
                    )
                self._move(life, number)
            return self._life, self._number

    def _move(self, life: Life, number: int) -> None:
        self._life, self._number = life, number
        weakref.finalize(self, life.caller.tell, "close", number)
