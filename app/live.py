"""Plans measured in the background, in turn for every session, its newest wish alone.

One worker thread serves all sessions; the work itself is done by the workspaces' evaluators, in the
engine's process. A session has one wish: its current plan; a newer one replaces it, and work nobody
wishes for any more stops at the next layer. When nobody waits, the plans a session compares are measured,
then the presets of the workspaces in use, so that they stand in the scatter. Results are kept by content.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from weakref import ref

from app.engine import EngineDied, Failed
from app.workspace import Workspace
from qbert_core.errors import Cancelled, InputError
from qbert_core.evaluation import Evaluation
from qbert_core.quantization import Plan
from qbert_core.runtime.events import Silent

MAX_RESULTS = 1000
MAX_SESSIONS = 200

Key = tuple[str, str]  # workspace key, plan digest


class Live:
    """The registry pages talk to: `want` a plan, look at its `result`, `wait` for a newer one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # a session that ended leaves its wish behind: it must not keep the model
        self._wishes: OrderedDict[str | None, tuple[Key, ref[Workspace], Plan]] = OrderedDict()
        self._beside: OrderedDict[str, tuple[ref[Workspace], tuple[Plan, ...]]] = OrderedDict()
        self._results: OrderedDict[Key, Evaluation] = OrderedDict()
        self._errors: dict[Key, str] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._work, daemon=True, name="live")
        self._thread.start()

    def close(self, patience: float = 10.0) -> None:
        """Stop the work after the layer it is in, and wait for that at most `patience` seconds.

        A thread that is inside torch while the interpreter ends would abort the process.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(patience)

    def want(self, session: str | None, workspace: Workspace, plan: Plan) -> None:
        """Say what `session` looks at now. A plan that failed is tried again when it is chosen again. None: nobody
        looks yet, so the presets beside it are not measured."""
        key = (workspace.key, plan.digest)
        with self._changed:
            before = self._wishes.get(session)
            if before is None or before[0] != key:
                self._errors.pop(key, None)
            self._wishes[session] = (key, ref(workspace), plan)
            self._wishes.move_to_end(session)
            while len(self._wishes) > MAX_SESSIONS:
                self._wishes.popitem(last=False)
            self._changed.notify_all()

    def beside(self, session: str, workspace: Workspace, plans: tuple[Plan, ...]) -> None:
        """Say which other plans `session` compares: measured when nobody waits, before the presets. One that
        failed is tried again when others are compared."""
        with self._changed:
            before = self._beside.pop(session, None)
            if not plans:
                return
            if before is None or before[1] != plans:
                for plan in plans:
                    self._errors.pop((workspace.key, plan.digest), None)
            self._beside[session] = (ref(workspace), plans)
            while len(self._beside) > MAX_SESSIONS:
                self._beside.popitem(last=False)
            self._changed.notify_all()

    def result(self, workspace: Workspace, plan: Plan) -> Evaluation | None:
        """What is known of a plan so far, complete or not."""
        return self._results.get((workspace.key, plan.digest))

    def error(self, workspace: Workspace, plan: Plan) -> str | None:
        """Why a plan could not be measured."""
        return self._errors.get((workspace.key, plan.digest))

    def settled(self, workspace: Workspace, plan: Plan) -> bool:
        """Whether nothing more will be known of a plan: all of it is measured, or it failed."""
        return not self._open((workspace.key, plan.digest))

    def wait(self, workspace: Workspace, plan: Plan, more_than: int, timeout: float) -> Evaluation | None:
        """Wait until more than `more_than` examples of a plan are measured, at most `timeout` seconds."""
        key = (workspace.key, plan.digest)

        def arrived() -> bool:
            return key in self._errors or (key in self._results and self._results[key].n > more_than)

        with self._changed:
            self._changed.wait_for(arrived, timeout)
            return self._results.get(key)

    def _open(self, key: Key) -> bool:
        result = self._results.get(key)
        return key not in self._errors and (result is None or not result.complete)

    def _open_wishes(self) -> Iterator[tuple[Key, Workspace, Plan]]:
        for key, there, plan in self._wishes.values():
            workspace = there()
            if workspace is not None:
                yield key, workspace, plan

    def _next_wish(self) -> tuple[Key, Workspace, Plan] | None:
        for wish in self._open_wishes():
            if self._open(wish[0]):
                return wish
        return None

    def _next_other(self) -> tuple[Key, Workspace, Plan] | None:
        compared = ((there(), plans) for there, plans in self._beside.values())
        looked_at = [wish[1]() for session, wish in self._wishes.items() if session is not None]
        presets = ((workspace, workspace.presets) for workspace in looked_at if workspace)
        for workspace, plans in (*compared, *presets):
            if workspace is None:  # its session ended
                continue
            for plan in plans:
                key = (workspace.key, plan.digest)
                if self._open(key):
                    return key, workspace, plan
        return None

    def _work(self) -> None:
        while True:
            with self._changed:
                task = self._next_wish() or self._next_other()
                while task is None and not self._closed:
                    self._changed.wait()
                    task = self._next_wish() or self._next_other()
                if task is None or self._closed:
                    return
            self._measure(*task)

    def _measure(self, key: Key, workspace: Workspace, plan: Plan) -> None:
        try:
            for result in workspace.evaluator.stream(plan, events=_Gate(self, key)):
                self._keep(key, result)
        except Cancelled:
            pass
        except (InputError, EngineDied) as error:
            self._fail(key, str(error))
        except MemoryError:
            self._fail(key, "not enough memory to measure this plan; load fewer rows")
        except Failed as error:
            self._fail(key, f"this plan could not be measured ({error})")
        except Exception as error:
            # the worker serves every session and must not die of one plan; details go to the console
            print(f"measuring {plan.name} failed: {error!r}", flush=True)
            self._fail(key, f"this plan could not be measured ({type(error).__name__})")

    def _keep(self, key: Key, result: Evaluation) -> None:
        with self._changed:
            known = self._results.get(key)
            if known is not None and known.n > result.n:
                return  # a plan that was dropped begins again; its numbers do not go back
            self._results[key] = result
            self._results.move_to_end(key)
            while len(self._results) > MAX_RESULTS:
                self._results.popitem(last=False)
            self._changed.notify_all()

    def _fail(self, key: Key, reason: str) -> None:
        with self._changed:
            self._errors[key] = reason
            while len(self._errors) > MAX_RESULTS:
                del self._errors[next(iter(self._errors))]
            self._changed.notify_all()

    def _wanted(self, key: Key) -> bool:
        """Whether to go on with `key`: a session looks at it, or nobody waits for anything else."""
        with self._changed:
            if self._closed:
                return False
            if any(wished == key for wished, _, _ in self._open_wishes()):
                return True
            return self._next_wish() is None


class _Gate(Silent):
    """Stops an evaluation as soon as something else is wanted more."""

    def __init__(self, live: Live, key: Key) -> None:
        self._live = live
        self._key = key

    def check(self) -> None:
        if not self._live._wanted(self._key):
            raise Cancelled
