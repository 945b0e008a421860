"""The fields of a task, for a text of one's own."""

from __future__ import annotations

import streamlit as st

from app.registries import inspections
from app.words import WORDS
from app.workspace import Workspace
from qbert_core.tasks.typed import MAX_CHARACTERS


def typed_form(workspace: Workspace, name: str) -> dict[str, str] | None:
    """Draw the form, called `name` on its page; returns the text last sent in this session, on any page."""
    words = WORDS[workspace.task.name]
    key = f"typed {workspace.task.name}"
    sent: dict[str, str] = st.session_state.get(key) or {}
    with st.form(f"{name}-form", border=False):
        texts = {
            field.column: (st.text_area if field.lines > 1 else st.text_input)(
                field.label,
                sent.get(field.column, field.example),
                max_chars=MAX_CHARACTERS,
                key=f"{name} {field.column}",
                **({"height": 24 * field.lines + 22} if field.lines > 1 else {}),
            )
            for field in words.fields
        }
        if st.form_submit_button("Ask both models", icon=":material/send:", type="primary"):
            inspections().forget_errors()
            st.session_state[key] = {column: str(text or "") for column, text in texts.items()}
    asked: dict[str, str] | None = st.session_state.get(key)
    return asked
