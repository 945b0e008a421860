"""The picture of a plan: one colour a bit width, numbers that read, the same place for every layer."""

from __future__ import annotations

import pytest

from app.figures import SiteBits, bits_strip
from app.figures.palette import BIT_WIDTHS, colours_for
from tests.figures.checks import check_figure, geometry, is_empty
from tests.figures.colour import contrast

SITES = [
    ("attention.self.query", "attention"),
    ("attention.self.key", "attention"),
    ("attention.self.value", "attention"),
    ("attention.output.dense", "attention"),
    ("intermediate.dense", "ffn"),
    ("output.dense", "ffn"),
]


def plan(layers: int, bits: int = 4) -> list[SiteBits]:
    tables = [
        SiteBits(f"bert.embeddings.{table}_embeddings", "embedding", None, 8, 128)
        for table in ("word", "position", "token_type")
    ]
    return tables + [
        SiteBits(f"bert.encoder.layer.{layer}.{name}", kind, layer, bits, 128)
        for layer in range(layers)
        for name, kind in SITES
    ]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("layers", [1, 6, 12, 24])
def test_a_plan_with_whole_layers_has_two_cells_a_layer_and_one_a_table(dark: bool, layers: int) -> None:
    figure = bits_strip(plan(layers), dark=dark)
    check_figure(figure)
    (cells,) = figure.data
    assert len(cells.x) == 3 + 2 * layers
    assert list(cells.text) == [
        "word · 8 bits",
        "position · 8 bits",
        "token type · 8 bits",
        *["4"] * (2 * layers),
    ]
    assert figure.layout.xaxis.range == (-0.5, layers - 0.5)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("bits", BIT_WIDTHS)
def test_a_bit_width_has_its_colour_and_a_readable_number(dark: bool, bits: int) -> None:
    (cells,) = bits_strip(plan(6, bits), dark=dark).data
    assert cells.marker.color[-1] == colours_for(dark).bit(bits)
    assert cells.text[-1] == str(bits)
    assert all(contrast(*pair) >= 4.5 for pair in zip(cells.marker.color, cells.textfont.color, strict=True))
    assert contrast(cells.marker.line.color, colours_for(dark).background) >= 3


def test_sites_that_differ_divide_their_cell_in_order() -> None:
    sites = plan(2)
    sites[3] = SiteBits(sites[3].name, "attention", 0, 8, 1)
    (cells,) = bits_strip(sites, dark=False).data
    assert list(cells.text[3:8]) == ["8", "4", "4", "4", "4"]
    assert list(cells.width[3:7]) == pytest.approx([0.235] * 4)
    assert cells.customdata[3][1] == "bert.encoder.layer.0.attention.self.query: 8 bits, 1 group"


def test_a_number_that_does_not_fit_is_left_to_the_hover_text() -> None:
    sites = plan(24)
    sites[3] = SiteBits(sites[3].name, "attention", 0, 32, 1)
    (cells,) = bits_strip(sites, dark=False).data
    assert list(cells.text[3:7]) == [""] * 4
    assert cells.customdata[3][1].endswith("query: fp32")


def test_nothing_moves_when_bits_change() -> None:
    assert geometry(bits_strip(plan(6, 2), dark=False)) == geometry(bits_strip(plan(6, 32), dark=False))


def test_layers_the_plan_leaves_out_keep_their_place() -> None:
    figure = bits_strip([site for site in plan(2) if site.layer == 0], dark=False, layers=6)
    assert figure.layout.xaxis.range == (-0.5, 5.5)
    check_figure(figure)


def test_without_a_plan_it_says_what_to_do() -> None:
    figure = bits_strip([], dark=False)
    check_figure(figure)
    assert is_empty(figure)
    assert figure.layout.height == bits_strip(plan(6), dark=False).layout.height
