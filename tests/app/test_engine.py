"""The engine in a process of its own: the same numbers, and nothing lost when it dies."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.engine import Engine, EngineDied, Failed
from app.engine.process import Life
from app.live import Live
from app.workspace import Source, Workspace, Workspaces, open_workspace
from qbert_core.checkpoints import Checkpoint
from qbert_core.errors import Cancelled, InputError
from qbert_core.evaluation import Evaluation
from qbert_core.quantization import Plan
from qbert_core.runtime.events import Flag, Silent
from tests.app.conftest import write_table
from tests.app.tools import PATIENCE, own_plans, until
from tests.tiny import make_tiny

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def remote(engine: Engine, source: Source) -> Workspace:
    """`source`, opened in the process."""
    return engine.open(source)


@pytest.fixture(scope="module")
def long(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A source that takes many batches, so that things can happen in between."""
    return Source(str(tiny.folder), str(write_table(tmp_path_factory.mktemp("long") / "long.csv", rows=1500)))


@pytest.fixture(scope="module")
def long_remote(engine: Engine, long: Source) -> Workspace:
    return replace(engine.open(long), presets=())


def plans_of(workspace: Workspace, count: int, clip: float) -> list[Plan]:
    """Plans nobody has measured yet, as long as every test has a `clip` of its own."""
    start = workspace.presets or open_workspace(workspace.source).presets
    return [replace(p, clip=clip) for p in own_plans(replace(workspace, presets=start), count)]


def pid_of(life: Life) -> int:
    return life._process.pid


