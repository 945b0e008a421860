"""What is loaded, how to load something else, and what runs."""

from __future__ import annotations

import streamlit as st

from app import state
from app.registries import jobs
from app.words import WORDS
from app.workspace import MAX_ROWS, Source, Workspace

MAX_LABELS = 4
SPAN = ("start", "end")


def sidebar() -> None:
    """Draw the sidebar; the same on every page."""
    with st.sidebar:
        opening = state.opening(timeout=0.05)  # the first look of a run; the page finds the same
        if opening.workspace:
            _loaded(opening.workspace)
        _picker()
        _jobs_list()


def _loaded(workspace: Workspace) -> None:
    config = workspace.checkpoint.config
    st.markdown(f"**Model** {_plain(workspace.checkpoint.name)}")
    st.caption(
        f"{config.layers} layers, {config.heads} heads, {config.hidden} wide: {_plain(_labels(config.labels))}"
    )
    words = WORDS[workspace.task.name]
    st.markdown(f"**Task** {_plain(words.title)}")
    name = "demo reviews" if workspace.source.data == "demo" else workspace.source.data.rsplit("/", 1)[-1]
    st.markdown(f"**Data** {_plain(name)}")
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
        now = state.source()
        with st.form("source-form", border=False):
            model = st.text_input(
                "Model", now.model, help="demo, a folder on this machine, or a hub id like owner/name"
            )
            data = st.text_input(
                "Data",
                now.data,
                help="demo (SST-2 only), a .parquet .csv .tsv .json .jsonl file, or hub:NAME[/CONFIG]:SPLIT",
            )
            limit = st.number_input(
                "First rows", 1, MAX_ROWS, now.limit, help="Rows of the data to measure on"
            )
            tasks = ["", *WORDS]
            task = st.selectbox(
                "Task",
                tasks,
                index=tasks.index(now.task),
                format_func=lambda name: WORDS[name].title.partition(":")[0] if name else "any",
                help="The task model and data should be for; any: what the model is for. Columns the data need:\n\n"
                + "\n\n".join(f"{w.title}: {w.columns}" for w in WORDS.values()),
            )
            if st.form_submit_button("Load", width="stretch"):
                st.session_state.pop("source_error", None)
                st.session_state["source"] = Source(
                    model.strip() or "demo", data.strip() or "demo", int(limit), task
                )
                st.rerun()
        if error:
            st.error(_plain(error))  # no icon: it would take a quarter of the width
            st.caption("What was loaded before is still there.")


def _jobs_list() -> None:
    active = any(job.active for job in jobs().all())

    @st.fragment(run_every=1.0 if active else None)
    def draw() -> None:
        listed = jobs().all()
        if active and not any(job.active for job in listed):
            st.rerun()
        if not listed:
            return
        st.markdown("**Jobs**")
        for number, job in enumerate(listed[:6]):
            name, button = st.columns([4, 1], vertical_alignment="center")
            name.caption(f"{_plain(job.name)}: {job.state}")
            if job.active:
                st.progress(job.done / job.total if job.total else 0.0)
                if button.button(
                    "", icon=":material/close:", key=f"cancel-{number}", help="Cancel", type="tertiary"
                ):
                    job.cancel()
                    st.rerun()

    draw()


def _plain(text: str) -> str:
    """Text from outside, without markdown's powers."""
    return "".join("\\" + c if c in "\\`*_{}[]()#+-.!|~$<>:" else c for c in text)
