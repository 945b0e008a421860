"""Does the prediction rank well? Predicted harm against what many plans measure."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app import state
from app.figures import fmt_percent, predicted_scatter
from app.jobs import Job
from app.jobwords import share_done, start_words, time_left
from app.kept import show_kept
from app.plain import plain
from app.planfiles import write_sensitivity
from app.presses import pressed
from app.rankings import AXES, NAMES, arguments, plans_csv, ranks_table, ranks_words
from app.sessionjobs import cancel_button, own_jobs, start_job
from app.sweeps import finished_sensitivity
from app.tables import show_table
from app.words import BANDS, WORDS
from app.workspace import Workspace

PLANS = 60  # random ones
LOSS = "Loss"


def prediction_jobs(workspace: Workspace) -> list[Job]:
    """Every such ranking of this model that was asked for in this session, newest first."""
    wanted = ("sweep", workspace.source.model, "--frontier")
    return [job for job in own_jobs() if job.arguments[:3] == wanted]


def prediction_section(workspace: Workspace) -> None:
    """Start, and choose what is drawn; the figure; what the ranks say."""
    job = next(iter(prediction_jobs(workspace)), None)
    rows = _rows(job)
    choice, picture = st.columns([1, 3], gap="medium")
    with choice:
        with st.container():  # what stands below keeps its place, and is never there twice
            _start(workspace, job)
        offered = [name for name in AXES if not rows or name in _predictors(rows)]
        predictor = st.selectbox(
            "Predicted by", offered, format_func=NAMES.__getitem__, key="ranked-by", persist_state="session",
            help="The control, |ΔW|² alone, is what quantization does to the weights without any curvature",
        )  # fmt: skip
        label = WORDS[workspace.task.name].metric
        measured = st.segmented_control(
            "Measured by", [label, LOSS], default=label, required=True, key="ranked-against",
            persist_state="session",
        )  # fmt: skip
        if rows:
            st.download_button(
                "Plans as CSV", plans_csv(rows, workspace.task.metric), "plans.csv", "text/csv",
                icon=":material/download:", type="tertiary", on_click="ignore", key="csv-ranked-plans",
            )  # fmt: skip
    by_loss, dark = measured == LOSS, state.dark()
    with picture:
        show_kept(
            "predicted",
            (job.arguments if job else None, len(rows), predictor, by_loss, dark),
            lambda: predicted_scatter(
                rows,
                predictor=predictor,
                predictor_label=AXES[predictor],
                by_loss=by_loss,
                metric=workspace.task.metric,
                metric_label=label,
                band=BANDS[workspace.task.name],
                dark=dark,
            ),
        )
    if job and job.result:
        ranks, what = job.result["ranks"], "loss" if by_loss else f"{label} lost"
        _ranks(ranks, "loss" if by_loss else workspace.task.metric, what)


def _start(workspace: Workspace, job: Job | None) -> None:
    sensitivity = finished_sensitivity(workspace, own_jobs())
    if job and job.active:
        cancel_button(st, job, "ranking")
        st.progress(share_done(job), text=_progress(job))
        return
    plans = st.number_input(
        "Random plans", 5, 500, PLANS, key="ranked-plans", persist_state="session",
        help="Of every size, five of each; 12 plans of least predicted harm come on top",
    )  # fmt: skip
    start = pressed(
        st.button, "Rank plans", icon=":material/play_arrow:", width="stretch", disabled=sensitivity is None,
        key="rank",
    )  # fmt: skip
    if sensitivity is None:
        st.caption("It needs a finished analysis of whole layers: press Start above.")
    elif start:
        try:
            write_sensitivity(sensitivity)
        except OSError as error:
            st.error(f"The analysis could not be written for the job: {plain(str(error.strerror))}.")
            return
        start_job(
            f"Ranking of plans, {workspace.checkpoint.name}", arguments(workspace, sensitivity, int(plans))
        )
    if job and job.state == "failed":
        st.error(plain(job.error or "The ranking failed."), icon=":material/error:")
    elif job and job.state == "cancelled":
        st.caption(
            f"Cancelled after {len(_rows(job))} of {job.total} plans, which are kept: start again to go on."
        )


def _progress(job: Job) -> str:
    if job.state != "running" or not job.total:
        return start_words(job)
    left = time_left(job)
    return f"{job.done} of {job.total} plans" + (f", about {left} to go" if left else "")


def _ranks(ranks: dict[str, Any], target: str, measured: str) -> None:
    for sentence in ranks_words(ranks, target, measured):
        st.caption(plain(sentence))
    show_table(pd.DataFrame(ranks_table(ranks, target)), "ranks")
    st.caption(
        "Intervals: bootstrap over plans and examples. At equal size: pairs of plans whose sizes differ by at most "
        f"{fmt_percent(ranks['near'], 0)}; ties left out."
    )


def _rows(job: Job | None) -> list[dict[str, Any]]:
    document = (job.result or job.partial) if job else None
    rows: list[dict[str, Any]] = document["rows"] if document else []
    return rows


def _predictors(rows: list[dict[str, Any]]) -> set[str]:
    return {name for row in rows for name in row["predicted"] or ()} or set(AXES)
