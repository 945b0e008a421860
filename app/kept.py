"""Figures drawn once: plotly takes a tenth of a second for one, and a page looks often while a job runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import streamlit as st
from plotly.graph_objects import Figure

from app import selection, state
from app.figures import alt_text, chart_config, layer_outline


def show_kept(
    name: str,
    content: object,
    draw: Callable[[], Figure],
    on_select: Callable[[], None] | None = None,
    *,
    layers: bool = False,
) -> None:
    """Show the session's figure `name`, drawn anew only when `content` changed. It is the chart's key and
    the name of a saved picture too. `on_select` is called when a point was clicked; with `layers` the chosen
    layer is outlined."""
    key = f"figure {name}"
    known = st.session_state.get(key)
    if known is None or known[0] != content:
        known = (content, draw())
        st.session_state[key] = known
    figure: Figure = known[1]
    with outlined(name, figure) if layers else nullcontext():
        st.plotly_chart(
            figure, theme=None, config=chart_config(name), alt=alt_text(figure), key=name,
            on_select=on_select or "ignore", selection_mode="points",
        )  # fmt: skip


@contextmanager
def outlined(name: str, figure: Figure) -> Iterator[None]:
    """A place for `figure` with the chosen layer's outline over it; there also when no layer is chosen,
    because a chart that changes its place is built anew."""
    with st.container(key=f"outlined-{name}", gap=None):
        st.html(layer_outline(figure, selection.chosen(), dark=state.dark()))
        yield