def runs(pid: int) -> bool:
    """Whether a process still does anything; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing for a while, wherever it is."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def content(result: Evaluation) -> dict[str, object]:
    """All that an evaluation says, but how long it took."""
    said = {f.name: getattr(result, f.name) for f in fields(result) if f.name != "seconds"}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in said.items()}


def stream(workspace: Workspace, plan: Plan) -> list[Evaluation]:
    return list(workspace.evaluator.stream(plan, events=Silent()))


def test_the_workspace_is_the_one_opened_here_without_its_weights(
    remote: Workspace, workspace: Workspace, source: Source
) -> None:
    assert remote.key == workspace.key
    assert remote.source == source
    assert remote.checkpoint == workspace.checkpoint
    assert remote.presets == workspace.presets
    assert remote.task.name == workspace.task.name
    assert remote.examples.input_ids == workspace.examples.input_ids
    assert remote.examples.rows.equals(workspace.examples.rows)
    assert not hasattr(remote.checkpoint, "weights")


def test_every_partial_result_is_the_engines_own_to_the_last_digit(remote: Workspace, source: Source) -> None:
    here = open_workspace(source)
    for plan in (*here.presets, *own_plans(here, 3)):
        expected, found = stream(here, plan), stream(remote, plan)
        assert len(found) == len(expected) > 2
        assert [content(result) for result in found] == [content(result) for result in expected]
        assert found[-1].complete


@pytest.mark.parametrize(("model", "data"), [("nowhere", ""), ("", "nowhere.csv"), ("", "label.csv")])
def test_what_is_wrong_with_a_source_is_said_in_the_same_words(
    engine: Engine, source: Source, tmp_path: Path, model: str, data: str
) -> None:
    (tmp_path / "label.csv").write_text("sentence,label\ngood,1\nbad,maybe\n")
    bad = Source(model or source.model, str(tmp_path / data) if data else source.data)
    with pytest.raises(InputError) as here:
        open_workspace(bad)
    with pytest.raises(InputError) as there:
        engine.open(bad)
    assert str(there.value) == str(here.value)


def test_what_is_wrong_with_a_plan_is_said_in_the_same_words(
    engine: Engine, source: Source, tmp_path: Path
) -> None:
    folder = make_tiny(tmp_path / "loud")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] = torch.full_like(weights["classifier.weight"], 3e38)
    save_file(weights, folder / "model.safetensors")
    loud = Source(str(folder), source.data)
    here, there = open_workspace(loud), engine.open(loud)
    with pytest.raises(InputError, match="finite logits") as expected:
        stream(here, here.start)
    with pytest.raises(InputError) as found:
        stream(there, here.start)
    assert str(found.value) == str(expected.value)


def test_a_cancel_is_obeyed_between_two_batches(long_remote: Workspace) -> None:
    dropped, wanted = plans_of(long_remote, 2, clip=99.9)

    flag = Flag()
    results = long_remote.evaluator.stream(dropped, events=flag)
    assert not next(results).complete
    flag.cancel()
    with pytest.raises(Cancelled):
        next(results)
    assert stream(long_remote, wanted)[-1].complete
    again = stream(long_remote, dropped)[-1]
    assert again.layers_run > 0, "its last batches had never been run"
    assert stream(long_remote, dropped)[-1].layers_run == 0, "as they would be, had it gone on to its end"


def test_the_newest_wish_wins_in_the_process_too(long_remote: Workspace, engine: Engine) -> None:
    old, new = plans_of(long_remote, 2, clip=99.8)
    live = Live()
    live.want("me", long_remote, old)
    live.wait(long_remote, old, more_than=0, timeout=PATIENCE)
    with stopped(pid_of(engine.start())):
        live.want("me", long_remote, new)
        time.sleep(0.1)  # for the worker to notice and the request to be on its way
    until(lambda: live.settled(long_remote, new), "the newer wish measured")
    left = live.result(long_remote, old)
    assert left is not None
    assert 0 < left.n < left.total


def test_killed_in_the_middle_it_is_started_again_and_the_plan_measured_to_its_end(
    long_remote: Workspace, remote: Workspace, engine: Engine, long: Source
) -> None:
    plan, other = plans_of(long_remote, 2, clip=99.7)
    first = engine.start()
    found = []
    for result in long_remote.evaluator.stream(plan, events=Silent()):
        if not found:
            os.kill(pid_of(first), signal.SIGKILL)
        found.append(result)
    assert pid_of(engine.start()) != pid_of(first)
    assert not runs(pid_of(first))
    expected = stream(open_workspace(long), plan)
    assert [r.n for r in found] == [r.n for r in expected], "no batch twice, none left out"
    assert [r.score for r in found] == [r.score for r in expected]
    assert found[-1].attention_kl == expected[-1].attention_kl
    # and what else was open in it is opened again when it is asked for
    assert stream(remote, remote.start)[-1].complete
    assert stream(long_remote, other)[-1].complete


def test_killed_while_nobody_waited_it_is_started_again_at_the_next_request(
    remote: Workspace, engine: Engine
) -> None:
    life = engine.start()
    os.kill(pid_of(life), signal.SIGKILL)
    until(lambda: life.caller.gone, "its end noticed")
    assert stream(remote, remote.start)[-1].complete


class Killer(Silent):
    """Kills whatever process measures, as often as it is told to, while one plan is measured."""

    def __init__(self, engine: Engine, times: int) -> None:
        self._engine = engine
        self.left = times

    def check(self) -> None:
        if self.left:
            self.left -= 1
            os.kill(pid_of(self._engine.start()), signal.SIGKILL)
            until(lambda: self._engine._life is None or self._engine._life.caller.gone, "its end")


def test_a_plan_that_costs_two_lives_is_given_up_and_the_next_one_is_measured(
    long_remote: Workspace, engine: Engine
) -> None:
    bad, good = plans_of(long_remote, 2, clip=99.6)
    killer = Killer(engine, 2)
    with pytest.raises(
        EngineDied,
        match="2 times the process that measured it was killed; the machine may have run out of memory",
    ) as error:
        list(long_remote.evaluator.stream(bad, events=killer))
    assert "\n" not in str(error.value)
    assert killer.left == 0
    assert stream(long_remote, good)[-1].complete
    assert stream(long_remote, bad)[-1].complete, "and so is this one, when it is asked for again"


def test_one_life_is_not_held_against_a_plan(long_remote: Workspace, engine: Engine) -> None:
    (plan,) = plans_of(long_remote, 1, clip=99.5)
    results = list(long_remote.evaluator.stream(plan, events=Killer(engine, 1)))
    assert results[-1].complete


def test_a_page_is_told_and_may_try_again(long_remote: Workspace, engine: Engine) -> None:
    bad, good = plans_of(long_remote, 2, clip=99.4)
    live = Live()
    dead: set[int] = set()

    def kill_two() -> bool:
        life = engine._life
        if life is not None and not life.caller.gone and pid_of(life) not in dead and len(dead) < 2:
            dead.add(pid_of(life))
            os.kill(pid_of(life), signal.SIGKILL)
        return live.error(long_remote, bad) is not None

    with stopped(pid_of(engine.start())):
        live.want("me", long_remote, bad)
        time.sleep(0.1)
        kill_two()
    until(kill_two, "the error")
    assert "was killed" in str(live.error(long_remote, bad))
    live.want("me", long_remote, good)
    until(lambda: live.settled(long_remote, good), "the next plan")
    assert live.error(long_remote, good) is None


def test_killed_while_it_loads_a_source_the_line_says_so_and_asking_again_helps(
    engine: Engine, source: Source
) -> None:
    workspaces = Workspaces(engine.open)
    pid = pid_of(engine.start())
    with stopped(pid):
        opening = workspaces.open(source, timeout=0.2)
        assert not opening.done
        os.kill(pid, signal.SIGKILL)
    until(lambda: opening.done, "the loading ended")
    assert opening.error is not None
    assert opening.error.startswith(f"{source.model}: the process that loaded it was killed")
    assert workspaces.open(source).error == opening.error
    again = workspaces.open(source, PATIENCE).workspace
    assert again is not None
    assert stream(again, again.start)[-1].complete


def test_data_that_changed_on_disk_are_not_measured_as_if_they_had_not(
    engine: Engine, tiny: Checkpoint, tmp_path: Path
) -> None:
    data = write_table(tmp_path / "data.csv", rows=20)
    opened = engine.open(Source(str(tiny.folder), str(data)))
    write_table(data, rows=19)
    assert stream(opened, opened.start)[-1].total == 20, "what was loaded stays"
    life = engine.start()
    os.kill(pid_of(life), signal.SIGKILL)
    until(lambda: life.caller.gone, "its end noticed")
    for _ in range(2):
        with pytest.raises(
            InputError, match="have changed on disk since they were loaded; start the app again"
        ):
            stream(opened, opened.start)


def test_what_is_let_go_here_is_let_go_there(engine: Engine, source: Source) -> None:
    opened = engine.open(replace(source, limit=30))
    life, number = opened.evaluator._place()
    plan = opened.start
    assert next(life.caller.ask("measure", number, plan)).total == 30
    same = replace(opened, presets=())
    del opened
    gc.collect()
    assert next(life.caller.ask("measure", number, plan)).total == 30, "somebody has it still"
    del same

    def gone() -> bool:
        gc.collect()
        try:
            next(life.caller.ask("measure", number, plan))
        except Failed as error:
            return str(error) == "KeyError"
        return False

    until(gone, "it was let go")


def test_the_process_knows_nothing_of_pages() -> None:
    code = "import sys, app.engine.__main__; print([m for m in ('streamlit', 'plotly') if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


SERVER = """
    import sys
    from app.engine import Engine
    from app.workspace import Source
    from qbert_core.runtime.events import Flag, Silent

    engine = Engine()
    print(engine.start()._process.pid, flush=True)
    workspace = engine.open(Source(*sys.argv[1:]))
    results = workspace.evaluator.stream(workspace.start, events=Silent())
    print(next(results).n, flush=True)
    {end}
