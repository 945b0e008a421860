"""Sensitivity: which layers the loss is sharpest in, and the bits that follow."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pandas as pd
import streamlit as st

from app import selection, state
from app.figures import (
    ROW,
    fmt_lambda,
    fmt_mb,
    fmt_omega,
    fmt_percent,
    fmt_probability,
    lambda_samples,
    layer_label,
    omega_bars,
)
from app.going import go_to
from app.jobs import Job
from app.jobwords import fmt_seconds, share_done, start_words, time_left
from app.kept import show_kept
from app.plain import plain
from app.presses import pressed
from app.sessionjobs import cancel_button, follow, own_jobs, start_button, start_job
from app.table import by_layer as plan_by_layer
from app.tables import marked_rows, show_table
from app.trainingdata import accepted, training_data_input
from app.views.confidence import confidence_section, stability_words
from app.views.density import density_jobs, density_section
from app.views.prediction import prediction_jobs, prediction_section
from app.waiting import loaded_workspace
from app.workspace import Workspace
from qbert_core.allocation import allocate_by_rank, rank
from qbert_core.curvature import Sensitivity
from qbert_core.quantization import Plan, plan_size, sites_of

TABS = ("Ranking and bits", "Confidence", "Density", "Does it rank well?")
CONFIDENCES = (0.9, 0.95, 0.99)
HIGH_LABEL = "Layers with the higher bits"
ABOVE = "Above next"  # a column of the ranking
PAIRS = {"2 and 4": (2, 4), "2 and 3": (2, 3), "3 and 4": (3, 4), "4 and 8": (4, 8)}
RULES = {"Ω = |mean| + std": "omega", "|mean| only (HAWQ)": "mean"}


def page() -> None:
    st.title("Sensitivity")
    workspace = loaded_workspace()
    if workspace is None:
        return
    state.write_link(state.tuning(workspace))  # a reload finds model, data and plan again
    st.caption(
        "λ, the Hessian eigenvalue of largest magnitude in every layer, on several random draws of the training "
        "data. Ω = |mean λ| + std λ ranks the layers."
    )
    data, fraction = _controls(workspace, _newest(workspace))
    job = _newest(workspace)

    def draw() -> None:
        with st.container():  # there even when empty: a chart that changes its place is built anew
            if job is not None:
                _status(job)
        _results(workspace, job, data, fraction)

    follow([job, *density_jobs(workspace), *prediction_jobs(workspace)], draw)
    state.write_link(state.tuning(workspace))


def _newest(workspace: Workspace) -> Job | None:
    wanted = ("sensitivity", workspace.source.model)
    return next((job for job in own_jobs() if job.arguments[:2] == wanted), None)


def _controls(workspace: Workspace, job: Job | None) -> tuple[str, float]:
    """What to analyse, Start and Cancel; returns the training data and the share as they stand."""
    train, block, runs, share, go = st.columns(
        [3, 2.6, 1.3, 1.6, 1.6], vertical_alignment="bottom", gap="small"
    )
    data = training_data_input(train, workspace)
    granularity = block.segmented_control(
        "Blocks", ["layer", "module", "site"], default="layer", required=True,
        help="layer: all parameters of an encoder layer, as in the paper. module: its attention and FFN halves. "
        "site: one weight matrix, the embedding tables too.",
    )  # fmt: skip
    count = runs.number_input(
        "Runs", 1, 100, 10, help="Random draws of the training data; with the stop below, at most so many"
    )
    percent = share.number_input(
        "Share (%)", 0.01, 100.0, 10.0, help="Of the training examples, drawn in every run"
    )
    stop = _stop(workspace, str(granularity))
    if job and job.active:
        cancel_button(go, job, "sensitivity")
    else:
        start = start_button(go, "sensitivity")
        if start and accepted(workspace.task, data):
            arguments = [
                "sensitivity", workspace.source.model, "--task", workspace.task.name, "--train", data,
                "--runs", str(int(count)), "--fraction", str(percent / 100), "--block", str(granularity), *stop,
            ]  # fmt: skip
            start_job(f"Sensitivity of {workspace.checkpoint.name}", arguments)
    return data, percent / 100


def _stop(workspace: Workspace, granularity: str) -> list[str]:
    """How many blocks are the highest, and the toggle that ends the runs early, as options of the command."""
    layers = workspace.checkpoint.config.layers
    options, meant = [], "the half that ranks highest"
    if granularity == "layer" and layers > 1:
        high = min(max(_high_count(layers), 1), layers - 1)
        options, meant = ["--high", str(high)], f"the {high} highest of {layers} layers"
    with st.container(horizontal=True, vertical_alignment="center", gap="small", height=40, border=False):
        on = st.toggle(
            "Stop when the ranking is stable",
            key="until-stable",
            persist_state="session",
            help="From the fifth run on the ranking is redrawn from resampled runs. When the set of the most "
            "sensitive comes out the same often enough, no more runs are needed.",
        )
        if on:
            confidence = st.segmented_control(
                "Confidence", CONFIDENCES, default=0.95, required=True, label_visibility="collapsed",
                format_func=lambda share: fmt_percent(share, 0), key="confidence", persist_state="session",
            )  # fmt: skip
            st.caption(f"sure of {meant}")
            options += ["--until-stable", "--confidence", str(confidence)]
    return options


def _high_count(layers: int) -> int:
    """How many layers get the higher bits: the slider's value, also while it is not shown."""
    return min(int(st.session_state.get("rank-high", max(1, layers // 2))), layers)


def _status(job: Job) -> None:
    if job.state == "failed":
        st.error(plain(job.error or "The analysis failed."), icon=":material/error:")
        return
    if job.state == "cancelled":
        st.info(
            f"Cancelled after {job.done} of {job.total} eigenvalues. Finished runs are kept: Start goes on from there."
            if job.total
            else "Cancelled before the first eigenvalue."
        )
        return
    document = job.result or job.partial
    if job.active:
        text = start_words(job)
        if job.total and job.state == "running":
            text = f"{job.done} of {job.total} eigenvalues"
            left = time_left(job)
            text += f", about {left} to go" if left else ""
        st.progress(share_done(job), text=text)
    elif document:
        worst = max(r for block in document["blocks"] for r in block["residuals"])
        words = (
            f"{document['runs']} runs of {document['examples']} examples each, {document['hvp_count']} Hessian-vector "
            f"products in {fmt_seconds(document['seconds'])}; every eigenvalue's residual is at most "
            f"{fmt_percent(worst)}."
        )
        if document["stopped"] == "stable":
            words = f"The ranking is stable: no more of the {job.option('--runs')} runs were needed. {words}"
        st.caption(words)


def _results(workspace: Workspace, job: Job | None, data: str, fraction: float) -> None:
    document = (job.result or job.partial) if job else None
    blocks = document["blocks"] if document else []
    of_layers = document is not None and document["granularity"] == "layer"
    sensitivity = _whole_runs(document) if of_layers else None
    layers = workspace.checkpoint.config.layers
    proposal: dict[int, int] = {}
    if sensitivity is not None and len(sensitivity.blocks) == layers:
        pair = PAIRS[st.session_state.get("rank-pair") or next(iter(PAIRS))]
        rule = RULES[st.session_state.get("rank-rule") or next(iter(RULES))]
        proposal = allocate_by_rank(sensitivity, pair, high=_high_count(layers), rule=rule)
    high = {
        block["name"]
        for block in blocks
        if proposal
        and proposal.get(block["layer"]) == max(proposal.values())
        and len(set(proposal.values())) > 1
    }
    site = job is not None and job.option("--block") == "site"
    _figures(workspace, blocks, frozenset(high), embedding=site)
    ranking, confidence, density, prediction = st.tabs(TABS, key="sensitivity-tab", on_change="rerun")
    if ranking.open:
        with ranking:
            if document and not of_layers:
                st.caption("Bits are proposed from whole layers: choose *layer* above and start again.")
            elif document and sensitivity and proposal:
                _proposal(workspace, sensitivity, proposal, document)
            else:
                st.caption("The ranking and the bits that follow from it appear here after the first run.")
    if confidence.open:
        with confidence:
            confidence_section(document, int(job.option("--runs")) if job else 1)
    if density.open:
        with density:
            density_section(workspace, blocks, data, fraction)
    if prediction.open:
        with prediction:
            prediction_section(workspace)


def _whole_runs(document: dict[str, Any] | None) -> Sensitivity | None:
    """The runs that every listed block has an eigenvalue of."""
    if not document or not document["blocks"]:
        return None
    runs = min(len(block["lambdas"]) for block in document["blocks"])
    if not runs:
        return None
    blocks = [
        {
            **{key: block[key] for key in ("name", "layer", "kind")},
            "lambdas": block["lambdas"][:runs],
            "residuals": block["residuals"][:runs],
        }
        for block in document["blocks"]
    ]
    return Sensitivity.from_json({**document, "blocks": blocks, "runs": runs})


def _figures(
    workspace: Workspace, blocks: list[dict[str, Any]], high: frozenset[str], *, embedding: bool
) -> None:
    dark, layers = state.dark(), workspace.checkpoint.config.layers
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown("## λ of every run")
        show_kept(
            "samples",
            (blocks, dark, layers, embedding),
            lambda: lambda_samples(blocks, dark=dark, layers=layers, embedding=embedding),
            on_select=selection.on_click("samples", -1),
            layers=True,
        )
    with right:
        st.markdown("## Ω and its rank")
        show_kept(
            "omega",
            (blocks, dark, layers, embedding, high),
            lambda: omega_bars(blocks, dark=dark, high=high, layers=layers, embedding=embedding),
            on_select=selection.on_click("omega", -1),
            layers=True,
        )
    with st.container():
        if blocks:
            st.caption(_signs([value for block in blocks for value in block["lambdas"]]))


def _signs(lambdas: list[float]) -> str:
    negative = sum(value < 0 for value in lambdas)
    meaning = "the loss curves down along that direction, so on that draw the weights are at no minimum in that block"
    if not negative:
        return f"λ keeps its sign; all {len(lambdas)} are positive. A negative one would mean: {meaning}."
    are = "is" if negative == 1 else "are"
    return f"λ keeps its sign; {negative} of {len(lambdas)} {are} negative: {meaning}."


def _proposal(
    workspace: Workspace, sensitivity: Sensitivity, proposal: dict[int, int], document: dict[str, Any]
) -> None:
    layers = len(proposal)
    table, choice = st.columns([3, 2], gap="medium")
    with choice:
        st.markdown("## Bits that follow")
        st.segmented_control(
            "Bits", list(PAIRS), default=next(iter(PAIRS)), required=True, key="rank-pair",
            persist_state="session",
        )  # fmt: skip
        st.session_state["rank-high"] = _high_count(layers)
        st.slider(HIGH_LABEL, 0, layers, key="rank-high", persist_state="session")
        st.segmented_control(
            "Ranked by", list(RULES), default=next(iter(RULES)), required=True, key="rank-rule",
            persist_state="session",
        )  # fmt: skip
        plan = _plan(workspace, proposal)
        size = plan_size(workspace.checkpoint.config, plan)
        st.caption(
            f"{fmt_mb(size.size_mb)}, {size.effective_bits:.2f} effective bits; embeddings stay as they are."
        )
        if pressed(
            st.button, "Apply these bits", icon=":material/check:", type="primary", width="stretch",
            key="apply-bits",
        ):  # fmt: skip
            current = state.tuning(workspace)
            state.change(current, plan)
            current.allocated.add(plan.digest)
            go_to("bits")
    with table:
        runs = f"{sensitivity.runs} complete run{'s' if sensitivity.runs > 1 else ''}"
        st.markdown(f"## Ranking, from {runs}")
        rule = RULES[st.session_state.get("rank-rule") or next(iter(RULES))]
        by_layer = {block.layer: block for block in sensitivity.blocks}
        order = [layer for layer, _ in rank(sensitivity, rule)]
        above = _above_next(document, order) if rule == "omega" else {}
        rows = [
            {
                "Rank": position,
                "Layer": layer_label(layer),
                "Ω": fmt_omega(by_layer[layer].omega),
                "mean λ": fmt_lambda(by_layer[layer].mean),
                "std λ": fmt_omega(by_layer[layer].std),
                "Residual": fmt_percent(max(by_layer[layer].residuals)),
                **({ABOVE: fmt_probability(above.get(layer)) if position < layers else ""} if above else {}),
                "Bits": proposal[layer],
            }
            for position, layer in enumerate(order, 1)
        ]
        ranking, marked = pd.DataFrame(rows), selection.chosen()
        show_table(
            ranking,
            "ranking",
            shown=marked_rows(ranking, [layer == marked for layer in order], "Layer"),
            height=ROW * (min(layers, 12) + 1) + 3,
            column_config={
                "Residual": st.column_config.TextColumn(help="The largest of all runs: |Hv − λv| / |λ|"),
                ABOVE: st.column_config.TextColumn(
                    help="How often its Ω stays above that of the next rank when the runs are resampled"
                ),
            },
        )
        if document.get("stability"):
            st.caption(stability_words(document["stability"], document["blocks"]))


def _above_next(document: dict[str, Any], order: list[int]) -> dict[int, float]:
    """Layer -> probability that its Omega exceeds the next rank's; empty before there are three runs."""
    stability = document.get("stability")
    if not stability:
        return {}
    place = {block["layer"]: index for index, block in enumerate(document["blocks"])}
    pairs = stability["pairs"]
    return {layer: pairs[place[layer]][place[after]] for layer, after in pairwise(order)}


def _plan(workspace: Workspace, bits: dict[int, int]) -> Plan:
    tuning = state.tuning(workspace)
    name = f"ranked {min(bits.values())}/{max(bits.values())}"
    free = [site for site in sites_of(workspace.checkpoint.config) if site.layer not in tuning.locked]
    return plan_by_layer(tuning.plan, free, bits, 128, name)
