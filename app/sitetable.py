"""A plan site by site: what was asked for, what is applied, what it costs and what it does to the weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from app.figures import MISSING, fmt_count, fmt_error, fmt_kb, fmt_lambda, fmt_omega, fmt_percent, fmt_weight
from app.figures import layer_label as label_of
from app.figures.blocks import table_name
from app.tables import MARK
from app.workspace import Workspace
from qbert_core.quantization import Plan, Site, SiteAnatomy, plan_size, site_bytes, sites_of
from qbert_core.quantization.plan import FULL
from qbert_core.quantization.size import MB

NO_INPUTS = "a look-up"  # what an embedding table has in place of inputs
MATRICES = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attn. out",
    "intermediate.dense": "FFN in",
    "output.dense": "FFN out",
}
GRANULARITIES = ("site", "module", "layer")  # of a sensitivity; the finest says most of a site


def site_label(site: Site) -> str:
    """A site in a word or two, without its layer: "query", "FFN in"; an embedding table by its name."""
    if site.layer is None:
        return table_name(site.name)
    return MATRICES[site.name.split(f".layer.{site.layer}.", 1)[1]]


def site_frame(
    workspace: Workspace,
    plan: Plan,
    seen: Mapping[str, SiteAnatomy],
    sensitivity: Mapping[str, Any] | None,
) -> pd.DataFrame:
    """A row a site, in the sites' order, with every digit: the columns of the CSV.

    `layer` counts from 1 and is empty for an embedding table; so is what is not known (yet), and the input
    range of a look-up. `share` is of the plan's size, in which biases and LayerNorm are, too. `omega` and
    `lambda_mean` are those of the block of `sensitivity` that the site is in.
    """
    total = plan_size(workspace.checkpoint.config, plan).size_mb * MB
    entries, rows = plan.sites, []
    for site in sites_of(workspace.checkpoint.config):
        entry, anatomy = entries[site.name], seen.get(site.name)
        block = block_of(site, sensitivity)
        low, high = workspace.inputs.get(site.name, (None, None))
        size = sum(site_bytes(site, entry))
        rows.append(
            {
                "site": site.name,
                "layer": None if site.layer is None else site.layer + 1,
                "matrix": site_label(site),
                "bits": entry.bits,
                "groups_asked": entry.groups,
                "groups_applied": entry.applied(site.rows),
                "rows": site.rows,
                "columns": site.columns,
                "lowest": anatomy and anatomy.lowest,
                "highest": anatomy and anatomy.highest,
                "squared_error": anatomy and anatomy.squared_error,
                "relative_error": anatomy and anatomy.relative_error,
                "bytes": size,
                "share": size / total,
                "omega": block and block["omega"],
                "lambda_mean": block and block["mean"],
                "input_bits": input_bits(site, plan),
                "input_lowest": low,
                "input_highest": high,
            }
        )
    numbers = ("lowest", "highest", "squared_error", "relative_error", "omega", "lambda_mean")
    # a column of which nothing is known (yet) would be one of objects
    kinds = dict.fromkeys((*numbers, "input_lowest", "input_highest"), "float64")
    return pd.DataFrame(rows).astype({**kinds, "layer": "Int64", "input_bits": "Int64"})


def input_bits(site: Site, plan: Plan) -> int | None:
    """Bits of what flows into a site: only the inputs of quantized linear layers are ever quantized, and a
    table has none."""
    if site.layer is None:
        return None
    return plan.activation_bits if plan.sites[site.name].quantized else FULL


def block_of(site: Site, sensitivity: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The block of a `sensitivity` document that the site is in: its layer, half a layer, or itself."""
    for block in sensitivity["blocks"] if sensitivity else ():
        found: dict[str, Any] = block
        if block["kind"] == "layer" and site.layer == block["layer"]:
            return found
        if sensitivity and sensitivity["granularity"] == "module":
            if (site.layer, site.kind) == (block["layer"], block["kind"]):
                return found
        elif block["name"] == site.name:
            return found
    return None


