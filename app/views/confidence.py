"""Confidence: whether the ranking would come out the same with other draws of the data."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import state
from app.figures import (
    fmt_count,
    fmt_percent,
    fmt_probability,
    layer_label,
    rank_confidence,
    stability_history,
)
from app.kept import show_kept


def confidence_section(document: dict[str, Any] | None, runs: int) -> None:
    """Pair probabilities beside the history of the high set. `runs` is the most there will be."""
    stability = document.get("stability") if document else None
    blocks = document["blocks"] if document else []
    pairs = stability["pairs"] if stability else []
    history = stability["history"] if stability else []
    confidence = stability["confidence"] if stability else 0.95
    after = stability["stable_after"] if stability else None
    dark = state.dark()
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown("###### How often one block comes out above another")
        show_kept(
            "rank-confidence",
            (pairs, [block["name"] for block in blocks], dark),
            lambda: rank_confidence(blocks, pairs, dark=dark),
        )
    with right:
        st.markdown("###### Sure of the highest, run by run")
        show_kept(
            "stability",
            (history, confidence, after, runs, dark),
            lambda: stability_history(
                history, confidence=confidence, stable_after=after, runs=runs, dark=dark
            ),
        )
        if stability:
            st.caption(stability_words(stability))
            st.caption(
                "Probabilities are shares of bootstrap samples of the runs: they say how far the draws "
                "of the data matter, not how good the eigenvalues are."
            )


def stability_words(stability: dict[str, Any]) -> str:
    """How sure the set of the highest is, and since when, in a sentence or two."""
    names = ", ".join(layer_label(layer) for layer in stability["set"])
    count = stability["high"]
    verb, most = ("is", "the most sensitive") if count == 1 else ("are", f"the {count} most sensitive")
    text = f"{names} {verb} {most} with probability {fmt_probability(stability['probability'])}"
    confidence = fmt_percent(stability["confidence"], 0)
    used = f"{fmt_count(stability['examples_used'])} examples used"
    if stability["stable_after"] is None:
        return f"{text}: below {confidence}, not stable yet; {used}."
    return f"{text}: stable at {confidence} after {stability['stable_after']} runs; {used}."
