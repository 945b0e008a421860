"""Sensitivity: which layers the loss is sharpest in, and the bits that follow."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app import state
from app.figures import (
    alt_text,
    chart_config,
    fmt_lambda,
    fmt_mb,
    fmt_omega,
    fmt_percent,
    lambda_samples,
    layer_label,
    omega_bars,
)
from app.jobs import Job
from app.registries import jobs
from app.table import by_layer
from app.waiting import loaded_workspace
from app.workspace import Workspace
from qbert_core.allocation import allocate_by_rank, rank
from qbert_core.curvature import Sensitivity
from qbert_core.quantization import Plan, plan_size, sites_of

POLL = 0.5
PAIRS = {"2 and 4": (2, 4), "2 and 3": (2, 3), "3 and 4": (3, 4), "4 and 8": (4, 8)}
RULES = {"Ω = |mean| + std": "omega", "|mean| only (HAWQ)": "mean"}


def page() -> None:
    st.title("Sensitivity")
    workspace = loaded_workspace()
    if workspace is None:
        return
    st.caption(
        "The sharpest curvature of the loss in every encoder layer: λ, the Hessian eigenvalue of largest "
        "magnitude, on several random draws of the training data. Ω = |mean λ| + std λ ranks the layers."
    )
    job = _newest(workspace)
    _controls(workspace, job)
    job = _newest(workspace)

    @st.fragment(run_every=POLL if job and job.active else None)
    def draw() -> None:
        if job is None:
            _figures(workspace, [], frozenset())
            return
        was_active = st.session_state.get("sensitivity_active")
        st.session_state["sensitivity_active"] = job.active
        if was_active and not job.active:
            st.rerun()
        _status(job)
        _results(workspace, job)

    draw()


def _newest(workspace: Workspace) -> Job | None:
    wanted = ("sensitivity", workspace.source.model)
    return next((job for job in jobs().all() if job.arguments[:2] == wanted), None)


def _controls(workspace: Workspace, job: Job | None) -> None:
    train, block, runs, share, go = st.columns(
        [3, 2.6, 1.3, 1.6, 1.6], vertical_alignment="bottom", gap="small"
    )
    default = "demo" if workspace.source.data == "demo" else ""
    data = train.text_input(
        "Training data",
        st.session_state.get("train", default),
        placeholder="a .parquet .csv .json file",
        help="demo (600 reviews), a file with the task's columns, or hub:NAME[/CONFIG]:SPLIT",
    )
    granularity = block.segmented_control(
        "Blocks", ["layer", "module", "site"], default="layer", required=True,
        help="layer: all parameters of an encoder layer, as in the paper. module: its attention and FFN halves. "
        "site: one weight matrix.",
    )  # fmt: skip
    count = runs.number_input("Runs", 1, 100, 10, help="Random draws of the training data")
    percent = share.number_input(
        "Share (%)", 0.01, 100.0, 10.0, help="Of the training examples, drawn in every run"
    )
    if job and job.active:
        if go.button("Cancel", icon=":material/close:", width="stretch", key="cancel-sensitivity"):
            job.cancel()
            st.rerun()
    elif go.button("Start", icon=":material/play_arrow:", type="primary", width="stretch"):
        if not data.strip():
            st.error(
                "Give the training data: a file with the columns "
                + ", ".join(workspace.task.columns)
                + ", or demo."
            )
            return
        st.session_state["train"] = data.strip()
        arguments = [
            "sensitivity", workspace.source.model, "--task", workspace.task.name, "--train", data.strip(),
            "--runs", str(int(count)), "--fraction", str(percent / 100), "--block", str(granularity),
        ]  # fmt: skip
        jobs().start(f"Sensitivity of {workspace.checkpoint.name}", state.session(), arguments)
        st.session_state["sensitivity_active"] = True
        st.rerun()


def _status(job: Job) -> None:
    if job.state == "failed":
        st.error(job.error or "The analysis failed.", icon=":material/error:")
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
        left = job.remaining
        text = "Loading model and data …"
        if job.total:
            text = f"{job.done} of {job.total} eigenvalues"
            text += f", about {left:.0f} s to go" if left is not None else ""
        st.progress(job.done / job.total if job.total else 0.0, text=text)
    elif document:
        worst = max(r for block in document["blocks"] for r in block["residuals"])
        st.caption(
            f"{document['runs']} runs of {document['examples']} examples each, {document['hvp_count']} Hessian-vector "
            f"products in {document['seconds']:.0f} s; every eigenvalue's residual is at most {fmt_percent(worst)}."
        )


def _results(workspace: Workspace, job: Job) -> None:
    document = job.result or job.partial
    sensitivity = _whole_runs(document)
    proposal: dict[int, int] = {}
    st.session_state.setdefault("rank-high", max(1, workspace.checkpoint.config.layers // 2))
    if sensitivity is not None and sensitivity.granularity == "layer":
        high_count = int(st.session_state["rank-high"])
        pair = PAIRS[st.session_state.get("rank-pair") or next(iter(PAIRS))]
        rule = RULES[st.session_state.get("rank-rule") or next(iter(RULES))]
        if len(sensitivity.blocks) == workspace.checkpoint.config.layers:
            proposal = allocate_by_rank(
                sensitivity, pair, high=min(high_count, len(sensitivity.blocks)), rule=rule
            )
    high = {
        block["name"]
        for block in (document["blocks"] if document else [])
        if proposal
        and proposal.get(block["layer"]) == max(proposal.values())
        and len(set(proposal.values())) > 1
    }
    _figures(workspace, document["blocks"] if document else [], frozenset(high))
    if sensitivity is None:
        return
    if sensitivity.granularity != "layer":
        st.caption("Bits are proposed from whole layers: choose *layer* above and start again.")
    elif proposal:
        _proposal(workspace, sensitivity, proposal)


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


def _figures(workspace: Workspace, blocks: list[dict[str, Any]], high: frozenset[str]) -> None:
    dark, layers = state.dark(), workspace.checkpoint.config.layers
    samples = lambda_samples(blocks, dark=dark, layers=layers)
    bars = omega_bars(blocks, dark=dark, high=high, layers=layers)
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown("###### λ of every run")
        st.plotly_chart(
            samples, theme=None, config=chart_config("lambda"), alt=alt_text(samples), key="samples"
        )
    with right:
        st.markdown("###### Ω and its rank")
        st.plotly_chart(bars, theme=None, config=chart_config("omega"), alt=alt_text(bars), key="omega")


def _proposal(workspace: Workspace, sensitivity: Sensitivity, proposal: dict[int, int]) -> None:
    layers = len(proposal)
    table, choice = st.columns([3, 2], gap="medium")
    with choice:
        st.markdown("###### Bits that follow")
        st.segmented_control("Bits", list(PAIRS), default=next(iter(PAIRS)), required=True, key="rank-pair")
        st.slider("Layers with the higher bits", 0, layers, key="rank-high")
        st.segmented_control(
            "Ranked by", list(RULES), default=next(iter(RULES)), required=True, key="rank-rule"
        )
        plan = _plan(workspace, proposal)
        size = plan_size(workspace.checkpoint.config, plan)
        st.caption(
            f"{fmt_mb(size.size_mb)}, {size.effective_bits:.2f} stored bits a weight; embeddings stay as they are."
        )
        if st.button("Apply these bits", icon=":material/check:", type="primary", width="stretch"):
            current = state.tuning(workspace)
            state.change(current, plan)
            current.allocated.add(plan.digest)
            st.session_state["go_to_bits"] = True
            st.rerun()
    with table:
        runs = f"{sensitivity.runs} complete run{'s' if sensitivity.runs > 1 else ''}"
        st.markdown(f"###### Ranking, from {runs}")
        rule = RULES[st.session_state.get("rank-rule") or next(iter(RULES))]
        by_index = {block.layer: block for block in sensitivity.blocks}
        rows = [
            {
                "Rank": position,
                "Layer": layer_label(layer),
                "Ω": fmt_omega(by_index[layer].omega),
                "mean λ": fmt_lambda(by_index[layer].mean),
                "std λ": fmt_omega(by_index[layer].std),
                "Worst residual": fmt_percent(max(by_index[layer].residuals)),
                "Bits": proposal[layer],
            }
            for position, (layer, _) in enumerate(rank(sensitivity, rule), 1)
        ]
        st.dataframe(
            pd.DataFrame(rows), hide_index=True, width="stretch", height=35 * (min(layers, 12) + 1) + 3
        )


def _plan(workspace: Workspace, bits: dict[int, int]) -> Plan:
    current = state.tuning(workspace).plan
    name = f"ranked {min(bits.values())}/{max(bits.values())}"
    return by_layer(current, sites_of(workspace.checkpoint.config), bits, 128, name)
