"""Density: where all eigenvalues of one block lie, not only the largest."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import state
from app.figures import (
    BlockSensitivity,
    density_curve,
    fmt_count,
    fmt_lambda,
    fmt_omega,
    layer_label,
    title,
)
from app.jobs import Job
from app.jobwords import fmt_seconds, share_done, start_words
from app.kept import show_kept
from app.plain import plain
from app.presses import pressed
from app.sessionjobs import cancel_button, own_jobs, start_job
from app.trainingdata import accepted
from app.workspace import Workspace

PROBES, STEPS = 4, 60


def density_jobs(workspace: Workspace) -> list[Job]:
    """Every density of this model that was asked for in this session, newest first."""
    return [job for job in own_jobs() if job.arguments[:2] == ("density", workspace.source.model)]


def density_section(workspace: Workspace, blocks: list[BlockSensitivity], data: str, fraction: float) -> None:
    """Choose a block, start, watch the curve arrive. `blocks` are those of the analysis above, if any;
    training data and share are the ones chosen there."""
    named = _choices(workspace, blocks)
    choice, picture = st.columns([1, 3], gap="medium")
    with choice:
        label = st.selectbox("Block", list(named), key="density-block", persist_state="session")
        job = next((j for j in density_jobs(workspace) if j.arguments[2:4] == named[label]), None)
        with st.container():  # what stands below keeps its place, and is never there twice
            if job and job.active:
                cancel_button(st, job, "density")
                counts = job.total and job.state == "running"
                text = f"{job.done} of {job.total} products" if counts else start_words(job)
                st.progress(share_done(job), text=text)
            elif pressed(
                st.button, "Start density", icon=":material/play_arrow:", width="stretch", disabled=not data,
                key="start-density",
            ) and accepted(workspace.task, data):  # fmt: skip
                arguments = [
                    "density", workspace.source.model, *named[label], "--task", workspace.task.name,
                    "--train", data, "--fraction", str(fraction), "--steps", str(STEPS), "--probes", str(PROBES),
                ]  # fmt: skip
                start_job(f"Density of {label}, {workspace.checkpoint.name}", arguments)
            if job and job.state == "failed":
                st.error(plain(job.error or "The density failed."), icon=":material/error:")
        document = (job.result or job.partial) if job else None
        st.caption(_words(document) if document else _promise(data))
    with picture:
        dark = state.dark()
        show_kept("density", (document, dark), lambda: density_curve(document, dark=dark))


def _choices(workspace: Workspace, blocks: list[BlockSensitivity]) -> dict[str, tuple[str, str]]:
    """Label -> option: every layer, and the smaller blocks of the analysis above."""
    layers = range(workspace.checkpoint.config.layers)
    named = {layer_label(layer): ("--layer", str(layer)) for layer in layers}
    for block in blocks:
        name, kind = block["name"], block["kind"]
        site = kind in ("attention", "ffn") and not name.endswith(f".{kind}")
        label = f"{title(block)}, {name.split('.', 4)[-1]}" if site else title(block)
        named.setdefault(label, ("--block-name", name))
    return named


def _promise(data: str) -> str:
    if not data:
        return "Give the training data above first."
    return f"{PROBES} random probes of {STEPS} Hessian-vector products each, on one draw of the share above."


def _words(document: dict[str, Any]) -> str:
    block, trace = document["block"], document["trace"]
    parts = [
        f"{len(document['nodes'])} of {document['probes']} probes on {fmt_count(document['examples'])} examples, "
        f"{fmt_count(document['hvp_count'])} Hessian-vector products in {fmt_seconds(document['seconds'])}.",
        f"{fmt_count(block['parameters'])} eigenvalues from {fmt_lambda(document['lowest'])} to "
        f"{fmt_lambda(document['highest'])}, each drawn {fmt_omega(document['sigma'])} wide.",
    ]
    if trace:
        parts.append(
            f"Their sum is {fmt_lambda(trace['value'])} ± {fmt_omega(trace['error'])}, "
            f"their mean {fmt_lambda(document['mean_eigenvalue'])}."
        )
    parts.append(
        "Ticks are what each probe found: with few probes an outlier's place is well known, its height is not."
    )
    return "\n\n".join(parts)
