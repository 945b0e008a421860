"""Attention and Examples without a browser, on tiny models of all three heads."""

from __future__ import annotations

import io
import json
import re
from html import unescape
from typing import Any

import numpy as np
import pandas as pd
import pytest

from app import registries
from app.figures import WINDOW, fmt_kl, fmt_percent
from app.flipped import CHANGES, change_of, chosen_flips, counts, flip_csv, flip_table
from app.inspections import Inspections
from app.items import answer_text, item_of
from app.kinds import EMPTY, kind_columns, right_by_kind
from app.views import examples
from app.views.answers import Both, answers_html, inspected
from app.words import WORDS
from app.workspace import Source, Workspace, open_workspace
from qbert_core.evaluation import Evaluation, accuracy_by
from qbert_core.quantization import Plan
from qbert_core.runtime.events import Silent
from qbert_core.tasks import TASKS
from tests.app.test_curvature_pages import choose, press, words
from tests.app.test_pages import Visit, demo, sidebar_text, visit  # noqa: F401
from tests.app.tools import looks_at, until
from tests.tiny import make_tiny

EVIL = "<img src=x onerror=alert(1)>"
CONTEXT = f"the film was made in paris . john lives in london and likes {EVIL} music . mary is a good actor"


def tables() -> dict[str, pd.DataFrame]:
    """Small data of every task, with hostile text and a column of kinds."""
    sentences = [
        "a good film",
        f"dull {EVIL}",
        "not so funny , but great",
        "the plot was poor",
        "slow ?",
        "very clever",
    ]
    names = [
        ["john", "lives", "in", "london"],
        ["mary", "made", EVIL, "two words"],
        ["paris", "is", "a", "film"],
    ]
    tags = [["B-PER", "O", "O", "B-LOC"], ["B-PER", "O", "O", "O"], ["B-LOC", "O", "O", "O"]]
    answers = [
        {"text": ["paris"], "answer_start": [21]},
        {"text": ["london", "in london"], "answer_start": [42, 39]},
    ]
    return {
        "sst2": pd.DataFrame(
            {"sentence": sentences * 5, "label": [1, 0, 1, 0, 0, 1] * 5, "topic": ["a", "b", ""] * 10}
        ),
        "mnli": pd.DataFrame(
            {"premise": sentences * 4, "hypothesis": sentences[::-1] * 4, "label": [0, 1, 2] * 8, "genre": ["x"] * 24}
        ),
        "conll03": pd.DataFrame({"tokens": names * 5, "ner_tags": tags * 5, "place": ["here", "there", "here"] * 5}),
        "squad": pd.DataFrame(
            {
                "context": [CONTEXT] * 8,
                "question": ["where was the film made ?", "where lives john ?"] * 4,
                "answers": answers * 4,
                "id": range(8),
            }
        ),
    }  # fmt: skip


HEADS = {"sst2": "sequence", "mnli": "sequence", "conll03": "token", "squad": "question"}
LABELS = {"mnli": ("entailment", "neutral", "contradiction")}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    folder, made = tmp_path_factory.mktemp("tasks"), {}
    for name, table in tables().items():
        model = make_tiny(folder / name, head=HEADS[name], labels=LABELS.get(name))
        data = folder / f"{name}.parquet"
        table.to_parquet(data)
        made[name] = Source(str(model), str(data))
    return made


@pytest.fixture(scope="module")
def workspaces(sources: dict[str, Source]) -> dict[str, Workspace]:
    return {name: open_workspace(source) for name, source in sources.items()}


@pytest.fixture(scope="module")
def evaluations(workspaces: dict[str, Workspace]) -> dict[str, Evaluation]:
    """Every task under two bits: a plan that changes answers."""
    made = {}
    for name, workspace in workspaces.items():
        plan = next(plan for plan in workspace.presets if plan.name == "directq-2")
        *_, made[name] = workspace.evaluator.stream(plan, events=Silent())
        assert made[name].flips, "a plan to test with must change an answer"
    return made


TASK = pytest.mark.parametrize("name", list(TASKS))


def at(source: Source, path: str, **query: str) -> Visit:
    seen = visit(source, **query)
    seen.settled()
    seen.choose("directq-2")
    seen.settled()
    seen.turn_to(path)
    return seen


def html(seen: Visit) -> str:
    return unescape(seen.page_html())


