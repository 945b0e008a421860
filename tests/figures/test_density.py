"""Spectral density: log axis fixed by the block's size, ends marked, single eigenvalues in sight."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.figures import Spectrum, alt_text, density_curve
from tests.figures.checks import check_figure, geometry, is_empty, trace

DARK = pytest.mark.parametrize("dark", [False, True])


def spectrum(eigenvalues: list[float], parameters: int, sigma: float = 0.1) -> Spectrum:
    """The document for a block with these outliers and everything else at zero, by the definition."""
    low, high = min(*eigenvalues, 0.0), max(*eigenvalues, 0.0)
    x = np.linspace(low - 6 * sigma, high + 6 * sigma, 801)
    density = np.zeros_like(x)
    bulk = parameters - len(eigenvalues)
    for value, count in (*((value, 1) for value in eigenvalues), (0.0, bulk)):
        density += (
            count / parameters * np.exp(-(((x - value) / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
        )
    return {
        "block": {"name": "bert.encoder.layer.2", "layer": 2, "kind": "layer", "parameters": parameters},
        "x": x.tolist(),
        "density": density.tolist(),
        "nodes": [[low, 0.0, high], [low, high]],
        "sigma": sigma,
        "lowest": low,
        "highest": high,
    }


@DARK
@pytest.mark.parametrize("parameters", [10, 25_000, 7_087_872])
def test_a_single_eigenvalue_stands_above_the_floor_and_at_its_line(dark: bool, parameters: int) -> None:
    found = spectrum([-12.0, 31.0], parameters)
    figure = density_curve(found, dark=dark)
    check_figure(figure)
    curve = trace(figure, "density")
    floor, top = (10**end for end in figure.layout.yaxis.range)
    peak = max(y for x, y in zip(curve.x, curve.y, strict=True) if x > 25)
    line = figure.layout.shapes[0].y0
    assert peak == pytest.approx(line, rel=0.02)
    assert floor <= line / 10
    assert max(curve.y) <= top
    assert min(curve.y) >= floor


@settings(max_examples=30, deadline=None)  # plotly is slow on a busy machine
@given(
    st.lists(st.one_of(st.just(0.0), st.floats(-1e4, -1e-3), st.floats(1e-3, 1e4)), min_size=1, max_size=4),
    st.floats(1e-3, 10),
    st.booleans(),
)
def test_any_spectrum_and_both_its_ends_are_in_sight(
    eigenvalues: list[float], sigma: float, dark: bool
) -> None:
    found = spectrum(eigenvalues, 1000, sigma)
    figure = density_curve(found, dark=dark)
    check_figure(figure)
    low, high = figure.layout.xaxis.range
    assert low <= found["lowest"] <= found["highest"] <= high
    assert low <= 0 <= high
    marked = [shape.x0 for shape in figure.layout.shapes if shape.x0 == shape.x1]
    assert marked == [found["lowest"], found["highest"]]


def test_a_later_probe_moves_nothing_unless_the_ends_move_far() -> None:
    early = spectrum([-12.0, 31.0], 7_000_000, 0.21)
    late = spectrum([-12.4, 31.6, 5.0], 7_000_000, 0.22)
    assert geometry(density_curve(early, dark=False)) == geometry(density_curve(late, dark=False))


def test_gaps_between_eigenvalues_run_along_the_floor() -> None:
    found = spectrum([-12.0, 31.0], 1_000_000)
    found["density"] = [None if y == 0 else y for y in found["density"]]
    curve = trace(density_curve(found, dark=False), "density")
    floor = 10 ** density_curve(found, dark=False).layout.yaxis.range[0]
    between = [y for x, y in zip(curve.x, curve.y, strict=True) if 10 < x < 20]
    assert set(between) == {floor}


def test_every_probes_nodes_are_ticks_on_the_floor() -> None:
    figure = density_curve(spectrum([-12.0, 31.0], 1_000_000), dark=False)
    ticks = trace(figure, "nodes")
    assert list(ticks.x) == [-12.0, 0.0, 31.0, -12.0, 31.0]
    bottom, top = figure.layout.yaxis.range
    (height,) = set(ticks.y)
    assert bottom < math.log10(height) < bottom + 0.05 * (top - bottom)


def test_ends_that_lie_together_have_their_labels_one_over_the_other() -> None:
    def heights(values: list[float]) -> list[float]:
        notes = density_curve(spectrum(values, 1000), dark=False).layout.annotations
        return [note.yshift for note in notes if note.text.startswith(("lowest", "highest"))]

    far, near = heights([-12.0, 31.0]), heights([0.1])
    assert far[0] == far[1]
    assert near[1] - near[0] > 11


def test_it_is_said_in_words_with_both_ends() -> None:
    text = alt_text(density_curve(spectrum([-12.3, 31.4], 7_087_872), dark=False))
    assert "7,087,872" in text
    assert "\N{MINUS SIGN}12.3 to +31.4" in text


@DARK
def test_before_the_first_probe_it_says_what_to_do(dark: bool) -> None:
    figure = density_curve(None, dark=dark)
    check_figure(figure)
    assert is_empty(figure)
    assert figure.layout.height == density_curve(spectrum([1.0], 10), dark=dark).layout.height
