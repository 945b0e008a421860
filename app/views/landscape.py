"""Loss landscape: the hill a layer's weights lie in, and where a plan moves them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from app import selection, state
from app.cards import Card, cards
from app.figures import (
    SURFACE_HEIGHT,
    empty_figure,
    fmt_count,
    fmt_lambda,
    fmt_loss,
    fmt_omega,
    known_grid,
    landscape_contour,
    landscape_surface,
    layer_label,
)
from app.jobs import Job
from app.jobwords import fmt_seconds, share_done, start_words
from app.kept import show_kept
from app.plain import plain
from app.planfiles import plan_path, write_plan
from app.registries import jobs
from app.sessionjobs import cancel_button, follow, own_jobs, start_button, start_job
from app.trainingdata import accepted, training_data_input
from app.waiting import loaded_workspace
from app.workspace import Workspace
from qbert_core.quantization import Plan

CURRENT = "current plan"
NORMALISE = {"none": "unit", "filter": "filter"}
GRIDS = (11, 21, 31, 41)
WAITING = "The first points will be drawn here."


@dataclass(frozen=True)
class Settings:
    """What the controls say."""

    layer: int
    plan: Plan
    normalise: str
    data: str
    fraction: float
    steps: int


def page() -> None:
    st.title("Loss landscape")
    workspace = loaded_workspace()
    if workspace is None:
        return
    state.write_link(state.tuning(workspace))  # a reload finds model, data and plan again
    st.caption(
        "The loss around one layer's trained weights, along the two directions in which it curves most, and "
        "where a plan's bits move that layer. The other layers stay in full precision."
    )
    arguments, job = _controls(workspace)

    def draw() -> None:
        with st.container():  # there even when empty: a chart that changes its place is built anew
            _status(job, arguments)
        _figures(job)

    follow([job], draw)


def _controls(workspace: Workspace) -> tuple[list[str], Job | None]:
    """Settings, Start and Cancel. Returns the command that the settings make, and the job to show."""
    layer, bits, direction, train, share, grid, go = st.columns(
        [1.05, 1.9, 1.45, 1.6, 1.45, 1.0, 1.45], vertical_alignment="bottom", gap="small"
    )
    layers = workspace.checkpoint.config.layers
    layer_key = f"landscape-layer-{layers}"
    marked = selection.chosen()
    if marked is not None and marked < layers:  # the layer chosen on any page is the one looked at here
        st.session_state[layer_key] = marked
    chosen_layer = layer.selectbox(
        "Layer",
        range(layers),
        format_func=layer_label,
        key=layer_key,
        on_change=lambda: selection.choose(st.session_state[layer_key]),
        persist_state="session",
    )
    current = state.tuning(workspace).plan
    presets = {plan.name: plan for plan in workspace.presets}
    chosen_bits = bits.selectbox(
        "Bits", [CURRENT, *presets], key="landscape-bits", persist_state="session",
        help="The plan of this session, as on the page Bits, or a preset",
    )  # fmt: skip
    normalise = direction.segmented_control(
        "Directions", list(NORMALISE), default="none", required=True, format_func=NORMALISE.__getitem__,
        key="landscape-normalise", persist_state="session",
        help="unit: eigenvectors of length 1, so steps are distances. filter: every row of a direction is as "
        "long as that row of the weights, so that layers can be compared (Li et al. 2018).",
    )  # fmt: skip
    data = training_data_input(train, workspace)
    percent = share.number_input(
        "Share (%)", 0.01, 100.0, 10.0, key="landscape-share", persist_state="session",
        help="Of the training examples: the loss is measured on one random draw of them",
    )  # fmt: skip
    steps = grid.selectbox(
        "Grid", GRIDS, index=GRIDS.index(21), key="landscape-grid", persist_state="session",
        format_func=lambda n: f"{n}²", help="Points: the loss is measured once for each",
    )  # fmt: skip
    plan = current if chosen_bits == CURRENT else presets[chosen_bits]
    settings = Settings(chosen_layer, plan, str(normalise), data, percent / 100, steps)
    arguments = _arguments(workspace, settings)
    job = _shown(workspace, arguments)
    if job and job.active:
        cancel_button(go, job, "landscape")
    else:
        start = start_button(go, "landscape")
        if start and accepted(workspace.task, data):
            _start(workspace, settings)
    return arguments, job


def _start(workspace: Workspace, settings: Settings) -> None:
    arguments = _arguments(workspace, settings)
    try:
        if settings.plan.digest not in {plan.digest for plan in workspace.presets}:
            write_plan(settings.plan)
    except OSError as error:
        st.error(f"The plan could not be written for the job: {plain(str(error.strerror))}.")
        return
    name = f"Landscape of {layer_label(settings.layer)}, {settings.plan.name}"
    start_job(name, arguments)


def _arguments(workspace: Workspace, settings: Settings) -> list[str]:
    """The command. Equal settings give equal arguments, so they find their job again."""
    preset = next((p.name for p in workspace.presets if p.digest == settings.plan.digest), None)
    return [
        "landscape", workspace.source.model, "--layer", str(settings.layer), "--task", workspace.task.name,
        "--train", settings.data, "--fraction", str(settings.fraction), "--steps", str(settings.steps),
        "--normalise", settings.normalise, "--plan", preset or str(plan_path(settings.plan)),
    ]  # fmt: skip


def _shown(workspace: Workspace, arguments: list[str]) -> Job | None:
    """The job with these arguments, else the newest landscape of this model."""
    wanted = ("landscape", workspace.source.model)
    newest = next((job for job in own_jobs() if job.arguments[:2] == wanted), None)
    return jobs().latest(arguments) or newest


def _status(job: Job | None, arguments: list[str]) -> None:
    """How far the job is, what went wrong, and whether it is what the controls say."""
    if job is None:
        return
    if job.arguments != tuple(arguments):
        st.caption("Shown below: an earlier landscape. Press Start for the settings above.")
    if job.state == "failed":
        st.error(plain(job.error or "The landscape failed."), icon=":material/error:")
    elif job.state == "cancelled":
        found = _points(job.partial)
        st.info(f"Cancelled after {found} points." if found else "Cancelled before the first point.")
    elif job.active:
        text = start_words(job)
        if job.state == "running" and job.partial:
            text = f"{_points(job.partial)} of {len(job.partial['x']) * len(job.partial['y'])} points"
        elif job.state == "running" and job.total:
            text = f"Looking for the two sharpest directions: {job.done} Hessian-vector products"
        st.progress(share_done(job), text=text)


def _points(document: dict[str, Any] | None) -> int:
    return sum(value is not None for row in document["loss"] for value in row) if document else 0


def _figures(job: Job | None) -> None:
    document = (job.result or job.partial) if job else None
    dark = state.dark()
    left, right = st.columns(2, gap="medium")
    if job and job.active and not document:
        for side, name in ((left, "landscape-surface"), (right, "landscape-contour")):
            with side:
                show_kept(
                    name, ("waiting", dark), lambda: empty_figure(WAITING, dark=dark, height=SURFACE_HEIGHT)
                )
        return
    with left:
        # a chart that changes is built anew, its camera too: only when there is more to see
        seen = (job.arguments, known_grid(document), dark) if job and document else dark
        show_kept("landscape-surface", seen, lambda: landscape_surface(document, dark=dark))
    with right:
        show_kept("landscape-contour", (document, dark), lambda: landscape_contour(document, dark=dark))
    if document:
        _truth(document)


def _truth(document: dict[str, Any]) -> None:
    """What the picture shows of the plan, and what it does not."""
    layer, quantized = layer_label(document["layer"]), document["quantized"]
    zero, real, here = document["loss_at_zero"], quantized["loss"], quantized["loss_at_projection"]
    items = [
        Card("Loss, trained", fmt_loss(zero), ("with the weights as they are",)),
        Card(
            "Where the plan falls on the plane",
            fmt_loss(here),
            (f"{fmt_lambda(here - zero)} against trained", "nearest to the quantized weights"),
        ),
        Card(
            f"Really, {layer} quantized",
            fmt_loss(real),
            (f"{fmt_lambda(real - zero)} against trained", "all other layers in fp32"),
        ),
        Card("Of the move, in the plane", _share(quantized["explained"]), ("share of its squared length",)),
    ]
    said = f"Losses in nats, on {fmt_count(document['examples'])} training examples"
    st.html(cards(items, outdated=False, state=said, plan="", n=document["examples"], lines=2))
    values = "; ".join(
        f"λ{'₁₂'[i]} = {fmt_lambda(value)} (residual {_share(residual)}), slope {fmt_lambda(slope)}"
        for i, (value, residual, slope) in enumerate(
            zip(document["eigenvalues"], document["residuals"], document["gradient"], strict=True)
        )
    )
    st.caption(
        f"{_move(quantized, layer)} {values}. {_bend(document['eigenvalues'])}"
        f"{fmt_count(document['evaluations'])} measurements of the loss, "
        f"{fmt_count(document['hvp_count'])} Hessian-vector products, {fmt_seconds(document['seconds'])}."
    )


def _move(quantized: dict[str, Any], layer: str) -> str:
    plan = _verbatim(quantized["plan"])
    if quantized["distance"] == 0:
        return f"{plan} leaves {layer} as it is."
    words = f"{plan} moves {layer}'s weights by {fmt_loss(quantized['distance'])}"
    return f"{words}, most of it out of this plane." if quantized["explained"] < 0.5 else f"{words}."


def _bend(eigenvalues: list[float]) -> str:
    """What a negative eigenvalue means for the picture."""
    down = [f"v{'₁₂'[i]}" for i, value in enumerate(eigenvalues) if value < 0]
    return f"Along {' and '.join(down)} the loss curves down: no minimum on this draw. " if down else ""


def _share(share: float) -> str:
    """A share in percent to three digits: it is mostly tiny, and 0.00 % would say nothing."""
    return fmt_omega(100 * share) + "\N{NO-BREAK SPACE}%"


def _verbatim(name: str) -> str:
    """A plan's name, which may come from a link, without markdown's powers."""
    return f"`{' '.join(name.replace('`', '').split())}`"
