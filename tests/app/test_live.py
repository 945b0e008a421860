"""Plans measured in the background: the newest wish wins, nothing is computed twice, nothing stops it."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest

from app import live as live_module
from app.engine import EngineDied, Failed
from app.live import Live
from app.workspace import Source, Workspace, open_workspace
from qbert_core.errors import Cancelled, InputError
from qbert_core.evaluation import Evaluation
from qbert_core.quantization import Plan
from qbert_core.runtime.events import Events
from tests.app.tools import PATIENCE, own_plans, until, watched


def measured(live: Live, workspace: Workspace, plan: Plan) -> Evaluation:
    """The plan's complete evaluation, when it is there."""
    until(lambda: (r := live.result(workspace, plan)) is not None and r.complete, f"{plan.name} measured")
    result = live.result(workspace, plan)
    assert result is not None
    return result


def same_numbers(one: Evaluation, other: Evaluation) -> bool:
    return (one.score, one.baseline, one.predictions, one.attention_kl, one.flips, one.size) == (
        other.score, other.baseline, other.predictions, other.attention_kl, other.flips, other.size,
    )  # fmt: skip


def test_the_newest_wish_wins_and_the_older_one_is_dropped(workspace: Workspace) -> None:
    held, evaluator = watched(workspace)
    old, new = own_plans(workspace, 2)
    live = Live()
    evaluator.hold()
    live.want("me", held, old)
    partial = live.wait(held, old, more_than=0, timeout=PATIENCE)
    assert partial is not None
    assert 0 < partial.n < partial.total
    live.want("me", held, new)
    evaluator.release()
    measured(live, held, new)
    assert evaluator.begun == [old.digest, new.digest]
    assert evaluator.finished == [new.digest]
    left = live.result(held, old)
    assert left is not None
    assert left.n == partial.n, "what was known of the dropped plan stays"


def test_a_closed_worker_stops_in_the_middle_of_a_plan(workspace: Workspace) -> None:
    watch, evaluator = watched(workspace)
    (plan,) = own_plans(workspace, 1)
    live = Live()
    evaluator.hold()
    live.want("me", watch, plan)
    assert live.wait(watch, plan, more_than=0, timeout=PATIENCE) is not None
    live.close(patience=0)
    evaluator.release()
    live.close(PATIENCE)
    assert not live._thread.is_alive()
    assert evaluator.finished == []
    live.close()


def test_a_dropped_plan_is_measured_to_the_end_when_it_is_wanted_again(workspace: Workspace) -> None:
    held, evaluator = watched(workspace)
    old, new = own_plans(workspace, 2)
    live = Live()
    evaluator.hold()
    live.want("me", held, old)
    live.wait(held, old, more_than=0, timeout=PATIENCE)
    live.want("me", held, new)
    evaluator.release()
    measured(live, held, new)
    live.want("me", held, old)
    assert same_numbers(measured(live, held, old), workspace.evaluator.evaluate(old))


def test_numbers_do_not_go_back_when_a_dropped_plan_begins_again(workspace: Workspace) -> None:
    (plan,) = own_plans(workspace, 1)
    results = list(workspace.evaluator.stream(plan))
    begun, free = threading.Semaphore(0), threading.Event()

    class DroppedOnce:
        """Stops after two batches the first time, and waits after one the second time."""

        def __init__(self) -> None:
            self.calls = 0

        def stream(self, plan: Plan, *, events: Events) -> Iterator[Evaluation]:
            self.calls += 1
            if self.calls == 1:
                yield from results[:2]
                raise Cancelled
            yield results[0]
            begun.release()
            assert free.wait(PATIENCE)
            yield from results[1:]

    live = Live()
    held = replace(workspace, evaluator=DroppedOnce(), presets=())
    live.want("me", held, plan)
    assert begun.acquire(timeout=PATIENCE)
    assert live.result(held, plan) is results[1]
    free.set()
    assert measured(live, held, plan) is results[-1]


