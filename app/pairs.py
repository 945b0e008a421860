"""Two plans compared: their numbers side by side, and what changes from the one to the other."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from app.figures import (
    MISSING,
    SiteBits,
    fmt_change,
    fmt_count,
    fmt_interval,
    fmt_kl,
    fmt_mb,
    fmt_percent,
    fmt_points_interval,
    fmt_ratio,
    fmt_signed_points,
    layer_label,
)
from app.flipped import OTHER, RIGHT, WRONG, counts
from app.sitetable import site_label
from app.words import WORDS
from app.workspace import Workspace
from qbert_core.bert import BertConfig
from qbert_core.evaluation import Evaluation, Flip
from qbert_core.evaluation.paired import Difference, paired_difference
from qbert_core.evaluation.slices import flips
from qbert_core.quantization import Plan, plan_size, sites_of
from qbert_core.quantization.plan import FULL

SEED = 0  # of the bootstrap
IN_B = {WRONG: "Became wrong", RIGHT: "Became right", OTHER: "Otherwise different"}

Row = tuple[str, str, str, str]
Results = tuple[Evaluation | None, Evaluation | None]


def site_bits(config: BertConfig, plan: Plan) -> list[SiteBits]:
    """The plan as the figures take it, groups as they are applied."""
    entries = plan.sites
    return [
        SiteBits(
            site.name,
            site.kind,
            site.layer,
            entries[site.name].bits,
            entries[site.name].applied(site.rows),
        )
        for site in sites_of(config)
    ]


def metric_difference(workspace: Workspace, first: Evaluation, second: Evaluation) -> Difference:
    """The main metric, B minus A, on the same examples; both must be complete."""
    return paired_difference(workspace.task, first.grades.tolist(), second.grades.tolist(), SEED)


def changed_answers(first: Evaluation, second: Evaluation) -> list[Flip]:
    """The examples that A and B answer differently; `before` is A's answer, `after` B's."""
    return flips(
        first.indices,
        first.predictions,
        second.predictions,
        (first.grades[:, 0] == 1).tolist(),
        (second.grades[:, 0] == 1).tolist(),
    )


def numbers_table(
    workspace: Workspace,
    plans: tuple[Plan, Plan],
    results: Results,
    difference: Difference | None,
    changed: Sequence[Flip] | None,
) -> pd.DataFrame:
    """A row a number: What, A, B, and B minus A. `results` are complete or None, then a dash stands."""
    config, words, metric = workspace.checkpoint.config, WORDS[workspace.task.name], workspace.task.metric
    a, b = (plan_size(config, plan) for plan in plans)
    rows: list[Row] = [
        ("Plan", plans[0].name, plans[1].name, ""),
        *_metric_rows(words.metric, metric, results, difference),
        _fp32_row(metric, results),
        *_answer_rows(results, changed),
        ("Size", fmt_mb(a.size_mb), fmt_mb(b.size_mb), fmt_change(b.size_mb - a.size_mb, 1, "MB")),
        (
            "Smaller than fp32",
            fmt_ratio(a.compression),
            fmt_ratio(b.compression),
            fmt_change(b.compression - a.compression, 1) + "\N{MULTIPLICATION SIGN}",
        ),
        (
            "Effective bits",
            f"{a.effective_bits:.2f}",
            f"{b.effective_bits:.2f}",
            fmt_change(b.effective_bits - a.effective_bits, 2),
        ),
        *_attention_rows(results),
        _text_row("Inputs", _inputs(plans[0]), _inputs(plans[1])),
        _text_row("Ranges", _ranges(plans[0]), _ranges(plans[1])),
    ]
    return pd.DataFrame(rows, columns=["", "A", "B", "B \N{MINUS SIGN} A"])


def _metric_rows(label: str, metric: str, results: Results, difference: Difference | None) -> list[Row]:
    first, second = ((r.score.metrics[metric], r.score.interval) if r else None for r in results)
    return [
        (
            label,
            fmt_percent(first[0] if first else None),
            fmt_percent(second[0] if second else None),
            fmt_signed_points(difference.mean if difference else None),
        ),
        (
            "95 % interval",
            fmt_interval(*first[1]) if first else MISSING,
            fmt_interval(*second[1]) if second else MISSING,
            fmt_points_interval(*difference.interval) if difference else MISSING,
        ),
    ]


def _fp32_row(metric: str, results: Results) -> Row:
    changes = [r.score.metrics[metric] - r.baseline.metrics[metric] if r else None for r in results]
    return "From fp32", fmt_signed_points(changes[0]), fmt_signed_points(changes[1]), ""


def _answer_rows(results: Results, changed: Sequence[Flip] | None) -> list[Row]:
    """Answers unlike fp32's; and of those that A and B give differently, how many became wrong or right."""
    own = [f"{fmt_count(len(r.flips))} of {fmt_count(r.n)}" if r else MISSING for r in results]
    found = counts(changed) if changed is not None else {}
    kinds = [kind for kind in (WRONG, RIGHT, OTHER) if kind != OTHER or found.get(OTHER)]
    return [
        ("Answers unlike fp32’s", own[0], own[1], ""),
        *((f"{IN_B[kind]} in B", "", "", fmt_count(found.get(kind))) for kind in kinds),
    ]


def _attention_rows(results: Results) -> list[Row]:
    heads = [[v for row in r.attention_kl or () for v in row] if r else [] for r in results]
    means = [sum(kl) / len(kl) if kl else None for kl in heads]
    worst = [max(kl, default=None) for kl in heads]
    rows = []
    for label, (first, second) in (("mean", means), ("worst head", worst)):
        change = None if first is None or second is None else second - first
        rows.append((f"KL, {label} (nats)", fmt_kl(first), fmt_kl(second), fmt_change(change)))
    return rows


def _text_row(label: str, first: str, second: str) -> Row:
    return label, first, second, "the same" if first == second else "differ"


def _inputs(plan: Plan) -> str:
    return "fp32" if plan.activation_bits == FULL else "8 bits"


def _ranges(plan: Plan) -> str:
    return "min to max" if plan.clip == 100 else f"{100 - plan.clip:g}th to {plan.clip:g}th percentile"


def sites_that_differ(config: BertConfig, first: Plan, second: Plan) -> pd.DataFrame:
    """A row a site whose bits or groups, as applied, are others in B than in A."""
    rows = []
    for site in sites_of(config):
        pair = [plan.sites[site.name] for plan in (first, second)]
        bits = [entry.bits for entry in pair]
        groups = [entry.applied(site.rows) for entry in pair]
        if bits[0] != bits[1] or groups[0] != groups[1]:
            rows.append(
                {
                    "Layer": layer_label(-1 if site.layer is None else site.layer),
                    "Matrix": site_label(site),
                    "Bits A": _bits(bits[0]),
                    "Bits B": _bits(bits[1]),
                    "Groups A": groups[0] or None,
                    "Groups B": groups[1] or None,
                    "Site": site.name,
                }
            )
    columns = ["Layer", "Matrix", "Bits A", "Bits B", "Groups A", "Groups B", "Site"]
    return pd.DataFrame(rows, columns=columns).astype({"Groups A": "Int64", "Groups B": "Int64"})


def _bits(bits: int) -> str:
    return "fp32" if bits == FULL else str(bits)
