"""Confidence: whether the ranking would come out the same with other draws of the data."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import state
from app.figures import (
    BlockSensitivity,
    fmt_percent,
    fmt_probability,
    rank_confidence,
    stability_history,
    title,
)
from app.kept import show_kept

NAMED = 12  # blocks; more are only counted


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
        st.markdown("## How often one block comes out above another")
        show_kept(
            "rank-confidence",
            (pairs, [block["name"] for block in blocks], dark),
            lambda: rank_confidence(blocks, pairs, dark=dark),
        )
    with right:
        st.markdown("## Sure of the highest, run by run")
        show_kept(
            "stability",
            (history, confidence, after, runs, dark),
            lambda: stability_history(
                history, confidence=confidence, stable_after=after, runs=runs, dark=dark
            ),
        )
        if stability:
            st.caption(stability_words(stability, blocks))
            st.caption(
                "Probabilities are shares of bootstrap samples of the runs: they say how far the draws "
                "of the data matter, not how good the eigenvalues are."
            )


def stability_words(stability: dict[str, Any], blocks: list[BlockSensitivity]) -> str:
    """How sure the set of the highest is, and since when, in a sentence."""
    highest = [blocks[index] for index in stability["set"]]
    names = ", ".join(title(block) for block in highest)
    if len(highest) > NAMED or len({title(block) for block in highest}) < len(highest):
        names = f"The {len(highest)} blocks that rank highest now"
    most = "is the most sensitive" if len(highest) == 1 else f"are the {len(highest)} most sensitive"
    text = f"{names} {most} with probability {fmt_probability(stability['probability'])}"
    confidence = fmt_percent(stability["confidence"], 0)
    if stability["stable_after"] is None:
        return f"{text}; not stable yet: {confidence} is asked for, and at least five runs."
    return f"{text}; stable at {confidence} since run {stability['stable_after']}."
