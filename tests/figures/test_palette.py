"""The look: contrast, colour blindness, uniform scales, and how numbers are written."""

from __future__ import annotations

import tomllib
import unicodedata
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.figures import palette as look
from app.figures.palette import BIT_WIDTHS, DARK, LIGHT, Palette
from tests.figures.colour import DEFICIENCIES, contrast, difference, oklab

THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
SIGHT = pytest.mark.parametrize("deficiency", [None, *DEFICIENCIES])
MARKS = ("accent", "attention", "ffn", "embedding", "preset", "hand", "spread", "line")
COLOUR = st.integers(0, 0xFFFFFF).map(lambda n: f"#{n:06X}")


@THEMES
@pytest.mark.parametrize("name", MARKS)
def test_marks_stand_out_from_the_page(theme: Palette, name: str) -> None:
    assert contrast(getattr(theme, name), theme.background) >= 3


@THEMES
@pytest.mark.parametrize("name", ["ink", "muted"])
def test_text_reads_on_page_and_hover_label(theme: Palette, name: str) -> None:
    assert contrast(getattr(theme, name), theme.background) >= 4.5
    assert contrast(getattr(theme, name), theme.surface) >= 4.5


@THEMES
def test_numbers_in_cells_read(theme: Palette) -> None:
    for cell in theme.bits:
        assert contrast(look.ink_on(cell), cell) >= 4.5
    assert contrast(theme.muted, theme.kl[0]) >= 4.5  # the "0" of an untouched head


@given(COLOUR)
def test_ink_reads_on_any_colour(colour: str) -> None:
    assert contrast(look.ink_on(colour), colour) >= 4.5


@given(COLOUR, COLOUR)
def test_contrast_is_that_of_wcag(first: str, second: str) -> None:
    assert look.contrast(first, second) == pytest.approx(contrast(first, second))


@THEMES
@SIGHT
def test_kinds_are_told_apart(theme: Palette, deficiency: str | None) -> None:
    for first, second in combinations([theme.attention, theme.ffn, theme.embedding], 2):
        assert difference(first, second, deficiency) > 0.1


@THEMES
@SIGHT
def test_the_current_plan_is_told_from_the_others(theme: Palette, deficiency: str | None) -> None:
    for other in (theme.hand, theme.preset):
        assert difference(theme.accent, other, deficiency) > 0.1


@THEMES
@SIGHT
def test_bit_widths_are_told_apart(theme: Palette, deficiency: str | None) -> None:
    for first, second in combinations(theme.bits, 2):
        assert difference(first, second, deficiency) > 0.05


@THEMES
@pytest.mark.parametrize("scale", ["kl", "bits"])
def test_scales_are_perceptually_uniform(theme: Palette, scale: str) -> None:
    colours = getattr(theme, scale)[: 11 if scale == "kl" else 8]  # fp32 is deliberately apart
    steps = [difference(a, b) for a, b in pairwise(colours)]
    assert max(steps) < 1.12 * min(steps)


@THEMES
@SIGHT
@pytest.mark.parametrize("scale", ["kl", "bits"])
def test_more_is_further_from_the_page(theme: Palette, scale: str, deficiency: str | None) -> None:
    page = oklab(theme.background)[0]
    distance = [abs(oklab(colour, deficiency)[0] - page) for colour in getattr(theme, scale)]
    assert all(np.diff(distance) > 0.02)


@THEMES
@SIGHT
def test_the_two_sides_of_an_order_are_told_apart_and_leave_the_middle_evenly(
    theme: Palette, deficiency: str | None
) -> None:
    middle = len(theme.order) // 2
    steps = [difference(a, b, deficiency) for a, b in pairwise(theme.order)]
    assert max(steps) < (1.35 if deficiency else 1.12) * min(steps)
    lightness = [oklab(colour, deficiency)[0] for colour in theme.order]
    assert all(np.diff(np.abs(np.array(lightness) - lightness[middle])[middle:]) > 0.02)
    assert all(np.diff(np.abs(np.array(lightness) - lightness[middle])[: middle + 1]) < -0.02)
    for below, above in zip(theme.order[:middle], theme.order[:middle:-1], strict=True):
        assert difference(below, above, deficiency) > 0.04


