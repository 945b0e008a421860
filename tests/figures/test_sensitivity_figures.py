"""Eigenvalue samples and Omega bars: from one run of six layers to a hundred sites."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.figures import BlockSensitivity, lambda_samples, omega_bars
from app.figures.frame import nice_limit
from app.figures.layers import slots
from app.figures.palette import colours_for
from tests.figures.checks import check_figure, is_empty, trace

PARTS = {
    "layer": ["layer"],
    "module": ["attention", "ffn"],
    "site": ["attention"] * 4 + ["ffn"] * 2,
}


def block(layer: int, kind: str, lambdas: list[float | None], part: int = 0) -> BlockSensitivity:
    done = [value for value in lambdas if value is not None and math.isfinite(value)]
    mean = sum(done) / len(done) if done else None
    std = math.sqrt(sum((v - mean) ** 2 for v in done) / len(done)) if mean is not None else None
    return {
        "name": f"bert.encoder.layer.{layer}.{kind}.{part}",
        "layer": layer,
        "kind": kind,
        "lambdas": lambdas,
        "residuals": [0.001] * len(lambdas),
        "mean": mean,
        "std": std,
        "omega": None if mean is None or std is None else abs(mean) + std,
    }


def model(layers: int, cut: str, runs: int) -> list[BlockSensitivity]:
    return [
        block(layer, kind, [(-1) ** run * (30 - layer + run) for run in range(runs)], part)
        for layer in range(layers)
        for part, kind in enumerate(PARTS[cut])
    ]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("layers", [1, 6, 12, 24])
@pytest.mark.parametrize("cut", PARTS)
@pytest.mark.parametrize("runs", [1, 2, 10])
def test_any_cut_of_any_model_can_be_drawn(dark: bool, layers: int, cut: str, runs: int) -> None:
    blocks = model(layers, cut, runs)
    points = lambda_samples(blocks, dark=dark)
    bars = omega_bars(blocks, dark=dark, high={blocks[0]["name"]})
    check_figure(points)
    check_figure(bars)
    assert points.layout.xaxis.range == bars.layout.xaxis.range == (-0.5, layers - 0.5)
    assert (
        sum(len(t.x) for t in points.data if t.type == "scatter" and t.mode == "markers")
        == len(blocks) * runs
    )
    assert sum(t.type == "box" for t in points.data) == (len(blocks) if runs >= 5 else 0)


TABLES = ("word", "position", "token_type")


def with_tables(blocks: list[BlockSensitivity], runs: int) -> list[BlockSensitivity]:
    tables = [block(-1, "embedding", [float(run) for run in range(runs)]) for _ in TABLES]
    for found, table in zip(tables, TABLES, strict=True):
        found["name"] = f"bert.embeddings.{table}_embeddings"
    return [*tables, *blocks]


@pytest.mark.parametrize("layers", [1, 6, 24])
def test_embedding_tables_have_a_slot_of_their_own_left_of_the_first_layer(layers: int) -> None:
    blocks = with_tables(model(layers, "site", 3), 3)
    points, bars = lambda_samples(blocks, dark=False), omega_bars(blocks, dark=False)
    for figure in (points, bars):
        check_figure(figure)
        assert figure.layout.xaxis.range == (-1.5, layers - 0.5)
        assert list(figure.layout.xaxis.ticktext)[:2] == ["Emb", "L1"]
    tables = trace(points, "embedding")
    assert all(-1.5 < x < -0.5 for x in tables.x)
    assert [row[0] for row in tables.customdata[::3]] == ["Emb word", "Emb position", "Emb token type"]
    own = trace(points, "attention")
    assert (tables.marker.symbol, tables.marker.color) != (own.marker.symbol, own.marker.color)


def test_the_slot_is_there_before_the_first_table_and_only_when_wanted() -> None:
    blocks = model(6, "site", 2)
    for draw in (lambda_samples, omega_bars):
        assert draw(blocks, dark=False).layout.xaxis.range == (-0.5, 5.5)
        early = draw(blocks, dark=False, embedding=True)
        late = draw(with_tables(blocks, 2), dark=False, embedding=True)
        assert early.layout.xaxis.range == late.layout.xaxis.range == (-1.5, 5.5)
        assert early.layout.xaxis.tickvals == late.layout.xaxis.tickvals


NUMBER = st.one_of(st.none(), st.just(math.nan), st.just(0.0), st.floats(-1e6, 1e6))


@settings(max_examples=40, deadline=None)  # plotly is slow on a busy machine
@given(st.lists(st.lists(NUMBER, max_size=6), min_size=3, max_size=3), st.booleans())
def test_gaps_do_no_harm_and_every_point_is_in_sight(lambdas: list[list[float | None]], dark: bool) -> None:
    blocks = [block(layer, "layer", values) for layer, values in enumerate(lambdas)]
    figures = [lambda_samples(blocks, dark=dark, layers=6), omega_bars(blocks, dark=dark, layers=6)]
    for figure in figures:
        check_figure(figure)
        if is_empty(figure):
            continue
        assert figure.layout.xaxis.range == (-0.5, 5.5), "layers not reached yet keep their place"
        low, high = figure.layout.yaxis.range
        assert low <= 0 < high
        assert all(low <= y <= high for t in figure.data for y in t.y if y is not None)
    done = any(v is not None and math.isfinite(v) for values in lambdas for v in values)
    assert [is_empty(figure) for figure in figures] == [not done] * 2


def test_a_layer_has_the_same_place_whatever_it_is_cut_into() -> None:
    for cut in PARTS.values():
        spans = defaultdict(list)
        layers = [layer for layer in range(3) for _ in cut]
        for layer, (centre, width) in zip(layers, slots(layers), strict=True):
            spans[layer] += [centre - width / 2, centre + width / 2]
        for layer, edges in spans.items():
            assert (min(edges), max(edges)) == pytest.approx((layer - 0.42, layer + 0.42))
            inner = sorted(edges)[1:-1]
            assert inner[::2] == pytest.approx(inner[1::2]), "neighbours touch and do not overlap"


def test_hover_has_the_run_its_residual_and_the_zero_based_name() -> None:
    points = trace(lambda_samples([block(2, "layer", [12.84, -22.5])], dark=False), "layer")
    assert [list(row) for row in points.customdata] == [
        ["L3", "bert.encoder.layer.2.layer.0", 1, "+12.8", "0.10\xa0%", 2],
        ["L3", "bert.encoder.layer.2.layer.0", 2, "\N{MINUS SIGN}22.5", "0.10\xa0%", 2],
    ]


def test_points_stay_where_they_are_when_more_runs_arrive() -> None:
    few, many = (trace(lambda_samples(model(2, "layer", runs), dark=False), "layer") for runs in (3, 10))
    places = {(row[0], row[2]): x for row, x in zip(many.customdata, many.x, strict=True)}
    assert all(places[row[0], row[2]] == x for row, x in zip(few.customdata, few.x, strict=True))


def test_an_eigenvalue_that_has_not_converged_is_a_cross_of_its_own() -> None:
    doubtful = block(0, "layer", [3.0, 4.0])
    doubtful["residuals"] = [0.001, 0.3]
    figure = lambda_samples([doubtful], dark=False)
    crosses = next(t for t in figure.data if t.name and t.name.startswith("residual"))
    assert list(crosses.y) == [4.0]
    assert crosses.showlegend
    assert list(trace(figure, "layer").y) == [3.0]


def test_the_stack_adds_up_to_omega_and_the_rank_follows_it() -> None:
    blocks = [block(0, "layer", [1.0, 3.0]), block(1, "layer", [-9.0, -11.0]), block(2, "layer", [0.5, 0.5])]
    figure = omega_bars(blocks, dark=False)
    mean, std = (t for t in figure.data if t.type == "bar" and t.customdata is not None)
    assert [m + s for m, s in zip(mean.y, std.y, strict=True)] == pytest.approx([b["omega"] for b in blocks])
    assert figure.layout.barmode == "stack"
    ranks = next(t for t in figure.data if t.type == "scatter" and t.mode == "text")
    assert list(ranks.text) == ["2", "1", "3"]
    assert list(ranks.y) == pytest.approx([b["omega"] for b in blocks])


def test_more_bits_are_marked_without_colour() -> None:
    blocks = model(3, "layer", 2)
    figure = omega_bars(blocks, dark=True, high={blocks[1]["name"]})
    bars = next(t for t in figure.data if t.type == "bar" and t.customdata is not None)
    assert list(bars.marker.pattern.shape) == ["", "/", ""]
    assert list(bars.marker.line.width) == [0, 2, 0]
    assert bars.marker.color == colours_for(True).hand
    assert trace(figure, "more bits proposed")


def test_equal_blocks_rank_in_layer_order() -> None:
    figure = omega_bars([block(layer, "layer", [2.0, 2.0]) for layer in range(4)], dark=False)
    assert list(next(t for t in figure.data if t.type == "scatter" and t.mode == "text").text) == [
        "1",
        "2",
        "3",
        "4",
    ]


@pytest.mark.parametrize("nothing", [[], [block(0, "layer", [])], [block(0, "layer", [None])]])
def test_before_the_first_run_it_says_what_to_do(nothing: list[BlockSensitivity]) -> None:
    for draw in (lambda_samples, omega_bars):
        figure = draw(nothing, dark=False)
        check_figure(figure)
        assert is_empty(figure)
        assert figure.layout.height == draw(model(6, "layer", 2), dark=False).layout.height


@given(st.lists(st.floats(-1e9, 1e9), min_size=1))
def test_a_nice_limit_holds_everything_and_wastes_less_than_half(values: list[float]) -> None:
    largest = max(map(abs, values))
    limit = nice_limit(values)
    if largest > 1e-300:
        assert largest < limit <= 1.8 * largest
