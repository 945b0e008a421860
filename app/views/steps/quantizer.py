"""Step 3: the levels a group's weights are rounded to, and the error that makes."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from app.cards import Card, cards
from app.figures import (
    ErrorPoint,
    error_steps,
    fmt_count,
    fmt_error,
    fmt_omega,
    layer_label,
    weight_histogram,
)
from app.lessons.plans import MATRIX_NAMES, group_count, matrix_of
from app.lessons.questions import Question, Truth, error_question, error_truth
from app.lessons.settings import COUNTS, Settings
from app.views.steps.base import HIDDEN, Step
from app.weights import OneGroup

WIDTHS = range(1, 9)
STEPS_HEIGHT = 210  # pixels


class QuantizerStep(Step):
    def begin(self) -> None:
        last = self._groups(self.settings) - 1
        if self.settings.group > last:  # fewer groups than before
            self.learn.settings = replace(self.settings, group=last)
        self._seen = self.look(self._group(self.settings))
        self._asked = self.look(self._group(self.asked))

    def _groups(self, settings: Settings) -> int:
        return group_count(settings.count, self.config, self._rows(settings))

    def _rows(self, settings: Settings) -> int:
        return matrix_of(self.config, settings.layer, settings.matrix).rows

    def _group(self, settings: Settings) -> OneGroup:
        site = matrix_of(self.config, settings.layer, settings.matrix)
        groups = self._groups(settings)
        return OneGroup(site.name, settings.bits, groups, min(settings.group, groups - 1))

    def controls(self) -> None:
        self.slide("Bits", "bits", WIDTHS, str)
        self.choose_matrix()
        groups, group = st.columns(2, gap="small")
        with groups:
            choose_count(self)
        with group:
            self.select("Group", "group", range(self._groups(self.settings)), lambda i: str(i + 1))

    def question(self, asked: Settings) -> Question:
        return error_question(asked)

    def truth(self, asked: Settings) -> Truth | None:
        found = self._asked.found if self._asked else None
        return error_truth(asked, found.errors) if found else None

    def show(self) -> None:
        seen = self._seen.found if self._seen else None
        items = [
            Card(label, "\N{EN DASH}", ("", ""))
            for label in ("Scale s", "Zero point z", "Levels used", "Mean squared error")
        ]
        if seen is not None:
            used, levels = int((seen.uses > 0).sum()), 2**seen.bits
            items = [
                Card("Scale s", fmt_omega(seen.scale), ("step between levels",)),
                Card("Zero point z", str(seen.zero), ("q of the weight 0",)),
                Card(
                    "Levels used", f"{used} of {levels}", (f"for {fmt_count(int(seen.uses.sum()))} weights",)
                ),
                Card("Mean squared error", fmt_error(seen.squared_error), ("mean of (w′ − w)²",)),
            ]
        name = f"{layer_label(self.settings.layer)} {MATRIX_NAMES[self.settings.matrix]}"
        where = name
        if seen is not None:
            first, end = seen.rows
            where = f"{name}, group {self.settings.group + 1} of {seen.groups}: rows {first + 1} to {end}"
        st.html(cards(items, outdated=seen is None, state=where, plan="", n=0, lines=1))
        st.markdown("## Its weights and the levels they are rounded to")
        drawn = (
            [] if seen is None else [a.tolist() for a in (seen.edges, seen.counts, seen.levels, seen.uses)]
        )
        self.draw("levels", drawn, lambda dark: weight_histogram(*(drawn or ([], [])), dark=dark))
        st.markdown("## The error of this group at every width")
        points = []
        if self.revealed and seen is not None:
            points = [ErrorPoint(str(bits), seen.errors[bits - 1]) for bits in WIDTHS]
        chosen = str(self.settings.bits)
        self.draw(
            "errors-by-bits",
            (points, chosen),
            lambda dark: error_steps(
                points, axis="Bits", chosen=chosen, waiting=HIDDEN, height=STEPS_HEIGHT, dark=dark
            ),
        )


def choose_count(step: Step) -> None:
    """The list of group counts, with what they are for the chosen matrix."""

    def shown(word: str) -> str:
        count = group_count(word, step.config, step.site.rows)
        if word == "1":
            return "1: the matrix"
        if word in ("heads", "rows"):
            return f"{count}: one a {word.removesuffix('s')}"
        return f"{count}: as the paper" if count == int(word) else f"{count}: one a row"

    step.select("Groups", "count", COUNTS, shown)
