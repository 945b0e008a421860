"""Bits: give every layer its bits and see at once what it costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import streamlit as st
from plotly.graph_objects import Figure

from app import runs, selection, state
from app.cards import Card, cards
from app.figures import (
    PlanPoint,
    alt_text,
    chart_config,
    fmt_count,
    fmt_interval,
    fmt_kl,
    fmt_mb,
    fmt_percent,
    fmt_ratio,
    fmt_signed_points,
    kl_heatmap,
    size_accuracy_scatter,
)
from app.kept import drawn, outlined
from app.measured import Measured, measured, measured_words, want
from app.plain import plain
from app.plantable import Edit, new_edits, plan_table, sent_edits
from app.polling import draw_until, part
from app.presses import once, pressed
from app.registries import live
from app.sessionjobs import own_jobs
from app.sweeps import finished_sensitivity
from app.table import BIT_CHOICES, edited_locks, edited_plan, embedding_rows, everywhere, layer_rows
from app.views.budget import budget_panel
from app.views.refine import refine_panel
from app.views.sites import drawers_for_link, sites_panel
from app.waiting import loaded_workspace
from app.words import WORDS
from app.workspace import Workspace
from qbert_core.errors import InputError
from qbert_core.evaluation import Evaluation
from qbert_core.quantization import Plan, fp32_size, sites_of
from qbert_core.quantization.plan import FULL

POLL = 0.15  # seconds between looks at the plan's evaluation, while it runs
# How long such a look waits, for the first numbers or for the last: those in between come at this pace. The
# browser takes as long to show any as the engine to measure a tenth of them, on the same cores.
LOOK = 0.3
HEATMAP_PACE = 1.0  # seconds
POLL_PRESETS = 1.0  # seconds between looks at the presets, while they are measured
FIRST_LOOK = 0.18  # how long a page waits for the first numbers before it draws the old ones as outdated
OWN = "by hand"


def page() -> None:
    st.title("Bits")
    workspace = loaded_workspace()
    if workspace is None:
        return
    current = state.tuning(workspace)
    _take(sent_edits(), workspace, current)  # what a run that was stopped in its callback has left
    _say_refused(current)
    want(workspace, current.plan)  # first: it is measured while the tables are drawn
    left, right = st.columns([37, 63], gap="medium")
    state.write_link(current, **drawers_for_link(workspace, current))
    with right:  # first: people wait for the numbers, and know what they edited
        _live(workspace, current)
    with left:
        _edit(workspace, current)
        budget_panel(workspace, current)
        _everywhere(workspace, current)
        refine_panel(workspace, current)
    sites_panel(workspace, current)


def _edit(workspace: Workspace, current: state.Tuning) -> None:
    sites = sites_of(workspace.checkpoint.config)
    presets = {plan.name: plan for plan in workspace.presets}
    # a plan that is no preset stands below them under its own name
    own = current.plan.name if current.plan.name not in presets else OWN
    matching = next((p.name for p in workspace.presets if p.digest == current.plan.digest), own)
    version = current.version
    options = [*presets, *([] if matching in presets else [own])]
    key = f"preset-{version}-{matching}"

    def stale() -> bool:
        """Whether a callback comes from widgets that were replaced: while it polls, the browser may send
        the old ones' values once more, and the server takes them for new."""
        return current.version != version

    def choose() -> None:
        name = st.session_state[key]
        if name in presets and name != matching and not stale():
            state.change(current, presets[name])

    pick, undo, redo, reset = st.columns([4, 1, 1, 1], vertical_alignment="bottom", gap="small")
    pick.selectbox("Start from", options, index=options.index(matching), key=key, on_change=choose)
    undo.button(
        "Undo", icon=":material/undo:", help="Undo", key="undo", width="stretch",
        disabled=not current.undo, on_click=once(state.step_back), args=(current,),
    )  # fmt: skip
    redo.button(
        "Redo", icon=":material/redo:", help="Redo", key="redo", width="stretch",
        disabled=not current.redo, on_click=once(state.step_forward), args=(current,),
    )  # fmt: skip
    reset.button(
        "Reset", icon=":material/restart_alt:", help=f"Back to {workspace.start.name}", key="reset",
        width="stretch", on_click=state.change, args=(current, workspace.start),
    )  # fmt: skip

    sensitivity = finished_sensitivity(workspace, own_jobs())
    plan_table(
        layer_rows(current.plan, sites, current.locked),
        embedding_rows(current.plan, sites),
        token=_token(workspace),
        seen=current.seen,
        marked=selection.chosen(),
        omegas=_omegas(sensitivity),
        dark=state.dark(),
        on_edits=lambda sent: _take(sent, workspace, current),
    )


