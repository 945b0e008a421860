"""Step 5: how the loss curves in every layer."""

from __future__ import annotations

import math
from typing import Any

import streamlit as st

from app.cards import Card, cards
from app.figures import (
    empty_figure,
    fmt_count,
    fmt_error,
    fmt_lambda,
    fmt_omega,
    fmt_percent,
    layer_label,
    omega_bars,
)
from app.jobs import Job
from app.jobwords import share_done, start_words, time_left
from app.lessons.questions import Question, Truth, layer_question, layer_truth
from app.lessons.settings import Settings
from app.plain import plain
from app.presses import pressed
from app.sessionjobs import own_jobs, start_job
from app.sweeps import finished_sensitivity
from app.trainingdata import accepted, training_data_input
from app.views.steps.base import HIDDEN, Step
from app.workspace import DEMO
from qbert_core.allocation import rank
from qbert_core.curvature import Sensitivity

RUNS, SHARE = 3, 0.1  # a small analysis: a class waits for it
DISTANCE = 0.1  # of the step whose cost is told
TERA = 10**12


class CurvatureStep(Step):
    def begin(self) -> None:
        self._analysis = Analysis(self)

    @property
    def missing(self) -> str:
        return self._analysis.missing

    def controls(self) -> None:
        self.select("Layer", "layer", range(self.config.layers), layer_label)
        self._analysis.controls()

    def question(self, asked: Settings) -> Question:
        return layer_question(self.config.layers)

    def truth(self, asked: Settings) -> Truth | None:
        found = self._analysis.found
        return layer_truth(found) if found else None

    def show(self) -> None:
        found = self._analysis.found
        if self.revealed and found:
            self._layer(found)
        else:
            self._shape()
        self._analysis.progress()
        st.markdown("## Ω of every layer, and its rank")
        document = self._analysis.document if self.revealed and found else None
        blocks: list[dict[str, Any]] = document["blocks"] if document else []
        waiting = None if document else self.missing or HIDDEN
        layers = self.config.layers
        self.draw("omega", (blocks, waiting), lambda dark: _omega(blocks, waiting, layers, dark))
        if document and found:
            worst = max(residual for block in found.blocks for residual in block.residuals)
            st.caption(
                f"{found.runs} runs, n = {fmt_count(found.examples)} training examples each; residual of every "
                f"eigenvalue at most {fmt_percent(worst)}. More runs: page *Sensitivity*."
            )

    def _shape(self) -> None:
        """Why the Hessian is never written down."""
        shapes = self.config.encoder_shapes(self.settings.layer).values()
        params = sum(math.prod(shape) for shape in shapes)
        stored = 4 * params**2 / TERA
        items = [
            Card("Weights of the layer", fmt_count(params), ("with biases", "and LayerNorm")),
            Card("Entries of its Hessian", fmt_error(float(params**2)), ("weights squared",)),
            Card(
                "To store it",
                f"{stored:,.1f}\N{NO-BREAK SPACE}TB",
                ("in fp32; so only Hv", "is computed"),
            ),
            Card("Ω", "?", ("predict first,", "then reveal")),
        ]
        said = f"{layer_label(self.settings.layer)} of {self.config.layers} layers"
        st.html(cards(items, outdated=False, state=said, plan="", n=0))

    def _layer(self, found: Sensitivity) -> None:
        layer = self.settings.layer
        block = next(block for block in found.blocks if block.layer == layer)
        place = [other for other, _ in rank(found)].index(layer) + 1
        rise = block.mean * DISTANCE**2 / 2
        runs = ", ".join(fmt_lambda(value) for value in block.lambdas[:3])
        items = [
            Card("mean λ", fmt_lambda(block.mean), (runs + (", …" if found.runs > 3 else ""),)),
            Card("std λ", fmt_omega(block.std), (f"over {found.runs} runs",)),
            Card("Ω = |mean| + std", fmt_omega(block.omega), (f"rank {place} of {len(found.blocks)}",)),
            Card(
                "½ λ |δ|²",
                f"{rise:+.3f}".replace("-", "\N{MINUS SIGN}"),
                (f"loss, at |δ| = {DISTANCE}", "along v, in nats"),
            ),
        ]
        said = f"{layer_label(layer)}, n = {fmt_count(found.examples)} training examples a run"
        st.html(cards(items, outdated=False, state=said, plan="", n=found.examples))


def _omega(blocks: list[dict[str, Any]], waiting: str | None, layers: int, dark: bool) -> Any:
    drawn = omega_bars(blocks, dark=dark, layers=layers)
    return drawn if waiting is None else empty_figure(waiting, dark=dark, height=drawn.layout.height)


class Analysis:
    """The newest finished sensitivity of the model's layers, or the offer to compute a small one."""

    def __init__(self, step: Step) -> None:
        self._step = step
        workspace = step.workspace
        wanted = ("sensitivity", workspace.source.model)
        started = st.session_state.get("learn-analysis")
        job: Job | None = next(
            (j for j in own_jobs() if j.arguments[:2] == wanted and (j.active or j.arguments == started)),
            None,
        )
        self.job = job
        # first: it may end before the next line
        self.running = job is not None and step.wait_for(lambda: not job.active)
        self.document = finished_sensitivity(workspace, own_jobs())
        self.found = Sensitivity.from_json(self.document) if self.document else None

    @property
    def missing(self) -> str:
        if self.found:
            return ""
        return (
            "The curvature is being computed."
            if self.running
            else "First compute the curvature, with the button at the left."
        )

    def controls(self) -> None:
        """The button, where nothing is known yet; a field for training data where the demo's do not fit."""
        workspace = self._step.workspace
        if self.found or self.running:
            return
        data = DEMO
        if workspace.source.data != DEMO:
            data = training_data_input(st.container(), workspace)
        if pressed(
            st.button, f"Compute a small one: {RUNS} runs of {fmt_percent(SHARE, 0)}", icon=":material/play_arrow:",
            help="λ of every layer on random draws of the training data, as page Sensitivity does",
            key="start-small",
        ):  # fmt: skip
            if not accepted(workspace.task, data):
                return
            arguments = [
                "sensitivity", workspace.source.model, "--task", workspace.task.name, "--train", data,
                "--runs", str(RUNS), "--fraction", str(SHARE), "--block", "layer",
            ]  # fmt: skip
            name = f"Sensitivity of {workspace.checkpoint.name}"
            st.session_state["learn-analysis"] = tuple(arguments)
            start_job(name, arguments)

    def progress(self) -> None:
        """A line and a bar while it runs, or why there is nothing; always of the same height."""
        job = self.job
        with st.container(height=56, border=False):
            if self.found or job is None:
                return
            if job.state == "failed":
                st.error(plain(job.error or "The analysis failed."), icon=":material/error:")
            elif job.state == "cancelled":
                st.info("Cancelled. Finished runs are kept: start again to go on from there.")
            elif job.active:
                text = f"{job.done} of {job.total} eigenvalues" if job.total else start_words(job)
                left = time_left(job)
                st.progress(share_done(job), text=f"{text}, about {left} to go" if left else text)
