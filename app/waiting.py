"""What a page shows while model and data are being loaded."""

from __future__ import annotations

import streamlit as st

from app import state
from app.plain import plain
from app.polling import run_page_when
from app.uploads import shown
from app.workspace import Workspace


def loaded_workspace() -> Workspace | None:
    """The session's workspace, or None after drawing that it is on its way or cannot be had."""
    opening = state.opening()
    if opening.workspace:
        return opening.workspace
    if opening.error:
        st.error("Nothing is loaded: see the message in the sidebar under *Model and data*.")
        return None
    st.markdown(f"Loading {plain(shown(state.source().model))} and measuring its activation ranges …")

    run_page_when(lambda: state.opening().done, 0.25)
    return None
