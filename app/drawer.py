"""A drawer: a part of a page that is drawn only while it is open, and found as it was left."""

from __future__ import annotations

import streamlit as st
from streamlit.elements.lib.mutable_expander_container import ExpanderContainer


def drawer(label: str, key: str, icon: str) -> ExpanderContainer:
    """An expander that runs the page anew when it is opened or closed; `open` says which. It is as it was
    left also after a look at another page."""
    st.session_state.setdefault(key, left_open(key))
    made = st.expander(label, icon=icon, key=key, on_change="rerun")
    st.session_state[f"drawer {key}"] = made.open
    return made


def left_open(key: str) -> bool:
    """Whether the drawer of this key is open, before it is drawn."""
    return bool(st.session_state.get(key, st.session_state.get(f"drawer {key}", False)))
