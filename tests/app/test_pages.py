"""The pages without a browser: what a session sees, what its link says, and what it is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from app import history, registries
from app import jobs as jobs_module
from app.engine import Engine
from app.figures import fmt_kl, fmt_mb, fmt_percent
from app.link import plan_from_text, plan_to_text
from app.state import change
from app.views import bits
from app.workspace import Source, Workspace, open_workspace
from qbert_core.checkpoints import Checkpoint
from qbert_core.cli import parser
from qbert_core.quantization import Plan, sites_of
from qbert_core.quantization.plan import FULL
from tests.app.conftest import write_table
from tests.app.tools import PATIENCE, own_plans, until, watched
from tests.tiny import make_tiny

MAIN = Path(__file__).resolve().parents[2] / "app" / "main.py"


@pytest.fixture(autouse=True)
def demo(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fresh registries; sources are opened in this process, and the demo is the tiny model, because the
    real one and another process take seconds."""
    registers: tuple[Any, ...] = (
        registries.live,
        registries.inspections,
        registries.workspaces,
        registries.jobs,
    )

    def quick(source: Source) -> Workspace:
        return replace(workspace, source=source) if source == Source() else open_workspace(source)

    monkeypatch.setattr(registries, "engine", lambda: SimpleNamespace(open=quick))
    for registry in registers:
        registry.cache_clear()
    yield
    for job in registries.jobs().all():
        job.cancel()
    for registry in registers:
        registry.cache_clear()


@dataclass
class Visit:
    """One browser session."""

    at: AppTest

    def run(self) -> AppTest:
        self.at.run()
        assert not self.at.exception, self.at.exception
        return self.at

    def until(self, true: Callable[[AppTest], object], what: str) -> AppTest:
        until(lambda: true(self.run()), what)
        return self.at

    def state(self) -> str:
        """The line above the cards."""
        found = re.search(r'<div class="state"[^>]*data-state="(\w+)"[^>]*>([^<]*)<', self.page_html())
        return unescape(" ".join(found.groups())) if found else ""

    def page_html(self) -> str:
        return "\n".join(html.value for html in self.at.get("html"))

    def card(self, label: str) -> str:
        pattern = rf'aria-label="{label}">.*?class="value">([^<]*)<'
        found = re.search(pattern, self.page_html(), re.DOTALL)
        assert found, f"no card {label}"
        return unescape(found[1])

    def settled(self) -> AppTest:
        """Run until the numbers on screen are those of the plan, of every sentence."""

        def done(at: AppTest) -> bool:
            complete = self.state().startswith("current") and re.search(r"\ball \d", self.state())
            return bool(complete) and "examples" in sidebar_text(at)

        return self.until(done, "current numbers")

    def preset(self) -> str:
        return str(self.at.selectbox[0].value)

    def choose(self, preset: str) -> AppTest:
        self.at.selectbox[0].select(preset)
        return self.run()

    def press(self, key: str) -> AppTest:
        self.at.button(key=key).click()
        return self.run()

    def turn_to(self, path: str) -> AppTest:
        """Go to another page; AppTest's own `switch_page` knows only pages that are files."""
        pages = self.at._registered_pages
        self.at._page_hash = next(key for key, page in pages.items() if page.get("url_pathname") == path)
        return self.run()

    def follow(self) -> AppTest:
        """Go where the page leads to, as the browser does."""
        return self.turn_to(self.at.sidebar.get("page_link")[-1].proto.page)

    def plan(self, workspace: Workspace) -> Plan:
        """The plan in the address."""
        return plan_from_text(str(self.at.query_params["plan"]), sites_of(workspace.checkpoint.config))


def visit(source: Source | None = None, **query: str) -> Visit:
    at = AppTest.from_string(f"import runpy; runpy.run_path({str(MAIN)!r})", default_timeout=PATIENCE)
    if source is not None:
        query = {"model": source.model, "data": source.data, "task": source.task, **query}
    for name, value in query.items():
        if value:
            at.query_params[name] = value
    return Visit(at)


def load(seen: Visit, model: str | None = None, data: str | None = None) -> AppTest:
    """Fill the sidebar's form and press Load."""
    for field, value in zip(seen.at.sidebar.text_input, (model, data), strict=True):
        if value is not None:
            field.set_value(value)
    (button,) = [b for b in seen.at.sidebar.button if b.label == "Load"]
    button.click()
    return seen.run()