def charts(seen: Visit) -> dict[str, Any]:
    """uirevision -> figure."""
    found = [json.loads(chart.proto.spec) for chart in seen.at.get("plotly_chart")]
    return {figure["layout"]["uirevision"]: figure for figure in found}


@TASK
def test_every_task_has_words_for_what_it_counts(name: str) -> None:
    task, said = TASKS[name], WORDS[name]
    assert [field.column for field in said.fields] == list(task.columns[:-1])
    assert all(column in said.columns for column in task.columns)
    assert said.metric.lower().endswith(task.metric)


class TestFlips:
    @TASK
    def test_counts_and_rows_are_the_evaluations(
        self, workspaces: dict[str, Workspace], evaluations: dict[str, Evaluation], name: str
    ) -> None:
        workspace, result = workspaces[name], evaluations[name]
        right = result.grades[:, 0] == 1
        was = result.baseline_grades[:, 0] == 1
        found = counts(result.flips)
        assert found["became wrong"] == sum(was & ~right)
        assert found["became right"] == sum(~was & right)
        assert sum(found.values()) == len(result.flips)
        table = flip_table(workspace, result.flips, "p")
        assert list(table["Row"]) == [flip.index + 1 for flip in result.flips]
        assert list(table["Change"]) == [change_of(flip) for flip in result.flips]

    @TASK
    def test_the_csv_holds_whole_texts_and_answers(
        self, workspaces: dict[str, Workspace], evaluations: dict[str, Evaluation], name: str
    ) -> None:
        workspace, result = workspaces[name], evaluations[name]
        made = pd.read_csv(
            io.StringIO(flip_csv(workspace, result, kind_columns(workspace))), keep_default_na=False
        )
        assert len(made) == len(result.flips)
        for row, flip in zip(made.itertuples(), result.flips, strict=True):
            item = item_of(workspace, flip.index)
            assert row.row == flip.index + 1
            assert row.fp32 == answer_text(workspace, item, flip.before, whole=True)
            assert row.plan == answer_text(workspace, item, flip.after, whole=True)
            for column, text in item.texts.items():
                assert getattr(row, column) == text

    def test_filters_choose_by_change_text_and_kind(
        self, workspaces: dict[str, Workspace], evaluations: dict[str, Evaluation]
    ) -> None:
        workspace, result = workspaces["sst2"], evaluations["sst2"]
        for change in CHANGES:
            found = chosen_flips(workspace, result.flips, change=change)
            assert {change_of(flip) for flip in found} <= {change}
            assert len(found) == counts(result.flips)[change]
        word = workspace.examples.rows["sentence"][result.flips[0].index].split()[0]
        found = chosen_flips(workspace, result.flips, text=f" {word.upper()} ")
        assert result.flips[0] in found
        assert all(word in workspace.examples.rows["sentence"][flip.index] for flip in found)
        kinds = kind_columns(workspace)["topic"]
        kind = kinds[result.flips[0].index]
        found = chosen_flips(workspace, result.flips, kind=(kinds, kind))
        assert found == [flip for flip in result.flips if kinds[flip.index] == kind]


class TestKinds:
    def test_columns_of_a_few_values_make_kinds(self, workspaces: dict[str, Workspace]) -> None:
        assert list(kind_columns(workspaces["sst2"])) == ["topic", "label"]
        assert set(kind_columns(workspaces["sst2"])["topic"]) == {"a", "b", EMPTY}
        assert set(kind_columns(workspaces["sst2"])["label"]) == {"negative", "positive"}
        assert list(kind_columns(workspaces["mnli"])) == ["label"], "one value everywhere is no kind"
        assert list(kind_columns(workspaces["conll03"])) == ["place"]
        assert list(kind_columns(workspaces["squad"])) == ["id"], "lists are not compared"

    def test_both_models_are_counted_over_the_same_examples(
        self, workspaces: dict[str, Workspace], evaluations: dict[str, Evaluation]
    ) -> None:
        workspace, result = workspaces["conll03"], evaluations["conll03"]
        kinds = kind_columns(workspace)["place"]
        rows = right_by_kind(result, kinds)
        assert sum(row.n for row in rows) == result.n
        tags = list(workspace.examples.references)
        right = [answer == tags[i] for i, answer in zip(result.indices, result.predictions, strict=True)]
        expected = accuracy_by([kinds[i] for i in result.indices], right)
        assert [(row.name, row.after, row.after_interval) for row in rows] == [
            (one.name, one.accuracy, one.interval) for one in expected
        ]


