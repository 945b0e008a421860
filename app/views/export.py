"""Export: take the plan, the packed model and a report away; open a plan."""

from __future__ import annotations

import shlex
from pathlib import Path

import streamlit as st

from app import state
from app.exports import (
    MAX_PLAN,
    MAX_ZIP,
    arguments,
    export_folder,
    file_name,
    is_export,
    plan_from_file,
    plan_text,
    sites_csv,
    zipped,
)
from app.figures import fmt_mb, fmt_ratio
from app.jobs import Job
from app.jobwords import share_done, start_words
from app.measured import want
from app.planfiles import write_plan
from app.polling import draw_until
from app.registries import jobs, live
from app.sessionjobs import cancel_button, follow, own_jobs, start_button, start_job
from app.sweeps import finished_sensitivity
from app.waiting import loaded_workspace
from app.words import WORDS, quoted
from app.workspace import Workspace
from qbert_core.curvature import Sensitivity
from qbert_core.errors import InputError
from qbert_core.evaluation import Evaluation
from qbert_core.evaluation.paired import paired_difference
from qbert_core.export.card import opening_code
from qbert_core.export.environment import environment
from qbert_core.export.layout import LAYOUTS, Layout, tensor_bytes
from qbert_core.export.recipe import recipe
from qbert_core.export.report import Source, report
from qbert_core.quantization import Plan, plan_size, sites_of
from qbert_core.quantization.size import MB

POLL = 0.5  # seconds between looks at an export, or at the plan's numbers
LABELS: dict[Layout, str] = {"one-width": "For transformers", "mixed": "Smallest"}
HELP = (
    "For transformers: from_pretrained with dequantize=True reads one width of codes in a file, so all are as wide as "
    "the plan's largest. Smallest: every matrix at its own bits; opened with a few lines of compressed-tensors."
)


def page() -> None:
    st.title("Export")
    workspace = loaded_workspace()
    if workspace is None:
        return
    current = state.tuning(workspace)
    plan = current.plan
    want(workspace, plan)
    size = plan_size(workspace.checkpoint.config, plan)
    st.caption(
        f"The session's plan {quoted(plan.name)} (page *Bits*): {size.effective_bits:.2f} effective bits, "
        f"{fmt_mb(size.size_mb)}, {fmt_ratio(size.compression)} smaller."
    )
    left, right = st.columns(2, gap="large")
    with left:
        _plan(workspace, plan)
        _open(workspace, current)
        _report(workspace, plan)
    with right:
        _model(workspace, plan)
        _recipe(workspace, plan)
    state.write_link(current)


def _plan(workspace: Workspace, plan: Plan) -> None:
    st.markdown("## The plan")
    document, table = st.columns(2, gap="small")
    document.download_button(
        "Plan as JSON", plan_text(plan), file_name(plan, "json"), "application/json",
        icon=":material/download:", width="stretch", on_click="ignore", key="plan-json",
    )  # fmt: skip
    table.download_button(
        "Sites as CSV", sites_csv(workspace, plan), file_name(plan, "csv"), "text/csv",
        icon=":material/download:", width="stretch", on_click="ignore", key="sites-csv",
    )  # fmt: skip
    st.caption(
        "The JSON goes to `--plan` of every command and back in below; the table has a row a weight matrix."
    )


def _open(workspace: Workspace, current: state.Tuning) -> None:
    def opened() -> None:
        file = st.session_state["plan-upload"]
        if file is None:
            st.session_state.pop("plan-opened", None)
            return
        try:
            plan = plan_from_file(file.getvalue(), workspace)
        except InputError as error:
            st.session_state["plan-opened"] = (False, str(error))
            return
        state.change(current, plan)
        st.session_state["plan-opened"] = (True, plan.name)

    st.file_uploader(
        "Open a plan", type="json", key="plan-upload", on_change=opened, max_upload_size=MAX_PLAN // MB,
        help="A plan's JSON, or a document with one in it, as allocate, evaluate and export write. It becomes the "
        "session's plan; Undo is on the page Bits.",
    )  # fmt: skip
    said = st.session_state.get("plan-opened")
    if said is None:
        return
    if said[0]:
        st.success(f"{quoted(said[1])} is the session's plan now.", icon=":material/check:")
    else:
        st.error(quoted(said[1]), icon=":material/error:")


def _recipe(workspace: Workspace, plan: Plan) -> None:
    st.markdown("## The recipe")
    try:
        text = recipe(plan, sites_of(workspace.checkpoint.config))
    except InputError as error:
        st.button("llm-compressor recipe", icon=":material/download:", disabled=True, key="no-recipe")
        st.caption(f"Not for this plan: {error}. The same holds for torchao.")
        return
    st.download_button(
        "llm-compressor recipe", text, file_name(plan, "yaml"), "application/yaml",
        icon=":material/download:", on_click="ignore", key="recipe",
    )  # fmt: skip
    st.caption("The same bits and ranges for `oneshot(model, recipe=..)`, in their arithmetic.")


