"""What is slow to make, made once: plotly takes a tenth of a second for a figure, and a page looks often."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import streamlit as st
from plotly.graph_objects import Figure

from app import selection, state
from app.figures import alt_text, chart_config, layer_outline

MAX_DRAWN = 100  # figures; the largest have some hundred kB

Made = TypeVar("Made")

_drawn: OrderedDict[Hashable, Figure] = OrderedDict()
_lock = threading.Lock()


def kept(name: str, content: object, make: Callable[[], Made]) -> Made:
    """The session's thing called `name`, made anew only when `content` changed."""
    known = last_kept(name)
    if known is None or known[0] != content:
        known = (content, make())
        st.session_state[f"kept {name}"] = known
    made: Made = known[1]
    return made


def last_kept(name: str) -> tuple[object, Any] | None:
    """What the session's thing called `name` was made of last, and the thing; None where there is none yet."""
    known: tuple[object, Any] | None = st.session_state.get(f"kept {name}")
    return known


def drawn(name: str, content: Hashable, draw: Callable[[], Figure]) -> Figure:
    """The figure `name` with this content, drawn once for every session that looks at the same."""
    key = (name, content)
    with _lock:
        known = _drawn.get(key)
        if known is not None:
            _drawn.move_to_end(key)
            return known
    figure = draw()  # by two at once rather than with everybody waiting
    with _lock:
        _drawn[key] = figure
        while len(_drawn) > MAX_DRAWN:
            _drawn.popitem(last=False)
    return figure


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
    figure = kept(name, content, draw)
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
