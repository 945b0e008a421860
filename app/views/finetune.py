"""Finetune: train the model for the current plan's bits, or a model in full precision; watch it, and compare."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import streamlit as st

from app import state
from app.cards import Card, cards
from app.figures import (
    empty_figure,
    epoch_metric,
    fmt_count,
    fmt_interval,
    fmt_loss,
    fmt_percent,
    fmt_ratio,
    fmt_signed_points,
    loss_curve,
)
from app.going import go_to
from app.jobs import Job
from app.jobwords import fmt_seconds, share_done, start_words
from app.kept import show_kept
from app.plain import plain
from app.planfiles import write_plan
from app.presses import pressed
from app.registries import jobs
from app.sessionjobs import cancel_button, follow, own_jobs, start_button, start_job
from app.trainingdata import check_training_data, training_data_input
from app.trainings import Settings, Stopped, arguments, finished, joined, save_folder, stopped_at
from app.waiting import loaded_workspace
from app.words import BANDS, WORDS, quoted
from app.words import epochs as epochs_words
from app.workspace import MAX_ROWS, Source, Workspace
from qbert_core.errors import InputError
from qbert_core.quantization import Plan, plan_size, sites_of
from qbert_core.quantization.plan import parse_plan
from qbert_core.tasks import Task, task_named
from qbert_core.training import recipe_for
from qbert_core.training.layout import REPORT

AWARE, FULL = "quantization-aware for the current plan", "full precision"
MODES = (AWARE, FULL)

STYLE = "<style>.st-key-finetune-status{min-height:2.6rem;justify-content:center}</style>"


def page() -> None:
    st.title("Finetune")
    st.html(STYLE)
    workspace = loaded_workspace()
    if workspace is None:
        return
    state.write_link(state.tuning(workspace))  # a reload finds model, data and plan again
    settings = _controls(workspace)
    folder = save_folder(workspace, settings, date.today())
    wanted = arguments(workspace, settings, folder)
    job = _shown(wanted, folder)
    _start_or_cancel(workspace, settings, folder, wanted, job)

    def draw() -> None:
        shown = folder if job is None else Path(job.option("--save"))
        with st.container(key="finetune-status"):  # there even when empty: what is below must not jump
            _status(job, shown, wanted)
        _results(workspace, settings, job, shown)

    follow([job], draw)


def _controls(workspace: Workspace) -> Settings:
    """What to train, on what and how; the paper's recipe for the task unless changed."""
    mode = st.segmented_control(
        "What is trained", MODES, default=AWARE, required=True, key="finetune-mode", persist_state="session",
        label_visibility="collapsed",
    )  # fmt: skip
    quantized = mode == AWARE
    base, task, measured = workspace.source.model, workspace.task.name, workspace.source.data
    plan = state.tuning(workspace).plan
    if quantized:
        size = plan_size(workspace.checkpoint.config, plan)
        st.caption(
            f"For the session's plan {quoted(plan.name)} (page *Bits*): {size.effective_bits:.2f} effective bits, "
            f"{fmt_ratio(size.compression)} smaller. Every step runs the quantized model."
        )
    else:
        st.caption(
            "The base's encoder, with a new head for the task, in fp32: a model whose bits can then be tuned here."
        )
        base, task, measured = _base(workspace)
    recipe = recipe_for(task, quantized=quantized)
    kind = task if quantized else f"{task}-full"
    data, rows, epochs, rate, batch, seed = st.columns(
        [3, 1.5, 1.1, 1.5, 1.2, 1.1], vertical_alignment="bottom", gap="small"
    )
    train = training_data_input(data, workspace)
    limit = rows.number_input(
        "First rows", 1, MAX_ROWS, None, placeholder="all", key="finetune-rows", persist_state="session",
        help="Of the training data; empty: all. Measured is on all rows of the data to measure on.",
    )  # fmt: skip
    count = epochs.number_input(
        "Epochs", 1, 1000, recipe.epochs, key=f"finetune-epochs-{kind}", persist_state="session",
        help=f"The paper's for this task: {recipe.epochs}",
    )  # fmt: skip
    lr = rate.number_input(
        "Learning rate", 0.0, 1.0, recipe.lr, format="%.1e", step=1e-6, key=f"finetune-lr-{kind}",
        persist_state="session", help=f"At its peak, after the warm-up. The paper's for this task: {recipe.lr:g}",
    )  # fmt: skip
    size = batch.number_input(
        "Batch size", 1, 4096, recipe.batch_size, key=f"finetune-batch-{kind}", persist_state="session",
        help=f"The paper's for this task: {recipe.batch_size}",
    )  # fmt: skip
    start = seed.number_input("Seed", 0, 2**31, 0, key="finetune-seed", persist_state="session")
    return Settings(
        plan if quantized else None, train, limit and int(limit), int(count), float(lr), int(size), int(start),
        base, task, measured,
    )  # fmt: skip


