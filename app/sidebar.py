"""What is loaded, how to load something else, and what runs."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from app import state
from app.job import Job
from app.jobwords import page_of, progress_words, share_done
from app.plain import plain
from app.polling import draw_until
from app.presses import pressed
from app.registries import jobs
from app.sessionjobs import cancel_job, own_jobs
from app.uploads import Given, Uploads, shown
from app.words import WORDS
from app.workspace import MAX_ROWS, Source, Workspace
from qbert_core.access import access
from qbert_core.errors import InputError
from qbert_core.tasks.files import SUFFIXES

MAX_LABELS = 4
SPAN = ("start", "end")
MAX_SHOWN = 4  # jobs
JOBS_STYLE = """<style>
.st-key-jobs [data-testid=stPageLink] a{padding:0;min-height:1.5rem;background:none}
.st-key-jobs [data-testid=stPageLink] a:hover p{text-decoration:underline}
.st-key-jobs [data-testid=stPageLink] a>:has([data-testid=stIconMaterial]){display:none}
.st-key-jobs [data-testid=stPageLink] p{font-size:.8125rem;font-weight:400;
  overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.st-key-jobs [data-testid=stProgress] p,.st-key-jobs [data-testid=stCaptionContainer] p{font-size:.75rem;margin:0;
  white-space:nowrap;overflow:hidden;text-overflow:ellipsis;font-variant-numeric:tabular-nums}
.st-key-jobs [data-testid=stButton] button{min-height:1.5rem;min-width:1.5rem;padding:0}
</style>"""


def sidebar(pages: Mapping[str, st.Page]) -> None:
    """Draw the sidebar; the same on every page. `pages`, by their paths, are what jobs lead to."""
    with st.sidebar:
        _jobs_list(pages)
        opening = state.opening(timeout=0.05)  # the first look of a run; the page finds the same
        if opening.workspace:
            _loaded(opening.workspace)
        _picker()


def _loaded(workspace: Workspace) -> None:
    config = workspace.checkpoint.config
    st.markdown(f"**Model** {plain(workspace.checkpoint.name)}")
    st.caption(
        f"{config.layers} layers, {config.heads} heads, {config.hidden} wide: {plain(_labels(config.labels))}"
    )
    words = WORDS[workspace.task.name]
    st.markdown(f"**Task** {plain(words.title)}")
    name = "demo reviews" if workspace.source.data == "demo" else workspace.source.data.rsplit("/", 1)[-1]
    st.markdown(f"**Data** {plain(name)}")
    st.caption(
        f"n = {len(workspace.examples):,} examples, {int(workspace.examples.lengths.sum()):,} tokens; "
        f"measured: {words.metric}"
    )
    if workspace.examples.truncated:
        st.caption(f"{workspace.examples.truncated:,} longer than the model reads: their ends are not seen")


def _labels(labels: tuple[str, ...]) -> str:
    """What the model answers with."""
    if labels == SPAN:
        return "first and last word of an answer"
    shown = " / ".join(labels[:MAX_LABELS])
    return shown if len(labels) <= MAX_LABELS else f"{shown} and {len(labels) - MAX_LABELS} more"


def _picker() -> None:
    error = st.session_state.get("source_error")
    with st.expander("Model and data", icon=":material/folder_open:", expanded=bool(error)):
        _form()
        if error:
            st.error(plain(error))  # no icon: it would take a quarter of the width
            st.caption("What was loaded before is still there.")
        if state.uploads().megabytes:
            _upload_form()


def _form() -> None:
    now, mine = state.source(), state.uploads()
    mine.seen()
    hub = access().hub
    with st.form("source-form", border=False):
        model = st.text_input(
            "Model",
            shown(now.model),
            help=f"demo, {_folders()}{', a hub id like owner/name' if hub else ''} or upload:NAME",
        )
        data = st.text_input(
            "Data",
            shown(now.data),
            help="demo (SST-2 only), a .parquet .csv .tsv .json .jsonl file"
            f"{', hub:NAME[/CONFIG]:SPLIT' if hub else ''} or upload:NAME",
        )
        limit = st.number_input("First rows", 1, MAX_ROWS, now.limit, help="Rows of the data to measure on")
        tasks = ["", *WORDS]
        task = st.selectbox(
            "Task",
            tasks,
            index=tasks.index(now.task),
            format_func=lambda name: WORDS[name].title.partition(":")[0] if name else "any",
            help="The task model and data should be for; any: what the model is for. Columns the data need:\n\n"
            + "\n\n".join(f"{w.title}: {w.columns}" for w in WORDS.values()),
        )
        if pressed(st.form_submit_button, "Load", width="stretch", key="load"):
            st.session_state.pop("source_error", None)
            try:
                names = [mine.path_of(text.strip() or "demo") for text in (model, data)]
                st.session_state["source"] = Source(*names, int(limit), task)
            except InputError as error:
                st.session_state["source_error"] = str(error)
            st.rerun()


def _folders() -> str:
    return "a folder on this machine" if access().roots is None else "a folder that this server opens"


def _upload_form() -> None:
    """Take a model, data or both; what was uploaded is loaded at once."""
    mine = state.uploads()
    with st.form("upload-form", border=False, clear_on_submit=True):
        given = st.file_uploader(
            "Upload a model, data or both",
            accept_multiple_files=True,
            max_upload_size=mine.megabytes,
            help=f"A model: config.json, model.safetensors and tokenizer.json or vocab.txt, or a .zip of them. "
            f"Data: one {', '.join(SUFFIXES)}. At most {mine.megabytes:,} MB. Only this tab sees them, until it "
            "is closed or reloaded; no link holds them.",
        )
        if pressed(st.form_submit_button, "Load these files", width="stretch", key="load-files"):
            try:
                _take(mine, [Given(file.name, file) for file in given])
            finally:
                _forget([file.file_id for file in given])
    if names := mine.names():
        st.caption("Uploaded: " + plain(", ".join(names)))


def _forget(files: list[str]) -> None:
    """Give back the memory of what has been stored: Streamlit would keep it as long as the session."""
    context = get_script_run_ctx()
    if context is not None:
        for file in files:
            context.uploaded_file_mgr.remove_file(context.session_id, file)


def _take(mine: Uploads, given: list[Given]) -> None:
    st.session_state.pop("source_error", None)
    now = state.source()
    try:
        with st.spinner("Looking into the files …"):
            model, data = mine.store(given)
        paths = [mine.path_of(name) if name else None for name in (model, data)]
        st.session_state["source"] = Source(paths[0] or now.model, paths[1] or now.data, now.limit)
    except InputError as error:
        st.session_state["source_error"] = str(error)
    except OSError as error:
        st.session_state["source_error"] = f"The upload could not be kept: {error.strerror or 'disk error'}."
    st.rerun()


def _jobs_list(pages: Mapping[str, st.Page]) -> None:
    def draw() -> None:
        listed = jobs().all()
        own = own_jobs()
        others = [job for job in listed if job.active and job not in own]
        if not own and not others:
            return
        st.html(JOBS_STYLE)
        # those that run, those that wait in their order, those that ended
        own.sort(key=lambda job: (not job.active, job.state == "waiting", job.active and jobs().before(job)))
        with st.container(key="jobs", gap="small"):
            st.markdown("**Jobs**")
            for job in own[:MAX_SHOWN]:
                _job(job, pages)
            for job in others[: MAX_SHOWN // 2]:
                st.caption(f"another session’s job: {progress_words(job) if job.total else job.state}")

    with st.container():  # there even when empty: a fragment that grows would draw over what follows it
        draw_until(lambda: not any(job.active for job in jobs().all()), draw, 1.0)


def _job(job: Job, pages: Mapping[str, st.Page]) -> None:
    """One job: a link to the page that shows it, how far it is, and the way to end it."""
    page = pages.get(page_of(job))
    label = plain(job.name if job.active else f"{progress_words(job)}: {job.name}")
    more = plain(job.error or f"{job.name}; model {job.arguments[1]}")  # names may be cut off
    with st.container(key=f"job-{job.key}", gap=None):
        name, button = st.columns([5, 1], vertical_alignment="center", gap=None) if job.active else (st, None)
        if page is not None:
            name.page_link(page, label=label, help=more, width="stretch")
        else:
            name.caption(label, help=more)
        if button is not None:
            st.progress(share_done(job), text=progress_words(job))
            if pressed(
                button.button,
                f"Cancel {label}",
                icon=":material/close:",
                key=f"cancel-job-{job.key}",
                help="Cancel",
                type="tertiary",
            ):
                cancel_job(job)
