"""What the six steps of Learn share: the session's state, controls that keep it, and numbers that arrive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import streamlit as st
from plotly.graph_objects import Figure

from app import state
from app.figures import enlarged
from app.kept import show_kept
from app.lessons.plans import MATRIX_NAMES, matrix_of
from app.lessons.questions import Question, Truth
from app.lessons.settings import Settings
from app.measured import Measured, want
from app.registries import live, weights
from app.weights import Answer, ErrorsByCount, OneGroup
from app.words import WORDS
from app.workspace import Workspace
from qbert_core.bert import BertConfig
from qbert_core.evaluation import Evaluation
from qbert_core.quantization import Plan, Site

FIRST_LOOK = 0.2  # seconds a page waits for weights before it is drawn without them
HIDDEN = "Predict first, then reveal."


@dataclass(frozen=True)
class Prediction:
    """What the class said, and the settings the question was about."""

    option: str
    asked: Settings


@dataclass
class Learn:
    """A session's lessons on one workspace."""

    settings: Settings
    revealed: dict[int, Prediction] = field(default_factory=dict)  # lesson -> prediction
    shown: dict[int, Evaluation] = field(default_factory=dict)  # lesson -> the numbers shown last


class Step:
    """One step as one run of the page sees it."""

    def __init__(self, workspace: Workspace, learn: Learn) -> None:
        self.workspace = workspace
        self.learn = learn
        # what was not there when the step began; True once it is there
        self._awaited: list[Callable[[], bool]] = []

    def begin(self) -> None:
        """Ask for what the step needs, with `measure` and `look`; comes before all that draws."""

    def controls(self) -> None:
        """Draw the widgets that change the settings."""

    def question(self, asked: Settings) -> Question:
        """What is asked at these settings."""
        raise NotImplementedError

    def truth(self, asked: Settings) -> Truth | None:
        """The answer by the numbers; None while they are not there."""
        raise NotImplementedError

    def show(self) -> None:
        """Draw numbers and figures; with the answer only if `revealed`."""
        raise NotImplementedError

    @property
    def missing(self) -> str:
        """What has to be done before the answer can be known; "" when nothing."""
        return ""

    @property
    def settings(self) -> Settings:
        return self.learn.settings

    @property
    def asked(self) -> Settings:
        """What the question is about: the settings it was answered with, else those there are now."""
        prediction = self.learn.revealed.get(self.settings.lesson)
        return prediction.asked if prediction else self.settings

    @property
    def revealed(self) -> bool:
        return self.settings.lesson in self.learn.revealed

    @property
    def config(self) -> BertConfig:
        return self.workspace.checkpoint.config

    @property
    def site(self) -> Site:
        """The matrix chosen in the steps that look at one."""
        return matrix_of(self.config, self.settings.layer, self.settings.matrix)

    @property
    def metric(self) -> str:
        return WORDS[self.workspace.task.name].metric

    @property
    def waiting(self) -> bool:
        """Whether something asked for is still to come."""
        return not all(there() for there in self._awaited)

    @property
    def behind(self) -> bool:
        """Whether the step began without something asked for. It may be there by now, but not in what was drawn."""
        return bool(self._awaited)

    def wait_for(self, there: Callable[[], bool]) -> bool:
        """Whether it is not `there`: then the step is drawn again until it is. Asked before what it brings is read."""
        waits = not there()
        if waits:
            self._awaited.append(there)
        return waits

    def measure(self, plan: Plan, place: str = "") -> None:
        """Have a plan measured. `place`: of several plans at once each has its own."""
        want(self.workspace, plan, place)
        self.wait_for(lambda: live().settled(self.workspace, plan))

    def complete(self, plan: Plan) -> Evaluation | None:
        """The plan's evaluation once it is on all examples."""
        result = live().result(self.workspace, plan)
        return result if result and result.complete else None

    def measured(self, plan: Plan) -> Measured:
        """The plan's numbers so far, else those this step showed last, marked as outdated."""
        result = live().result(self.workspace, plan)
        if result is not None:
            self.learn.shown[self.settings.lesson] = result
        shown = self.learn.shown.get(self.settings.lesson)
        outdated = shown is None or shown.plan.digest != plan.digest
        return Measured(shown, outdated, live().error(self.workspace, plan))

    def look(self, question: OneGroup | ErrorsByCount) -> Answer | None:
        """What the weights say, None while that is not there."""
        found = weights().look(self.workspace, question, FIRST_LOOK)
        if found is None:
            self._awaited.append(lambda: weights().look(self.workspace, question) is not None)
        elif found.error:
            st.error(found.error, icon=":material/error:")
        return found

    def draw(self, name: str, content: object, figure: Callable[..., Figure]) -> None:
        """Show a figure, large where the session wants it so; `figure` is called with `dark`."""
        dark, large = state.dark(), self.settings.large
        show_kept(
            f"lesson-{name}",
            (self.workspace.key, content, dark, large),
            lambda: enlarged(figure(dark=dark)) if large else figure(dark=dark),
        )

    def kept(self, name: str) -> tuple[str, Callable[[], None]]:
        """Key and callback of the widget of a setting; the widget shows the setting, whatever changed it."""
        key = f"learn-{name}"
        st.session_state[key] = getattr(self.settings, name)

        def picked() -> None:
            value = st.session_state[key]
            if value is not None:
                self.learn.settings = replace(self.learn.settings, **{name: value})

        return key, picked

    def select(
        self, label: str, name: str, options: Sequence[Any], format_func: Callable[[Any], str]
    ) -> None:
        key, picked = self.kept(name)
        st.selectbox(label, options, key=key, on_change=picked, format_func=format_func)

    def slide(self, label: str, name: str, options: Sequence[Any], format_func: Callable[[Any], str]) -> None:
        key, picked = self.kept(name)
        st.select_slider(label, options, key=key, on_change=picked, format_func=format_func)

    def choose_matrix(self) -> None:
        """The two lists of the steps that look at one matrix."""
        layer, matrix = st.columns(2, gap="small")
        with layer:
            self.select("Layer", "layer", range(self.config.layers), lambda i: f"L{i + 1}")
        with matrix:
            self.select("Matrix", "matrix", range(len(MATRIX_NAMES)), lambda i: MATRIX_NAMES[i])
