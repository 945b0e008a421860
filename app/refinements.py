"""Refining a plan by measurement, as a job: its command, and what its result says in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from app.csvs import csv_text
from app.figures import fmt_count, fmt_points_interval, fmt_signed_points, layer_label
from app.job import Job
from app.planfiles import plan_path, sensitivity_path
from app.words import WORDS
from app.workspace import Workspace
from qbert_core.quantization import Plan, plan_size

WIDTHS = "2,3,4,8"  # bits; those the plan has come on top


def arguments(
    workspace: Workspace, plan: Plan, sensitivity: dict[str, Any], tries: int, locked: Collection[int]
) -> list[str]:
    """The command, for the size that the plan has. Equal wishes give equal arguments."""
    source = workspace.source
    made = [
        "allocate", source.model, "--refine", str(tries), "--plan", str(plan_path(plan)),
        "--budget-mb", repr(plan_size(workspace.checkpoint.config, plan).size_mb), "--bits", WIDTHS,
        "--sensitivity", str(sensitivity_path(sensitivity)), "--task", workspace.task.name,
        "--data", source.data, "--limit", str(source.limit),
    ]  # fmt: skip
    if locked:
        made += ["--lock", ",".join(str(layer) for layer in sorted(locked))]
    return made


def starts_from(job: Job) -> str:
    """The digest of the plan that a job refines."""
    return Path(job.option("--plan")).stem


def better(refined: Mapping[str, Any]) -> bool:
    """Whether another plan than the start was chosen."""
    return bool(refined["start"]["plan_digest"] != refined["end"]["plan_digest"])


def verdict(workspace: Workspace, refined: Mapping[str, Any]) -> str:
    """What the search found, and how far it can be believed."""
    words = WORDS[workspace.task.name]
    chose, reports = (fmt_count(refined[key]) for key in ("n_select", "n_report"))
    count = len(refined["tried"])
    if not count:
        return f"No plan with bits {WIDTHS} of at most this size is a step away from this one. It stays."
    plans = f"{count} plan{'s' if count != 1 else ''} of at most this size"
    if not better(refined):
        return f"None of {plans} measured better on the {chose} {words.many} that choose. Yours stays."
    difference = refined["difference"]
    low, high = difference["interval"]
    text = (
        f"The best of {plans}, chosen on {chose} {words.many}. On the {reports} others {words.metric} changes by "
        f"{fmt_signed_points(difference['mean'])} (95 %: {fmt_points_interval(low, high)})"
    )
    if low > 0:
        return f"{text}: better."
    if high < 0:
        return f"{text}: worse, so what chose it was chance. Keep yours."
    return f"{text}: that may be chance."


def changes(refined: Mapping[str, Any]) -> list[str]:
    """How the chosen plan's bits differ from the start's: "L3 attention 3 → 4"."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for one in refined["tried"]:
        for change in one["changes"] if one["accepted"] else ():
            first.setdefault(change["name"], change["from"])
            last[change["name"]] = change["to"]
    return [f"{_title(name)} {first[name]} → {last[name]}" for name in first if first[name] != last[name]]


def tries_csv(refined: Mapping[str, Any]) -> str:
    """Every plan that was measured, in order, with every digit; metric and loss are on the half that chooses."""
    tried = refined["tried"]
    metrics = sorted(tried[0]["metrics"]) if tried else []
    return csv_text(
        ["try", "plan_digest", "changes", "size_mb", "predicted_harm", *metrics, "loss", "accepted"],
        (
            [
                number, one["plan_digest"], _changed(one), one["size_mb"], one["harm"],
                *(one["metrics"][name] for name in metrics), one["loss"], one["accepted"],
            ]
            for number, one in enumerate(tried, 1)
        ),
    )  # fmt: skip


def _changed(one: Mapping[str, Any]) -> str:
    return "; ".join(f"{change['name']} {change['from']}>{change['to']}" for change in one["changes"])


def _title(name: str) -> str:
    """A block's name in short: bert.encoder.layer.2.attention -> "L3 attention"."""
    parts = name.split(".")
    if "layer" not in parts:
        return parts[-1].removesuffix("_embeddings").replace("_", " ")
    place = parts.index("layer") + 1
    return " ".join([layer_label(int(parts[place])), *parts[place + 1 :]])