def test_of_many_quick_wishes_only_the_first_and_the_last_are_begun(workspace: Workspace) -> None:
    held, evaluator = watched(workspace)
    plans = own_plans(workspace, 12)
    live = Live()
    evaluator.hold()
    live.want("me", held, plans[0])
    live.wait(held, plans[0], more_than=0, timeout=PATIENCE)
    for plan in plans[1:]:
        live.want("me", held, plan)
    evaluator.release()
    measured(live, held, plans[-1])
    assert evaluator.begun == [plans[0].digest, plans[-1].digest]


def test_two_sessions_at_once_both_get_their_own_final_numbers(workspace: Workspace) -> None:
    held, evaluator = watched(workspace)
    mine, yours = own_plans(workspace, 2)
    live = Live()
    evaluator.hold()
    live.want("me", held, mine)
    live.wait(held, mine, more_than=0, timeout=PATIENCE)
    live.want("you", held, yours)
    evaluator.release()
    for plan in (mine, yours):
        result = measured(live, held, plan)
        assert result.plan == plan
        assert same_numbers(result, workspace.evaluator.evaluate(plan))
    assert evaluator.begun == [mine.digest, yours.digest], "another session's wish interrupts nobody"


def test_sessions_that_ask_from_threads_of_their_own_are_all_served(workspace: Workspace) -> None:
    held, _ = watched(workspace)
    plans = own_plans(workspace, 8)
    live = Live()

    def ask(plan: Plan) -> None:
        for wish in [*plans[:3], plan]:
            live.want(plan.name, held, wish)

    threads = [threading.Thread(target=ask, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for plan in plans:
        assert measured(live, held, plan).plan.digest == plan.digest


def test_equal_plans_are_computed_once_for_everybody(workspace: Workspace, source: Source) -> None:
    held, evaluator = watched(workspace)
    again = replace(held, source=replace(source, limit=1999))  # other words for the same content
    (plan,) = own_plans(workspace, 1)
    live = Live()
    evaluator.hold()
    live.want("a", held, plan)
    live.want("b", again, plan)
    live.want("c", held, replace(plan, name="another name"))
    evaluator.release()
    first = measured(live, held, plan)
    assert live.result(again, plan) is first
    live.want("d", again, plan)
    other = own_plans(workspace, 2)[1]
    live.want("a", held, other)  # when this one is done the worker has passed over the others
    measured(live, held, other)
    assert evaluator.begun == [plan.digest, other.digest]


def test_presets_are_measured_when_nobody_waits(workspace: Workspace) -> None:
    held, evaluator = watched(workspace, presets=True)
    (plan,) = own_plans(workspace, 1)
    live = Live()
    live.want("me", held, plan)
    for preset in workspace.presets:
        measured(live, held, preset)
    assert evaluator.begun == [plan.digest, *(preset.digest for preset in workspace.presets)]


def test_before_anybody_looks_only_the_plan_itself_is_measured(workspace: Workspace) -> None:
    held, evaluator = watched(workspace, presets=True)
    (plan,) = own_plans(workspace, 1)
    live = Live()
    live.want(None, held, plan)
    measured(live, held, plan)
    time.sleep(0.1)
    assert evaluator.begun == [plan.digest]
    live.want("me", held, plan)
    for preset in workspace.presets:
        measured(live, held, preset)
    assert evaluator.begun == [plan.digest, *(preset.digest for preset in workspace.presets)]


def test_a_wish_comes_before_the_presets(workspace: Workspace) -> None:
    held, evaluator = watched(workspace, presets=True)
    first, wish = own_plans(workspace, 2)
    live = Live()
    live.want("me", held, first)
    measured(live, held, first)
    evaluator.hold()
    until(lambda: len(evaluator.begun) > 1, "a preset begun")
    preset = evaluator.begun[-1]
    assert preset in {plan.digest for plan in workspace.presets}
    live.want("me", held, wish)
    evaluator.release()
    measured(live, held, wish)
    for plan in workspace.presets:
        measured(live, held, plan)
    # at most the preset that began while the test looked came between
    assert evaluator.begun.index(wish.digest) - evaluator.begun.index(preset) in (1, 2)
    assert len(evaluator.finished) == len(set(evaluator.finished)) == len(workspace.presets) + 2


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("site x: too many groups"), "site x: too many groups"),
        (MemoryError(), "not enough memory to measure this plan; load fewer rows"),
        (RuntimeError("/home/me/secret"), "this plan could not be measured (RuntimeError)"),
        (Failed("KeyError"), "this plan could not be measured (KeyError)"),
        (EngineDied("the process that measured it was killed"), "the process that measured it was killed"),
    ],
)
def test_an_error_of_one_plan_is_said_and_the_next_is_measured(
    workspace: Workspace, error: Exception, line: str
) -> None:
    held, evaluator = watched(workspace)
    bad, good = own_plans(workspace, 2)
    evaluator.errors[bad.digest] = error
    live = Live()
    live.want("me", held, bad)
    live.wait(held, bad, more_than=0, timeout=PATIENCE)
    assert live.error(held, bad) == line
    assert live.result(held, bad) is None
    live.want("you", held, good)
    assert measured(live, held, good).complete
    assert live.error(held, good) is None
    assert evaluator.begun == [bad.digest, good.digest], "a plan that failed is not tried for ever"


