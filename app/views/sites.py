"""Every site of the plan, below the numbers of page Bits: what was asked, what is applied, what it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st
from pandas.io.formats.style import Styler

from app import selection, state
from app.drawer import drawer, left_open
from app.figures import MISSING, RESIDUAL_LIMIT, ROW, colours_for, fmt_count, fmt_percent
from app.kept import kept
from app.plain import plain
from app.polling import draw_until
from app.registries import live, weights
from app.sessionjobs import own_jobs
from app.sitetable import GRANULARITIES, shown, site_frame
from app.sweeps import finished_sensitivity
from app.tables import show_table
from app.views.sidebyside import linked_pair, pair_for_link, two_plans
from app.weights import Answer, WholeSite
from app.workspace import Workspace
from qbert_core.quantization import Plan, Site, SiteAnatomy, sites_of
from qbert_core.quantization.plan import FULL

POLL = 0.15  # seconds between looks at what is being computed
FIRST_LOOK = 0.1  # seconds a page waits for it
ROWS = 15  # shown before the table scrolls
TABLE = "sites-table"
EVERY, PAIR = "every-site", "two-plans"  # the drawers
OF = {"site": "of the site", "module": "of its half of the layer", "layer": "of its layer"}


def sites_panel(workspace: Workspace, current: state.Tuning) -> None:
    """Two drawers over the page's whole width; what is closed costs nothing."""
    every = drawer("Every site", EVERY, ":material/table_rows:")
    if every.open:
        with every:
            _every_site(workspace, current.plan)
    pair = drawer("Two plans side by side", PAIR, ":material/compare:")
    if pair.open:
        with pair:
            two_plans(workspace, current)
    else:
        live().beside(state.session(), workspace, ())


def drawers_for_link(workspace: Workspace, current: state.Tuning) -> dict[str, str]:
    """What the address holds of the drawers: the two plans while theirs is open. A link with two opens it."""
    if linked_pair(workspace):
        st.session_state[PAIR] = True
    return pair_for_link(workspace, current) if left_open(PAIR) else {}


def _every_site(workspace: Workspace, plan: Plan) -> None:
    sites = sites_of(workspace.checkpoint.config)
    questions = {site.name: _question(site, plan) for site in sites}

    def answers(timeout: float = 0.0) -> dict[str, Answer]:
        # an edit's first numbers come before its errors
        if live().result(workspace, plan) is None and not live().settled(workspace, plan):
            return {}
        looks = {name: weights().look(workspace, question) for name, question in questions.items()}
        if timeout and None in looks.values():
            weights().look(workspace, questions[sites[-1].name], timeout)  # they are answered in order
            return answers()
        return {name: look for name, look in looks.items() if look}

    answers(FIRST_LOOK)
    draw_until(lambda: len(answers()) == len(sites), lambda: _table(workspace, plan, answers()), POLL)


def _question(site: Site, plan: Plan) -> WholeSite:
    entry = plan.sites[site.name]
    # what makes no difference is left out, so that it is not computed twice
    return WholeSite(site.name, entry.bits, max(entry.applied(site.rows), 1), plan.clip)


def _table(workspace: Workspace, plan: Plan, there: Mapping[str, Answer]) -> None:
    sites = sites_of(workspace.checkpoint.config)
    known = st.session_state.get("sites seen")
    if known is None or known[0] != workspace.key:
        known = st.session_state["sites seen"] = (workspace.key, {})
    seen: dict[str, SiteAnatomy] = known[1]  # of this plan where it is there, else of one before
    seen |= {name: answer.found for name, answer in there.items() if answer.found}
    outdated = frozenset(seen) - frozenset(there)
    for error in {answer.error for answer in there.values() if answer.error}:
        st.error(plain(error), icon=":material/error:")
    sensitivity = _sensitivity(workspace)
    st.caption(_words(workspace, plan, len(there), sensitivity))
    marked, dark = selection.chosen(), state.dark()
    content = (workspace.key, plan, len(there), outdated, marked, dark, sensitivity and id(sensitivity))

    def make() -> tuple[pd.DataFrame, Styler]:
        frame = site_frame(workspace, plan, seen, sensitivity)
        styled = shown(frame, marked=marked, outdated=outdated, grey=colours_for(dark).muted)
        return frame, styled

    frame, styled = kept("sites", content, make)
    _unpick(sites, marked)
    show_table(
        frame,
        "sites",
        shown=styled,
        key=TABLE,
        height=ROW * (min(len(sites), ROWS) + 1) + 3,
        on_select=lambda: _picked(sites),
        selection_mode="single-row",
        column_config=_columns(sensitivity),
        placeholder=MISSING,
        column_order=[name for name in styled.data.columns if sensitivity or name not in ("Ω", "mean λ")],
    )