"""


@pytest.fixture
def server(long: Source, tmp_path: Path):
    """A process that measures in another one, from a folder that has an `app` of its own."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("raise SystemExit('the wrong app')")
    (tmp_path / "model").symlink_to(long.model)
    started: list[subprocess.Popen[str]] = []

    def start(end: str) -> subprocess.Popen[str]:
        code = textwrap.dedent(SERVER).format(end=end)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, "model", long.data],  # a path relative to the server's folder
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_it_ends_when_the_server_is_killed(server) -> None:
    process = server("next(results); import time; time.sleep(600)")
    pid = int(process.stdout.readline())
    assert int(process.stdout.readline()) > 0
    assert runs(pid)
    process.kill()
    until(lambda: not runs(pid), "its end")


def test_it_ends_when_the_server_is_killed_before_it_is_ready(server) -> None:
    process = server("pass")
    pid = int(process.stdout.readline())
    process.kill()
    until(lambda: not runs(pid), "its end")


def test_it_ends_with_the_server_and_does_not_hold_it_up(server) -> None:
    process = server("")
    pid = int(process.stdout.readline())
    assert int(process.stdout.readline()) > 0
    assert process.wait(PATIENCE) == 0
    until(lambda: not runs(pid), "its end")


def test_a_process_that_cannot_be_started_is_a_line(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    opening = Workspaces(Engine().open).open(source, PATIENCE)
    assert opening.error == (
        f"{source.model}: the engine's process could not be started: No such file or directory"
    )


def test_it_is_the_environment_that_keeps_its_threads_from_spinning(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def setting(engine: Engine) -> str | None:
        environment = Path(f"/proc/{pid_of(engine.start())}/environ").read_bytes().decode().split("\0")
        return dict(line.split("=", 1) for line in environment if line).get("OMP_WAIT_POLICY")

    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    other = Engine()
    assert setting(other) == "PASSIVE"
    other.stop()
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert setting(other) == "ACTIVE", "unless somebody wants it otherwise"
    other.stop()


def test_requests_of_several_threads_find_it_once(engine: Engine, remote: Workspace) -> None:
    os.kill(pid_of(engine.start()), signal.SIGKILL)
    until(lambda: engine._life.caller.gone, "its end noticed")
    found: list[Evaluation] = []
    threads = [
        threading.Thread(target=lambda: found.append(stream(remote, remote.start)[-1])) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(found) == 4
    assert all(result.complete and result.score == found[0].score for result in found)
