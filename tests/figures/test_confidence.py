"""How sure a ranking is: pair probabilities on a fixed two-sided scale, and their history run by run."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.figures import BlockSensitivity, alt_text, rank_confidence, stability_history
from app.figures.palette import colours_for
from tests.figures.checks import check_figure, geometry, is_empty
from tests.figures.colour import contrast

DARK = pytest.mark.parametrize("dark", [False, True])
PARTS = {"layer": ["layer"], "module": ["attention", "ffn"], "site": ["attention"] * 4 + ["ffn"] * 2}
PROBABILITY = st.one_of(st.none(), st.just(math.nan), st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))


def named(layer: int, kind: str) -> BlockSensitivity:
    return {
        "name": f"bert.encoder.layer.{layer}.{kind}",
        "layer": layer,
        "kind": kind,
        "lambdas": [],
        "residuals": [],
        "mean": None,
        "std": None,
        "omega": None,
    }


def model(layers: int, cut: str = "layer") -> list[BlockSensitivity]:
    tables = [named(-1, "embedding")] * 3 if cut == "site" else []
    return [*tables, *(named(layer, kind) for layer in range(layers) for kind in PARTS[cut])]


def even(count: int, value: float = 0.5) -> list[list[float]]:
    return [[value] * count for _ in range(count)]


@DARK
@pytest.mark.parametrize("layers", [1, 6, 12, 24])
@pytest.mark.parametrize("cut", PARTS)
def test_any_cut_of_any_model_has_a_cell_a_pair(dark: bool, layers: int, cut: str) -> None:
    blocks = model(layers, cut)
    figure = rank_confidence(blocks, even(len(blocks)), dark=dark)
    check_figure(figure)
    cells = figure.data[0]
    assert len(cells.z) == len(cells.z[0]) == len(blocks)
    assert all(cells.z[i][i] is None for i in range(len(blocks))), "no block is above itself"
    assert figure.layout.height <= 600


def test_many_blocks_are_labelled_by_layer_few_by_name() -> None:
    def labels(layers: int, cut: str) -> tuple[list[str], list[str]]:
        blocks = model(layers, cut)
        layout = rank_confidence(blocks, even(len(blocks)), dark=False).layout
        return list(layout.yaxis.ticktext), list(layout.xaxis.ticktext)

    assert labels(3, "layer") == (["L1", "L2", "L3"],) * 2
    assert labels(2, "module") == (["L1 attention", "L1 ffn", "L2 attention", "L2 ffn"], ["L1", "L2"])
    assert labels(3, "site") == (["Emb", "L1", "L2", "L3"],) * 2


@settings(max_examples=30, deadline=None)  # plotly is slow on a busy machine
@given(st.lists(st.lists(PROBABILITY, min_size=5, max_size=5), min_size=5, max_size=5), st.booleans())
def test_nothing_moves_whatever_the_numbers(pairs: list[list[float | None]], dark: bool) -> None:
    figure = rank_confidence(model(5), pairs, dark=dark)
    check_figure(figure)
    assert geometry(figure) == geometry(rank_confidence(model(5), even(5), dark=dark))
    cells = figure.data[0]
    assert (cells.zmin, cells.zmax) == (0, 1)
    assert [colour for _, colour in cells.colorscale] == list(colours_for(dark).order)
    assert cells.colorscale[len(cells.colorscale) // 2][0] == 0.5


def test_a_row_reads_above_a_column_in_layer_order() -> None:
    pairs = [[0.5, 0.9, 1.0], [0.1, 0.5, 0.9987], [0.0, 0.0013, 0.5]]
    figure = rank_confidence(model(3), pairs, dark=False)
    cells, numbers = figure.data
    assert list(cells.z[0]) == [None, 0.9, 1.0]
    assert [text.replace("\xa0", " ") for text in cells.customdata[1][2]] == ["L2", "L3", "> 99 %"]
    assert list(numbers.text) == ["90", "100", "10", ">99", "0", "<1"]
    assert list(zip(numbers.x, numbers.y, strict=True)) == [(1, 0), (2, 0), (0, 1), (2, 1), (0, 2), (1, 2)]
    top, bottom = figure.layout.yaxis.range[::-1]
    assert top < bottom, "layer 1 is at the top"


@DARK
@given(p=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_numbers_read_on_their_cells(dark: bool, p: float) -> None:
    figure = rank_confidence(model(2), [[0.5, p], [1 - p, 0.5]], dark=dark)
    shown = figure.data[0].colorscale
    below = max((stop for stop in shown if stop[0] <= p), key=lambda stop: stop[0])
    above = min((stop for stop in shown if stop[0] >= p), key=lambda stop: stop[0])
    ink = figure.data[1].textfont.color[0]
    assert min(contrast(ink, below[1]), contrast(ink, above[1])) >= 3.4


def test_the_closest_call_is_said_in_words() -> None:
    figure = rank_confidence(model(3), [[0.5, 0.9, 1.0], [0.1, 0.5, 0.61], [0.0, 0.39, 0.5]], dark=False)
    assert alt_text(figure).replace("\xa0", " ").endswith("closest call is L2 above L3 with 61 %.")


@DARK
@pytest.mark.parametrize("pairs", [[], even(2)])
def test_before_three_runs_it_says_when(dark: bool, pairs: list[list[float]]) -> None:
    figure = rank_confidence(model(6), pairs, dark=dark)
    check_figure(figure)
    assert is_empty(figure)
    assert "three complete runs" in alt_text(figure)
    assert figure.layout.height == rank_confidence(model(6), even(6), dark=dark).layout.height


def history(*probabilities: float) -> list[dict[str, float]]:
    return [{"runs": 3 + i, "probability": p} for i, p in enumerate(probabilities)]


@DARK
@pytest.mark.parametrize("runs", [3, 10, 37, 100, 1000])
def test_the_axes_are_those_of_all_runs_from_the_first_check_on(dark: bool, runs: int) -> None:
    first, later = (
        stability_history(history(*found), confidence=0.95, stable_after=None, runs=runs, dark=dark)
        for found in ([0.4], [0.4, 0.7, 0.2, 1.0][: runs - 2])
    )
    check_figure(first)
    assert geometry(first) == geometry(later)
    assert first.layout.xaxis.range == (0, runs + 0.5)
    low, high = first.layout.yaxis.range
    assert low == 0
    assert 1 < high < 1.1
    assert runs / first.layout.xaxis.dtick <= 11


def test_the_threshold_and_the_moment_it_was_reached() -> None:
    figure = stability_history(history(0.4, 0.8, 0.96), confidence=0.95, stable_after=5, runs=10, dark=False)
    horizontal, vertical = figure.layout.shapes
    assert horizontal.y0 == horizontal.y1 == 0.95
    assert vertical.x0 == vertical.x1 == 5
    assert [a.text.replace("\xa0", " ") for a in figure.layout.annotations] == [
        "stable from 95 %",
        "stable after 5 runs",
    ]
    assert list(figure.data[0].y) == [0.4, 0.8, 0.96]


def test_what_is_not_stable_is_not_called_so() -> None:
    figure = stability_history(history(0.4), confidence=0.9, stable_after=None, runs=10, dark=False)
    assert len(figure.layout.shapes) == 1
    assert "stable after" not in str(figure.layout.annotations)
    assert "not reached" in alt_text(figure)


@DARK
def test_before_the_third_run_the_line_says_when(dark: bool) -> None:
    figure = stability_history([], confidence=0.95, stable_after=None, runs=10, dark=dark)
    check_figure(figure)
    assert is_empty(figure)
    full = stability_history(history(0.4), confidence=0.95, stable_after=None, runs=10, dark=dark)
    assert figure.layout.height == full.layout.height