def _base(workspace: Workspace) -> tuple[str, str, str]:
    """What is trained in full precision, for which task, and what it is measured on."""
    model, what, where = st.columns([3, 2.6, 3.8], vertical_alignment="bottom", gap="small")
    base = model.text_input(
        "Base", workspace.source.model, key=f"finetune-base-{workspace.key}", persist_state="session",
        help="demo, a folder on this machine, or a hub id like bert-base-uncased's google-bert/bert-base-uncased. "
        "At first the loaded model: its encoder, not its head.",
    )  # fmt: skip
    task = what.selectbox(
        "Task", list(WORDS), index=list(WORDS).index(workspace.task.name), key="finetune-task",
        persist_state="session", format_func=lambda name: WORDS[name].title,
        help="Columns the data need:\n\n" + "\n\n".join(f"{w.title}: {w.columns}" for w in WORDS.values()),
    )  # fmt: skip
    same = task == workspace.task.name
    measured = where.text_input(
        "Measured on", workspace.source.data if same else "", key=f"finetune-data-{task}",
        persist_state="session", placeholder="a .parquet .csv .json file",
        help="A file with the task's columns, or hub:NAME[/CONFIG]:SPLIT; not the data it is trained on",
    )  # fmt: skip
    return base.strip(), str(task), measured.strip()


def _start_or_cancel(
    workspace: Workspace, settings: Settings, folder: Path, wanted: list[str], job: Job | None
) -> None:
    label, where, go = st.columns([0.7, 4.6, 1.4], vertical_alignment="center", gap="small")
    shown = folder if job is None or not job.active else Path(job.option("--save"))
    label.caption("Saved in")
    with where:
        st.code(str(shown), language=None, wrap_lines=True)
    if job and job.active:
        cancel_button(go, job, "finetune")
    elif start_button(go, "finetune"):
        _start(workspace, settings, wanted)


def _start(workspace: Workspace, settings: Settings, wanted: list[str]) -> None:
    try:
        task = task_named(settings.task)
        check_training_data(task, settings.train)
        if settings.plan is None:
            _check_base(task, settings)
        elif not any(entry.quantized for entry in settings.plan.sites.values()):
            raise InputError("This plan quantizes nothing: choose bits below fp32 on the page Bits first.")
        elif settings.plan.digest not in {plan.digest for plan in workspace.presets}:
            write_plan(settings.plan)
    except InputError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return
    except OSError as error:
        st.error(f"The plan could not be written for the job: {plain(str(error.strerror))}.")
        return
    st.session_state["train"] = settings.train
    what = settings.plan.name if settings.plan else f"{Path(settings.base).name} for {settings.task}"
    start_job(f"Finetune {what}", wanted)


def _check_base(task: Task, settings: Settings) -> None:
    """Raise `InputError` for what would make a training in full precision fail after seconds of loading."""
    if not settings.base:
        raise InputError("Give the base to train: a folder, a hub id like owner/name, or demo.")
    if not settings.data:
        raise InputError(f"Give the data to measure on: a file with the columns {', '.join(task.columns)}.")
    check_training_data(task, settings.data)