def sidebar_text(at: AppTest) -> str:
    parts = [*at.sidebar.markdown, *at.sidebar.caption, *at.sidebar.error]
    return "\n".join(part.value for part in parts).replace("\\", "")


def test_a_link_to_a_model_and_data_shows_their_numbers(workspace: Workspace, source: Source) -> None:
    seen = visit(source)
    at = seen.settled()
    start = workspace.start
    assert seen.preset() == start.name
    measured = workspace.evaluator.evaluate(start)
    assert measured.attention_kl is not None
    kl = [value for row in measured.attention_kl for value in row]
    assert seen.card("Accuracy") == fmt_percent(measured.score.metrics["accuracy"])
    assert seen.card("Size") == fmt_mb(measured.size.size_mb)
    assert seen.card("Effective bits") == f"{measured.size.effective_bits:.2f}"
    assert seen.card("Attention KL") == fmt_kl(sum(kl) / len(kl))
    assert workspace.checkpoint.name in sidebar_text(at)
    assert "sixty.csv" in sidebar_text(at)
    assert "n = 60 examples" in sidebar_text(at)
    assert not at.error
    assert at.query_params == {
        "model": source.model,
        "data": source.data,
        "plan": plan_to_text(start),
    }


def test_every_preset_comes_to_stand_in_the_scatter(workspace: Workspace) -> None:
    seen = visit()
    seen.settled()
    live = registries.live()
    opened = registries.workspaces().open(Source()).workspace
    assert opened
    for preset in workspace.presets:
        until(lambda p=preset: (r := live.result(opened, p)) and r.complete, f"{preset.name} measured")
    seen.run()
    charts = [chart.proto for chart in seen.at.get("plotly_chart")]
    assert len(charts) == 2
    drawn = charts[1].spec
    assert all(f'"{preset.name}"' in drawn for preset in workspace.presets)


