"""Measuring how well predictions rank plans, as a job: its command, and what its numbers say in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.csvs import csv_text
from app.figures import MISSING, fmt_correlation, fmt_correlation_interval, fmt_probability
from app.planfiles import sensitivity_path
from app.workspace import Workspace

NAMES = {
    "omega": "Ω",
    "mean": "|mean λ|",
    "trace": "mean trace",
    "perturbation": "|ΔW|² alone",
    "size": "size alone",
}
"""Predictors, as pages call them; the last two know nothing of curvature."""
AXES = {
    "omega": "½ Ω |ΔW|², a bound in nats",
    "mean": "½ |mean λ| |ΔW|², a bound in nats",
    "trace": "½ mean trace |ΔW|², nats",
    "perturbation": "½ |ΔW|²",
}
"""What is drawn on the axis of those that predict a harm."""


def arguments(workspace: Workspace, sensitivity: dict[str, Any], plans: int) -> list[str]:
    """The command. Equal settings give equal arguments, so they find their job again."""
    source = workspace.source
    return [
        "sweep", source.model, "--frontier", str(plans), "--task", workspace.task.name, "--data", source.data,
        "--limit", str(source.limit), "--sensitivity", str(sensitivity_path(sensitivity)),
    ]  # fmt: skip


def found_for(ranks: Mapping[str, Any], target: str) -> dict[str, dict[str, Any]]:
    """Predictor -> its numbers for one target, the task's metric or `loss`."""
    return {row["predictor"]: row for row in ranks["rows"] if row["target"] == target}


def ranks_words(ranks: Mapping[str, Any], target: str, measured: str) -> list[str]:
    """What the numbers say of one target, which pages call `measured`: a sentence each for all plans, for plans
    of nearly equal size, and for how far half of the examples agree with the other half."""
    found = found_for(ranks, target)
    each = [f"{NAMES[name]} {_spearman(row)}" for name, row in found.items() if name in NAMES]
    said = [f"Spearman’s ρ of predicted harm and {measured}, {ranks['plans']} plans: {'; '.join(each)}."]
    judged = {name: row for name, row in found.items() if row["near_right"]["value"] is not None}
    near = "; ".join(f"{NAMES[name]} {_right(row)}" for name, row in judged.items() if name in NAMES)
    if near:
        pairs = f"Of {ranks['near_pairs']} pairs of nearly equal size"
        said.append(f"{pairs}, in the right order (chance: 50 %): {near}.")
    else:
        said.append("No two plans are of nearly equal size: nothing here tells a prediction from their size.")
    half = next(row for row in ranks["halves"] if row["target"] == target)
    if half["spearman"] is not None:
        share = half["near_right"]
        right = "" if share is None else f", and orders {fmt_probability(share)} of those pairs alike"
        said.append(
            f"For comparison: measuring on one half of the {ranks['examples']} examples ranks the plans as "
            f"measuring on the other does with ρ {fmt_correlation(half['spearman'])}{right}."
        )
    return said


def ranks_table(ranks: Mapping[str, Any], target: str) -> list[dict[str, str]]:
    """A row a predictor, for one target."""
    return [
        {
            "Predicted by": NAMES[name],
            "Spearman ρ": fmt_correlation(row["spearman"]["value"]),
            "95 % of ρ": _interval(row["spearman"]),
            "Kendall τ": fmt_correlation(row["kendall"]["value"]),
            "95 % of τ": _interval(row["kendall"]),
            "Right at equal size": fmt_probability(row["near_right"]["value"]),
            "95 % of it": _shares(row["near_right"]),
        }
        for name, row in found_for(ranks, target).items()
        if name in NAMES
    ]


def plans_csv(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """The measured plans with every digit, a column a predictor."""
    names = list(next((row["predicted"] for row in rows if row["predicted"]), {}))
    plain = ("name", "method", "plan_digest", "size_mb", "n", "loss")
    return csv_text(
        [*plain, metric, f"{metric}_low", f"{metric}_high", *(f"predicted_{name}" for name in names)],
        (
            [
                *(row[name] for name in plain),
                row["metrics"][metric],
                *row["interval"],
                *((row["predicted"] or {}).get(name, "") for name in names),
            ]
            for row in rows
        ),
    )


def _spearman(row: Mapping[str, Any]) -> str:
    found = row["spearman"]
    if found["value"] is None:
        return MISSING
    return f"{fmt_correlation(found['value'])} ({_interval(found)})"


def _right(row: Mapping[str, Any]) -> str:
    found = row["near_right"]
    return f"{fmt_probability(found['value'])} ({_shares(found)})"


def _interval(found: Mapping[str, Any]) -> str:
    return fmt_correlation_interval(*(found["interval"] or (None, None)))


def _shares(found: Mapping[str, Any]) -> str:
    if found["interval"] is None:
        return MISSING
    low, high = (fmt_probability(end) for end in found["interval"])
    return f"{low} to {high}"