class TestAnswers:
    @TASK
    @pytest.mark.parametrize("dark", [False, True])
    def test_text_from_outside_is_text(
        self, workspaces: dict[str, Workspace], evaluations: dict[str, Evaluation], name: str, dark: bool
    ) -> None:
        workspace = workspaces[name]
        labels = (EVIL, *workspace.examples.labels[1:])
        for row in range(len(workspace.examples)):
            seen = workspace.evaluator.inspect(evaluations[name].plan, row, layers=(), events=Silent())
            item = item_of(workspace, row)
            for both in (inspected(seen), Both(EVIL, seen.before.answer, seen.after.answer)):
                made = answers_html(workspace.task.head, labels, item, both, dark=dark)
                assert "<img" not in made
                plain = unescape(
                    re.sub(r"<[^>]*>", "", re.sub(r"<style>.*?</style>", "", made, flags=re.DOTALL))
                )
                for text in item.texts.values():
                    for word in text.split():
                        assert word in plain

    def test_classes_have_a_bar_as_long_as_their_probability(self, workspaces: dict[str, Workspace]) -> None:
        workspace = workspaces["mnli"]
        seen = workspace.evaluator.inspect(workspace.start, 0, layers=(), events=Silent())
        made = answers_html("sequence", LABELS["mnli"], item_of(workspace, 0), inspected(seen), dark=False)
        bars = [float(bar) for bar in re.findall(r"transparent\) ([\d.]+)%", made)]
        expected = np.stack(
            [seen.before.certainty.probabilities, seen.after.certainty.probabilities], 1
        ).ravel()
        np.testing.assert_allclose(bars, 100 * expected, atol=0.051)
        assert made.count("✓") == 2
        assert made.count("(right)") == 1

    def test_entities_are_named_and_differences_outlined(self, workspaces: dict[str, Workspace]) -> None:
        workspace = workspaces["conll03"]
        item = item_of(workspace, 0)
        both = Both("p", item.reference, ["B-PER", "I-PER", "O", "B-ORG"])
        right, before, after = answers_html("token", (), item, both, dark=False).split('class="who"')[1:]
        assert "differs" not in right + before
        assert re.search(r"john lives<small>PER</small>", after)
        assert re.search(r"london<small>ORG</small>", after)
        assert after.count('class="entity differs"') == 2

    def test_overlapping_answers_are_both_marked(self, workspaces: dict[str, Workspace]) -> None:
        item = item_of(workspaces["squad"], 0)
        both = Both("p", "made in paris", "in paris . john")
        made = answers_html("question", (), item, both, dark=False).split("Paragraph</div>")[1]
        marked = re.findall(
            r'<span class="([^"]*)" style="background:linear-gradient\((.*?) 50%,(.*?) 50%\)">(.*?)</span>',
            made,
        )
        texts = {
            text: (kind, upper != "transparent", lower != "transparent")
            for kind, upper, lower, text in marked
        }
        assert texts["made "] == ("mark", True, False)
        assert texts["in "] == ("mark", True, True)
        assert texts["paris"] == ("mark reference", True, True)
        assert texts[" . john"] == ("mark", False, True)


@TASK
def test_examples_shows_what_the_plan_changes(
    sources: dict[str, Source], evaluations: dict[str, Evaluation], name: str
) -> None:
    seen, result, said = at(sources[name], "examples"), evaluations[name], WORDS[name]
    found = counts(result.flips)
    assert seen.card("Became wrong") == str(found["became wrong"])
    assert seen.card("Became right") == str(found["became right"])
    assert seen.card("Changed otherwise") == str(found["otherwise"])
    assert seen.card(said.metric) == fmt_percent(result.score.value)
    assert f"all {result.n} {said.many} measured" in seen.state()
    table = seen.at.main.dataframe[0]
    assert len(table.value) == len(result.flips)
    assert said.title in sidebar_text(seen.at)
    assert said.metric in sidebar_text(seen.at)
    seen.until(lambda _: "…" not in html(seen).split('class="answers"')[-1], "probabilities")
    assert not seen.at.error


