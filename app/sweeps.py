"""The paper's experiments as jobs: what a page asks for, the command that makes, and what its rows say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app.csvs import csv_text
from app.jobs import Job
from app.planfiles import plan_path, sensitivity_path, write_plan, write_sensitivity
from app.trainingdata import check_training_data
from app.workspace import Workspace
from qbert_core.allocation import experiments
from qbert_core.bert import BertConfig
from qbert_core.curvature import Sensitivity
from qbert_core.errors import InputError
from qbert_core.quantization import Plan, sites_of
from qbert_core.quantization.plan import parse_plan

Experiment = Literal["methods", "groups", "modules", "one-at-a-time"]


@dataclass(frozen=True)
class Training:
    """Finetuning of every plan."""

    epochs: int
    seeds: str  # whole numbers with commas


@dataclass(frozen=True)
class Settings:
    """What the controls say."""

    experiment: Experiment
    train: str  # training data; may be empty where none is needed
    limit: int  # rows of the data and of the training data
    training: Training | None  # None: plans are measured as they are only
    counts: str = ""  # group counts, with commas
    plan: Plan | None = None  # whose bits groups and parts have
    high: int | None = None  # layers with the higher width; None: as many as the paper's preset has
    sensitivity: dict[str, Any] | None = None  # a finished analysis; None: the sweep computes one


def check(workspace: Workspace, settings: Settings) -> None:
    """Raise `InputError` for what would make the job fail after seconds of loading."""
    if settings.experiment == "groups":
        for count in settings.counts.split(","):
            experiments.group_count(workspace.checkpoint.config, count.strip())
    if settings.experiment == "one-at-a-time" and settings.plan:
        experiments.one_at_a_time(workspace.checkpoint.config, workspace.task.name, settings.plan)
    if settings.training:
        _check_seeds(settings.training.seeds)
    needed = settings.training or (settings.experiment == "methods" and settings.sensitivity is None)
    if needed or settings.train:
        check_training_data(workspace.task, settings.train)


def _check_seeds(seeds: str) -> None:
    parts = [part.strip() for part in seeds.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(map(int, parts))) < len(parts):
        raise InputError(
            f"Seeds are {seeds!r:.40}; expected different whole numbers with commas, like 0,1,2."
        )


def arguments(workspace: Workspace, settings: Settings) -> list[str]:
    """The command. Equal settings give equal arguments, so they find their job again."""
    flag = f"--{settings.experiment}"
    made = ["sweep", workspace.source.model, flag]
    if settings.experiment == "groups":
        made.append(",".join(count.strip() for count in settings.counts.split(",")))
    made += ["--task", workspace.task.name, "--data", workspace.source.data]
    made += ["--limit", str(settings.limit), "--attention"]
    if settings.plan:
        preset = next((p.name for p in workspace.presets if p.digest == settings.plan.digest), None)
        made += ["--plan", preset or str(plan_path(settings.plan))]
    if settings.high is not None:
        made += ["--high", str(settings.high)]
    if settings.sensitivity:
        made += ["--sensitivity", str(sensitivity_path(settings.sensitivity))]
    if settings.train:
        made += ["--train", settings.train]
    if settings.training:
        made += ["--finetune", "--epochs", str(settings.training.epochs), "--seeds", settings.training.seeds]
    return made


def write_files(workspace: Workspace, settings: Settings) -> None:
    """Write what the command reads. Raises OSError when it cannot be written."""
    if settings.plan and settings.plan.digest not in {plan.digest for plan in workspace.presets}:
        write_plan(settings.plan)
    if settings.sensitivity:
        write_sensitivity(settings.sensitivity)


def finished_sensitivity(
    workspace: Workspace, jobs: Sequence[Job], blocks: str = "layer"
) -> dict[str, Any] | None:
    """What the newest finished analysis of this model's layers (or other `blocks`) says, None where there is
    none."""
    for job in jobs:
        document = job.result
        if (
            job.arguments[:1] == ("sensitivity",)
            and document is not None
            and document.get("granularity") == blocks
            and document.get("model") == workspace.checkpoint.fingerprint
        ):
            found: dict[str, Any] = document
            return found
    return None


def plans_by_digest(workspace: Workspace, settings: Settings, document: dict[str, Any]) -> dict[str, Plan]:
    """The plans of a sweep's rows, as far as they are known: all of them once it has ended, before that the
    presets and those that the settings make."""
    config, task = workspace.checkpoint.config, workspace.task.name
    known = {plan.digest: plan for plan in workspace.presets}
    for row in document["rows"]:
        if "plan" in row:
            known[row["plan_digest"]] = parse_plan(row["plan"], sites_of(config), row["name"])
    try:
        variants = _variants(config, task, settings)
    except InputError:  # being typed
        variants = ()
    return {variant.plan.digest: variant.plan for variant in variants} | known


def _variants(config: BertConfig, task: str, settings: Settings) -> tuple[experiments.Variant, ...]:
    if settings.experiment == "methods":
        if settings.sensitivity is None:
            return ()
        return experiments.methods(config, task, Sensitivity.from_json(settings.sensitivity), settings.high)
    if settings.experiment == "groups":
        counts = [count.strip() for count in settings.counts.split(",")]
        return experiments.group_counts(config, task, counts, settings.plan)
    if settings.experiment == "modules":
        return experiments.modules(config, task)
    return experiments.one_at_a_time(config, task, settings.plan)


def counts_drawn(config: BertConfig, job: Job) -> list[tuple[str, int]]:
    """The group counts a `groups` job was asked for, as written and as a number; a group a row is as many
    as the largest matrix of an encoder layer has rows."""
    found = []
    for word in job.arguments[3].split(","):
        count = experiments.group_count(config, word)
        found.append((word, config.intermediate if count is None else count))
    return found


def seconds_left(rows: Sequence[dict[str, Any]], total: int, finetuning: bool) -> float | None:
    """Time for the rows to come, judged by those that are there; None while that cannot be judged.

    With `finetuning` only finetuned rows say how long the rest takes: it is finetuned, too.
    """
    alike = [row for row in rows if row["finetuned"] == finetuning]
    if not alike:
        return None
    spent = sum(
        row["seconds"] for row in alike if row["same_as"] is None
    )  # a plan's second name costs nothing
    return float(spent / len(alike) * (total - len(rows)))


def rows_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The rows with every digit, a column a number."""
    metrics = sorted({name for row in rows for name in row["metrics"]})
    header = (
        ["experiment", "name", "method", "plan_digest", "same_as", "finetuned", "seed", "epochs", "n"]
        + [column for name in metrics for column in (name, f"{name}_low", f"{name}_high", f"{name}_fp32")]
        + ["difference", "difference_low", "difference_high", "gained", "lost", "size_mb", "weights_mb"]
        + ["compression", "effective_bits", "attention_kl_mean", "seconds"]
    )
    made = []
    for row in rows:
        difference = row["difference"]
        made.append(
            [row["experiment"], row["name"], row["method"], row["plan_digest"]]
            + [row["same_as"] or "", row["finetuned"], row["seed"], row["epochs"], row["n"]]
            + [
                value
                for name in metrics
                for value in (row["metrics"][name], *row["intervals"][name], row["baseline"][name])
            ]
            + [difference["mean"], *difference["interval"], difference["gained"], difference["lost"]]
            + [row["size_mb"], row["weights_mb"], row["compression"], row["effective_bits"]]
            + [row["attention_kl_mean"], row["seconds"]]
        )
    return csv_text(header, made)
