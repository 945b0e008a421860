"""Compare: the paper's tables measured on the model at hand, row by row, with what the paper reports beside."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st
from plotly.graph_objects import Figure

from app import selection, state
from app.figures import (
    ROW,
    LayerKL,
    empty_figure,
    fmt_count,
    fmt_interval,
    fmt_kl,
    fmt_mb,
    fmt_percent,
    fmt_points_interval,
    fmt_ratio,
    fmt_signed_points,
    group_count_marks,
    kl_by_layer,
    part_bars,
    row_key,
    setting_marks,
)
from app.going import go_to
from app.jobs import Job
from app.jobwords import fmt_seconds, sensitivity_first, start_words, under_way
from app.kept import show_kept
from app.plain import plain
from app.presses import pressed
from app.registries import jobs
from app.reported import GROUPS, METHODS, METRICS, TEXTS, ReportedRow
from app.sessionjobs import cancel_button, follow, own_jobs, start_button, start_job
from app.sweeps import (
    Experiment,
    Settings,
    Training,
    arguments,
    check,
    counts_drawn,
    finished_sensitivity,
    plans_by_digest,
    rows_csv,
    seconds_left,
    write_files,
)
from app.tables import marked_rows, number_columns
from app.trainingdata import training_data_input
from app.waiting import loaded_workspace
from app.words import BANDS, WORDS, epochs, quoted
from app.workspace import MAX_ROWS, Workspace
from qbert_core.cli.sweep import SWEEP_EXAMPLES, SWEEP_RUNS
from qbert_core.errors import InputError
from qbert_core.quantization import Plan
from qbert_core.training import recipe_for

TABS: dict[str, Experiment] = {
    "Methods": "methods",
    "Groups": "groups",
    "Modules and embeddings": "modules",
    "One at a time": "one-at-a-time",
}
SAID: dict[Experiment, str] = {
    "methods": "Table 1: one range a matrix (DirectQ), 128 groups (Q-BERT), and mixed widths by Ω, by |mean λ|, "
    "by the smallest Ω (control), at the paper's layers.",
    "groups": "Table 2: the same bits with more and more ranges a matrix.",
    "modules": "Table 3: one kind of module quantized with 128 groups, all else in fp32.",
    "one-at-a-time": "Every layer and table quantized alone, and everything quantized but that one.",
}
CURRENT = "current plan"
BITS_OF: dict[Experiment, str] = {"groups": "qbert-4", "one-at-a-time": "qbert-2"}
KL_BITS = (8, 4, 3, 2)
METHOD_PAIR = {"Q-BERT": "qbert", "DirectQ": "directq"}
NO_ATTENTION = "Attention KL by layer appears here when every row above is measured."
TABLE_ROWS = 14  # more scroll


STYLE = "<style>.st-key-compare-status{min-height:3.1rem;justify-content:center}</style>"


def page() -> None:
    st.title("Compare")
    st.html(STYLE)
    workspace = loaded_workspace()
    if workspace is None:
        return
    state.write_link(state.tuning(workspace))  # a reload finds model, data and plan again
    train, limit, training = _shared_controls(workspace)
    for tab, experiment in zip(
        st.tabs(list(TABS), key="compare-tab", on_change="rerun"), TABS.values(), strict=True
    ):
        if tab.open:
            with tab:
                _experiment(workspace, experiment, train, limit, training)
    state.write_link(state.tuning(workspace))


def _shared_controls(workspace: Workspace) -> tuple[str, int, Training | None]:
    """Training data, rows and finetuning: the same for every experiment."""
    data, rows, on, passes, seeds = st.columns(
        [3, 1.4, 1.9, 1.2, 1.3], vertical_alignment="bottom", gap="small"
    )
    purpose = "For activation ranges, for finetuning, and for a sensitivity where none is there yet. "
    train = training_data_input(data, workspace, purpose)
    limit = rows.number_input(
        "First rows", 1, MAX_ROWS, workspace.source.limit, key="compare-rows", persist_state="session",
        help="Of the data every plan is measured on, and of the training data",
    )  # fmt: skip
    tune = on.toggle(
        "Finetune them, too", key="compare-finetune", persist_state="session",
        help="After all plans are measured as they are, each is trained for its bits and measured again",
    )  # fmt: skip
    count = passes.number_input(
        "Epochs", 1, 100, recipe_for(workspace.task.name, quantized=True).epochs, disabled=not tune,
        key=f"compare-epochs-{workspace.task.name}", persist_state="session",
    )  # fmt: skip
    numbers = seeds.text_input(
        "Seeds", "0", disabled=not tune, key="compare-seeds", persist_state="session",
        help="A finetuning each, like 0,1,2",
    )  # fmt: skip
    return train, int(limit), Training(int(count), numbers.replace(" ", "")) if tune else None


def _experiment(
    workspace: Workspace, experiment: Experiment, train: str, limit: int, training: Training | None
) -> None:
    st.caption(SAID[experiment])
    settings, wanted, job = _controls(workspace, experiment, train, limit, training)

    def draw() -> None:
        with st.container(key="compare-status"):  # there even when empty: what is below must not jump
            _status(workspace, job, wanted)
        _results(workspace, settings, job)

    follow([job], draw)


def _controls(
    workspace: Workspace, experiment: Experiment, train: str, limit: int, training: Training | None
) -> tuple[Settings, list[str], Job | None]:
    """The experiment's own settings, Start and Cancel. Returns what is asked for, as settings and as the
    command, and the job to show."""
    own, go = st.columns([6, 1.4], vertical_alignment="bottom", gap="small")
    with own:
        settings = _own_settings(workspace, experiment, train, limit, training)
    wanted = arguments(workspace, settings)
    job = _shown(wanted)
    if job and job.active:
        cancel_button(go, job, experiment)
    elif start_button(go, experiment):
        _start(workspace, settings, wanted)
    return settings, wanted, job


def _own_settings(
    workspace: Workspace, experiment: Experiment, train: str, limit: int, training: Training | None
) -> Settings:
    settings = Settings(experiment, train, limit, training)
    if experiment == "methods":
        return _methods_settings(workspace, settings)
    if experiment == "modules":
        st.caption(
            "Tables at 8, 4 and 2 bits with the encoder in fp32; self-attention and feed-forward at 8, 4, 3, 2 and "
            "1/2 bits mixed, with 8-bit inputs and the tables in fp32."
        )
        return settings
    bits, counts, _ = st.columns([2, 3, 1], vertical_alignment="bottom", gap="small")
    presets = {plan.name: plan for plan in workspace.presets[1:]}
    choices = [BITS_OF[experiment], CURRENT, *(name for name in presets if name != BITS_OF[experiment])]
    chosen = bits.selectbox(
        "Bits of", choices, key=f"compare-bits-{experiment}", persist_state="session",
        help="A preset, or the plan of this session as on the page Bits",
    )  # fmt: skip
    plan = state.tuning(workspace).plan if chosen == CURRENT else presets[chosen]
    if experiment == "one-at-a-time":
        return Settings(experiment, train, limit, training, plan=plan)
    words = counts.text_input(
        "Group counts", "1,heads,128,rows", key="compare-counts", persist_state="session",
        help="Numbers, or heads (a group a head), 128-equivalent (as many rows a group as 128 groups have in "
        "BERT-base), rows (a group a row)",
    )  # fmt: skip
    return Settings(experiment, train, limit, training, counts=words.strip(), plan=plan)


def _methods_settings(workspace: Workspace, settings: Settings) -> Settings:
    found = finished_sensitivity(workspace, own_jobs())
    layers = workspace.checkpoint.config.layers
    choice, said = st.columns([2, 4], vertical_alignment="bottom", gap="small")
    high = choice.selectbox(
        "Layers with the higher bits", ["as many as the paper", *range(1, layers)],
        key=f"compare-high-{layers}", persist_state="session",
        help="In the mixed rows. With another number than the paper's the row of its own layers is left out.",
    )  # fmt: skip
    said.caption(
        f"Ranked by the newest finished analysis of this model: {found['runs']} runs of {found['examples']} "
        "examples (page *Sensitivity*)."
        if found
        else f"No finished analysis of this model yet (page *Sensitivity*): Start computes one first, at most "
        f"{SWEEP_RUNS} runs of {SWEEP_EXAMPLES} training examples."
    )
    return Settings(
        settings.experiment, settings.train, settings.limit, settings.training,
        high=None if isinstance(high, str) else high, sensitivity=found,
    )  # fmt: skip


def _start(workspace: Workspace, settings: Settings, wanted: list[str]) -> None:
    try:
        check(workspace, settings)
        write_files(workspace, settings)
    except InputError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return
    except OSError as error:
        st.error(f"The plan could not be written for the job: {plain(str(error.strerror))}.")
        return
    if settings.train:
        st.session_state["train"] = settings.train
    name = next(label for label, experiment in TABS.items() if experiment == settings.experiment)
    start_job(f"Compare: {name}", wanted)


def _shown(wanted: list[str]) -> Job | None:
    """The job with these arguments, else the newest of this model and experiment."""
    newest = next((job for job in own_jobs() if job.arguments[:3] == tuple(wanted[:3])), None)
    return jobs().latest(wanted) or newest


def _status(workspace: Workspace, job: Job | None, wanted: list[str]) -> None:
    """How far the job is, what went wrong, and whether it is what the controls say."""
    if job is None:
        return
    if job.arguments != tuple(wanted):
        st.caption("Shown below: an earlier run. Press Start for the settings above.")
    rows = _rows(job)
    if job.state == "failed":
        st.error(plain(job.error or "The comparison failed."), icon=":material/error:")
    elif job.state == "cancelled":
        st.info(
            f"Cancelled after {len(rows)} of {job.total} rows. Finished rows are kept: Start goes on from there."
            if rows
            else "Cancelled before the first row."
        )
    elif job.active:
        st.progress(_share(job), text=_progress(job, rows))
    elif job.result:
        st.caption(_summary(workspace, job.result))


def _share(job: Job) -> float:
    """Rows done, and the part of the one under way."""
    running = under_way(job)
    inside = running.get("done", 0) / running["total"] if running.get("total") else 0.0
    return min((job.done + min(inside, 1.0)) / job.total, 1.0) if job.total else min(inside, 1.0)


def _progress(job: Job, rows: list[dict[str, Any]]) -> str:
    if job.state == "waiting":
        return start_words(job)
    first = sensitivity_first(job)
    if first:
        return f"Sensitivity first: {first[0]} of {first[1]} eigenvalues"
    if not job.total:
        return start_words(job)
    running = under_way(job)
    text = f"{job.done} of {job.total} rows"
    left = seconds_left(rows, job.total, "--finetune" in job.arguments)
    if left is not None:
        text += f", about {fmt_seconds(left)} to go"
    if running:
        name = quoted(str(running["name"]))
        if running["finetuned"]:
            text += (
                f"; finetuning {name}, seed {running['seed']}: step {running['done']} of {running['total']}"
            )
        else:
            text += f"; measuring {name}"
    return text


def _summary(workspace: Workspace, document: dict[str, Any]) -> str:
    """What the rows were measured on, for whoever wants to repeat it."""
    many = WORDS[workspace.task.name].many
    said = (
        f"{len(document['rows'])} rows, each on the same {fmt_count(document['data']['examples'])} {many}, in "
        f"{fmt_seconds(document['seconds'])}. Activation ranges from {document['calibration']['examples']} examples."
    )
    if document["sensitivity"]:
        found = document["sensitivity"]
        said += f" Ranked by {found['runs']} runs of {found['examples']} examples."
    if document["finetuning"]:
        recipe = document["finetuning"]["recipe"]
        said += (
            f" Finetuned on {fmt_count(document['train']['examples'])} {many}, {epochs(recipe['epochs'])}, "
            f"lr {recipe['lr']:g}, batches of {recipe['batch_size']}."
        )
    return f"{said} Intervals: 95 %; seed {document['seed']}."


def _rows(job: Job | None) -> list[dict[str, Any]]:
    document = (job.result or job.partial) if job else None
    rows: list[dict[str, Any]] = document["rows"] if document else []
    return rows


def _results(workspace: Workspace, settings: Settings, job: Job | None) -> None:
    experiment, rows = settings.experiment, _rows(job)
    chosen_key = f"compare-chosen-{experiment}"
    chosen = st.session_state.get(chosen_key)
    chart, paper = st.columns([7, 4], gap="medium")
    with chart:
        _figure(workspace, experiment, job, rows, chosen_key)
    with paper:
        _reported(workspace, experiment)
    plans = plans_by_digest(workspace, settings, {"rows": rows})
    row = next((row for row in rows if row_key(row) == chosen), None)  # type: ignore[arg-type]
    _chosen_line(workspace, experiment, row, rows, plans)
    if rows:
        _table(workspace, experiment, rows, job.total if job else len(rows), chosen_key)
    if experiment == "methods":
        _attention(workspace, rows)


def _figure(
    workspace: Workspace, experiment: Experiment, job: Job | None, rows: list[Any], chosen_key: str
) -> None:
    task = workspace.task
    band, label = BANDS[task.name], WORDS[task.name].metric
    finetuning = job is not None and "--finetune" in job.arguments
    chosen, dark = st.session_state.get(chosen_key), state.dark()
    config, running = workspace.checkpoint.config, job is not None and job.active

    def draw() -> Figure:
        if not rows and running:
            return empty_figure("The first row will be drawn here.", dark=dark, height=380)
        if experiment == "one-at-a-time":
            tuned = finetuning and any(row["finetuned"] for row in rows)
            return part_bars(
                rows, config.layers, metric_label=label, finetuned=tuned, chosen=chosen, dark=dark
            )
        shared: dict[str, Any] = {
            "metric": task.metric, "metric_label": label, "band": band, "finetuning": finetuning,
            "chosen": chosen, "dark": dark,
        }  # fmt: skip
        if experiment == "groups":
            return group_count_marks(rows, counts_drawn(config, job) if job else [], **shared)
        return setting_marks(experiment, rows, **shared)

    name = f"compare-{experiment}"

    def pick() -> None:
        points = st.session_state[name]["selection"]["points"]
        if points and points[0].get("customdata"):
            st.session_state[chosen_key] = points[0]["customdata"][0]
        if experiment == "one-at-a-time":
            selection.on_click(name, -1)()

    content = (workspace.key, job.arguments if job else None, len(rows), not rows and running, chosen, dark)
    show_kept(name, content, draw, on_select=pick, layers=experiment == "one-at-a-time")


def _chosen_line(
    workspace: Workspace,
    experiment: Experiment,
    row: dict[str, Any] | None,
    rows: list[dict[str, Any]],
    plans: dict[str, Plan],
) -> None:
    """The chosen row, and what can be done with it and with all rows."""
    words, tune, save = st.columns([6, 2, 2], vertical_alignment="center", gap="small")
    plan = plans.get(row["plan_digest"]) if row else None
    if not rows:
        words.caption(
            "The rows appear below as they are measured; a click on a row or a mark chooses its plan."
        )
    elif row is None:
        words.caption("Click a row or a mark to choose its plan.")
    else:
        same = f", the same plan as {quoted(row['same_as'])}" if row["same_as"] else ""
        later = "" if plan else "; its plan can be taken when all rows are there"
        words.caption(f"Chosen: {quoted(row['name'])}{same}{later}.")
    if pressed(
        tune.button, "Tune this plan", icon=":material/tune:", disabled=plan is None, width="stretch",
        key=f"tune-{experiment}", help="Puts it on the page Bits",
    ) and plan is not None:  # fmt: skip
        state.change(state.tuning(workspace), plan)
        go_to("bits")
    save.download_button(
        "Table as CSV", rows_csv(rows) if rows else "", f"{experiment}.csv", "text/csv",
        icon=":material/download:", disabled=not rows, width="stretch", key=f"csv-{experiment}", on_click="ignore",
    )  # fmt: skip


def _table(
    workspace: Workspace, experiment: Experiment, rows: list[dict[str, Any]], total: int, chosen_key: str
) -> None:
    metric, label = workspace.task.metric, WORDS[workspace.task.name].metric
    others = [name for name in rows[0]["metrics"] if name != metric]
    table = pd.DataFrame(
        [
            {
                "Plan": row["name"],
                label: fmt_percent(row["metrics"][metric]),
                "95 %": fmt_interval(*row["interval"]),
                **{name.replace("_", " ").capitalize(): fmt_percent(row["metrics"][name]) for name in others},
                "From fp32": fmt_signed_points(row["difference"]["mean"]),
                "95 % of it": fmt_points_interval(*row["difference"]["interval"]),
                "Size": fmt_mb(row["size_mb"]),
                "Smaller": fmt_ratio(row["compression"]),
                "Effective bits": f"{row['effective_bits']:.2f}",
                "KL": fmt_kl(row["attention_kl_mean"]),
                "Finetuned": epochs(row["epochs"]) if row["finetuned"] else "no",
                "Seed": row["seed"],
                "n": row["n"],
            }
            for row in rows
        ]
    )
    name = f"compare-table-{experiment}"

    def pick() -> None:
        selected = st.session_state[name]["selection"]["rows"]
        if selected and selected[0] < len(rows):
            st.session_state[chosen_key] = row_key(rows[selected[0]])  # type: ignore[arg-type]

    layer = selection.chosen()
    mine = [experiment == "one-at-a-time" and row["name"].endswith(f"-layer-{layer}") for row in rows]
    st.dataframe(
        marked_rows(table, mine, "Plan"),
        key=name,
        hide_index=True,
        width="stretch",
        height=ROW * (min(max(total, len(rows)), TABLE_ROWS) + 1) + 3,
        on_select=pick,
        selection_mode="single-row",
        column_config=number_columns(
            table,
            {
                "Plan": st.column_config.TextColumn(width=150),
                "95 %": st.column_config.TextColumn(help=f"Interval of {label}"),
                "From fp32": st.column_config.TextColumn(
                    help=f"Change of {label} against the fp32 model on the same examples, in percentage points"
                ),
                "95 % of it": st.column_config.TextColumn(help="Paired bootstrap over the examples"),
                "Smaller": st.column_config.TextColumn(help="fp32 size over this size; ranges included"),
                "Effective bits": st.column_config.TextColumn(
                    help="Stored bits a weight; embeddings and ranges included"
                ),
                "KL": st.column_config.TextColumn(help="Attention KL from fp32, mean of all heads, nats"),
                "Seed": st.column_config.NumberColumn(
                    help="Of the finetuning; where there was none, of the bootstrap"
                ),
            },
        ),
    )


def _reported(workspace: Workspace, experiment: Experiment) -> None:
    """The paper's own numbers. Never in a figure or table with ours."""
    task = workspace.task.name
    st.markdown("## Reported by the paper")
    tables = {"methods": METHODS, "groups": GROUPS}
    rows = tables[experiment].get(task) if experiment in tables else None
    title = WORDS[task].title.split(":")[0]
    if rows:
        st.caption(
            f"Q-BERT (AAAI 2020), BERT-base on {title}, after finetuning, in %. Another model than yours."
        )
        heads = METRICS[task] if len(rows[0].numbers) > 1 else METRICS[task][:1]
        reported = pd.DataFrame([_reported_row(experiment, row, heads) for row in rows])
        st.dataframe(
            reported,
            hide_index=True,
            width="stretch",
            column_config=number_columns(reported),
            row_height=28,
            height=ROW + 28 * len(rows) + 3,
            key=f"reported-{experiment}",
        )
    elif experiment == "groups":
        st.caption(f"The paper has no group counts for {title}.")
    if TEXTS[experiment]:
        st.caption("In its text (confirmed), after finetuning: " + " ".join(TEXTS[experiment]))
    elif experiment == "one-at-a-time":
        st.caption("The paper does not quantize one layer at a time: there is nothing to stand beside.")


