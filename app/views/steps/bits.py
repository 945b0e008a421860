"""Step 6: three ways to choose the layers with 4 bits, and which is best."""

from __future__ import annotations

import streamlit as st

from app.cards import Card, cards
from app.figures import fmt_mb, layer_label
from app.lessons.plans import CHOICES, choice_plans, high_layers, paper_high
from app.lessons.questions import Question, Truth, choice_question, choice_truth, metric_word
from app.lessons.settings import Settings
from app.views.steps.base import Step
from app.views.steps.curvature import Analysis
from app.views.steps.groups import draw_contest
from app.workspace import Workspace
from qbert_core.quantization import Plan, plan_size


class BitsStep(Step):
    def begin(self) -> None:
        self._analysis = Analysis(self)
        for settings, place in ((self.asked, "asked"), (self.settings, "now")):
            for choice, plan in self._plans(settings).items():
                self.measure(plan, f"learn {place} {choice}")

    def _plans(self, settings: Settings) -> dict[str, Plan]:
        found = self._analysis.found
        if found is None:
            return {}
        return choice_plans(self.config, self.workspace.task.name, found, _high(self.workspace, settings))

    @property
    def missing(self) -> str:
        return self._analysis.missing

    def controls(self) -> None:
        key, picked = self.kept("high")
        st.session_state[key] = _high(self.workspace, self.settings)
        st.slider("K: layers with 4 bits", 0, self.config.layers, key=key, on_change=picked)
        self._analysis.controls()

    def question(self, asked: Settings) -> Question:
        return choice_question(_high(self.workspace, asked), metric_word(self.workspace.task))

    def truth(self, asked: Settings) -> Truth | None:
        results = {choice: self.complete(plan) for choice, plan in self._plans(asked).items()}
        found = {choice: result for choice, result in results.items() if result}
        return choice_truth(self.workspace.task, found) if len(found) == len(CHOICES) else None

    def show(self) -> None:
        plans = self._plans(self.settings)
        items = []
        for choice in CHOICES:
            plan = plans.get(choice)
            layers = [layer_label(i) for i in high_layers(self.config, plan)] if plan else []
            size = fmt_mb(plan_size(self.config, plan).size_mb) if plan else "\N{EN DASH}"
            items.append(
                Card(
                    choice,
                    size,
                    ("4 bits: " + (" ".join(layers) or "none") if plan else "needs the curvature",),
                )
            )
        own = paper_high(self.config, self.workspace.task.name)
        said = "128 groups, tables at 8 bits, activations at 8"
        if _high(self.workspace, self.settings) != own:
            said += f"; the paper’s plan keeps its own {own} layers"
        st.html(cards(items, outdated=not plans, state=said, plan="", n=0))
        self._analysis.progress()
        st.markdown(f"## {self.metric} of the three plans")
        if plans:
            draw_contest(self, "choices", list(plans.items()), chosen=None)
        else:
            st.caption(f"Which layers are sensitive is not known yet. {self.missing}")


def _high(workspace: Workspace, settings: Settings) -> int:
    """K: the slider's, at first as many as the paper's plan has."""
    if settings.high < 0:
        return paper_high(workspace.checkpoint.config, workspace.task.name)
    return settings.high