def test_flips_can_be_filtered(sources: dict[str, Source], evaluations: dict[str, Evaluation]) -> None:
    seen, flips = at(sources["sst2"], "examples"), evaluations["sst2"].flips
    change = next(c for c in CHANGES if 0 < counts(flips)[c] < len(flips))
    (group,) = [g for g in seen.at.main.button_group if any(option.startswith("all") for option in g.options)]
    group.set_value(change)
    seen.run()
    assert len(seen.at.main.dataframe[0].value) == counts(flips)[change]
    choose(seen, "Text contains", "nothing has this in it")
    assert seen.at.main.dataframe[0].value.empty
    assert "No flip fits the filter" in words(seen.at)


def test_a_long_list_of_flips_is_cut_and_says_so(
    sources: dict[str, Source], evaluations: dict[str, Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "LISTED", 2)
    seen, flips = at(sources["sst2"], "examples"), evaluations["sst2"].flips
    assert list(seen.at.main.dataframe[0].value["Row"]) == [flip.index + 1 for flip in flips[:2]]
    assert f"The first 2 of {len(flips)}" in words(seen.at)


def test_a_plan_may_be_called_like_a_column(
    workspaces: dict[str, Workspace], evaluations: dict[str, Evaluation]
) -> None:
    for name in ("Row", "Sentence", "Right", "fp32", "Change", "", "qbert-4"):
        columns = flip_table(workspaces["sst2"], evaluations["sst2"].flips, name).columns
        assert len(set(columns)) == 6


def test_a_plan_that_changes_nothing_says_so(sources: dict[str, Source]) -> None:
    seen = visit(sources["sst2"])
    seen.settled()
    seen.choose("baseline")
    seen.settled()
    seen.turn_to("examples")
    assert "`baseline` changes no answer of 30 sentences" in words(seen.at)


def open_tab(seen: Visit, name: str) -> None:
    seen.at.session_state["examples-tab"] = name
    seen.run()


def test_right_answers_by_kind(sources: dict[str, Source], evaluations: dict[str, Evaluation]) -> None:
    seen = at(sources["sst2"], "examples")
    open_tab(seen, "By kind")
    (table,) = [t.value for t in seen.at.main.dataframe if "Kind" in t.value.columns]
    assert list(table["Kind"]) == [EMPTY, "a", "b"]
    assert list(table["n"]) == [10, 10, 10]
    choose(seen, "Column", "label")
    (table,) = [t.value for t in seen.at.main.dataframe if "Kind" in t.value.columns]
    assert list(table["Kind"]) == ["negative", "positive"]


def boxes(seen: Visit) -> dict[str, Any]:
    """The fields of the page one types in, by label."""
    return {box.label: box for box in (*seen.at.main.text_area, *seen.at.main.text_input)}


def expect_answers(seen: Visit, workspace: Workspace, plan: Plan, typed: dict[str, str]) -> None:
    """Press the button, and wait for what both models say to the texts."""
    press(seen, "Ask both models")
    found = workspace.evaluator.inspect(plan, typed, layers=(), events=Silent())
    head, labels = workspace.task.head, workspace.examples.labels
    expected = answers_html(head, labels, item_of(workspace, typed), inspected(found), dark=False)
    seen.until(lambda _: expected in seen.page_html(), "the answers")
    assert not seen.at.error
    assert not seen.at.warning


@TASK
def test_both_models_answer_a_typed_text(
    sources: dict[str, Source],
    workspaces: dict[str, Workspace],
    evaluations: dict[str, Evaluation],
    name: str,
) -> None:
    seen, workspace = at(sources[name], "examples"), workspaces[name]
    open_tab(seen, "Type your own")
    typed = {column: f"{text} good" for column, text in item_of(workspace, 0).texts.items()}
    for field in WORDS[name].fields:
        boxes(seen)[field.label].set_value(typed[field.column])
    expect_answers(seen, workspace, evaluations[name].plan, typed)


@TASK
def test_the_words_of_a_flip_can_be_changed(
    sources: dict[str, Source],
    workspaces: dict[str, Workspace],
    evaluations: dict[str, Evaluation],
    name: str,
) -> None:
    seen, workspace, flip = at(sources[name], "examples"), workspaces[name], evaluations[name].flips[0]
    press(seen, "Change its words")
    texts, fields = item_of(workspace, flip.index).texts, WORDS[name].fields
    assert {field.column: boxes(seen)[field.label].value for field in fields} == texts
    seen.until(lambda _: 'class="answers"' in seen.page_html(), "the answers to the same words")
    changed = {**texts, fields[0].column: f"{texts[fields[0].column]} good"}
    boxes(seen)[fields[0].label].set_value(changed[fields[0].column])
    expect_answers(seen, workspace, evaluations[name].plan, changed)


def test_an_empty_text_is_answered_in_words(sources: dict[str, Source]) -> None:
    seen = at(sources["sst2"], "examples")
    open_tab(seen, "Type your own")
    (box,) = [b for b in seen.at.main.text_area if b.label == "Sentence"]
    box.set_value("  ")
    press(seen, "Ask both models")
    at_ = seen.until(lambda at_: at_.main.error, "the error")
    assert at_.main.error[0].value.replace("\\", "") == "sentence is empty; type some text"


@TASK
def test_attention_shows_the_head_on_a_sentence_whose_answer_changed(
    sources: dict[str, Source],
    workspaces: dict[str, Workspace],
    evaluations: dict[str, Evaluation],
    name: str,
) -> None:
    seen, result = at(sources[name], "attention"), evaluations[name]
    choose(seen, "Layer", 1)
    choose(seen, "Head", 1)
    seen.until(lambda _: "attention-maps" in charts(seen), "the maps")
    row = result.flips[0].index
    assert seen.at.query_params["row"] == str(row)
    assert (seen.at.query_params["layer"], seen.at.query_params["head"]) == ("2", "2")
    found = workspaces[name].evaluator.inspect(result.plan, row, layers=(1,), events=Silent())
    drawn = charts(seen)["attention-maps"]
    size = len(drawn["data"][0]["z"])
    for place, matrix in enumerate(found.attention[1]):
        np.testing.assert_allclose(drawn["data"][place]["z"], matrix[1][:size, :size], atol=1e-7)
    assert f"KL of this head on this {WORDS[name].one}: {fmt_kl(float(found.kl[1][1]))}" in words(seen.at)
    heat = charts(seen)["kl-heatmap"]
    assert {(s["x0"], s["y0"]) for s in heat["layout"]["shapes"]} == {(0.5, 0.5)}
    np.testing.assert_allclose(
        [10**z for line in heat["data"][0]["z"] for z in line],
        [max(v, 1e-4) for line in result.attention_kl or () for v in line], rtol=1e-6,
    )  # fmt: skip
    assert not seen.at.error


def test_all_heads_of_the_layer_at_a_glance(
    sources: dict[str, Source], workspaces: dict[str, Workspace], evaluations: dict[str, Evaluation]
) -> None:
    seen, result = at(sources["sst2"], "attention", layer="2"), evaluations["sst2"]
    assert "all-heads" not in charts(seen), "what is closed is not drawn"
    seen.at.session_state["all-heads"] = True
    seen.run()
    seen.until(lambda _: charts(seen).get("all-heads", {}).get("data"), "the heads")
    found = workspaces["sst2"].evaluator.inspect(result.plan, result.flips[0].index, layers=(1,), events=Silent())
    before, after = found.attention[1]
    for shown, maps in (("difference", after - before), ("fp32", before), ("plan", after)):
        (group,) = [g for g in seen.at.main.button_group if g.label == "Shown"]
        group.set_value(shown)
        seen.run()
        drawn = charts(seen)["all-heads"]["data"]
        for head, one in enumerate(drawn[:-1]):
            np.testing.assert_allclose(one["z"], maps[head][:WINDOW, :WINDOW], atol=1e-4)
        assert [data[0] for data in drawn[-1]["customdata"]] == list(range(len(before)))


def test_a_link_brings_back_layer_head_and_row(sources: dict[str, Source]) -> None:
    seen = visit(sources["sst2"], layer="3", head="2", row="4")
    seen.settled()
    seen.at.query_params["layer"], seen.at.query_params["head"], seen.at.query_params["row"] = "3", "2", "4"
    seen.turn_to("attention")
    seen.until(lambda _: "attention-maps" in charts(seen), "the maps")
    values = {box.label: box.value for box in seen.at.main.selectbox}
    assert (values["Layer"], values["Head"], values["Sentence"]) == (2, 1, 4)
    assert (seen.at.query_params["layer"], seen.at.query_params["row"]) == ("3", "4")


@pytest.mark.parametrize("number", ["0", "99", "-1", "²", "x", "1" * 500])
def test_a_strange_layer_in_a_link_is_the_first(sources: dict[str, Source], number: str) -> None:
    seen = visit(sources["sst2"])
    seen.settled()
    seen.at.query_params["layer"] = seen.at.query_params["row"] = number
    seen.turn_to("attention")
    values = {box.label: box.value for box in seen.at.main.selectbox}
    assert (values["Layer"], values["Head"]) == (0, 0)


def test_a_long_text_is_shown_through_a_window_that_moves(sources: dict[str, Source]) -> None:
    seen = at(sources["sst2"], "attention")
    (group,) = [g for g in seen.at.main.button_group if "Type your own" in g.options]
    group.set_value("Type your own")
    seen.run()
    seen.at.main.text_area[0].set_value("a good film , " * 9)
    press(seen, "Ask both models")
    seen.until(lambda _: "38 tokens; shown are 1 to 22" in words(seen.at), "a long text")
    before = charts(seen)["attention-maps"]["layout"]["yaxis"]["ticktext"]
    seen.at.main.slider[0].set_value(17)
    seen.run()
    after = charts(seen)["attention-maps"]["layout"]["yaxis"]["ticktext"]
    assert (len(before), len(after)) == (22, 22)
    assert (before[0], after[-1]) == ("[CLS]", "[SEP]")
    assert "row" not in seen.at.query_params


def test_methods_are_compared_once_the_presets_are_measured(
    sources: dict[str, Source], workspaces: dict[str, Workspace]
) -> None:
    seen, workspace = at(sources["sst2"], "attention"), workspaces["sst2"]
    opened = registries.workspaces().open(sources["sst2"]).workspace
    assert opened
    for preset in opened.presets:
        until(lambda p=preset: registries.live().settled(opened, p), "the presets measured")
    seen.run()
    drawn = charts(seen)["kl-by-layer"]
    assert [line["name"] for line in drawn["data"]] == ["qbert-4", "directq-4"]
    plan = next(plan for plan in workspace.presets if plan.name == "directq-4")
    *_, result = workspace.evaluator.stream(plan, events=Silent())
    np.testing.assert_allclose(drawn["data"][1]["y"], np.mean(result.attention_kl, axis=1), rtol=1e-6)
    assert "over 30 sentences" in words(seen.at)


def test_from_a_flip_to_its_attention(sources: dict[str, Source], evaluations: dict[str, Evaluation]) -> None:
    seen, flips = at(sources["sst2"], "examples"), evaluations["sst2"].flips
    wanted = next(flip for flip in flips if change_of(flip) != change_of(flips[0]))
    (group,) = [g for g in seen.at.main.button_group if any(option.startswith("all") for option in g.options)]
    group.set_value(change_of(wanted))
    seen.run()
    press(seen, "See its attention")
    seen.follow()
    assert seen.at.query_params["row"] == str(wanted.index)


def test_a_page_never_waits_for_the_models(
    sources: dict[str, Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = at(sources["sst2"], "examples")
    monkeypatch.setattr(Inspections, "look", lambda *_, **__: None)
    seen.turn_to("attention")
    assert "No attention yet" in words(seen.at)
    seen.turn_to("examples")
    assert not seen.at.main.dataframe[0].value.empty
    assert "…" in html(seen).split('class="answers"')[-1], "probabilities follow"


@pytest.mark.parametrize(
    ("settled", "every"),
    [([True], None), ([False, True], examples.POLL)],
    ids=["a plan that failed", "numbers that come while the page is drawn"],
)
def test_the_cards_are_looked_at_again_only_where_something_is_to_come(
    sources: dict[str, Source], monkeypatch: pytest.MonkeyPatch, settled: list[bool], every: float | None
) -> None:
    """Without an end the page of a plan that cannot be measured would run again and again."""
    answers = iter(settled)

    class Early:
        """The page's own look at the plan: no numbers yet, and the answers of `settled`, the last for good."""

        def wait(self, *_: object, **__: object) -> None:
            pass

        def result(self, *_: object) -> None:
            return None

        def settled(self, *_: object) -> bool:
            return next(answers, settled[-1])

    seen = at(sources["sst2"], "attention")
    monkeypatch.setattr(examples, "live", Early)
    cards = (examples.__name__, "_numbers.<locals>.draw")
    intervals = looks_at(monkeypatch, lambda draw: (draw.__module__, draw.__qualname__) == cards)
    seen.turn_to("examples")
    assert intervals == [every]