def test_a_plan_that_failed_is_tried_again_when_it_is_chosen_again(workspace: Workspace) -> None:
    held, evaluator = watched(workspace)
    bad, good = own_plans(workspace, 2)
    evaluator.errors[bad.digest] = EngineDied("out of memory")
    live = Live()
    live.want("me", held, bad)
    until(lambda: live.settled(held, bad), "the error")
    live.want("me", held, bad)  # the page is drawn again
    assert live.error(held, bad) == "out of memory"
    live.want("me", held, good)
    measured(live, held, good)
    del evaluator.errors[bad.digest]
    live.want("me", held, bad)
    assert measured(live, held, bad).complete
    assert live.error(held, bad) is None
    assert evaluator.begun == [bad.digest, good.digest, bad.digest]


def test_a_plan_is_settled_when_all_of_it_is_measured(workspace: Workspace) -> None:
    held, evaluator = watched(workspace)
    (plan,) = own_plans(workspace, 1)
    live = Live()
    assert not live.settled(held, plan)
    evaluator.hold()
    live.want("me", held, plan)
    live.wait(held, plan, more_than=0, timeout=PATIENCE)
    assert not live.settled(held, plan), "some sentences are not all"
    evaluator.release()
    until(lambda: live.settled(held, plan), "all of them")
    assert measured(live, held, plan).complete


def test_waiting_ends_with_the_time_or_with_what_is_wanted(workspace: Workspace) -> None:
    held, evaluator = watched(workspace)
    (plan,) = own_plans(workspace, 1)
    live = Live()
    assert live.wait(held, plan, more_than=0, timeout=0.01) is None
    evaluator.hold()
    live.want("me", held, plan)
    first = live.wait(held, plan, more_than=0, timeout=PATIENCE)
    assert first is not None
    assert live.wait(held, plan, more_than=first.n, timeout=0.01) is first
    evaluator.release()
    more = live.wait(held, plan, more_than=first.total - 1, timeout=PATIENCE)
    assert more is not None
    assert more.complete


def test_results_are_bounded_and_the_newest_stay(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "MAX_RESULTS", 5)
    held, _ = watched(workspace)
    plans = own_plans(workspace, 9)
    live = Live()
    for plan in plans:
        live.want("me", held, plan)
        measured(live, held, plan)
    assert [plan.name for plan in plans if live.result(held, plan)] == [plan.name for plan in plans[-5:]]


