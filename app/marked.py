"""Which layer is marked, in words, on every page, and a way to take the mark away."""

from __future__ import annotations

import streamlit as st

from app import selection
from app.figures import layer_label


def marked_layer() -> None:
    """A line at the end of the sidebar, where it moves nothing."""
    layer = selection.chosen()
    if layer is None:
        return
    st.button(
        f"Layer {layer_label(layer)} is marked",
        icon=":material/close:",
        key="unmark-layer",
        type="tertiary",
        help="Click to take the mark away. It is in the link, too.",
        on_click=selection.choose,
        args=(None,),
    )