@THEMES
def test_neither_side_of_an_order_looks_stronger(theme: Palette) -> None:
    middle = theme.order[len(theme.order) // 2]
    assert difference(theme.order[0], middle) == pytest.approx(difference(theme.order[-1], middle), rel=0.04)


@THEMES
def test_every_bit_width_has_a_colour_of_its_own(theme: Palette) -> None:
    assert len({theme.bit(bits) for bits in BIT_WIDTHS}) == len(BIT_WIDTHS)
    with pytest.raises(ValueError, match="got 9"):
        theme.bit(9)


def test_the_pages_have_the_same_colours_as_the_figures() -> None:
    theme = tomllib.loads(Path(".streamlit/config.toml").read_text())["theme"]
    for name, colours in (("light", LIGHT), ("dark", DARK)):
        assert theme[name]["backgroundColor"] == colours.background
        assert theme[name]["secondaryBackgroundColor"] == colours.surface
        assert theme[name]["textColor"] == colours.ink
        assert contrast(theme[name]["linkColor"], colours.background) >= 4.5
        assert contrast(theme[name]["linkColor"], colours.surface) >= 4.5


@pytest.mark.parametrize("name", ["light", "dark"])
def test_the_accent_of_widgets_reads_on_them_and_on_the_page(name: str) -> None:
    theme = tomllib.loads(Path(".streamlit/config.toml").read_text())["theme"][name]
    for page in (theme["backgroundColor"], theme["sidebar"]["backgroundColor"]):
        assert contrast(theme["primaryColor"], page) >= 3
    best = max(
        contrast(theme["primaryColor"], "#FFFFFF"), contrast(theme["primaryColor"], theme["textColor"])
    )
    assert best >= 4.5  # Streamlit writes white on a primary button


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (look.fmt_mb(415.38), "415.4\xa0MB"),
        (look.fmt_mb(0.012), "0.01\xa0MB"),
        (look.fmt_mb(1234.5), "1,234.5\xa0MB"),
        (look.fmt_percent(0.898), "89.8\xa0%"),
        (look.fmt_percent(1.0, 0), "100\xa0%"),
        (look.fmt_percent(0.00123, 2), "0.12\xa0%"),
        (look.fmt_signed_points(-0.0123), "\N{MINUS SIGN}1.2\xa0pp"),
        (look.fmt_points_interval(-0.2, 0.05), "\N{MINUS SIGN}20.0 to +5.0\xa0pp"),
        (look.fmt_points_interval(None, 0.05), look.MISSING),
        (look.fmt_signed_points(0.004), "+0.4\xa0pp"),
        (look.fmt_signed_points(0.0), "0.0\xa0pp"),
        (look.fmt_signed_points(-0.0001), "0.0\xa0pp"),
        (look.fmt_interval(0.877, 0.917), "87.7\N{EN DASH}91.7\xa0%"),
        (look.fmt_kl(0.09214), "0.0921"),
        (look.fmt_kl(0.9996), "1.00"),
        (look.fmt_kl(1.9), "1.90"),
        (look.fmt_kl(3.2e-6), "3.20\N{MULTIPLICATION SIGN}10\u207b\u2076"),
        (look.fmt_kl(0), "0"),
        (look.fmt_kl(0.1, unit=True), "0.100\xa0nats"),
        (look.fmt_lambda(12.84), "+12.8"),
        (look.fmt_lambda(-22.5), "\N{MINUS SIGN}22.5"),
        (look.fmt_lambda(0.0), "0"),
        (look.fmt_lambda(-1234.0), "\N{MINUS SIGN}1,230"),
        (look.fmt_omega(30.1234), "30.1"),
        (look.fmt_ratio(7.8123), "7.8\N{MULTIPLICATION SIGN}"),
        (look.fmt_count(67349), "67,349"),
        (look.fmt_loss(0.21234), "0.212"),
        (look.fmt_loss(0), "0"),
        (look.fmt_probability(0.873), "87\xa0%"),
        (look.fmt_probability(1.0), "100\xa0%"),
        (look.fmt_probability(0.9987), ">\xa099\xa0%"),
        (look.fmt_probability(0.0013), "<\xa01\xa0%"),
        (look.fmt_probability(0.0), "0\xa0%"),
        (look.layer_label(0), "L1"),
        (look.layer_label(-1), "Emb"),
    ],
)
def test_numbers_are_written(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
def test_a_missing_number_is_a_dash(missing: float | None) -> None:
    formats = [
        look.fmt_mb,
        look.fmt_percent,
        look.fmt_signed_points,
        look.fmt_kl,
        look.fmt_lambda,
        look.fmt_omega,
        look.fmt_loss,
        look.fmt_probability,
    ]
    assert {write(missing) for write in [*formats, look.fmt_ratio]} == {look.MISSING}
    assert look.fmt_interval(0.1, missing) == look.fmt_interval(missing, 0.1) == look.MISSING
    assert look.fmt_count(None) == look.MISSING


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12))
def test_three_significant_digits_are_within_half_a_unit(value: float) -> None:
    text = look.fmt_lambda(value).replace("\N{MINUS SIGN}", "-").replace(",", "")
    mantissa, _, power = text.partition("\N{MULTIPLICATION SIGN}10")
    exponent = unicodedata.normalize("NFKC", power).replace("\N{MINUS SIGN}", "-")
    assert float(f"{mantissa}e{exponent or 0}") == pytest.approx(value, rel=0.0051, abs=0)
