"""The figures of the paper's experiments: from no row to every row, and none that is left out."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.figures import group_count_marks, part_bars, part_label, row_key, setting_marks
from app.figures.palette import colours_for
from app.figures.parts import TABLES
from tests.figures.checks import check_figure, geometry, is_empty, trace

BITS = {"8": [8], "4": [4], "3": [3], "2": [2], "2/4": [2, 4], "2/3": [2, 3], "fp32": [32]}
METHODS = [
    ("baseline", "baseline", "fp32"),
    *((f"{rule}-{pair.replace('/', '-')}-high-2", rule, pair) for pair in ("2/4", "2/3")
      for rule in ("qbert-mp", "hawq", "reverse")),
    *((f"qbert-mp-{pair.replace('/', '-')}-paper", "qbert-mp-paper", pair) for pair in ("2/4", "2/3")),
    *((f"{method}-{bits}", method, bits) for bits in "4238" for method in ("qbert", "directq")),
]  # fmt: skip
MODULES = [
    ("baseline", "baseline", "fp32"),
    *((f"{table}-{bits}", "qbert", bits) for table in ("word", "position", "embedding") for bits in "842"),
    *((f"{half}-{bits}", "qbert", bits) for half in ("attention", "ffn") for bits in "8432"),
    ("attention-1-2-mp", "qbert-mp", "1/2"), ("ffn-1-2-mp", "qbert-mp", "1/2"),
    ("word-4-position-8", "qbert", "4/8"),
]  # fmt: skip


def row(
    name: str, method: str, value: float = 0.8, finetuned: bool = False, seed: int = 0, **other: Any
) -> Any:
    return {
        "name": name, "method": method, "finetuned": finetuned, "seed": seed,
        "metrics": {"accuracy": value}, "interval": [value - 0.05, value + 0.05],
        "difference": {"mean": value - 0.9, "interval": [value - 0.95, value - 0.85]},
        "size_mb": 10.0, "n": 400, "applied": {"layer_bits": [[32]]}, **other,
    }  # fmt: skip


def rows_of(sheet: str, finetuned: bool = False, value: float = 0.8) -> list[Any]:
    names = METHODS if sheet == "methods" else MODULES
    return [
        row(name, method, value, finetuned, applied={"layer_bits": [[b] for b in BITS.get(bits, [32])]})
        for name, method, bits in names
    ]


SHARED: dict[str, Any] = {
    "metric": "accuracy", "metric_label": "Accuracy", "band": (0.4, 1.0), "finetuning": False, "chosen": None,
    "dark": False,
}  # fmt: skip


def drawn(figure: Any) -> dict[str, tuple[float, float]]:
    """Where every row's mark is, by the row's key."""
    return {
        custom[0]: (x, y)
        for t in figure.data
        if t.customdata is not None and len(t.customdata)
        for custom, x, y in zip(t.customdata, t.x, t.y, strict=True)
    }


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("sheet", ["methods", "modules"])
def test_every_row_of_the_experiment_stands_under_its_bits(sheet: Any, dark: bool) -> None:
    rows = rows_of(sheet)
    figure = setting_marks(sheet, rows, **{**SHARED, "dark": dark})
    check_figure(figure)
    places = drawn(figure)
    assert set(places) == {row_key(r) for r in rows}
    assert len({x for x, _ in places.values()}) == len(rows), "no two rows share a column"
    lines = [shape.x0 for shape in figure.layout.shapes if shape.x0 == shape.x1]  # between the bits
    names = METHODS if sheet == "methods" else MODULES
    for (_, _, bits), r in zip(names, rows, strict=True):
        stretch = sum(line < places[row_key(r)][0] for line in lines)
        assert figure.layout.xaxis.ticktext[stretch] == bits


@pytest.mark.parametrize("sheet", ["methods", "modules"])
def test_nothing_moves_while_rows_arrive(sheet: Any) -> None:
    rows = [*rows_of(sheet), *rows_of(sheet, finetuned=True, value=0.7)]
    options = {**SHARED, "finetuning": True}
    figures = [setting_marks(sheet, rows[:count], **options) for count in (1, 5, len(rows))]
    assert geometry(figures[0]) == geometry(figures[1]) == geometry(figures[2])
    assert drawn(figures[1]).items() <= drawn(figures[2]).items()
    names = [[t.name for t in figure.data if t.showlegend is not False] for figure in figures]
    assert names[0] == names[1] == names[2], "nor does the legend"
    assert is_empty(setting_marks(sheet, [], **options))
    assert setting_marks(sheet, [], **options).layout.height == figures[0].layout.height


def test_finetuned_rows_are_filled_and_stand_right_of_the_hollow_others() -> None:
    rows = [row("directq-4", "directq", applied={"layer_bits": [[4]]}, finetuned=f) for f in (False, True)]
    figure = setting_marks("methods", rows, **{**SHARED, "finetuning": True})
    raw, tuned = (t for t in figure.data if t.customdata is not None and len(t.customdata))
    assert raw.x[0] < tuned.x[0]
    assert round(raw.x[0]) == round(tuned.x[0])
    assert raw.marker.color == colours_for(False).background
    assert tuned.marker.color == colours_for(False).ffn
    assert trace(figure, "finetuned")
    alone = setting_marks("methods", rows[:1], **SHARED)
    assert trace(alone, "DirectQ").marker.color == colours_for(False).ffn, "filled where nothing is finetuned"


def test_the_chosen_row_has_a_ring() -> None:
    rows = rows_of("methods")
    figure = setting_marks("methods", rows, **{**SHARED, "chosen": row_key(rows[3])})
    ringed = [
        custom[0]
        for t in figure.data
        if t.customdata is not None
        for custom, colour in zip(t.customdata, t.marker.line.color, strict=True)
        if colour == colours_for(False).accent
    ]
    assert ringed == [row_key(rows[3])]


def test_what_lies_below_the_axis_points_down_and_says_its_value() -> None:
    low = row("directq-2", "directq", 0.1, applied={"layer_bits": [[2]]})
    marks = trace(setting_marks("methods", [low], **SHARED), "DirectQ")
    assert list(marks.y) == [0.4]
    assert list(marks.marker.symbol) == ["triangle-down"]
    assert marks.customdata[0][3] == "10.0\xa0%"


def test_a_name_is_text_wherever_it_is_drawn() -> None:
    evil = row("<img src=x>", "directq", applied={"layer_bits": [[4]]})
    assert "<img" not in trace(setting_marks("methods", [evil], **SHARED), "DirectQ").customdata[0][1]
    bars = part_bars(
        [row("only-layer-0", "only"), row("<b>", "whole")],
        3,
        metric_label="Accuracy",
        finetuned=False,
        chosen=None,
        dark=False,
    )
    check_figure(bars)


@pytest.mark.parametrize("dark", [False, True])
def test_group_counts_stand_at_their_number_on_a_logarithmic_axis(dark: bool) -> None:
    counts = [("1", 1), ("heads", 12), ("128", 128), ("rows", 3072)]
    rows = [row("baseline", "baseline"), *(row(f"groups-{word}", "qbert", 0.7) for word, _ in counts)]
    figure = group_count_marks(rows, counts, **{**SHARED, "dark": dark})
    check_figure(figure)
    assert figure.layout.xaxis.type == "log"
    assert {key.split("|")[0]: x for key, (x, _) in drawn(figure).items()} == {
        f"groups-{word}": count for word, count in counts
    }
    assert list(figure.layout.xaxis.tickvals) == [1, 12, 128, 3072]
    assert list(figure.layout.xaxis.ticktext) == ["1", "12<br>heads", "128", "3072<br>rows"]
    first = group_count_marks(rows[:1], counts, **{**SHARED, "dark": dark})
    assert geometry(first) == geometry(figure)
    assert is_empty(group_count_marks([], counts, **SHARED))


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_labels_of_group_counts_never_touch(numbers: list[int]) -> None:
    counts = [(str(n), n) for n in numbers]
    figure = group_count_marks([row("baseline", "baseline")], counts, **SHARED)
    low, high = figure.layout.xaxis.range

    places = [(math.log10(value) - low) / (high - low) for value in figure.layout.xaxis.tickvals]
    assert all(0 <= place <= 1 for place in places)
    assert all(after - before >= 1 / 12 - 1e-9 for before, after in pairwise(places))


def parts(finetuned: bool = False) -> list[Any]:
    names = [*TABLES, *(f"layer-{i}" for i in range(6))]
    return [
        row("baseline", "baseline", 0.9, finetuned),
        *(row(f"only-{name}", "only", 0.88 - i / 50, finetuned) for i, name in enumerate(names)),
        row("qbert-2", "whole", 0.5, finetuned),
        *(row(f"without-{name}", "without", 0.55 + i / 50, finetuned) for i, name in enumerate(names)),
    ]


@pytest.mark.parametrize("dark", [False, True])
def test_a_part_has_two_bars_at_its_own_place(dark: bool) -> None:
    rows = parts()
    figure = part_bars(
        rows, 6, metric_label="Accuracy", finetuned=False, chosen="only-layer-2|as it is|0", dark=dark
    )
    check_figure(figure)
    only, without = trace(figure, "only this quantized"), trace(figure, "all but this quantized")
    labels = dict(zip(figure.layout.xaxis.tickvals, figure.layout.xaxis.ticktext, strict=True))
    assert [labels[round(x)] for x in only.x] == [
        part_label(name) for name in (*TABLES, *(f"layer-{i}" for i in range(6)))
    ]
    assert all(b - a == pytest.approx(0.4) for a, b in zip(only.x, without.x, strict=True))
    assert list(only.y) == pytest.approx(
        [100 * r["difference"]["mean"] for r in rows if r["method"] == "only"]
    )
    assert [
        custom[0] for custom, width in zip(only.customdata, only.marker.line.width, strict=True) if width
    ] == ["only-layer-2|as it is|0"]
    low, high = figure.layout.yaxis.range
    for t in (only, without):
        for y, up, down in zip(t.y, t.error_y.array, t.error_y.arrayminus, strict=True):
            assert low <= y - down <= y + up <= high
    assert "whole plan" in figure.layout.annotations[0].text


def test_bars_keep_their_places_while_parts_arrive() -> None:
    rows = parts()
    few, many = (
        part_bars(rows[:n], 6, metric_label="Accuracy", finetuned=False, chosen=None, dark=False)
        for n in (3, len(rows))
    )
    assert few.layout.xaxis.range == many.layout.xaxis.range
    assert drawn(few).items() <= drawn(many).items()
    assert is_empty(part_bars([], 6, metric_label="Accuracy", finetuned=False, chosen=None, dark=False))


def test_finetuned_parts_are_drawn_instead_of_the_others_and_of_one_seed() -> None:
    rows = [*parts(), *parts(finetuned=True), *[{**r, "seed": 1} for r in parts(finetuned=True)]]
    figure = part_bars(rows, 6, metric_label="Accuracy", finetuned=True, chosen=None, dark=False)
    assert all(key.endswith("|finetuned|0") for key in drawn(figure))
    assert len(drawn(figure)) == 18


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 1)), min_size=1, max_size=9))
@settings(max_examples=30, deadline=None)
def test_the_bars_axis_holds_every_interval(values: list[tuple[float, float]]) -> None:
    rows = [
        row(f"only-layer-{i}", "only", difference={"mean": mean, "interval": [mean - half, mean + half]})
        for i, (mean, half) in enumerate(values)
    ]
    low, high = part_bars(
        rows, 9, metric_label="Accuracy", finetuned=False, chosen=None, dark=True
    ).layout.yaxis.range
    assert low <= min(100 * (mean - half) for mean, half in values)
    assert high >= max(100 * (mean + half) for mean, half in values)
    assert low < 0 < high