def _omegas(sensitivity: dict[str, Any] | None) -> dict[int, float]:
    """Layer -> Omega, of an analysis of layers; embedding tables are no layer."""
    blocks = sensitivity["blocks"] if sensitivity else ()
    return {block["layer"]: block["omega"] for block in blocks if block["kind"] == "layer"}


def _take(sent: object, workspace: Workspace, current: state.Tuning) -> None:
    """Do what a person did in the tables, one thing after the other, on the plan as it is by now."""
    token = _token(workspace)
    with current.lock:
        for edit in new_edits(sent, token, current.seen):
            try:
                _do(edit, workspace, current)
            except InputError as error:
                current.refused.append(str(error))
            current.seen = edit.number


def _say_refused(current: state.Tuning) -> None:
    """Say what is wrong with edits that were refused; a run that is stopped here leaves it to the next."""
    with current.lock:
        while current.refused:
            st.toast(plain(current.refused[0]), icon=":material/error:")
            del current.refused[0]


def _token(workspace: Workspace) -> str:
    return f"{state.session()} {workspace.key}"


def _do(edit: Edit, workspace: Workspace, current: state.Tuning) -> None:
    """Raises `InputError` for a value no plan can have."""
    config = workspace.checkpoint.config
    sites, cell = sites_of(config), {edit.row: {edit.column: edit.value}}
    rows = config.layers if edit.kind == "layer" else sum(site.layer is None for site in sites)
    if edit.kind == "undo":
        state.step_back(current)
    elif edit.kind == "redo":
        state.step_forward(current)
    elif edit.row >= rows:
        return
    elif edit.column == "Layer":
        selection.choose(edit.row if edit.value else None)
    elif edit.column == "Lock":
        current.locked = edited_locks(current.locked, cell)
    else:
        layers, tables = (cell, {}) if edit.kind == "layer" else ({}, cell)
        plan = edited_plan(current.plan, sites, layers, tables)
        state.change(current, _named(plan, workspace), by_cell=True)


def _everywhere(workspace: Workspace, current: state.Tuning) -> None:
    """What concerns every layer at once."""
    version, sites = current.version, sites_of(workspace.checkpoint.config)

    def set_activation() -> None:
        if current.version != version:  # from widgets that were replaced
            return
        chosen = st.session_state[activation_key]
        plan = replace(current.plan, activation_bits=8 if chosen == "8 bits" else FULL)
        state.change(current, _named(plan, workspace))

    activation_key = f"activation-{version}"
    precision, every = st.columns([1, 1], vertical_alignment="bottom", gap="small")
    precision.segmented_control(
        "Activations",
        ["8 bits", "fp32"],
        default="8 bits" if current.plan.activation_bits == 8 else "fp32",
        required=True,
        key=activation_key,
        on_change=set_activation,
        help="Precision of what flows into every quantized linear layer; ranges calibrated once with fp32",
    )
    with (
        every.popover("Set all layers", icon=":material/select_all:", width="stretch"),
        st.form("all-form", border=False),
    ):
        chosen = st.select_slider("Bits", BIT_CHOICES, "4")
        count = st.number_input("Groups", 1, 65536, 128)
        if pressed(st.form_submit_button, "Apply", width="stretch", key="all-apply"):
            wanted = FULL if chosen == BIT_CHOICES[-1] else int(chosen)
            free = [site for site in sites if site.layer not in current.locked]
            state.change(current, _named(everywhere(current.plan, free, wanted, int(count)), workspace))
            st.rerun()