def shown(frame: pd.DataFrame, *, marked: int | None, outdated: Collection[str], grey: str) -> Styler:
    """The frame as the page shows it: few columns, each sorted by its number, written as everywhere else.

    Rows of the 0-based layer `marked` are bold and begin with a triangle; errors of the sites `outdated`
    belong to an earlier plan: in `grey`, and in brackets.
    """
    table = pd.DataFrame(
        {
            "Layer": frame["layer"].fillna(0).astype(int),
            "Matrix": frame["matrix"],
            "Bits": frame["bits"],
            "Groups": frame["groups_applied"],
            "Range": frame["highest"] - frame["lowest"],
            "MSE": frame["squared_error"],
            "MSE / var": frame["relative_error"],
            "Size": frame["bytes"],
            "Share": frame["share"],
            "Ω": frame["omega"],
            "mean λ": frame["lambda_mean"],
            "Inputs": (frame["input_highest"] - frame["input_lowest"]).fillna(0),
            "Shape": frame["rows"] * frame["columns"],
        }
    )
    styler = table.style
    old = frame["site"].isin(list(outdated)).to_numpy()
    mine = frame["layer"].fillna(0).eq(-1 if marked is None else marked + 1).to_numpy(dtype=bool)
    texts = {
        "Layer": [
            f"{MARK if here else ''}{label_of(layer - 1)}"
            for layer, here in zip(table["Layer"], mine, strict=True)
        ],
        "Bits": ["fp32" if bits == FULL else str(bits) for bits in table["Bits"]],
        "Groups": [_groups(row) for row in frame.itertuples()],
        "Shape": [f"{fmt_count(row.rows)} × {fmt_count(row.columns)}" for row in frame.itertuples()],
        "Range": [_range(row.lowest, row.highest) for row in frame.itertuples()],
        "MSE": [_error(v, o) for v, o in zip(table["MSE"], old, strict=True)],
        "MSE / var": [_error(v, o) for v, o in zip(table["MSE / var"], old, strict=True)],
        "Size": [fmt_kb(size) for size in table["Size"]],
        "Share": [fmt_percent(share) for share in table["Share"]],
        "Ω": [fmt_omega(value) for value in table["Ω"]],
        "mean λ": [fmt_lambda(value) for value in table["mean λ"]],
        "Inputs": [_inputs(row) for row in frame.itertuples()],
    }
    for column, written in texts.items():
        _write(styler, column, written)
    errors = ["MSE", "MSE / var"]
    styler.set_properties(subset=(table.index[old], errors), color=grey)
    styler.set_properties(subset=(table.index[mine], list(table.columns)), **{"font-weight": "bold"})
    return styler


def _write(styler: Styler, column: str, texts: Sequence[str]) -> None:
    """Show `texts` in a column. A call of `format` a cell would take half a second for a large model."""
    values = [None if pd.isna(value) else value for value in styler.data[column]]
    by_value = dict(zip(values, texts, strict=True))
    if all(by_value[value] == text for value, text in zip(values, texts, strict=True)):
        styler.format(lambda value: by_value[None if pd.isna(value) else value], subset=[column])
        return
    for text in set(texts):  # the same number is written differently in several rows
        rows = [place for place, other in enumerate(texts) if other == text]
        styler.format(lambda _, text=text: text, subset=(rows, [column]))


def _groups(row: Any) -> str:
    """Asked for, and applied where that is another number."""
    if not row.groups_applied:
        return "none"
    asked, applied = fmt_count(row.groups_asked), fmt_count(row.groups_applied)
    return asked if asked == applied else f"{asked} \N{RIGHTWARDS ARROW} {applied}"


def _range(low: float | None, high: float | None) -> str:
    if pd.isna(low) or pd.isna(high):
        return MISSING
    return f"{fmt_weight(low)} to {fmt_weight(high)}"


def _error(value: float, outdated: bool) -> str:
    return f"({fmt_error(value)})" if outdated else fmt_error(value)


def _inputs(row: Any) -> str:
    if pd.isna(row.input_bits):
        return NO_INPUTS
    bits = "fp32" if row.input_bits == FULL else f"{row.input_bits} bits"
    return f"{bits}: {_range(row.input_lowest, row.input_highest)}"
