"""The fields of a task, for a text of one's own."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from app.presses import pressed
from app.registries import inspections
from app.words import WORDS
from app.workspace import Workspace
from qbert_core.tasks.typed import MAX_CHARACTERS


def typed_form(workspace: Workspace, name: str) -> dict[str, str] | None:
    """Draw the form, called `name` on its page; returns the text last sent in this session, on any page."""
    words = WORDS[workspace.task.name]
    key = _key(workspace)
    sent: dict[str, str] = st.session_state.get(key) or {}
    for field in words.fields:
        st.session_state.setdefault(f"{name} {field.column}", sent.get(field.column, field.example))
    with st.form(f"{name}-form", border=False):
        texts = {
            field.column: (st.text_area if field.lines > 1 else st.text_input)(
                field.label,
                max_chars=MAX_CHARACTERS,
                key=f"{name} {field.column}",
                **({"height": 24 * field.lines + 22} if field.lines > 1 else {}),
            )
            for field in words.fields
        }
        if pressed(
            st.form_submit_button, "Ask both models", icon=":material/send:", type="primary", key=f"{name}-ask"
        ):
            inspections().forget_errors()
            st.session_state[key] = {column: str(text or "") for column, text in texts.items()}
    asked: dict[str, str] | None = st.session_state.get(key)
    return asked


def type_in(workspace: Workspace, name: str, texts: Mapping[str, str]) -> None:
    """Put `texts`, by column, into the form called `name` as if they had been typed and sent. Before it is drawn."""
    st.session_state[_key(workspace)] = dict(texts)
    for column, text in texts.items():
        st.session_state[f"{name} {column}"] = text


def _key(workspace: Workspace) -> str:
    return f"typed {workspace.task.name}"
