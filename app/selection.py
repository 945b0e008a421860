"""The layer a person has chosen: chosen on any page, marked on every page, kept in the link.

A page never asks where the choice came from. Layers count from 0 here and from 1 in the address.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from app import history

LAYER, WRITTEN, CHANGED = "chosen layer", "written layer", "layer changed"
QUERY = "layer"  # in the address
MOST = 4  # digits


def chosen() -> int | None:
    """The layer that is marked; the address's on arrival, and after Back and Forward."""
    linked, written = st.query_params.get(QUERY), st.session_state.get(WRITTEN)
    arrived = WRITTEN not in st.session_state or history.went_back()
    if arrived and linked is not None and linked != written:
        st.session_state[WRITTEN] = linked
        good = linked.isdecimal() and 0 < len(linked) <= MOST and int(linked) > 0
        st.session_state[LAYER] = int(linked) - 1 if good else None
    layer: int | None = st.session_state.get(LAYER)
    return layer


def choose(layer: int | None) -> None:
    """Mark this layer, or none."""
    if layer != st.session_state.get(LAYER):
        st.session_state[LAYER] = layer
        st.session_state[CHANGED] = True


def written(text: str | None) -> None:
    """Note what a page has put into the address, so that only another address counts as a choice."""
    st.session_state[WRITTEN] = text


def changed() -> bool:
    """Whether a layer was chosen since this was asked last. A click inside a fragment runs only that: it
    asks this and runs the page, where the same layer is marked in other places."""
    return bool(st.session_state.pop(CHANGED, False))


def on_click(chart: str, place: int = 0) -> Callable[[], None]:
    """The `on_select` of a chart whose points have their layer at `place` of `customdata`: a click marks the
    layer, a second click on the same one takes the mark away."""

    def clicked() -> None:
        points = st.session_state[chart]["selection"]["points"]
        last = f"clicked {chart}"
        if points:
            data = points[0].get("customdata")
            if not data or int(data[place]) < 0:  # no layer: a table, or an entry of a legend
                return
            st.session_state[last] = int(data[place])
        # plotly takes a second click on a point for the end of its own selection and names no point
        layer = st.session_state.get(last)
        choose(None if layer == st.session_state.get(LAYER) else layer)

    return clicked