def _named(plan: Plan, workspace: Workspace) -> Plan:
    """The preset's name where the plan is one, else `by hand`."""
    name = next((p.name for p in workspace.presets if p.digest == plan.digest), OWN)
    return replace(plan, name=name)


def _live(workspace: Workspace, current: state.Tuning) -> None:
    """The numbers of the plan and the plans beside it: two fragments, because a session looks at the one
    often while it waits for an edit's numbers, and at the other seldom, while presets are measured."""
    plan = current.plan
    live().wait(workspace, plan, more_than=0, timeout=FIRST_LOOK)
    running = not live().settled(workspace, plan)
    last, looked, run = not running, False, runs.this_run()

    def numbers() -> None:
        nonlocal last, looked
        # the last numbers did not wait for the whole page, and those of another run's plan are not shown at all
        if runs.part_alone() and ((running and last) or runs.replaced(run)):
            st.rerun()
        if running and looked:
            known = live().result(workspace, plan)
            live().wait(workspace, plan, more_than=known.total - 1 if known else 0, timeout=LOOK)
        last = live().settled(workspace, plan)
        _numbers(workspace, plan, again=running and not looked)
        looked = True

    part(numbers, POLL if running else None)
    draw_until(
        lambda: all(live().settled(workspace, preset) for preset in workspace.presets),
        lambda: _scatter(workspace, current),
        POLL_PRESETS,
    )


def _numbers(workspace: Workspace, plan: Plan, *, again: bool) -> None:
    """Cards and heatmap; `again`: the heatmap as it was, for a moment. The browser shows what came together
    at once, and a chart that changed takes it longer than all numbers."""
    now = measured(workspace, plan)
    if now.error:
        st.error(plain(now.error), icon=":material/error:")
    st.html(_cards(workspace, now))
    shown: Figure | None = st.session_state.get("kl-shown")
    figure = shown if again and shown else _heatmap(workspace, now.result, now.outdated)
    st.session_state["kl-shown"] = figure
    st.markdown("## Attention KL from fp32, by layer and head: click marks a layer")
    with outlined("kl", figure):
        st.plotly_chart(
            figure, theme=None, config=chart_config("attention-kl"), alt=alt_text(figure), key="kl",
            on_select=selection.on_click("kl"), selection_mode="points",
        )  # fmt: skip


def _heatmap(workspace: Workspace, shown: Evaluation | None, outdated: bool) -> Figure:
    """Drawn with the first numbers of a plan, with the last, and now and then in between: the browser builds a
    chart that changed anew, which takes it as long as several batches take the engine on the same cores."""
    dark = state.dark()
    if shown is None:
        return drawn("kl", dark, lambda: kl_heatmap((), dark=dark))
    kl, age = shown.attention_kl or (), int(shown.seconds / HEATMAP_PACE)
    content = (workspace.key, shown.plan.digest, shown.complete, age, outdated, dark)
    return drawn("kl", content, lambda: kl_heatmap(kl, dark=dark, outdated=outdated))