def _shown(wanted: list[str], folder: Path) -> Job | None:
    """The job with these arguments, else one of this model that is under way, else the newest of its kind that
    came to its end: a reload forgets the settings, and must not seem to have lost the training."""
    same = [job for job in own_jobs() if job.arguments[:2] == tuple(wanted[:2])]
    active = (job for job in same if job.active)
    ended = (j for j in same if j.state == "done" and ("--plan" in j.arguments) == ("--plan" in wanted))
    job = jobs().latest(wanted) or next(active, None)
    if job is None and not finished(folder) and stopped_at(folder) is None:
        job = next(ended, None)
    return job


def _status(job: Job | None, folder: Path, wanted: list[str]) -> None:
    """How far the training is, what went wrong, and where the next Start would begin."""
    if job is not None and job.arguments != tuple(wanted):
        which = "training under way" if job.active else "newest training that came to its end"
        st.caption(f"Shown below: the {which}, *{plain(job.name)}*. It has other settings than those above.")
    if job is not None and job.state == "failed":
        st.error(plain(job.error or "The training failed."), icon=":material/error:")
    if job is not None and job.active:
        st.progress(share_done(job), text=_progress(job))
        return
    stopped = stopped_at(folder)
    if stopped is not None:
        was = f"Cancelled at step {job.done} of {job.total}. " if job and job.state == "cancelled" else ""
        st.info(
            f"{was}A training with these settings was stopped; its last state on disk is that after step "
            f"{stopped.step} (epoch {stopped.epoch:.1f}). Start goes on from there."
        )
    elif job is not None and job.state == "cancelled":
        st.info(
            f"Cancelled at step {job.done} of {job.total}, before the first state was written (there is one a "
            "minute and one an epoch): Start begins anew."
            if job.total
            else "Cancelled before the first step."
        )
    elif job is not None and job.state == "done":
        st.caption(
            f"Finished: {epochs_words(int(job.option('--epochs')))} in {fmt_seconds(job.result['seconds'])}, saved "
            + ("in the folder above." if job.arguments == tuple(wanted) else f"in {plain(str(folder))}.")
        )
    elif job is None and finished(folder):
        st.caption("These settings were trained before: below is what came of it. Start trains them again.")


def _progress(job: Job) -> str:
    point = job.partial
    if job.state == "waiting":
        return start_words(job)
    if not point:
        before = ", and measuring the plan before finetuning …" if "--plan" in job.arguments else " …"
        return f"Loading model and data{before}"
    text = f"Step {job.done} of {job.total}, epoch {point['epoch']:.2f} of {job.option('--epochs')}, "
    text += f"loss {fmt_loss(point['loss'])}"
    left = point["eta_seconds"]
    if left > 0:
        text += f", about {fmt_seconds(left)} to go"
    return text


def _results(workspace: Workspace, settings: Settings, job: Job | None, folder: Path) -> None:
    report = (job.result if job is not None else finished(folder)) or None
    epochs, lr = settings.epochs, settings.lr
    task, quantized = task_named(settings.task), settings.plan is not None
    if job is not None:
        epochs, lr = int(job.option("--epochs")), float(job.option("--lr"))
        task, quantized = task_named(job.option("--task")), "--plan" in job.arguments
    points = _points(job, report, stopped_at(folder))
    metric, label = task.metric, WORDS[task.name].metric
    before = report["before"][metric] if report and "before" in report else None
    fp32 = report["baseline"][metric] if report and "baseline" in report else None
    dark = state.dark()
    waiting = job is not None and job.active and not points
    left, right = st.columns(2, gap="medium")
    with left:
        show_kept(
            "training-loss", (points, epochs, lr, waiting, quantized, dark),
            lambda: empty_figure("The first point of the curve will be drawn here.", dark=dark, height=310)
            if waiting
            else loss_curve(
                points, epochs=epochs, lr=lr, trained="quantized model" if quantized else "fp32", dark=dark
            ),
        )  # fmt: skip
    with right:
        show_kept(
            "training-metric",
            ([p for p in points if metric in p], epochs, metric, before, fp32, quantized, dark),
            lambda: epoch_metric(
                points, epochs=epochs, metric=metric, metric_label=label, before=before, fp32=fp32,
                band=BANDS[task.name], trained="plan" if quantized else "model", dark=dark,
            ),
        )  # fmt: skip
    if report and "before" in report:
        _outcome(workspace, report, folder)
    elif report:
        _outcome_full(task, report, folder)