def test_errors_are_bounded(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "MAX_RESULTS", 5)
    held, evaluator = watched(workspace)
    plans = own_plans(workspace, 9)
    evaluator.errors = {plan.digest: InputError("no") for plan in plans}
    live = Live()
    for plan in plans:
        live.want("me", held, plan)
        until(lambda plan=plan: live.error(held, plan), "an error")
    assert len([plan for plan in plans if live.error(held, plan)]) <= 5


def test_sessions_are_bounded_and_the_newest_is_served(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "MAX_SESSIONS", 3)
    held, evaluator = watched(workspace)
    plans = own_plans(workspace, 10)
    live = Live()
    evaluator.hold()
    live.want("0", held, plans[0])
    until(lambda: evaluator.begun, "the first begun")
    for number, plan in enumerate(plans[1:], 1):
        live.want(str(number), held, plan)
    evaluator.release()
    for plan in plans[-3:]:
        measured(live, held, plan)
    assert evaluator.begun[1:] == [plan.digest for plan in plans[-3:]]


def test_a_model_nobody_has_open_any_more_is_let_go(source: Source) -> None:
    """A session that ended leaves its wish behind; the wish must not keep a model and its states."""
    opened = open_workspace(source)
    (plan,) = own_plans(opened, 1)
    live = Live()
    live.want("gone", opened, plan)
    for wanted in (plan, *opened.presets):
        measured(live, opened, wanted)
    there = weakref.ref(opened.evaluator)
    del opened
    until(lambda: gc.collect() >= 0 and there() is None, "the model let go", patience=5)


def test_plans_beside_an_edit_are_measured_when_it_is_done_and_before_the_presets(
    workspace: Workspace,
) -> None:
    held, evaluator = watched(workspace, presets=True)
    first, edit, one, other = own_plans(workspace, 4)
    live = Live()
    evaluator.hold()
    live.want("me", held, first)
    live.wait(held, first, more_than=0, timeout=PATIENCE)
    live.beside("me", held, (one, other))
    live.want("me", held, edit)
    evaluator.release()
    for plan in (one, other):
        assert same_numbers(measured(live, held, plan), workspace.evaluator.evaluate(plan))
    assert evaluator.begun[:4] == [plan.digest for plan in (first, edit, one, other)]


def test_an_edit_interrupts_a_plan_beside_it(workspace: Workspace) -> None:
    held, evaluator = watched(workspace)
    first, beside, edit = own_plans(workspace, 3)
    live = Live()
    live.want("me", held, first)
    measured(live, held, first)
    evaluator.hold()
    live.beside("me", held, (beside,))
    live.wait(held, beside, more_than=0, timeout=PATIENCE)
    live.want("me", held, edit)
    evaluator.release()
    measured(live, held, edit)
    measured(live, held, beside)
    assert evaluator.finished == [plan.digest for plan in (first, edit, beside)]


def test_plans_nobody_compares_any_more_are_not_measured(workspace: Workspace) -> None:
    held, evaluator = watched(workspace)
    first, beside = own_plans(workspace, 2)
    live = Live()
    evaluator.hold()
    live.want("me", held, first)
    live.wait(held, first, more_than=0, timeout=PATIENCE)
    live.beside("me", held, (beside,))
    live.beside("me", held, ())
    evaluator.release()
    measured(live, held, first)
    live.close(PATIENCE)
    assert evaluator.begun == [first.digest]


def test_a_plan_beside_that_failed_is_tried_again_when_others_are_compared(workspace: Workspace) -> None:
    held, evaluator = watched(workspace)
    first, beside = own_plans(workspace, 2)
    evaluator.errors[beside.digest] = InputError("broken")
    live = Live()
    live.want("me", held, first)
    live.beside("me", held, (beside,))
    until(lambda: live.error(held, beside), "the error")
    evaluator.errors.clear()
    live.beside("me", held, (beside,))
    assert live.error(held, beside) == "broken", "the same question gives the same answer"
    live.beside("me", held, (beside, first))
    measured(live, held, beside)