def _model(workspace: Workspace, plan: Plan) -> None:
    st.markdown("## The packed model")
    config = workspace.checkpoint.config
    if not any(entry.quantized for entry in plan.sites.values()):
        st.info("This plan quantizes nothing: choose bits below fp32 on the page Bits first.")
        return
    kind, go = st.columns([3, 1.3], vertical_alignment="bottom", gap="small")
    chosen = kind.segmented_control(
        "Layout", LAYOUTS, default="one-width", format_func=lambda name: LABELS[name], required=True,
        key="export-layout", persist_state="session", help=HELP,
    )  # fmt: skip
    layout: Layout = chosen or "one-width"
    wanted = arguments(workspace, plan, layout)
    job = jobs().latest(wanted)
    if job and job.active:
        cancel_button(go, job, "export")
    elif start_button(go, "export", "Export"):
        _start(workspace, plan, wanted)
    sizes = " or ".join(
        f"{fmt_mb(tensor_bytes(config, plan, name) / MB)} ({LABELS[name].lower()})" for name in LAYOUTS
    )
    st.caption(
        f"compressed-tensors, `pack-quantized`: weights of {sizes}, pooler and output layer included; the file's head "
        "comes on top. Read back and compared, weight for weight, before it is called done."
    )
    folder = export_folder(workspace, plan, layout)
    follow([job], lambda: _status(workspace, layout, folder, job), POLL)


def _start(workspace: Workspace, plan: Plan, wanted: list[str]) -> None:
    try:
        if plan.digest not in {preset.digest for preset in workspace.presets}:
            write_plan(plan)
    except OSError as error:
        st.error(f"The plan could not be written for the job: {error.strerror}.")
        return
    start_job(f"Export {plan.name}", wanted)


def _status(workspace: Workspace, layout: Layout, folder: Path, job: Job | None) -> None:
    if job is not None and job.active:
        said = start_words(job) if not job.total else f"{job.done} of {job.total} steps"
        st.progress(share_done(job), text=said)
        return
    if job is not None and job.state == "failed":
        st.error(quoted(job.error or "The export failed."), icon=":material/error:")
    if job is not None and job.state == "cancelled":
        st.info("Cancelled: nothing was written.")
    if not is_export(folder):
        return
    size = sum(path.stat().st_size for path in folder.iterdir())
    if job is not None and job.state == "done":
        account = job.result["size"]
        more = account["file"] - account["promised"]
        st.caption(
            f"Done in {job.result['seconds']:.1f} s: a file of {fmt_mb(account['file'])}, {more:.1f} MB more than the "
            f"plan's {fmt_mb(account['promised'])}: {account['wider_codes']:.1f} MB wider codes, "
            f"{account['row_ranges']:.1f} MB a range a row, {account['unquantized']:.1f} MB pooler and output layer."
        )
    else:
        st.caption("Exported before; Export writes it again.")
    st.code(str(folder), language=None, wrap_lines=True)
    if size <= MAX_ZIP:
        st.download_button(
            "Folder as ZIP", lambda: zipped(folder), f"{folder.name}.zip", "application/zip",
            icon=":material/download:", on_click="ignore", key=f"zip-{folder.name}",
        )  # fmt: skip
    else:
        st.caption(f"{fmt_mb(size / MB)}: too large to hand out as one file; take the folder.")
    with st.expander("Open it in Python", icon=":material/code:"):
        st.code(
            opening_code(workspace.checkpoint.config.head, layout, str(folder)),
            language="python",
            wrap_lines=True,
        )


def _report(workspace: Workspace, plan: Plan) -> None:
    st.markdown("## The report")

    def draw() -> None:
        result = live().result(workspace, plan)
        ready = result is not None and result.complete
        st.download_button(
            "Report as HTML", lambda: report_text(workspace, plan, result) if result else "",
            file_name(plan, "html"), "text/html", icon=":material/download:", disabled=not ready,
            on_click="ignore", key="report-html",
        )  # fmt: skip
        error = live().error(workspace, plan)
        if error:
            st.error(quoted(error), icon=":material/error:")
        elif not ready:
            n = result.n if result else 0
            st.caption(
                f"Measuring: {n:,} of {len(workspace.examples):,} {WORDS[workspace.task.name].many} so far …"
            )
        else:
            st.caption(
                "Plan, numbers, sizes, attention, the newest sensitivity of this model, environment and commands in "
                "one file that asks nobody for anything. Figures: the camera over each saves an SVG."
            )

    draw_until(lambda: live().settled(workspace, plan), draw, POLL)


def report_text(workspace: Workspace, plan: Plan, result: Evaluation) -> str:
    """The report of the plan's numbers as they stand."""
    source, task = workspace.source, workspace.task
    document = finished_sensitivity(workspace, own_jobs())
    options = [
        "--task",
        task.name,
        "--data",
        source.data,
        "--limit",
        str(source.limit),
        "--plan",
        "plan.json",
    ]
    command = ["python", "-m", "qbert_core"]
    return report(
        workspace.checkpoint.config,
        plan,
        Source(
            workspace.checkpoint.name, workspace.checkpoint.fingerprint, task.name, source.data,
            len(workspace.examples), "as evaluate finds them without --train",
        ),
        environment(),
        [
            shlex.join([*command, "evaluate", source.model, *options, "--attention"]),
            shlex.join([*command, "export", source.model, *options, "--save", "DIR"]),
        ],
        evaluation=result,
        difference=paired_difference(task, result.baseline_grades.tolist(), result.grades.tolist(), 0),
        sensitivity=None if document is None else Sensitivity.from_json(document),
    )  # fmt: skip