def _points(
    job: Job | None, report: dict[str, Any] | None, stopped: Stopped | None
) -> list[dict[str, float]]:
    """The whole curve: what a finished training says, else the state on disk and what came since."""
    if report:
        return list(report["curve"])
    return joined(stopped.curve if stopped else (), job.points if job is not None else ())


def _outcome(workspace: Workspace, report: dict[str, Any], folder: Path) -> None:
    """fp32, before and after, on the same examples; and the way to go on with the finetuned model."""
    words = WORDS[workspace.task.name]
    metric, n = workspace.task.metric, f"n = {fmt_count(report['n'])}"
    fp32, before, after = (report[k].get(metric) for k in ("baseline", "before", "metrics"))
    lost, back = fp32 - before, after - before
    share = f"of {fmt_signed_points(-lost)} by quantizing" if lost > 0 else "nothing was lost by quantizing"
    others = [name for name in report["metrics"] if name != metric]
    items = [
        Card(
            f"{words.metric}, fp32",
            fmt_percent(fp32),
            (f"95 %: {fmt_interval(*report['baseline']['interval'])}", n),
        ),
        Card(
            "Plan, before", fmt_percent(before), (f"95 %: {fmt_interval(*report['before']['interval'])}", n)
        ),
        Card(
            "Plan, finetuned",
            fmt_percent(after),
            (
                f"95 %: {fmt_interval(*report['interval'])}",
                n,
                *(f"{name.replace('_', ' ')} {fmt_percent(report['metrics'][name])}" for name in others),
            ),
        ),
        Card("Finetuning changed", fmt_signed_points(back), (share, f"in {fmt_seconds(report['seconds'])}")),
    ]
    said = (
        f"{report['plan']['name']}: measured on all {fmt_count(report['n'])} {words.many} of the data, "
        f"finetuned on {fmt_count(report['train']['examples'])}"
    )
    st.html(cards(items, outdated=False, state=said, plan=report["plan_digest"], n=report["n"]))
    plan = parse_plan(report["plan"], sites_of(workspace.checkpoint.config), REPORT)
    _work_with(
        replace(workspace.source, model=str(folder)), plan,
        "Loads it in place of this model, with its plan and the activation ranges it was trained with. Its fp32 "
        "numbers are then those of the trained weights.",
    )  # fmt: skip


def _outcome_full(task: Task, report: dict[str, Any], folder: Path) -> None:
    """What a training in full precision came to."""
    words = WORDS[task.name]
    others = [
        f"{name.replace('_', ' ')} {fmt_percent(value)}"
        for name, value in report["metrics"].items()
        if name != task.metric
    ]
    interval = f"95 %: {fmt_interval(*report['interval'])}"
    trained = epochs_words(report["epochs"])
    items = [
        Card(
            f"{words.metric}, finetuned",
            fmt_percent(report["metrics"][task.metric]),
            (interval, f"n = {fmt_count(report['n'])}", *others),
        ),
        Card(
            "Trained for",
            trained,
            (
                f"{fmt_count(report['train']['examples'])} {words.many}",
                f"in {fmt_seconds(report['seconds'])}",
            ),
        ),
    ]
    said = (
        f"Full precision: measured on {fmt_count(report['n'])} {words.many}, "
        f"finetuned on {fmt_count(report['train']['examples'])}"
    )
    st.html(cards(items, outdated=False, state=said, plan="", n=report["n"]))
    _work_with(
        Source(str(folder), report["data"]["source"], task=task.name), None,
        "Loads it in place of this model, with the data it was measured on, to tune its bits.",
    )  # fmt: skip


def _work_with(source: Source, plan: Plan | None, note: str) -> None:
    """The way to go on with what was trained."""
    go, said = st.columns([2, 5], vertical_alignment="center", gap="small")
    if pressed(
        go.button, "Work with the finetuned model", icon=":material/model_training:", width="stretch",
        key="use-finetuned", disabled=not Path(source.model).is_dir(),
    ):  # fmt: skip
        state.work_with(source, plan)
        go_to("bits")
    said.caption(note)
