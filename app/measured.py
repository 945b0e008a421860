"""What pages share that look at the current plan's evaluation: the newest numbers, current or outdated."""

from __future__ import annotations

import html
import threading
from dataclasses import dataclass, replace

import streamlit as st

from app import runs, state
from app.figures import fmt_count
from app.plain import plain
from app.registries import live
from app.words import WORDS
from app.workspace import Workspace
from qbert_core.evaluation import Evaluation
from qbert_core.quantization import Plan

_wanting = threading.Lock()


def want(workspace: Workspace, plan: Plan, place: str = "") -> None:
    """Have a plan measured for this session, before others'. `place`: of several plans at once each has its own.

    A run of the page that was replaced wants nothing any more: its plan would stay the session's wish, and the
    newer run would wait for its own for ever.
    """
    session = state.session() + (f" {place}" if place else "")
    with _wanting:
        if not runs.replaced(runs.this_run()):
            live().want(session, workspace, plan)


@dataclass(frozen=True)
class Measured:
    """An evaluation and whether it is an earlier plan's; None before the first numbers of all."""

    result: Evaluation | None
    outdated: bool
    error: str | None


def measured(workspace: Workspace, plan: Plan) -> Measured:
    """The plan's numbers so far, else those shown last in this session on any page."""
    result = live().result(workspace, plan)
    if result is None:
        result = st.session_state.get("shown", {}).get(workspace.key)
    else:  # a plan measured before under another name has this one now
        result = replace(result, plan=replace(result.plan, name=plan.name))
        st.session_state["shown"] = {workspace.key: result}
    outdated = result is None or result.plan.digest != plan.digest
    return Measured(result, outdated, live().error(workspace, plan))


def measured_words(workspace: Workspace, now: Measured) -> str:
    """Which plan's numbers these are, and how many examples of it are measured."""
    words, result = WORDS[workspace.task.name], now.result
    if result is None:
        return f"Measuring the first {words.many} …"
    if now.outdated:
        return "Outdated: numbers of the plan before. Measuring the new one …"
    if result.complete:
        return f"{result.plan.name}: all {fmt_count(result.n)} {words.many} measured"
    return f"{result.plan.name}: {fmt_count(result.n)} of {fmt_count(result.total)} {words.many} so far …"


def state_line(workspace: Workspace, now: Measured) -> None:
    """Say so in a line, where no cards do."""
    if now.error:
        st.error(plain(now.error), icon=":material/error:")
    kind, result = "outdated" if now.outdated else "current", now.result
    st.html(
        "<style>.state{font-size:.8125rem;min-height:1.4em}</style>"
        f'<div class="state" data-state="{kind}" data-plan="{result.plan.digest if result else ""}" '
        f'data-n="{result.n if result else 0}" aria-live="polite">{html.escape(measured_words(workspace, now))}</div>'
    )