class Polls:
    """How often the fragments of the last run ask to be drawn again; None where they do not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.every: list[float | None] = []
        real = st.fragment

        def fragment(function: Any = None, *, run_every: float | None = None) -> Any:
            self.every.append(run_every)
            return real(function, run_every=run_every)

        monkeypatch.setattr(st, "fragment", fragment)

    def of(self, seen: Visit) -> set[float | None]:
        self.every.clear()
        seen.run()
        return set(self.every)


def test_a_page_looks_again_only_while_something_is_under_way(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, evaluator = watched(workspace, presets=True)
    monkeypatch.setattr(registries, "engine", lambda: SimpleNamespace(open=lambda source: held))
    polls, seen, live = Polls(monkeypatch), visit(), registries.live()
    evaluator.hold()
    seen.until(lambda _: evaluator.begun, "the plan begun")
    assert polls.of(seen) == {None, bits.POLL, bits.POLL_PRESETS}
    evaluator.release()
    until(lambda: live.settled(held, held.start), "the plan measured")
    for preset in held.presets:
        until(lambda p=preset: live.settled(held, p), "the presets measured")
    assert polls.of(seen) == {None}
    evaluator.hold()
    seen.choose("qbert-2")
    assert polls.of(seen) == {None}, "a preset is measured already"


def test_a_page_that_is_drawn_again_draws_no_figure_anew(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = visit()
    seen.settled()
    opened = registries.workspaces().open(Source()).workspace
    assert opened
    for preset in opened.presets:
        until(lambda p=preset: registries.live().settled(opened, p), "the presets measured")
    seen.run()
    before = [chart.proto.spec for chart in seen.at.get("plotly_chart")]
    for name in ("kl_heatmap", "size_accuracy_scatter"):
        monkeypatch.setattr(bits, name, None)
    seen.run()
    assert [chart.proto.spec for chart in seen.at.get("plotly_chart")] == before
    assert len(before) == 2


def test_the_engines_process_may_die_under_a_page(
    source: Source, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine()
    monkeypatch.setattr(registries, "engine", lambda: engine)
    try:
        seen = visit(source)
        seen.settled()
        engine.start()._process.kill()
        seen.choose("qbert-2")
        seen.settled()
        assert "qbert-2" in seen.state()
        wanted = next(plan for plan in workspace.presets if plan.name == "qbert-2")
        measured = workspace.evaluator.evaluate(wanted)
        assert seen.card("Accuracy") == fmt_percent(measured.score.metrics["accuracy"])
        assert not seen.at.error
    finally:
        engine.stop()


def test_choosing_a_preset_changes_plan_numbers_and_link(workspace: Workspace) -> None:
    seen = visit()
    seen.settled()
    before = seen.at.query_params["plan"]
    seen.choose("qbert-2")
    wanted = next(plan for plan in workspace.presets if plan.name == "qbert-2")
    assert seen.at.query_params["plan"] == plan_to_text(wanted) != before
    assert seen.plan(workspace) == wanted
    seen.settled()
    assert "qbert-2" in seen.state()
    measured = workspace.evaluator.evaluate(wanted)
    assert seen.card("Accuracy") == fmt_percent(measured.score.metrics["accuracy"])
    assert seen.card("Size") == fmt_mb(measured.size.size_mb)


def test_a_plan_measured_before_is_called_by_its_name_now(workspace: Workspace) -> None:
    seen = visit()
    seen.settled()
    assert "qbert-4: all" in seen.page_html()
    tuning = seen.at.session_state["tuning"]
    change(tuning, replace(tuning.plan, name="my own"))
    seen.run()
    assert "my own: all" in seen.page_html()
    assert "qbert-4: all" not in seen.page_html()


def test_undo_redo_and_reset(workspace: Workspace) -> None:
    seen = visit()
    at = seen.settled()
    assert at.button(key="undo").disabled
    assert at.button(key="redo").disabled
    seen.choose("qbert-2")
    seen.choose("directq-8")
    assert not at.button(key="undo").disabled

    seen.press("undo")
    assert seen.preset() == seen.plan(workspace).name == "qbert-2"
    seen.press("undo")
    assert seen.preset() == workspace.start.name
    assert at.button(key="undo").disabled
    seen.press("redo")
    seen.press("redo")
    assert seen.preset() == seen.plan(workspace).name == "directq-8"
    assert at.button(key="redo").disabled

    seen.press("undo")
    seen.choose("qbert-8")
    assert at.button(key="redo").disabled, "a new edit ends what could be redone"
    seen.press("reset")
    assert seen.preset() == workspace.start.name
    seen.press("undo")
    assert seen.preset() == "qbert-8", "reset can be undone"
    seen.settled()
    assert "qbert-8" in seen.state()


def test_activation_bits_are_part_of_the_plan(workspace: Workspace) -> None:
    seen = visit()
    at = seen.settled()
    (group,) = [g for g in at.main.button_group if "8 bits" in g.options]
    group.set_value("fp32")
    seen.run()
    assert seen.plan(workspace).activation_bits == FULL
    assert seen.preset() == "by hand"
    seen.settled()
    seen.press("undo")
    assert seen.plan(workspace).activation_bits == 8


def test_all_layers_can_be_set_at_once(workspace: Workspace) -> None:
    seen = visit()
    at = seen.settled()
    at.select_slider[0].set_value("3")
    (groups,) = [n for n in at.main.number_input if n.label == "Groups"]
    groups.set_value(12)
    (apply,) = [b for b in at.main.button if b.label == "Apply"]
    apply.click()
    seen.settled()
    plan = seen.plan(workspace)
    assert {(e.bits, e.groups) for name, e in plan.entries if ".encoder." in name} == {(3, 12)}
    assert {e.bits for name, e in plan.entries if ".encoder." not in name} == {8}
    assert "by hand" in seen.state()


def test_a_links_plan_is_restored_and_measured(workspace: Workspace, source: Source) -> None:
    (plan,) = own_plans(workspace, 1)
    seen = visit(source, plan=plan_to_text(plan))
    seen.settled()
    assert seen.plan(workspace) == plan
    assert seen.preset() == plan.name
    measured = workspace.evaluator.evaluate(plan)
    assert seen.card("Accuracy") == fmt_percent(measured.score.metrics["accuracy"])
    assert seen.at.button(key="undo").disabled


def test_a_plan_come_back_to_can_be_undone(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = visit()
    seen.settled()
    (plan,) = own_plans(workspace, 1)
    with monkeypatch.context() as back:
        back.setattr(history, "went_back", lambda: True)
        seen.at.query_params["plan"] = plan_to_text(plan)
        seen.run()
    seen.settled()
    assert seen.plan(workspace) == plan
    seen.press("undo")
    assert seen.preset() == workspace.start.name


def test_an_address_sent_before_the_edit_does_not_undo_it(workspace: Workspace) -> None:
    seen = visit(layer="1")
    seen.settled()
    old = dict(seen.at.query_params)
    seen.choose("qbert-3")
    seen.press("unmark-layer")
    for name, value in old.items():
        seen.at.query_params[name] = value
    seen.settled()
    assert seen.preset() == "qbert-3"
    assert "layer" not in seen.at.query_params


@pytest.mark.parametrize("text", ["nonsense", "", "AAAA", "%00", "x" * 5000])
def test_a_broken_link_says_so_and_the_page_stands(workspace: Workspace, text: str) -> None:
    seen = visit(plan=text)
    at = seen.run()
    toasts = [toast.value for toast in at.toast]
    seen.settled()
    toasts += [toast.value for toast in at.toast]
    assert seen.preset() == workspace.start.name
    assert seen.plan(workspace) == workspace.start
    if text:
        assert any("cannot be read" in toast for toast in toasts)


def test_a_link_for_another_model_says_so(workspace: Workspace, tmp_path: Path) -> None:
    deep = open_workspace(Source(str(make_tiny(tmp_path / "deep", layers=5)), workspace.source.data))
    seen = visit(plan=plan_to_text(deep.start))
    at = seen.run()
    assert any("33 sites, this one has 21" in toast.value for toast in at.toast)
    seen.settled()
    assert seen.plan(workspace) == workspace.start


@pytest.mark.parametrize(
    "rows", ["5", "0", "-1", "1e3", "", "²", "³²", "１２", "abc", "99999999999999", "1" * 5000]
)
def test_any_number_of_rows_in_a_link_is_no_error(source: Source, rows: str) -> None:
    seen = visit(source, rows=rows)
    at = seen.settled()
    assert f"n = {5 if rows == '5' else 12 if rows == '１２' else 60} examples" in sidebar_text(at)


@pytest.mark.parametrize(
    ("model", "data", "line"),
    [
        ("/nowhere/at/all", None, "/nowhere/at/all: no such folder"),
        (None, "/nowhere/reviews.csv", "/nowhere/reviews.csv: no such file"),
        (None, "/etc/passwd", "cannot tell its format"),
    ],
)
def test_a_wrong_path_is_said_and_what_was_loaded_stays(
    workspace: Workspace, source: Source, model: str | None, data: str | None, line: str
) -> None:
    seen = visit(source)
    seen.settled()
    seen.choose("qbert-8")
    load(seen, model, data)
    at = seen.until(lambda at: at.error, "the error")
    assert line in sidebar_text(at)
    at = seen.settled()
    assert line in sidebar_text(at), "the error stays until the next try"
    assert at.sidebar.error
    assert workspace.checkpoint.name in sidebar_text(at)
    assert "n = 60 examples" in sidebar_text(at)
    assert seen.preset() == "qbert-8"
    assert at.query_params["model"] == source.model
    assert at.query_params["data"] == source.data
    load(seen, data=source.data, model=source.model)
    at = seen.settled()
    assert not at.error, "gone after a source that could be loaded"


def test_a_link_with_a_bad_model_says_so_and_shows_the_demo(workspace: Workspace) -> None:
    seen = visit(model="/nowhere/at/all")
    at = seen.until(lambda at: at.error, "the error")
    assert "/nowhere/at/all: no such folder" in sidebar_text(at)
    seen.settled()
    assert "model" not in seen.at.query_params


def test_loading_another_model_and_coming_back_keeps_each_ones_plan(
    workspace: Workspace, tmp_path: Path
) -> None:
    other = make_tiny(tmp_path / "other", seed=1)
    data = write_table(tmp_path / "few.csv", rows=20)
    seen = visit()
    seen.settled()
    seen.choose("qbert-2")
    load(seen, str(other), str(data))
    at = seen.until(lambda at: "few.csv" in sidebar_text(at), "the other model")
    seen.settled()
    assert "n = 20 examples" in sidebar_text(at)
    assert seen.preset() == workspace.start.name
    assert at.query_params["model"] == str(other)
    load(seen, "demo", "demo")
    seen.until(lambda at: "demo reviews" in sidebar_text(at), "the first model")
    seen.settled()
    assert seen.preset() == "qbert-2"
    assert "model" not in seen.at.query_params


def test_two_sessions_keep_their_own_plans(workspace: Workspace) -> None:
    one, two = visit(), visit()
    one.settled()
    two.settled()
    one.choose("qbert-2")
    two.choose("qbert-8")
    one.settled()
    two.settled()
    for seen, name in ((one, "qbert-2"), (two, "qbert-8")):
        plan = next(plan for plan in workspace.presets if plan.name == name)
        measured = workspace.evaluator.evaluate(plan)
        assert seen.plan(workspace) == plan
        assert name in seen.state()
        assert seen.card("Size") == fmt_mb(measured.size.size_mb)


def test_a_name_with_markup_is_text_everywhere(workspace: Workspace, tmp_path: Path) -> None:
    evil = make_tiny(tmp_path / "<img src=x onerror=alert(1)>**b**$x$")
    plan = replace(own_plans(workspace, 1)[0], name="<img src=x onerror=alert(1)>")
    seen = visit(model=str(evil), data=workspace.source.data, plan=plan_to_text(plan))
    at = seen.settled()
    assert "<img" not in seen.page_html()
    names = [m.value for m in at.sidebar.markdown if "onerror" in m.value]
    assert names
    assert all("\\<img" in name and "\\*\\*b" in name for name in names)


class TestSensitivity:
    """The second page."""

    @pytest.fixture
    def page(self, source: Source) -> Visit:
        seen = visit(source)
        seen.settled()
        seen.turn_to("sensitivity")
        assert [title.value for title in seen.at.title] == ["Sensitivity"]
        return seen

    @pytest.fixture
    def started(self, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        """The command lines of started jobs, which fail at once instead of running."""
        commands: list[list[str]] = []

        def start(arguments: list[str]) -> Any:
            commands.append(arguments)
            raise OSError(2, "not in this test")

        monkeypatch.setattr(jobs_module, "_start", start)
        return commands

    def begin(self, page: Visit, data: str) -> AppTest:
        (field,) = [t for t in page.at.main.text_input if t.label == "Training data"]
        field.set_value(data)
        (start,) = [b for b in page.at.main.button if b.label == "Start"]
        start.click()
        return page.run()

    def test_start_runs_a_command_the_command_line_takes(
        self, page: Visit, started: list[list[str]], source: Source
    ) -> None:
        self.begin(page, source.data)
        until(lambda: started, "a job")
        arguments = parser().parse_args(started[0])
        assert (arguments.model, arguments.train, arguments.task) == (source.model, source.data, "sst2")
        assert (arguments.runs, arguments.fraction, arguments.block) == (10, 0.1, "layer")

    def test_a_job_that_failed_says_why(self, page: Visit, started: list[list[str]], source: Source) -> None:
        self.begin(page, source.data)
        at = page.until(lambda at: at.main.error, "the error")
        assert (
            at.main.error[0].value.replace("\\", "") == "the process could not be started: not in this test"
        )
        assert any(b.label == "Start" for b in at.main.button)

    def test_without_training_data_it_says_what_to_give(self, page: Visit, started: list[list[str]]) -> None:
        at = self.begin(page, " ")
        assert "columns sentence, label" in at.main.error[0].value.replace("\\", "")
        assert not started

    def test_before_the_first_job_there_is_nothing_to_apply(self, page: Visit) -> None:
        assert not any(b.label == "Apply these bits" for b in page.at.main.button)


def test_data_of_another_task_are_refused_in_words(tiny: Checkpoint, table: Path, tmp_path: Path) -> None:
    question = make_tiny(tmp_path / "question", head="question")
    seen = visit(model=str(question), data=str(table))
    at = seen.until(lambda at: at.error, "the error")
    assert "column context, question, answers is missing" in sidebar_text(at)
    assert "SQuAD: questions needs the columns context, question, answers" in sidebar_text(at)


def test_the_demo_data_are_for_the_demos_task_only(workspace: Workspace, tmp_path: Path) -> None:
    tags = make_tiny(tmp_path / "tags", head="token")
    at = visit(model=str(tags)).until(lambda at: at.error, "the error")
    assert "is a model for CoNLL-03: named entities; the demo data are reviews" in sidebar_text(at)
    assert "Give a file with the columns tokens (a list of words), ner_tags" in sidebar_text(at)


@pytest.mark.parametrize(("task", "head"), [("mnli", "sequence"), ("sst2", "token"), ("conll03", "question")])
def test_a_model_of_another_task_than_the_chosen_one_is_refused_in_words(
    table: Path, tmp_path: Path, task: str, head: str
) -> None:
    model = make_tiny(tmp_path / "tiny", head=head)
    at = visit(model=str(model), data=str(table), task=task).until(lambda at: at.error, "the error")
    assert f"task {task} needs a" in sidebar_text(at)
    assert "this one has a" in sidebar_text(at)
    assert "Choose the task" in sidebar_text(at)


def test_the_chosen_task_is_in_the_link_and_a_strange_one_is_none(source: Source) -> None:
    seen = visit(source, task="sst2")
    at = seen.settled()
    assert at.query_params["task"] == "sst2"
    assert "SST-2: sentiment" in sidebar_text(at)
    other = visit(source, task="<b>poetry")
    assert "task" not in other.settled().query_params


def test_texts_that_do_not_fit_the_model_are_counted(tiny: Checkpoint, tmp_path: Path) -> None:
    table = tmp_path / "long.csv"
    table.write_text(f"sentence,label\na good film,1\n{'very ' * 60}bad,0\nnot good,0\n")
    at = visit(model=str(tiny.folder), data=str(table)).settled()
    assert "1 longer than the model reads" in sidebar_text(at)
    assert "longer than the model" not in sidebar_text(visit().settled())


# --- uploads


def upload(seen: Visit, *files: tuple[str, bytes]) -> AppTest:
    seen.at.sidebar.file_uploader[0].set_value([(name, content, "") for name, content in files])
    (button,) = [b for b in seen.at.sidebar.button if b.label == "Load these files"]
    button.click()
    return seen.run()


def test_an_upload_is_loaded_and_is_in_no_link_and_in_no_other_session(
    tiny: Checkpoint, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.uploads.examine", lambda path: None)  # a process: see test_uploads.py
    seen = visit()
    seen.settled()
    files = [(p.name, p.read_bytes()) for p in tiny.folder.iterdir() if p.name != "README.md"]
    upload(seen, *files, ("reviews.csv", table.read_bytes()))
    at = seen.until(lambda at: "reviews.csv" in sidebar_text(at), "the upload to be loaded")
    seen.settled()
    assert [field.value for field in at.sidebar.text_input] == ["upload:model", "upload:reviews.csv"]
    assert "Uploaded: upload:model, upload:reviews.csv" in sidebar_text(at)
    key = at.session_state["uploads"]
    assert set(at.query_params) <= {"plan"}
    everything = "\n".join([sidebar_text(at), seen.page_html(), str(dict(at.query_params))])
    assert key not in everything
    path = at.session_state["source"].data

    other = visit()
    other.settled()
    assert "Uploaded" not in sidebar_text(other.at)
    load(other, data=path)
    assert "not among this session's uploads" in sidebar_text(other.at)
    load(other, data="upload:reviews.csv")
    assert "not among this session's uploads (none yet)" in sidebar_text(other.at)
    linked = visit(model=str(Path(at.session_state["source"].model)), data=path)
    linked.settled()
    assert [field.value for field in linked.at.sidebar.text_input] == ["demo", "demo"]


def test_a_refused_upload_is_named_and_what_was_loaded_stays(workspace: Workspace) -> None:
    seen = visit()
    seen.settled()
    at = upload(seen, ("bad.exe", b"MZ"))
    assert "bad.exe: neither a data file" in sidebar_text(at)
    assert "What was loaded before is still there." in sidebar_text(at)
    assert str(at.session_state["uploads"]) not in sidebar_text(at)
    assert at.session_state["source"] == Source()


def test_a_server_without_uploads_offers_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QBERT_UPLOADS", "0")
    at = visit().run()
    assert not at.sidebar.file_uploader


def test_labels_columns_and_sentences_with_markup_are_text_on_every_page(tmp_path: Path) -> None:
    link = "![x](http://evil.test/x.png) [y](http://evil.test) <a href=http://evil.test>z</a>"
    model = make_tiny(tmp_path / "model", labels=(f"no {link}", f"yes {link}"))
    rows = [
        {"sentence": f"a good film {link} {i}", "label": i % 2, f"kind {link}": f"{link} {i % 3}"}
        for i in range(24)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / f"{link.replace('/', '_')}.csv", index=False)
    seen = visit(model=str(model), data=str(tmp_path / f"{link.replace('/', '_')}.csv"))
    seen.settled()
    for page in ("", "examples", "attention", "compare", "finetune"):  # "": Bits
        at = seen.turn_to(page)
        at = seen.run()
        read = [*at.markdown, *at.caption, *at.error, *at.info, *at.sidebar.markdown, *at.sidebar.caption]
        labels = [
            widget.label for kind in ("selectbox", "text_input", "button", "radio") for widget in at.get(kind)
        ]
        for text in [*(element.value for element in read), *labels]:
            bare = re.sub(r"\\.", "", text)  # what is escaped has no power
            assert "](" not in bare, (page, text)
            assert "<a" not in bare, (page, text)
            assert "http:" not in bare, (page, text)
        assert "<a href" not in seen.page_html(), page
        for chart in at.get("plotly_chart"):
            assert "<a href" not in chart.proto.spec, page
