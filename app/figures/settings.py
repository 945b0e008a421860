"""The rows of an experiment side by side: a column a method or module, grouped by bits."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go

from .frame import empty_figure, frame
from .palette import TICK_SIZE, Palette, colours_for, fmt_percent
from .rows import HOVER, Band, SweepRow, clamped, hover, mark, metric_axis, value_of, whiskers

Sheet = Literal["methods", "modules"]

_HEIGHT = 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 54, 72, 46  # the legend has up to three rows
_NOTHING_YET = {
    "methods": "No methods measured yet. Press Start: every method becomes a mark here, beside the others "
    "of the same bits.",
    "modules": "No modules measured yet. Press Start: what quantizing one kind of module costs appears here.",
}
_SHIFT = 0.16  # columns; finetuned rows stand this far right of their column's middle, others left

# bits -> the columns under them, in the order drawn
_COLUMNS: dict[Sheet, dict[str, tuple[str, ...]]] = {
    "methods": {
        "fp32": ("baseline",),
        "8": ("directq", "qbert"),
        "4": ("directq", "qbert"),
        "3": ("directq", "qbert"),
        "2/4": ("reverse", "hawq", "qbert-mp", "qbert-mp-paper"),
        "2/3": ("reverse", "hawq", "qbert-mp", "qbert-mp-paper"),
        "2": ("directq", "qbert"),
    },
    "modules": {
        "fp32": ("baseline",),
        "8": ("word", "position", "embedding", "attention", "ffn"),
        "4/8": ("embedding",),
        "4": ("word", "position", "embedding", "attention", "ffn"),
        "3": ("attention", "ffn"),
        "2": ("word", "position", "embedding", "attention", "ffn"),
        "1/2": ("attention", "ffn"),
    },
}
# series -> its name, symbol, and which colour of the palette
_SERIES: dict[Sheet, dict[str, tuple[str, str, str]]] = {
    "methods": {
        "baseline": ("fp32", "square", "preset"),
        "directq": ("DirectQ", "diamond", "ffn"),
        "qbert": ("Q-BERT", "circle", "hand"),
        "reverse": ("mixed: smallest Ω", "x", "muted"),
        "hawq": ("mixed: |mean λ| (HAWQ)", "cross", "embedding"),
        "qbert-mp": ("mixed: Ω (Q-BERT)", "triangle-up", "hand"),
        "qbert-mp-paper": ("mixed: paper's layers", "star", "preset"),
    },
    "modules": {
        "baseline": ("fp32", "square", "preset"),
        "word": ("word table", "triangle-up", "embedding"),
        "position": ("position table", "cross", "embedding"),
        "embedding": ("all tables", "star", "embedding"),
        "attention": ("self-attention", "circle", "attention"),
        "ffn": ("feed-forward", "diamond", "ffn"),
    },
}


@dataclass(frozen=True)
class _Column:
    bits: str
    series: str


def setting_marks(
    sheet: Sheet,
    rows: Sequence[SweepRow],
    *,
    metric: str,
    metric_label: str,
    band: Band,
    finetuning: bool,
    chosen: str | None,
    dark: bool,
) -> go.Figure:
    """The metric of every row with its 95 % interval. Columns, axes and legend are the same before the first
    row and after the last.

    A mark's `customdata` starts with its `row_key`. Rows of a setting the sheet has no column for are left
    out (there are none in the engine's experiments).

    Args:
        metric: the key of `metrics` that is drawn, the task's main one.
        band: ends of the axis; what lies below points down from the lower edge.
        finetuning: whether rows will be finetuned, too: then those that are not are hollow.
        chosen: `row_key` of the row to ring.
    """
    if not rows:
        return empty_figure(_NOTHING_YET[sheet], dark=dark, height=_HEIGHT)
    colours = colours_for(dark)
    columns = [_Column(bits, name) for bits, names in _COLUMNS[sheet].items() for name in names]
    places = {column: place for place, column in enumerate(columns)}
    figure = frame(
        f"settings-{sheet}",
        dark=dark,
        height=_HEIGHT,
        margin=(_LEFT, _RIGHT, _TOP, _BOTTOM),
        alt=_describe(sheet, rows, metric, metric_label),
    )
    _baseline(figure, rows, metric, band, colours)
    _separators(figure, columns, colours)
    for series, (name, symbol, role) in _SERIES[sheet].items():
        own = [row for row in rows if _column(sheet, row) in places and _column(sheet, row).series == series]
        colour = getattr(colours, role)
        for finetuned in (False, True) if finetuning else (False,):
            some = [row for row in own if row["finetuned"] == finetuned]
            shift = (_SHIFT if finetuned else -_SHIFT) if finetuning else 0.0
            hollow = finetuning and not finetuned
            still = {"marker": {"opacity": 1}}
            figure.add_trace(
                go.Scatter(
                    x=[places[_column(sheet, row)] + shift for row in some] or [None],
                    y=[clamped(value_of(row, metric), band) for row in some] or [None],
                    mode="markers",
                    marker=mark(some, metric, band, colour, symbol, chosen, colours, hollow=hollow),
                    selected=still,
                    unselected=still,
                    error_y=whiskers(some, metric, band, colour),
                    customdata=[hover(row, metric) for row in some],
                    hovertemplate=HOVER,
                    name=name,
                    showlegend=not hollow and series != "baseline",
                    cliponaxis=False,
                )
            )
    if finetuning:
        for name, filled in (("not finetuned", False), ("finetuned", True)):
            figure.add_trace(_key(name, filled, colours))
    middles = [
        (places[_Column(b, names[0])] + places[_Column(b, names[-1])]) / 2
        for b, names in _COLUMNS[sheet].items()
    ]
    figure.update_xaxes(
        title_text="Bits of the encoder's weights" if sheet == "methods" else "Bits of that module's weights",
        range=[-0.6, len(columns) - 0.4],
        tickvals=middles,
        ticktext=list(_COLUMNS[sheet]),
        showgrid=False,
        showline=True,
        fixedrange=True,
    )
    figure.update_yaxes(**metric_axis(metric_label, band))
    figure.update_layout(clickmode="event+select", hoverdistance=16, dragmode=False)
    return figure


def _column(sheet: Sheet, row: SweepRow) -> _Column:
    if row["method"] == "baseline":
        return _Column("fp32", "baseline")
    if sheet == "methods":
        bits = sorted({b for layer in row["applied"]["layer_bits"] for b in layer})
        return _Column("/".join(map(str, bits)), row["method"])
    series, *numbers = re.findall(r"[a-z]+|\d+", row["name"])
    widths = sorted({int(number) for number in numbers if number.isdecimal()})
    series = "embedding" if "position" in numbers else series  # word-4-position-8: two tables at once
    return _Column("/".join(map(str, widths)), series)


def _baseline(figure: go.Figure, rows: Sequence[SweepRow], metric: str, band: Band, colours: Palette) -> None:
    """A line at the fp32 model, as it is."""
    first = next((row for row in rows if row["method"] == "baseline" and not row["finetuned"]), None)
    if first is None:
        return
    value = clamped(value_of(first, metric), band)
    figure.add_hline(y=value, line={"width": 1, "dash": "dot", "color": colours.line}, layer="below")
    figure.add_annotation(
        text=f"fp32<br>{fmt_percent(value_of(first, metric))}",
        x=1, xref="paper", xanchor="left", xshift=4, y=value, yanchor="middle", align="left",
        showarrow=False, font={"size": TICK_SIZE, "color": colours.muted},
    )  # fmt: skip


def _separators(figure: go.Figure, columns: Sequence[_Column], colours: Palette) -> None:
    for place in range(1, len(columns)):
        if columns[place].bits != columns[place - 1].bits:
            figure.add_vline(x=place - 0.5, line={"width": 1, "color": colours.grid}, layer="below")


def _key(name: str, filled: bool, colours: Palette) -> go.Scatter:
    """A legend entry that says what hollow and filled mean."""
    return go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        marker={
            "symbol": "circle",
            "size": 9,
            "color": colours.muted if filled else colours.background,
            "line": {"width": 1.6, "color": colours.muted},
        },
        name=name,
    )


def _describe(sheet: Sheet, rows: Sequence[SweepRow], metric: str, label: str) -> str:
    best = max(
        (row for row in rows if row["method"] != "baseline"), key=lambda r: value_of(r, metric), default=None
    )
    text = f"{label} of {len(rows)} {'methods' if sheet == 'methods' else 'plans of one module each'}"
    if best is None:
        return f"{text}: so far only fp32, {fmt_percent(value_of(rows[0], metric))}."
    return f"{text}; the best below fp32 bits is {best['name']} with {fmt_percent(value_of(best, metric))}."
