"""Single examples looked at in the background: asked for by pages, computed in the engine's process.

One worker thread serves all sessions, the newest question first: whoever clicks on has no use for the
answers in between. Answers are kept by content, within a fixed number of bytes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from weakref import ref

from app.engine import EngineDied, Failed
from app.workspace import Workspace
from qbert_core.errors import InputError
from qbert_core.evaluation import Inspection
from qbert_core.quantization import Plan
from qbert_core.runtime.events import Silent

MAX_BYTES = 256 * 2**20
MAX_LOOKS = 500
MAX_WAITING = 16  # older questions are dropped; a page that still wants one asks again

Example = int | Mapping[str, str]  # a row of the data, or what was typed: text by column
Key = tuple[str, str, object, tuple[int, ...]]


@dataclass(frozen=True)
class Look:
    """An answer: an inspection, or why there is none."""

    inspection: Inspection | None = None
    error: str | None = None

    @property
    def nbytes(self) -> int:
        return self.inspection.nbytes if self.inspection else 0


@dataclass(frozen=True, eq=False)
class _Question:
    workspace: ref[Workspace]  # a session that ended must not keep the model
    plan: Plan
    example: Example
    layers: tuple[int, ...]


class Inspections:
    """The registry pages talk to: `look` at an example, and again until the answer is there."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: OrderedDict[Key, _Question] = OrderedDict()  # the newest last
        self._under_way: Key | None = None
        self._looks: OrderedDict[Key, Look] = OrderedDict()
        self._closed = False
        self._thread = threading.Thread(target=self._work, daemon=True, name="inspections")
        self._thread.start()

    def close(self, patience: float = 10.0) -> None:
        """Stop after the example under way, and wait for that at most `patience` seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(patience)

    def look(
        self,
        workspace: Workspace,
        plan: Plan,
        example: Example,
        layers: tuple[int, ...] = (),
        timeout: float = 0.0,
    ) -> Look | None:
        """What both models make of `example`, with the attention of `layers`; None while it is not
        there after at most `timeout` seconds."""
        content = example if isinstance(example, int) else tuple(sorted(example.items()))
        key = (workspace.key, plan.digest, content, layers)
        with self._changed:
            if key not in self._looks and key != self._under_way:
                self._waiting[key] = _Question(ref(workspace), plan, example, layers)
                self._waiting.move_to_end(key)
                while len(self._waiting) > MAX_WAITING:
                    self._waiting.popitem(last=False)
                self._changed.notify_all()
            if timeout:
                self._changed.wait_for(lambda: key in self._looks, timeout)
            found = self._looks.get(key)
            if found is not None:
                self._looks.move_to_end(key)
            return found

    def forget_errors(self) -> None:
        """Let what failed be tried again: somebody asks anew."""
        with self._changed:
            for key in [key for key, look in self._looks.items() if look.error]:
                del self._looks[key]

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                key, question = self._waiting.popitem()
                self._under_way = key
            look = _answer(question)
            with self._changed:
                self._under_way = None
                if look is not None:
                    self._keep(key, look)
                self._changed.notify_all()

    def _keep(self, key: Key, look: Look) -> None:
        self._looks[key] = look
        total = sum(known.nbytes for known in self._looks.values())
        while len(self._looks) > 1 and (total > MAX_BYTES or len(self._looks) > MAX_LOOKS):
            total -= self._looks.popitem(last=False)[1].nbytes


def _answer(question: _Question) -> Look | None:
    """None when nobody holds the workspace any more."""
    workspace = question.workspace()
    if workspace is None:
        return None
    try:
        return Look(
            workspace.evaluator.inspect(
                question.plan, question.example, layers=question.layers, events=Silent()
            )
        )
    except (InputError, EngineDied) as error:
        return Look(error=str(error))
    except MemoryError:
        return Look(error="not enough memory to look at this text; a shorter one may do")
    except Failed as error:
        return Look(error=f"this text could not be looked at ({error})")
    except Exception as error:
        # the worker serves every session and must not die of one text; details go to the console
        print(f"inspecting failed: {error!r}", flush=True)
        return Look(error=f"this text could not be looked at ({type(error).__name__})")
