"""Which columns of a table are numbers, and stand at the right."""

from __future__ import annotations

import pandas as pd
import pytest
import streamlit as st

from app.figures import (
    MISSING,
    fmt_interval,
    fmt_kl,
    fmt_lambda,
    fmt_mb,
    fmt_percent,
    fmt_points_interval,
    fmt_ratio,
    fmt_signed_points,
)
from app.tables import number_columns


@pytest.mark.parametrize(
    "values",
    [
        [fmt_percent(0.9), fmt_percent(0.05)],
        [fmt_signed_points(-0.05), fmt_signed_points(0.0), fmt_signed_points(0.05)],
        [fmt_interval(0.1, 0.2), MISSING, ""],
        [fmt_mb(12.0), None, fmt_mb(0.01)],
        [fmt_lambda(-3.4), fmt_lambda(123456.0)],
        [fmt_kl(1e-9), fmt_kl(0.4)],
        [fmt_ratio(5.9)],
        [fmt_points_interval(-0.1, 0.1)],
        ["1e-05", "2.5e-3"],
        [1, 2, 3],
    ],
)
def test_numbers_stand_at_the_right_with_their_units(values: list[object]) -> None:
    assert number_columns(pd.DataFrame({"a": values}, dtype=object))["a"]["alignment"] == "right"


@pytest.mark.parametrize(
    "values",
    [["L1", "L2"], ["fp32", "8"], ["no", "3 epochs"], ["2 hours I will not get back"], [MISSING, ""], []],
)
def test_words_stay_where_they_are(values: list[str]) -> None:
    assert number_columns(pd.DataFrame({"a": values})) == {}


def test_what_a_column_says_of_itself_stays() -> None:
    table = pd.DataFrame({"a": ["1 %"], "b": ["2 %"], "c": ["x"]})
    given = {
        "a": st.column_config.TextColumn(help="why", width=90),
        "b": st.column_config.TextColumn(alignment="center"),
        "c": st.column_config.TextColumn(help="word"),
    }
    made = number_columns(table, given)
    assert made["a"] == {**given["a"], "alignment": "right"}
    assert made["b"] == given["b"]
    assert made["c"] == given["c"]
    assert given["a"]["alignment"] is None