def _cards(workspace: Workspace, now: Measured) -> str:
    result, said = now.result, measured_words(workspace, now)
    full = fp32_size(workspace.checkpoint.config)["total"]
    words = WORDS[workspace.task.name]
    if result is None:
        empty = [
            Card(label, "\N{EN DASH}", ("", ""))
            for label in (words.metric, "Size", "Effective bits", "Attention KL")
        ]
        return cards(empty, outdated=True, state=said, plan="", n=0)
    metric = workspace.task.metric
    value, base = result.score.metrics[metric], result.baseline.metrics[metric]
    low, high = result.score.interval
    kl = [v for row in result.attention_kl or () for v in row]
    worse = sum(f.was_right and not f.is_right for f in result.flips)
    better = sum(f.is_right and not f.was_right for f in result.flips)
    if result.complete and not now.outdated:
        said += f"; {worse} became wrong, {better} became right"
    items = [
        Card(
            words.metric,
            fmt_percent(value),
            (
                f"fp32 {fmt_percent(base)}, {fmt_signed_points(value - base)}",
                f"95 %: {fmt_interval(low, high)}",
                f"n = {fmt_count(result.n)}",
            ),
        ),
        Card(
            "Size",
            fmt_mb(result.size.size_mb),
            (f"{fmt_ratio(result.size.compression)} smaller", f"fp32 {fmt_mb(full)}", "ranges included"),
        ),
        Card(
            "Effective bits",
            f"{result.size.effective_bits:.2f}",
            ("stored bits a weight,", "embeddings and", "ranges included"),
        ),
        Card(
            "Attention KL",
            fmt_kl(sum(kl) / len(kl) if kl else None),
            ("nats, mean of heads", f"worst head {fmt_kl(max(kl))}" if kl else ""),
        ),
    ]
    return cards(items, outdated=now.outdated, state=said, plan=result.plan.digest, n=result.n)


def _scatter(workspace: Workspace, current: state.Tuning) -> None:
    dark = state.dark()
    points = _points(workspace, current)
    baseline = live().result(workspace, workspace.baseline)
    if baseline is None or not points:
        return
    metric = workspace.task.metric
    value, size = baseline.score.metrics[metric], baseline.size.size_mb
    if live().settled(workspace, current.plan):  # until then the mark stays where it was
        st.session_state["marked"] = current.plan.digest
    now = st.session_state.get("marked")
    figure = drawn(
        "scatter",
        (tuple(points), value, size, now, dark),
        lambda: size_accuracy_scatter(
            points,
            metric_label=WORDS[workspace.task.name].metric,
            baseline_metric=value,
            baseline_size_mb=size,
            current=now,
            dark=dark,
            size_scale="log",
        ),
    )
    st.markdown("## Every plan tried: click one to restore it")

    def restore() -> None:
        chosen = st.session_state["scatter"]["selection"]["points"]
        if not chosen or not chosen[0].get("customdata"):
            return
        digest = chosen[0]["customdata"][0]
        plan = current.tried.get(digest) or next((p for p in workspace.presets if p.digest == digest), None)
        if plan is not None and digest != current.plan.digest:
            state.change(current, plan)
            st.session_state["restored"] = True

    st.plotly_chart(
        figure, theme=None, config=chart_config("size-accuracy"), alt=alt_text(figure), key="scatter",
        on_select=restore, selection_mode="points",
    )  # fmt: skip
    if st.session_state.pop("restored", False):
        st.rerun()


def _points(workspace: Workspace, current: state.Tuning) -> list[PlanPoint]:
    metric = workspace.task.metric
    preset_digests = {plan.digest for plan in workspace.presets}
    plans: dict[str, Any] = {plan.digest: plan for plan in workspace.presets} | current.tried
    points = []
    for digest, plan in plans.items():
        result = live().result(workspace, plan)
        if result is None or not result.complete:
            continue  # the browser builds a chart that changed anew: once a plan, not once a batch
        kind = "hand"
        if digest == workspace.baseline.digest:
            kind = "baseline"
        elif digest in preset_digests:
            kind = "preset"
        elif digest in current.allocated:
            kind = "allocated"
        low, high = result.score.interval
        points.append(
            PlanPoint(
                digest,
                plan.name,
                result.size.size_mb,
                result.score.metrics[metric],
                low,
                high,
                result.n,
                kind=kind,
            )
        )
    return points
