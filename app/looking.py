"""A page's look at one example: drawn without it after a moment, and again when it is there."""

from __future__ import annotations

from app.inspections import Example, Look
from app.polling import run_page_when
from app.registries import inspections
from app.workspace import Workspace
from qbert_core.quantization import Plan

POLL = 0.15  # seconds
FIRST_LOOK = 0.25  # seconds a page waits before it is drawn without the answer


def look_at(workspace: Workspace, plan: Plan, example: Example, layers: tuple[int, ...] = ()) -> Look | None:
    """What both models make of `example`; while it is not there, None, and the page runs again when it is."""
    found = inspections().look(workspace, plan, example, layers, FIRST_LOOK)
    if found is None:
        run_page_when(lambda: bool(inspections().look(workspace, plan, example, layers)), POLL)
    return found
