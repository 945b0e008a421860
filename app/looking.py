"""A page's look at one example: drawn without it after a moment, and again when it is there."""

from __future__ import annotations

import streamlit as st

from app.inspections import Example, Look
from app.registries import inspections
from app.workspace import Workspace
from qbert_core.quantization import Plan

POLL = 0.15  # seconds
FIRST_LOOK = 0.25  # seconds a page waits before it is drawn without the answer


def look_at(workspace: Workspace, plan: Plan, example: Example, layers: tuple[int, ...] = ()) -> Look | None:
    """What both models make of `example`; while it is not there, None, and the page runs again when it is."""
    found = inspections().look(workspace, plan, example, layers, FIRST_LOOK)
    if found is None:

        @st.fragment(run_every=POLL)
        def ask() -> None:
            if inspections().look(workspace, plan, example, layers):
                st.rerun()

        ask()
    return found
