"""Examples looked at in the background: never waited for, the newest first, kept by content, bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from app import inspections as module
from app.engine import Engine, EngineDied
from app.inspections import Inspections, Look
from app.workspace import Source, Workspace
from qbert_core.errors import InputError
from qbert_core.runtime.events import Silent
from tests.app.tools import PATIENCE, own_plans, until, watched


@pytest.fixture
def inspections() -> Iterator[Inspections]:
    made = Inspections()
    yield made
    made.close()


def looked(inspections: Inspections, *question: object) -> Look:
    found = inspections.look(*question, timeout=PATIENCE)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_a_look_is_the_evaluators_own_inspection(workspace: Workspace, inspections: Inspections) -> None:
    plan = own_plans(workspace, 1)[0]
    for example in (3, {"sentence": "a good film"}):
        found = looked(inspections, workspace, plan, example, (1,)).inspection
        expected = workspace.evaluator.inspect(plan, example, layers=(1,), events=Silent())
        assert found is not None
        assert found.after == expected.after
        np.testing.assert_array_equal(found.attention[1], expected.attention[1])


def test_nobody_waits_and_the_newest_question_is_first(
    workspace: Workspace, inspections: Inspections
) -> None:
    held, evaluator = watched(workspace)
    evaluator.hold()
    assert inspections.look(held, workspace.start, 0) is None
    until(lambda: evaluator.inspected == [0], "the first begun")
    for example in (1, 2, 3, 2):
        assert inspections.look(held, workspace.start, example) is None
    evaluator.release()
    until(lambda: len(evaluator.inspected) == 4, "all of them")
    assert evaluator.inspected == [0, 2, 3, 1], "each once"


def test_the_same_content_is_looked_at_once(workspace: Workspace, inspections: Inspections) -> None:
    held, evaluator = watched(workspace)
    first = looked(inspections, held, workspace.start, {"sentence": "a bad film"})
    twin = replace(held)  # another session's
    renamed = replace(workspace.start, name="another name")
    assert looked(inspections, twin, renamed, {"sentence": "a bad film"}) is first
    looked(inspections, held, workspace.start, {"sentence": "a bad film"}, (0,))
    assert len(evaluator.inspected) == 2, "another layer is another question"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("sentence is empty"), "sentence is empty"),
        (EngineDied("the process ended"), "the process ended"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("/home/me/secret"), r"could not be looked at (RuntimeError)"),
    ],
)
def test_what_fails_is_a_line_and_can_be_tried_again(
    workspace: Workspace, inspections: Inspections, error: Exception, line: str
) -> None:
    held, evaluator = watched(workspace)
    evaluator.errors[workspace.start.digest] = error
    failed = looked(inspections, held, workspace.start, 0)
    assert failed.inspection is None
    assert line in (failed.error or "")
    evaluator.errors.clear()
    assert looked(inspections, held, workspace.start, 0).error, "not by itself"
    inspections.forget_errors()
    assert looked(inspections, held, workspace.start, 0).inspection


def test_few_bytes_are_kept_and_few_wait(
    workspace: Workspace, inspections: Inspections, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = (0, 1, 2)
    sizes = [looked(inspections, workspace, workspace.start, i, layers).nbytes for i in range(6)]
    monkeypatch.setattr(module, "MAX_BYTES", sum(sizes) // 2)
    looked(inspections, workspace, workspace.start, 6, layers)
    kept = list(inspections._looks.values())
    assert 0 < sum(look.nbytes for look in kept) <= sum(sizes) // 2
    held, evaluator = watched(workspace)
    evaluator.hold()
    for example in range(40):
        inspections.look(held, workspace.start, example)
    assert len(inspections._waiting) <= module.MAX_WAITING
    evaluator.release()


def test_a_session_that_ended_keeps_no_model(workspace: Workspace, inspections: Inspections) -> None:
    held, evaluator = watched(workspace)
    blocker, gate = watched(workspace)
    gate.hold()
    inspections.look(blocker, workspace.start, 0)
    until(lambda: gate.inspected, "the worker busy")
    inspections.look(held, workspace.baseline, 5)
    del held
    gate.release()
    until(lambda: not inspections._waiting and inspections._under_way is None, "nothing left to do")
    assert not evaluator.inspected


def test_the_engines_process_gives_the_same_numbers_and_survives_its_death(source: Source) -> None:
    engine = Engine()
    try:
        remote = engine.open(source)
        plan = remote.start
        here = remote.evaluator.inspect(plan, 2, layers=(0, 2), events=Silent())
        assert sorted(here.attention) == [0, 2]
        engine.start()._process.kill()
        again = remote.evaluator.inspect(plan, 2, layers=(0, 2), events=Silent())
        assert again.after == here.after
        np.testing.assert_array_equal(again.attention[2], here.attention[2])
        with pytest.raises(InputError, match="sentence is empty"):
            remote.evaluator.inspect(plan, {"sentence": ""}, layers=(), events=Silent())
    finally:
        engine.stop()
