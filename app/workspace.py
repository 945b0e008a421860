"""A model and the data it is measured on, loaded and ready: what every page works with."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from app.engine import EngineDied, Failed
from app.words import WORDS
from qbert_core.bert import BertConfig
from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.errors import InputError
from qbert_core.evaluation import Evaluation, Evaluator, Inspection, calibration
from qbert_core.quantization import GroupAnatomy, Plan, SiteAnatomy, presets
from qbert_core.runtime.events import Events
from qbert_core.tasks import Examples, Task, task_named
from qbert_core.tasks.data import read_table

START = "qbert-4"  # the preset a new session begins with: small, and hardly worse than fp32
MAX_ROWS = 1_000_000
DEMO = "demo"
DEMO_TASK = "sst2"  # what its reviews are labelled for
KEPT = 3  # workspaces: each holds a model and up to 2 GB of states


@dataclass(frozen=True)
class Source:
    """What a person asked for: a model, evaluation data, at most how many rows of it, and the task they
    expect the model to be for ("": whatever it is for)."""

    model: str = "demo"
    data: str = "demo"
    limit: int = 2000
    task: str = ""


@dataclass(frozen=True)
class CheckpointInfo:
    """What pages say of a checkpoint; its weights are where it is measured."""

    name: str
    config: BertConfig
    fingerprint: str


class Measures(Protocol):
    """The part of an `Evaluator` that pages use; it may be in another process."""

    def stream(self, plan: Plan, *, events: Events) -> Iterator[Evaluation]:
        """Yield a plan's evaluation after every batch; raise `Cancelled` when `events` says so."""

    def inspect(
        self, plan: Plan, example: int | Mapping[str, str], *, layers: Collection[int], events: Events
    ) -> Inspection:
        """Both models on a row of the data or a typed text, with the attention of these layers."""

    def group_anatomy(self, site: str, bits: int, groups: int, group: int) -> GroupAnatomy:
        """One group, from 0, of a site's weights under the quantizer."""

    def errors_by_count(self, site: str, bits: int, counts: Sequence[int]) -> tuple[float, ...]:
        """The mean squared error of a site's weights split into each of `counts` groups."""

    def errors_by_width(self, site: str, groups: int, widths: Sequence[int]) -> tuple[float, ...]:
        """The mean squared error of a site's weights, in `groups` groups, at each of `widths` bits."""

    def site_anatomy(self, site: str, bits: int, groups: int, clip: float) -> SiteAnatomy:
        """A whole site's weights under the quantizer."""


@dataclass(frozen=True, eq=False)
class Workspace:
    """A loaded source. `key` names its content, whatever path it came from."""

    source: Source
    checkpoint: CheckpointInfo
    task: Task
    examples: Examples
    evaluator: Measures = field(repr=False)
    presets: tuple[Plan, ...] = field(repr=False)
    inputs: Mapping[str, tuple[float, float]] = field(repr=False)  # linear site -> range of its input

    @property
    def key(self) -> str:
        return f"{self.checkpoint.fingerprint}/{self.examples.fingerprint}"

    @property
    def start(self) -> Plan:
        """The plan a new session begins with."""
        return next(plan for plan in self.presets if plan.name == START)

    @property
    def baseline(self) -> Plan:
        return self.presets[0]


def open_workspace(source: Source) -> Workspace:
    """Load model and data and calibrate, in this process; `InputError` says what is wrong with either."""
    checkpoint = load_checkpoint(source.model)
    task = _task(checkpoint, source)
    examples = _examples(checkpoint, task, source)
    ranges = calibration(checkpoint, task, examples, None)
    evaluator = Evaluator(checkpoint, task, examples, ranges)
    info = CheckpointInfo(checkpoint.name, checkpoint.config, checkpoint.fingerprint)
    plans = tuple(presets(checkpoint.config, task.name))
    # a dict: the frozen view of it cannot go to another process
    return Workspace(source, info, task, examples, evaluator, plans, dict(ranges.ranges))


def _task(checkpoint: Checkpoint, source: Source) -> Task:
    """The task the model is for; `InputError` when another was expected, or one the demo data are not of."""
    task = task_named(checkpoint.task)
    title = WORDS[task.name].title
    if source.task and source.task != task.name:
        try:
            task_named(source.task).check_model(checkpoint.config)
        except InputError as error:
            raise InputError(f"{source.model}: {error}. Choose the task {title}, or another model") from None
        task = task_named(source.task)
    if source.data == DEMO and task.name != DEMO_TASK:
        raise InputError(
            f"{source.model} is a model for {title}; the demo data are reviews for {WORDS[DEMO_TASK].title}. "
            f"Give a file with the columns {WORDS[task.name].columns}"
        )
    return task


def _examples(checkpoint: Checkpoint, task: Task, source: Source) -> Examples:
    table = read_table(source.data, limit=source.limit)
    try:
        return task.examples(table, checkpoint, source.data)
    except InputError as error:
        if set(task.columns) <= set(table.columns):
            raise
        words = WORDS[task.name]
        raise InputError(f"{error}. {words.title} needs the columns {words.columns}") from None


@dataclass(eq=False)
class Opening:
    """A source on its way: `workspace` is set when it is there, `error` when it cannot be."""

    workspace: Workspace | None = None
    error: str | None = None

    @property
    def done(self) -> bool:
        return self.workspace is not None or self.error is not None


class Workspaces:
    """Opens each source once, with `load` in a thread of its own, for every session that asks."""

    def __init__(self, load: Callable[[Source], Workspace]) -> None:
        self._load = load
        self._changed = threading.Condition()
        self._opened: OrderedDict[Source, Opening] = OrderedDict()

    def open(self, source: Source, timeout: float = 0.0) -> Opening:
        """The source, or what is known of it after at most `timeout` seconds. Asking again after an
        error tries again."""
        with self._changed:
            opening = self._opened.get(source)
            if opening is None:
                opening = self._opened[source] = Opening()
                threading.Thread(target=self._open, args=(source, opening), daemon=True).start()
            self._opened.move_to_end(source)
            self._changed.wait_for(lambda: opening.done, timeout)
            if opening.error and self._opened.get(source) is opening:
                del self._opened[source]
            return opening

    def _open(self, source: Source, opening: Opening) -> None:
        workspace, reason = None, None
        try:
            workspace = self._load(source)
        except InputError as error:
            reason = str(error)
        except EngineDied as error:
            reason = f"{source.model}: {error}"
        except Failed as error:
            reason = f"{source.model}: loading failed ({error})"
        except MemoryError:
            reason = f"{source.model}: not enough memory to load it; try a smaller row limit"
        except Exception as error:
            # whatever a hostile file still manages to break: the details are for the console
            print(f"loading {source} failed: {error!r}", flush=True)
            reason = f"{source.model}: loading failed ({type(error).__name__})"
        with self._changed:
            opening.workspace, opening.error = workspace, reason
            self._opened.move_to_end(source)
            # errors nobody came back for are bounded too, but push no workspace out
            alike = [s for s, o in self._opened.items() if o.done and (o.error is None) == (reason is None)]
            for old in alike[:-KEPT]:
                del self._opened[old]
            self._changed.notify_all()
