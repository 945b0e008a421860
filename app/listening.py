"""A page that asks for itself after its connection was lost."""

from __future__ import annotations

import streamlit as st

A_DAY = 86_400.0  # seconds


@st.fragment(run_every=A_DAY)
def listening() -> None:
    """Nothing to see. When the connection comes back, the browser asks for the page anew only where something
    on it is drawn every so often; and a server that was started again knows nothing until it is asked."""