def _picked(sites: tuple[Site, ...]) -> None:
    rows = st.session_state[TABLE]["selection"]["rows"]
    selection.choose(sites[rows[0]].layer if rows else None)


def _unpick(sites: tuple[Site, ...], marked: int | None) -> None:
    """Take the tick from a row when another layer was chosen elsewhere."""
    rows = (st.session_state.get(TABLE) or {}).get("selection", {}).get("rows", [])
    if rows and sites[rows[0]].layer != marked:
        st.session_state[TABLE] = {"selection": {"rows": [], "columns": [], "cells": []}}


def _sensitivity(workspace: Workspace) -> dict[str, Any] | None:
    """The newest finished analysis of this model, of the finest blocks there are."""
    found = (finished_sensitivity(workspace, own_jobs(), blocks) for blocks in GRANULARITIES)
    return next((document for document in found if document), None)


def _words(workspace: Workspace, plan: Plan, there: int, sensitivity: Mapping[str, Any] | None) -> str:
    """What the table cannot say of itself: where less is applied than asked, and which numbers are old."""
    sites = sites_of(workspace.checkpoint.config)
    entries = plan.sites
    fewer = [s for s in sites if entries[s.name].quantized and entries[s.name].groups > s.rows]
    linear = sum(s.layer is not None and entries[s.name].quantized for s in sites)
    said = []
    if there < len(sites):
        said.append(f"**Outdated:** errors in brackets are an earlier plan’s, {len(sites) - there} to come …")
    else:
        said.append(f"All {len(sites)} sites of {plain(plan.name)}.")
    if fewer:
        many = "1 site has" if len(fewer) == 1 else f"{fmt_count(len(fewer))} sites have"
        said.append(f"{many} fewer rows than groups asked for: a group a row is applied.")
    if plan.activation_bits == FULL or not linear:
        said.append("No inputs are quantized.")
    else:
        said.append(f"8-bit inputs into {linear} linear layers; tables are looked up and have none.")
    if sensitivity is None:
        said.append("Ω and λ appear after an analysis on the page *Sensitivity*.")
    else:
        said.append(f"Ω and λ {OF[sensitivity['granularity']]}, from {sensitivity['runs']} runs.")
        worst = max(r for block in sensitivity["blocks"] for r in block["residuals"])
        if worst > RESIDUAL_LIMIT:
            said.append(f"Some λ have residuals up to {fmt_percent(worst)}.")
    said.append(
        "A ticked row marks its layer on every page. What a layer costs alone: page *Compare*, *One at a time*."
    )
    return " ".join(said)


def _columns(sensitivity: Mapping[str, Any] | None) -> dict[str, Any]:
    number = st.column_config.NumberColumn
    of = OF[sensitivity["granularity"]] if sensitivity else "of its layer or site"
    return {
        "Layer": number(width=58),
        "Matrix": st.column_config.TextColumn(width=80),
        "Bits": number(width=44, help="Of a weight; fp32: left as it is"),
        "Groups": number(
            width=76, help="Ranges of the matrix: asked for, and after the arrow applied: at most one a row"
        ),
        "Shape": number(width=100, help="Rows × columns; a row is an output neuron or a table’s entry"),
        "Range": number(width=116, help="Smallest and largest weight; sorted by how far they are apart"),
        "MSE": number(width=76, help="Mean of (w′ − w)² over the weights"),
        "MSE / var": number(width=76, help="The same over the variance of the weights"),
        "Size": number(width=86, help="Codes, scales and zero points; 1 KB is 1,024 bytes"),
        "Share": number(width=58, help="Of the plan’s size; biases and LayerNorm are the rest"),
        "Ω": number(width=58, help=f"|mean λ| + std λ {of}"),
        "mean λ": number(width=66, help=f"Top Hessian eigenvalue {of}, mean of the runs"),
        "Inputs": number(width=146, help="Bits and calibrated range of what flows in"),
    }
