"""Refine by measurement: plans near the one on screen are tried, and the best is offered."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import state
from app.figures import fmt_count, fmt_interval, fmt_loss, fmt_mb, fmt_percent
from app.jobs import Job
from app.jobwords import share_done, start_words, time_left
from app.plain import plain
from app.planfiles import write_plan, write_sensitivity
from app.presses import pressed
from app.refinements import arguments, better, changes, starts_from, tries_csv, verdict
from app.sessionjobs import cancel_job, follow, own_jobs, start_job
from app.sweeps import finished_sensitivity
from app.words import WORDS
from app.workspace import Workspace
from qbert_core.quantization import sites_of
from qbert_core.quantization.plan import parse_plan

TRIES = 20
LABEL = "Refine by measurement"
HELP = (
    "Measures plans of at most the present size that differ from this one in a layer or two, the most promising "
    "first, and goes on from each that measures better. Half of the examples chooses, the other half judges."
)
STYLE = """<style>
table.refined{width:100%;font-size:.85rem;border-collapse:collapse;font-variant-numeric:tabular-nums}
.refined th,.refined td{padding:.15rem .4rem;text-align:right;font-weight:400;white-space:nowrap;
  border-bottom:1px solid color-mix(in srgb,currentColor 18%,transparent)}
.refined th:first-child{text-align:left;padding-left:0}
.refined thead th{font-size:.8rem;opacity:.78}
</style>"""


def refine_panel(workspace: Workspace, current: state.Tuning) -> None:
    """The button, how far it is, and the result; for the plan on screen, within its size."""
    job = _shown(workspace, current)

    def draw() -> None:
        if job and job.active:
            _under_way(job, current)
        else:
            _controls(workspace, current)
        if job and not job.active:
            _ended(workspace, current, job)

    with st.container(key="refine"):
        follow([job], draw)


def _shown(workspace: Workspace, current: state.Tuning) -> Job | None:
    """The newest refining of this model that is under way, or is of the plan on screen or led to it."""
    for job in own_jobs():
        if job.arguments[:3] == ("allocate", workspace.source.model, "--refine"):
            ends = {starts_from(job)}
            if job.result:
                ends.add(job.result["refine"]["end"]["plan_digest"])
            if job.active or current.plan.digest in ends:
                return job
    return None


def _under_way(job: Job, current: state.Tuning) -> None:
    bar, stop = st.columns([3, 1], vertical_alignment="bottom", gap="small")
    text = start_words(job)
    if job.state == "running" and job.total:
        left = time_left(job)
        text = f"{max(job.done - 1, 0)} of {job.option('--refine')} plans" + (
            f", {left} to go" if left else ""
        )
    bar.progress(share_done(job), text=text)
    if pressed(stop.button, "Cancel", width="stretch", key="cancel-refine"):
        cancel_job(job)
    if starts_from(job) != current.plan.digest:
        st.caption("Refines the plan that was here when it was started.")


def _controls(workspace: Workspace, current: state.Tuning) -> None:
    sensitivity = finished_sensitivity(workspace, own_jobs())
    count, go = st.columns([1, 2], vertical_alignment="bottom", gap="small")
    tries = count.number_input(
        "Plans to try",
        1,
        500,
        TRIES,
        key="refine-tries",
        persist_state="session",
        disabled=sensitivity is None,
    )
    start = pressed(
        go.button,
        LABEL,
        icon=":material/target:",
        width="stretch",
        key="start-refine",
        disabled=sensitivity is None,
        help=HELP,
    )
    if sensitivity is None:
        st.caption("Refining needs a finished analysis of this model’s layers: page *Sensitivity*, Start.")
    elif start:
        _start(workspace, current, sensitivity, int(tries))


def _start(workspace: Workspace, current: state.Tuning, sensitivity: dict[str, Any], tries: int) -> None:
    try:
        write_plan(current.plan)
        write_sensitivity(sensitivity)
    except OSError as error:
        st.error(f"The plan could not be written for the job: {plain(str(error.strerror))}.")
        return
    wanted = arguments(workspace, current.plan, sensitivity, tries, current.locked)
    start_job(f"Refining of {current.plan.name}", wanted)


def _ended(workspace: Workspace, current: state.Tuning, job: Job) -> None:
    if job.state == "failed":
        st.error(plain(job.error or "Refining failed."), icon=":material/error:")
    elif job.state == "cancelled":
        st.caption("Cancelled. What was measured is kept: start again to go on from there.")
    elif job.result:
        _result(workspace, current, job.result)


def _result(workspace: Workspace, current: state.Tuning, document: dict[str, Any]) -> None:
    refined = document["refine"]
    if better(refined):
        st.html(_table(workspace, refined))
    st.caption(plain(verdict(workspace, refined)))
    if better(refined):
        st.caption(plain(f"Bits: {', '.join(changes(refined))}."))
    use, save = st.columns([3, 2], vertical_alignment="center", gap="small")
    end = refined["end"]["plan_digest"]
    if better(refined):
        taken = current.plan.digest == end
        if pressed(
            use.button, "This plan is in use" if taken else "Use this plan", icon=":material/check:", width="stretch",
            disabled=taken, key="use-refined",
        ):  # fmt: skip
            plan = parse_plan(document["plan"], sites_of(workspace.checkpoint.config), "the refined plan")
            state.change(current, plan)
            current.allocated.add(plan.digest)
            st.rerun()
    save.download_button(
        "Tries as CSV", tries_csv(refined), "tries.csv", "text/csv", icon=":material/download:", type="tertiary",
        on_click="ignore", key="csv-tries",
    )  # fmt: skip


def _table(workspace: Workspace, refined: dict[str, Any]) -> str:
    """Before and after, on the examples that did not choose, as HTML."""
    metric, words = workspace.task.metric, WORDS[workspace.task.name]
    sides = [refined["start"], refined["end"]]
    told = [side["report"] for side in sides]
    rows = [
        (words.metric, [fmt_percent(found["metrics"][metric]) for found in told]),
        ("95 %", [fmt_interval(*found["interval"]) for found in told]),
        ("Loss, nats", [fmt_loss(found["loss"]) for found in told]),
        ("Size", [fmt_mb(side["size_mb"]) for side in sides]),
    ]
    head = f"<th>On {fmt_count(refined['n_report'])} other {words.many}</th><th>Before</th><th>After</th>"
    body = "".join(
        f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in own)}</tr>" for name, own in rows
    )
    return f"{STYLE}<table class=refined><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
