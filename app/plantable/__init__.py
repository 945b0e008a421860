"""The tables of page Bits: a row a layer, a row an embedding table, every cell a control of its own.

Streamlit's own editor draws cells on a canvas: a choice takes a double click and a list, an edit is held back
for 0.15 s, a screen reader is shown a copy, and no row can be marked. This is a table of HTML with the browser's
own lists and fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from app.figures import colours_for, fmt_omega
from app.figures.palette import BIT_WIDTHS, ink_on
from app.plantable.edits import Edit, new_edits
from app.table import BIT_CHOICES

__all__ = ["Edit", "new_edits", "plan_table", "sent_edits"]

KEY = "plan-table"
NAME = "plan_table"  # of the component
_here = Path(__file__).parent
_component = st.components.v2.component(
    NAME,
    css=(_here / "table.css").read_text(encoding="utf-8"),
    js=(_here / "table.js").read_text(encoding="utf-8"),
    isolate_styles=False,
)
_GROUPS = "Ranges a matrix: its output rows are split into this many groups. More than rows: one a row."
_KEYS = "Arrows move; 1 to 8 set bits, f is fp32, + and − step; Ctrl+Z takes back, Ctrl+Y brings again."
_LOCK = "Kept by Allocate for me, Set all layers and the bits of a ranking"


def plan_table(
    layers: Sequence[dict[str, Any]],
    tables: Sequence[dict[str, Any]],
    *,
    token: str,
    seen: int,
    marked: int | None,
    omegas: Mapping[int, float],
    dark: bool,
    on_edits: Callable[[object], None],
) -> None:
    """Show the rows of `app.table`, and call `on_edits` with what a person sent (for `new_edits`).

    `token` names session and model, `seen` is the number of the last edit taken; `marked` is the 0-based layer
    that is chosen; `omegas`: sensitivities of layers as far as they are known, drawn as bars of the largest.
    """
    colours = colours_for(dark)
    rows = [{"name": row["Layer"], **row, "Layer": index == marked} for index, row in enumerate(layers)]
    most = max(omegas.values(), default=0.0) or 1.0
    for index, row in enumerate(rows):
        row["Ω"] = {"text": fmt_omega(omegas.get(index)), "share": omegas.get(index, 0.0) / most}
    data = {
        "token": token,
        "seen": seen,
        "dark": dark,
        "accent": colours.accent,
        "bar": colours.spread,
        "keys": _KEYS,
        "choices": BIT_CHOICES,
        "colours": {
            choice: (colours.bit(bits), ink_on(colours.bit(bits)))
            for choice, bits in zip(BIT_CHOICES, BIT_WIDTHS, strict=True)
        },
        "tables": [
            {
                "kind": "layer",
                "label": "Bits of layers",
                "columns": _layer_columns(ranked=bool(omegas)),
                "rows": rows,
            },
            {
                "kind": "table",
                "label": "Bits of embedding tables",
                "columns": _TABLE_COLUMNS,
                "rows": [{"name": row["Table"], **row} for row in tables],
            },
        ],
    }
    _component(
        key=KEY,
        data=data,
        default={"edits": None},
        on_edits_change=lambda: on_edits(sent_edits()),
    )


def sent_edits() -> object:
    """What a person sent last, for `new_edits`; None where there is no table yet."""
    state = st.session_state.get(KEY)
    return state["edits"] if state else None


def _column(name: str, kind: str, says: str, explained: str) -> dict[str, str]:
    return {"name": name, "type": kind, "says": says, "help": explained}


def _layer_columns(*, ranked: bool) -> list[dict[str, str]]:
    explained = "Sensitivity |mean λ| + std λ of the last finished analysis; bar: of the largest"
    return [
        _column("Layer", "mark", "Mark", "A click marks the layer on every page"),
        *([_column("Ω", "omega", "", explained)] if ranked else []),
        _column("Attention", "bits", "Attention bits of", f"Bits of query, key, value and output. {_KEYS}"),
        _column("FFN", "bits", "FFN bits of", f"Bits of the two feed-forward matrices. {_KEYS}"),
        _column("Groups", "count", "Groups of", _GROUPS),
        _column("Lock", "switch", "Lock", _LOCK),
    ]


_TABLE_COLUMNS = [
    _column("Embedding", "text", "", "The tables that words, positions and sentence kinds are looked up in"),
    _column("Bits", "bits", "Bits of", "Bits of the table's entries"),
    _column("Groups", "count", "Groups of", _GROUPS),
]
