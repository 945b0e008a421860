"""A table and its CSV: Streamlit's own export would leave a text that begins like a formula as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st
from pandas.io.formats.style import Styler

from app.csvs import csv_text
from app.figures import MISSING

MARK = "\N{BLACK RIGHT-POINTING SMALL TRIANGLE} "  # before what belongs to the chosen layer
NUMBER = re.compile(r"[+<≤≥\N{MINUS SIGN}-]? ?\d")  # how a text that says a number begins,
UNITS = re.compile(r"\b(?:[kM]B|pp|nats|to)\b|(?<=\d)e(?=[+-]?\d)")  # and the letters it may hold
STYLE = "<style>[class*=st-key-table-of-] [data-testid=stElementToolbar]{display:none}</style>"


def marked_rows(table: pd.DataFrame, mine: Sequence[bool], column: str) -> pd.DataFrame | Styler:
    """The table with some rows in bold, and a triangle before their text in `column`: no colour is needed."""
    if not any(mine):
        return table
    texts = {text for text, own in zip(table[column], mine, strict=True) if own}
    styler = table.style.format(lambda text: f"{MARK}{text}" if text in texts else text, subset=[column])
    return styler.set_properties(subset=(table.index[list(mine)], table.columns), **{"font-weight": "bold"})


def number_columns(table: pd.DataFrame, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`config`, Streamlit's `column_config`, with every column of numbers at the right, those that are written
    with their unit or interval too: Streamlit puts texts at the left, and what is alike would stand apart."""
    given = dict(config or {})
    for name in table.columns:
        texts = {str(value) for value in table[name].dropna()} - {"", MISSING}
        if texts and all(map(_says_a_number, texts)):
            column = given.get(name) or st.column_config.Column()
            given[name] = {**column, "alignment": column["alignment"] or "right"}
    return given


def _says_a_number(text: str) -> bool:
    return bool(NUMBER.match(text)) and not any(map(str.isalpha, UNITS.sub("", text)))


def show_table(
    table: pd.DataFrame,
    name: str,
    *,
    shown: pd.DataFrame | Styler | None = None,
    column_config: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Show `table` with a button that downloads it as `name`.csv; `options` are `st.dataframe`'s.

    `shown`: what stands on the page in its place, where the file holds more digits or columns.
    """
    rows = table.astype(object).where(table.notna(), None)  # what is missing is an empty cell
    with st.container(key=f"table-of-{name}", gap="small"):
        st.html(STYLE)
        seen = table if shown is None else shown
        texts = seen if isinstance(seen, pd.DataFrame) else seen.data  # type: ignore[attr-defined]
        columns = number_columns(texts, column_config)
        st.dataframe(seen, hide_index=True, width="stretch", column_config=columns, **options)
        st.download_button(
            "Table as CSV", csv_text(table.columns, rows.itertuples(index=False)), f"{name}.csv", "text/csv",
            icon=":material/download:", type="tertiary", on_click="ignore", key=f"csv-{name}",
        )  # fmt: skip
