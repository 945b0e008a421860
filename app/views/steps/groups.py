"""Step 4: one range a matrix against many."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app.cards import Card
from app.figures import (
    Contender,
    ErrorPoint,
    contest_marks,
    error_steps,
    fmt_count,
    fmt_error,
    fmt_mb,
    layer_label,
)
from app.lessons.plans import MATRIX_NAMES, count_plan, group_count
from app.lessons.questions import Question, Truth, groups_question, loss_truth, metric_word
from app.lessons.settings import COUNTS, Settings
from app.reported import TEXTS
from app.views.steps.base import HIDDEN, Step
from app.views.steps.embedding import metric_card, show_cards
from app.views.steps.quantizer import choose_count
from app.weights import ErrorsByCount
from app.words import BANDS
from qbert_core.quantization import plan_size

BITS = 4
ONE, MANY = "1", "128"
CURVE = 220  # pixels


class GroupsStep(Step):
    def begin(self) -> None:
        for word in COUNTS:
            self.measure(count_plan(self.config, word), f"learn {word}")
        self.measure(count_plan(self.config, self.settings.count))
        counts = tuple(group_count(word, self.config, self.site.rows) for word in COUNTS)
        self._seen = self.look(ErrorsByCount(self.site.name, BITS, counts))

    def controls(self) -> None:
        choose_count(self)
        self.choose_matrix()

    def question(self, asked: Settings) -> Question:
        return groups_question(metric_word(self.workspace.task))

    def truth(self, asked: Settings) -> Truth | None:
        one, many = (self.complete(count_plan(self.config, word)) for word in (ONE, MANY))
        return loss_truth(self.workspace.task, many, one) if one and many else None

    def show(self) -> None:
        plan = count_plan(self.config, self.settings.count)
        now, size = self.measured(plan), plan_size(self.config, plan)
        errors: tuple[float, ...] = self._seen.found if self._seen and self._seen.found else ()
        place = COUNTS.index(self.settings.count)
        groups = group_count(self.settings.count, self.config, self.site.rows)
        rows = -(-self.site.rows // groups)
        items = [
            Card(
                "Groups",
                fmt_count(groups),
                (f"{rows} row{'s' if rows > 1 else ''} or less each,", "in this matrix"),
            ),
            Card(
                "Mean squared error",
                fmt_error(errors[place]) if errors else "\N{EN DASH}",
                ("at 4 bits", "this matrix"),
            ),
            Card("Size", fmt_mb(size.size_mb), ("4-bit model,", "scales included")),
            metric_card(self, now),
        ]
        show_cards(self, items, now, f"From the weights of {self.workspace.checkpoint.name}")
        name = f"{layer_label(self.settings.layer)} {MATRIX_NAMES[self.settings.matrix]}"
        st.markdown(f"## Error of {name} over all its groups, 4 bits")
        labels = [_label(word, group_count(word, self.config, self.site.rows)) for word in COUNTS]
        points = [ErrorPoint(label, error) for label, error in zip(labels, errors, strict=False)]
        self.draw(
            "errors-by-count",
            (points, labels[place]),
            lambda dark: error_steps(
                points, axis="Groups in the matrix", chosen=labels[place], waiting="Looking at the weights …",
                height=CURVE, dark=dark,
            ),
        )  # fmt: skip
        st.markdown(f"## {self.metric} of the whole model at 4 bits")
        draw_contest(
            self, "counts", [(_label(word).replace("<br>", " "), count_plan(self.config, word)) for word in COUNTS],
            chosen=_label(self.settings.count).replace("<br>", " "),
        )  # fmt: skip
        if self.revealed:
            st.caption("Reported by the paper, BERT-base, finetuned: " + " ".join(TEXTS["groups"]))


def _label(word: str, count: int | None = None) -> str:
    if count is None and word == "1":
        return "1 range"
    if word.isdecimal():
        return word if count in (None, int(word)) else f"{count}<br>a row"
    return f"one a {word.removesuffix('s')}" if count is None else f"{count}<br>a {word.removesuffix('s')}"


def draw_contest(step: Step, name: str, named: list[tuple[str, Any]], chosen: str | None) -> None:
    """Plans by name with metric and interval, once they are revealed; each as soon as it is complete."""
    task = step.workspace.task
    contenders, baseline = [], None
    for label, plan in named:
        result = step.complete(plan) if step.revealed else None
        if result is None:
            contenders.append(Contender(label))
            continue
        baseline = result.baseline.metrics[task.metric]
        contenders.append(Contender(label, result.score.metrics[task.metric], result.score.interval))
    waiting = None if step.revealed else HIDDEN
    step.draw(
        name,
        (contenders, baseline, chosen, waiting),
        lambda dark: contest_marks(
            contenders, metric_label=step.metric, band=BANDS[task.name], baseline=baseline, chosen=chosen,
            waiting=waiting, dark=dark,
        ),
    )  # fmt: skip
    if step.revealed:
        missing = sum(contender.value is None for contender in contenders)
        n = fmt_count(len(step.workspace.examples))
        st.caption(
            f"Measuring: {missing} of {len(named)} to go …"
            if missing
            else f"n = {n}, 95 % intervals, not finetuned."
        )