def _reported_row(experiment: Experiment, row: ReportedRow, heads: tuple[str, ...]) -> dict[str, str]:
    confirmed = [number.confirmed for number in row.numbers]
    source = "confirmed" if all(confirmed) else "reported"
    if any(confirmed) and not all(confirmed):
        source = ", ".join("confirmed" if sure else "reported" for sure in confirmed)
    return {
        "Groups" if experiment == "groups" else "Bits": row.setting,
        "Method": row.method,
        **{head: f"{number.value:.2f}" for head, number in zip(heads, row.numbers, strict=False)},
        "Source": source,
    }


def _attention(workspace: Workspace, rows: list[dict[str, Any]]) -> None:
    """DirectQ and Q-BERT at the same bits: how far attention moves in every layer."""
    st.markdown("## Attention KL from fp32 by layer, not finetuned")
    chart, words = st.columns([7, 4], gap="medium")
    with words:
        bits = st.segmented_control(
            "Bits of the two plans", KL_BITS, default=4, required=True, key="compare-kl-bits",
            persist_state="session",
        )  # fmt: skip
        st.caption(
            "The paper: Q-BERT's attention stays far closer to the fp32 model's than DirectQ's. Here: the mean over "
            "the heads of a layer, in nats, on the same examples."
        )
    lines = [LayerKL(name, _layer_means(rows, f"{method}-{bits}")) for name, method in METHOD_PAIR.items()]
    dark = state.dark()

    def draw() -> Figure:
        if not any(line.kl for line in lines):
            return empty_figure(NO_ATTENTION, dark=dark, height=300)
        return kl_by_layer(lines, layers=workspace.checkpoint.config.layers, dark=dark)

    with chart:
        show_kept("kl-methods", (lines, dark), draw, layers=True)


def _layer_means(rows: list[dict[str, Any]], name: str) -> list[float]:
    """Mean attention KL of every layer's heads of the plan `name`; the rows have it once all are there."""
    kl = next((r.get("attention_kl") for r in rows if r["name"] == name and not r["finetuned"]), None)
    return [sum(heads) / len(heads) for heads in kl or ()]
