"""A table and its CSV: Streamlit's own export would leave a text that begins like a formula as it is."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app.csvs import csv_text

STYLE = "<style>[class*=st-key-table-of-] [data-testid=stElementToolbar]{display:none}</style>"


def show_table(table: pd.DataFrame, name: str, **options: Any) -> None:
    """Show `table` with a button that downloads it as `name`.csv; `options` are `st.dataframe`'s."""
    with st.container(key=f"table-of-{name}", gap="small"):
        st.html(STYLE)
        st.dataframe(table, hide_index=True, width="stretch", **options)
        st.download_button(
            "Table as CSV", csv_text(table.columns, table.itertuples(index=False)), f"{name}.csv", "text/csv",
            icon=":material/download:", type="tertiary", on_click="ignore", key=f"csv-{name}",
        )  # fmt: skip
