"""The lessons without a page: settings and links, plans, answers that follow from numbers, the hand-out."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from latex2mathml.converter import convert

from app.lessons.handout import handout
from app.lessons.plans import (
    CHOICES,
    LEAST,
    MOST,
    PAPER,
    choice_plans,
    count_plan,
    group_count,
    high_layers,
    paper_high,
    paper_plan,
    tables_plan,
)
from app.lessons.questions import (
    LOSSES,
    PARTS,
    Question,
    choice_truth,
    error_question,
    error_truth,
    layer_truth,
    loss_truth,
    parts_truth,
)
from app.lessons.settings import COUNTS, TABLE_BITS, Settings, settings_from
from app.lessons.texts import LESSONS
from app.workspace import Workspace
from qbert_core.bert import BertConfig
from qbert_core.checkpoints import load_checkpoint
from qbert_core.curvature import BlockSensitivity, Sensitivity
from qbert_core.evaluation import Evaluation
from qbert_core.quantization import sites_of
from qbert_core.tasks import task_named
from tests.tiny import make_tiny

EVIL = "<script>alert(1)</script>"


def config_of(workspace: Workspace) -> BertConfig:
    return workspace.checkpoint.config


def sensitivity(lambdas: list[list[float]]) -> Sensitivity:
    blocks = tuple(
        BlockSensitivity(f"bert.encoder.layer.{i}", i, "layer", tuple(own), tuple(0.001 for _ in own))
        for i, own in enumerate(lambdas)
    )
    return Sensitivity(blocks, len(lambdas[0]), 30, 1.0, 100)


@pytest.fixture(scope="module")
def measured(workspace: Workspace) -> dict[str, Evaluation]:
    wanted = ("baseline", "qbert-8", "directq-2")
    return {p.name: workspace.evaluator.evaluate(p) for p in workspace.presets if p.name in wanted}


class TestSettings:
    @settings(deadline=None)
    @given(
        st.builds(
            Settings,
            lesson=st.integers(1, 6), large=st.integers(0, 1), tables=st.sampled_from(TABLE_BITS),
            layer=st.integers(0, 2), matrix=st.integers(0, 5), bits=st.integers(1, 8),
            count=st.sampled_from(COUNTS), group=st.integers(0, 31), high=st.integers(0, 3),
        )
    )  # fmt: skip
    def test_a_link_holds_all_of_them(self, chosen: Settings) -> None:
        config = BertConfig("sequence", ("a", "b"), 3, 2, 16, 32, 100, 40, 2)
        assert settings_from(chosen.to_query(), config) == chosen

    @settings(deadline=None)
    @given(st.dictionaries(st.sampled_from([*Settings().__dict__]), st.text(max_size=9)))
    def test_what_cannot_be_read_is_as_at_the_start(self, query: dict[str, str]) -> None:
        config = BertConfig("sequence", ("a", "b"), 3, 2, 16, 32, 100, 40, 2)
        found = settings_from(query, config)
        assert found.lesson in range(1, 7)
        assert found.layer in range(3)
        assert found.bits in range(1, 9)
        assert found.count in COUNTS

    def test_a_lesson_from_its_start_has_a_short_link(self) -> None:
        assert Settings(lesson=3).to_query() == {"lesson": "3"}


class TestTexts:
    @pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.title)
    def test_a_step_has_few_words_and_formulas_that_can_be_printed(self, lesson) -> None:
        assert len(lesson.text.split()) <= 60
        assert lesson.formulas
        for formula in lesson.formulas:
            made = convert(formula)
            assert made.startswith("<math")
            assert "\\" not in made, "a command that the hand-out would print as it stands"


class TestPlans:
    def test_the_counts_at_both_ends_are_the_papers_methods(self, workspace: Workspace) -> None:
        presets = {plan.name: plan.digest for plan in workspace.presets}
        assert count_plan(config_of(workspace), "1").digest == presets["directq-4"]
        assert count_plan(config_of(workspace), "128").digest == presets["qbert-4"]

    def test_only_the_tables_are_quantized(self, workspace: Workspace) -> None:
        for name, entry in tables_plan(config_of(workspace), 3).entries:
            assert entry.bits == (3 if "embeddings" in name else 32)

    def test_a_count_is_at_most_a_group_a_row(self, workspace: Workspace) -> None:
        assert [group_count(word, config_of(workspace), 16) for word in COUNTS] == [1, 2, 16, 16]

    @settings(deadline=None)
    @given(st.lists(st.floats(-50, 50), min_size=3, max_size=3, unique_by=abs), st.integers(0, 3))
    def test_the_choices_take_both_ends_of_the_ranking(self, values: list[float], high: int) -> None:
        config = BertConfig("sequence", ("a", "b"), 3, 2, 16, 32, 100, 40, 2)
        plans = choice_plans(config, "sst2", sensitivity([[value] for value in values]), high)
        by_size = sorted(range(3), key=lambda layer: (-abs(values[layer]), layer))
        assert high_layers(config, plans[MOST]) == sorted(by_size[:high])
        assert high_layers(config, plans[LEAST]) == sorted(by_size[3 - high :])
        assert plans[PAPER] == paper_plan(config, "sst2")
        assert paper_high(config, "sst2") == len(high_layers(config, plans[PAPER]))


class TestTruths:
    def test_a_loss_is_the_difference_on_the_same_examples(
        self, workspace: Workspace, measured: dict[str, Evaluation]
    ) -> None:
        before, after = measured["baseline"], measured["directq-2"]
        truth = loss_truth(workspace.task, before, after)
        change = 100 * (after.grades[:, 0].mean() - before.grades[:, 0].mean())
        expected = LOSSES[0] if change > -1 else LOSSES[1] if change >= -5 else LOSSES[2]
        assert truth.options == (expected,)
        assert f"{abs(change):.1f}" in truth.words
        said = truth.words.replace("\N{NO-BREAK SPACE}", " ")
        assert f"n = {after.n}" in said
        assert "95 %: " in said

    def test_a_plan_that_is_better_loses_less_than_a_point(
        self, workspace: Workspace, measured: dict[str, Evaluation]
    ) -> None:
        base = measured["baseline"]
        assert loss_truth(workspace.task, base, base).options == (LOSSES[0],)

    def test_the_larger_part_of_a_layer_follows_from_its_shape(self, tmp_path: Path) -> None:
        # 4 x 16 x 16 weights against 2 x 16 x intermediate
        for intermediate, expected in ((8, PARTS[0]), (32, PARTS[2]), (64, PARTS[1])):
            folder = make_tiny(tmp_path / str(intermediate), intermediate=intermediate)
            layer = [site for site in sites_of(load_checkpoint(folder).config) if site.layer == 0]
            assert parts_truth(layer).options == (expected,)

    @pytest.mark.parametrize(
        ("factor", "expected"),
        [(0.9, "Hardly changes"), (1.9, "Doubles"), (3.7, "4 times as large"), (30, "8 times as large")],
    )
    def test_the_factor_of_a_bit_is_the_ratio_of_two_errors(self, factor: float, expected: str) -> None:
        errors = [1e-3 * factor ** (4 - bits) for bits in range(1, 9)]
        assert error_truth(Settings(bits=4), errors).options == (expected,)

    def test_at_one_bit_the_question_is_about_two(self) -> None:
        assert error_question(Settings(bits=1)) == error_question(Settings(bits=2))
        errors = [8.0, 2.0, *[1.0] * 6]
        assert error_truth(Settings(bits=1), errors) == error_truth(Settings(bits=2), errors)

    def test_a_group_without_error_has_no_factor(self) -> None:
        assert "no ratio" in error_truth(Settings(bits=4), [0.0] * 8).words

    def test_the_most_sensitive_layer_has_the_largest_omega(self) -> None:
        lambdas = [[1.0, 2.0], [-9.0, -1.0], [4.0, 4.0]]
        omegas = [abs(np.mean(own)) + np.std(own) for own in lambdas]
        assert layer_truth(sensitivity(lambdas)).options == (f"L{int(np.argmax(omegas)) + 1}",)

    def test_the_best_choice_is_the_highest_and_equal_ones_tie(
        self, workspace: Workspace, measured: dict[str, Evaluation]
    ) -> None:
        good, bad = measured["baseline"], measured["directq-2"]
        good, bad = sorted((good, bad), key=lambda e: -e.score.metrics["accuracy"])
        assert good.score.metrics["accuracy"] > bad.score.metrics["accuracy"]
        truth = choice_truth(workspace.task, {MOST: bad, LEAST: good, PAPER: bad})
        assert truth.options == (LEAST,)
        tie = choice_truth(workspace.task, {MOST: good, LEAST: bad, PAPER: good})
        assert tie.options == (MOST, PAPER)
        assert choice_truth(task_named("sst2"), dict.fromkeys(CHOICES, good)).options == CHOICES

    def test_two_that_cannot_be_told_apart_are_too_close_to_call(
        self, workspace: Workspace, measured: dict[str, Evaluation]
    ) -> None:
        good = measured["baseline"]
        grades = good.grades.copy()
        right = int(np.argmax(grades[:, 0]))
        grades[right, 0] = 0
        worse = replace(good, grades=grades, score=workspace.task.score(grades))
        truth = choice_truth(workspace.task, {MOST: good, LEAST: worse, PAPER: worse})
        assert truth.options == (MOST,)
        assert "too close to call" in truth.words


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


class TestHandout:
    QUESTIONS = tuple(Question(f"Question {n} & {EVIL}?", ("yes", EVIL)) for n in range(6))

    def test_it_holds_every_step_with_formulas_questions_and_lines(self) -> None:
        text = handout("demo", "reviews", self.QUESTIONS)
        page = Page(text)
        assert page.tags.count("section") == page.tags.count("table") == len(LESSONS)
        assert page.tags.count("math") == sum(len(lesson.formulas) for lesson in LESSONS)
        assert page.tags.count("li") == 12
        assert all(f"Question {n} &amp;" in text for n in range(6))
        assert text.count('class="line"') == 12
        assert "@media print" in text

    def test_it_asks_nothing_of_anybody_and_runs_nothing(self) -> None:
        text = handout(EVIL, f'"{EVIL}', self.QUESTIONS)
        page = Page(text)
        assert not {"script", "link", "img", "iframe", "object", "form", "a"} & set(page.tags)
        assert not {"src", "href", "style"} & {name for name, _ in page.attributes} - {"style"}
        assert not [name for name, _ in page.attributes if name.startswith("on")]
        assert "default-src 'none'" in text
        assert not re.search(r"url\(|@import", text)
        assert "&lt;script&gt;" in text
