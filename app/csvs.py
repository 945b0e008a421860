"""Tables as CSV that a spreadsheet opens without running anything."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a spreadsheet takes for the beginning of a formula, or skips to find one."""
_NUMBER = r"[+\u2212-]?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?"
NUMBERS = re.compile(rf"{_NUMBER}( to {_NUMBER})?([ \u00a0](%|pp))?")


def csv_text(header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """The whole table. Texts from models, data and plans stay texts; numbers keep their sign."""
    out = io.StringIO()
    writer = csv.writer(out)
    for row in (header, *rows):
        writer.writerow([cell(value) for value in row])
    return out.getvalue()


def cell(value: object) -> object:
    """A text that begins like a formula gets an apostrophe, which spreadsheets read as: this is text. A number
    with its sign and unit, or two with "to" between, is none."""
    formula = isinstance(value, str) and value.startswith(STARTS) and not NUMBERS.fullmatch(value)
    return f"'{value}" if formula else value
