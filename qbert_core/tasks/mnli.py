"""MNLI: does the premise entail the hypothesis? Columns premise, hypothesis, label."""

from __future__ import annotations

from qbert_core.tasks.classification import Classification


class Mnli(Classification):
    """Natural language inference on pairs (Williams et al. 2018, as in GLUE: 0 entailment, 1 neutral,
    2 contradiction). Models name their labels in any order."""

    name = "mnli"
    columns = ("premise", "hypothesis", "label")
    labels = ("entailment", "neutral", "contradiction")
