"""A plan and what was measured of it as one HTML file that asks nobody for anything.

Text, tables and inline SVG only; a content policy in its head forbids requests and scripts. All text from
models, data and plans is escaped. It follows the reader's light or dark setting and prints.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from qbert_core.bert import BertConfig
from qbert_core.curvature import Sensitivity
from qbert_core.evaluation import Evaluation
from qbert_core.evaluation.paired import Difference
from qbert_core.quantization import Plan, fp32_size, plan_size, sites_of

STYLE = """:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6470;--line:#d5dae0;--back:#fff;--mark:0,96,160}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#a0a9b4;--line:#3a424c;--back:#14181d;--mark:90,170,240}}
@media print{:root{--ink:#000;--soft:#444;--line:#bbb;--back:#fff;--mark:0,96,160}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);
max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:1.8rem 0 .4rem;break-after:avoid}
p{margin:.3rem 0}.soft{color:var(--soft)}
table{margin-bottom:.8rem;border-collapse:collapse;font-variant-numeric:tabular-nums;break-inside:avoid;font-size:.9rem}
th,td{border-bottom:1px solid var(--line);padding:.2rem .6rem;text-align:right;font-weight:400}
th:first-child,td:first-child{text-align:left}
.text td{text-align:left}.text{overflow-wrap:anywhere}thead th{color:var(--soft)}
.wide{overflow-x:auto}.heat td{border:1px solid var(--back);text-align:center;padding:.2rem .35rem;
print-color-adjust:exact;-webkit-print-color-adjust:exact}
pre{background:rgba(var(--mark),.08);padding:.6rem;white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85rem}
svg{display:block;max-width:100%}svg text{fill:var(--ink);font-size:12px}
svg rect{fill:rgb(var(--mark))}svg line{stroke:var(--ink)}"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
KINDS = (
    ("Query", "attention.self.query"), ("Key", "attention.self.key"), ("Value", "attention.self.value"),
    ("Attention output", "attention.output.dense"), ("FFN in", "intermediate.dense"), ("FFN out", "output.dense"),
)  # fmt: skip
HEAT_LOW, HEAT_HIGH = -4.0, 0.5  # log10 of nats: one scale for every report, so that two can be compared


@dataclass(frozen=True)
class Source:
    """What the numbers were measured on."""

    model: str
    fingerprint: str
    task: str
    data: str
    examples: int
    calibration: str  # where activation ranges come from


def report(
    config: BertConfig,
    plan: Plan,
    source: Source,
    environment: Mapping[str, str],
    commands: Sequence[str],
    *,
    evaluation: Evaluation | None = None,
    difference: Difference | None = None,
    sensitivity: Sensitivity | None = None,
    size: Mapping[str, float] | None = None,
    made: datetime | None = None,
) -> str:
    """The file's text.

    `commands` reproduce it with the plan saved as plan.json, `difference` is the evaluation's paired one,
    `size` an export's account of its file in MB (`Export.size`), `made` is now unless given.
    """
    made = made or datetime.now(UTC)
    body = [
        f"<h1>{_text(plan.name)}</h1>",
        f'<p class="soft">{_text(source.model)} ({_text(source.fingerprint)}), {_text(source.task)}; '
        f"plan {plan.digest}; {made:%Y-%m-%d %H:%M} UTC</p>",
    ]
    if evaluation is not None:
        body += _numbers(evaluation, source, difference)
    body += _sizes(config, plan, size)
    body += _plan(config, plan)
    if evaluation is not None and evaluation.attention_kl:
        body += _attention(evaluation.attention_kl)
    if sensitivity is not None:
        body += _sensitivity(sensitivity)
    body += ["<h2>Environment</h2>", f'<div class="text">{_table(("", ""), environment.items())}</div>']
    body += ["<h2>Reproduce</h2>", *(f"<pre>{_text(command)}</pre>" for command in commands)]
    body.append(
        f"<details><summary>plan.json</summary><pre>{_text(json.dumps(plan.to_json()))}</pre></details>"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_text(plan.name)}: {_text(source.model)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _numbers(result: Evaluation, source: Source, difference: Difference | None) -> list[str]:
    rows = []
    for name, value in result.score.metrics.items():
        before = result.baseline.metrics[name]
        rows.append(
            (
                name.replace("_", " "),
                _percent(before),
                _interval(result.baseline.intervals[name]),
                _percent(value),
                _interval(result.score.intervals[name]),
                f"{100 * (value - before):+.2f} points",
            )
        )
    worse = sum(flip.was_right and not flip.is_right for flip in result.flips)
    better = sum(flip.is_right and not flip.was_right for flip in result.flips)
    paired = []
    if difference is not None:
        low, high = (100 * end for end in difference.interval)
        paired = [
            f"<p>Difference of {_text(result.score.main.replace('_', ' '))} on the same examples: "
            f"{100 * difference.mean:+.2f} points, 95 %: {low:+.2f} to {high:+.2f} (paired bootstrap).</p>"
        ]
    return [
        "<h2>Numbers</h2>",
        _table(("Metric", "fp32", "95 %", "Plan", "95 %", "Difference"), rows),
        *paired,
        f"<p>n = {result.n:,} of {result.total:,} examples of {_text(source.data)}; {worse:,} became wrong, "
        f"{better:,} became right. Activation ranges: {_text(source.calibration)}.</p>",
    ]


def _sizes(config: BertConfig, plan: Plan, size: Mapping[str, float] | None) -> list[str]:
    planned = plan_size(config, plan)
    rows = [
        ("fp32 (tables and encoder)", f"{fp32_size(config)['total']:.2f} MB"),
        ("Plan, codes, ranges, biases and LayerNorm", f"{planned.size_mb:.2f} MB"),
        ("Plan, the paper's count (params x bits)", f"{planned.weights_mb:.2f} MB"),
        ("Smaller than fp32", f"{planned.compression:.2f} times"),
        ("Stored bits a parameter", f"{planned.effective_bits:.2f}"),
    ]
    parts = ["<h2>Size</h2>", _table(("", "1 MB = 2^20 bytes"), rows)]
    if size is not None:
        named = (
            ("Plan", "promised"), ("Codes wider than the plan's bits", "wider_codes"),
            ("A scale and zero point a row instead of a group", "row_ranges"),
            ("Codes padded to 32-bit words", "padding"), ("Shapes of the packed matrices", "shapes"),
            ("Pooler and output layer, fp32", "unquantized"), ("The file's header", "header"),
            ("The exported weight file", "file"),
        )  # fmt: skip
        parts += [
            "<h2>From the plan to the file</h2>",
            _table(("", "MB"), [(name, f"{size[key]:.3f}") for name, key in named]),
        ]
    return parts


def _plan(config: BertConfig, plan: Plan) -> list[str]:
    entries = plan.sites

    def said(name: str) -> str:
        entry = entries[name]
        return f"{entry.bits} x {entry.groups}" if entry.quantized else "fp32"

    layers = [
        (str(layer + 1), *(said(f"bert.encoder.layer.{layer}.{module}") for _, module in KINDS))
        for layer in range(config.layers)
    ]
    tables = [
        (site.name.removeprefix("bert.embeddings.").replace("_", " "), said(site.name))
        for site in sites_of(config)
        if site.layer is None
    ]
    inputs = "8 bits" if plan.activation_bits == 8 else "fp32"
    clip = f" Ranges narrowed to the {plan.clip:g}th percentile." if plan.clip < 100 else ""
    return [
        "<h2>Plan</h2>",
        f"<p>Bits x groups of rows. Inputs of quantized linear layers: {inputs}.{clip}</p>",
        f'<div class="wide">{_table(("Layer", *(name for name, _ in KINDS)), layers)}</div>',
        _table(("Embedding", "Bits x groups"), tables),
    ]


def _attention(kl: Sequence[Sequence[float]]) -> list[str]:
    rows = []
    for layer, heads in enumerate(kl, 1):
        cells = "".join(
            f'<td style="background:rgba(var(--mark),{_heat(v):.2f})">{_small(v)}</td>' for v in heads
        )
        rows.append(f"<tr><th>{layer}</th>{cells}</tr>")
    top = "".join(f"<th>{head}</th>" for head in range(1, len(kl[0]) + 1))
    every = [value for heads in kl for value in heads]
    return [
        "<h2>Attention KL from fp32</h2>",
        f"<p>Nats, a row a layer and a column a head; mean {_small(sum(every) / len(every))}, largest "
        f"{_small(max(every))}. The shade is the logarithm, from 0.0001 to 3.</p>",
        f'<div class="wide"><table class="heat"><thead><tr><th>Layer</th>{top}</tr></thead><tbody>'
        f"{''.join(rows)}</tbody></table></div>",
    ]


def _heat(value: float) -> float:
    """0..0.65: at that shade text is read on both backgrounds."""
    if value <= 0:
        return 0.0
    share = (math.log10(value) - HEAT_LOW) / (HEAT_HIGH - HEAT_LOW)
    return 0.65 * min(max(share, 0.0), 1.0)


def _sensitivity(result: Sensitivity) -> list[str]:
    order = sorted(result.blocks, key=lambda block: -block.omega)
    ranks = {block.name: rank for rank, block in enumerate(order, 1)}
    rows = [
        (
            b.name,
            f"{b.mean:.4g}",
            f"{b.std:.4g}",
            f"{b.omega:.4g}",
            str(ranks[b.name]),
            f"{max(b.residuals):.1e}",
        )
        for b in result.blocks
    ]
    largest = order[0].omega or 1.0
    bars = []
    for row, block in enumerate(result.blocks):
        y, width = 22 * row, 360 * block.omega / largest
        bars.append(
            f'<text x="250" y="{y + 15}" text-anchor="end">{_text(_short(block.name))}</text>'
            f'<rect x="258" y="{y + 3}" width="{width:.1f}" height="15"/>'
            f'<text x="{264 + width:.1f}" y="{y + 15}">{block.omega:.3g}</text>'
        )
    height = 22 * len(result.blocks)
    return [
        "<h2>Sensitivity</h2>",
        f"<p>Omega = |mean| + standard deviation of the largest Hessian eigenvalue over {result.runs} runs of "
        f"{result.examples:,} examples.</p>",
        f'<svg viewBox="0 0 700 {height}" width="700" height="{height}" role="img" aria-label="Omega of every '
        f'block">{"".join(bars)}</svg>',
        f'<div class="wide">{_table(("Block", "Mean", "Std", "Omega", "Rank", "Largest residual"), rows)}</div>',
    ]


def _short(name: str) -> str:
    return name.removeprefix("bert.encoder.").removeprefix("bert.")


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    top = "".join(f"<th>{_text(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _text(value: object) -> str:
    return html.escape("".join(c if c.isprintable() else " " for c in str(value)))


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _interval(ends: Sequence[float]) -> str:
    return f"{100 * ends[0]:.2f} to {100 * ends[1]:.2f}"


def _small(value: float) -> str:
    return f"{value:.3f}" if value >= 0.01 or value == 0 else f"{value:.1e}"
