"""The look shared by figures and pages: colours for light and dark, type sizes, number formats.

Meaning of colour, the same everywhere:

* warm scale (sand to plum): damage, as attention KL or as loss. More ink against the background = more.
* cool scale (ice to navy): bits of a weight. More ink = more memory; fp32 is the neutral extreme.
* two-sided scale (orange, page, blue): which of two is ahead; the page's own grey = undecided.
* categorical colours follow Okabe and Ito, darkened on white and lightened on black until every mark has
  a contrast of at least 3 against the page.

All scales have equal steps in OKLab and, on each side, a strictly monotone lightness, so they survive colour
blindness; the first two also a grey print.
"""

import math
from dataclasses import dataclass
from typing import TypeGuard

FONT_FAMILY = '"Source Sans", "Source Sans 3", "Source Sans Pro", "Segoe UI", Helvetica, Arial, sans-serif'

TEXT_SIZE = 13
"""Axis titles, legends, hover labels, labels on marks (pixels)."""
TICK_SIZE = 12
"""Tick labels and numbers in cells (pixels)."""
SMALL_SIZE = 11
"""Labels where space is scarce: narrow cells, crowded ranks (pixels)."""

BIT_WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 32)
"""The bit widths a plan may hold, in the order of the bit colours."""

MISSING = "\N{EN DASH}"
"""What a number that does not exist (None, NaN, infinite) is shown as."""

_NBSP = "\N{NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"
_EN_DASH = "\N{EN DASH}"
_TIMES = "\N{MULTIPLICATION SIGN}"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Palette:
    """Colours of one theme, as #RRGGBB.

    `background` is the page's own colour (.streamlit/config.toml says the same): figures are transparent
    and need it only to cut gaps and halos.
    """

    background: str
    surface: str  # hover labels, legend backgrounds
    ink: str  # text
    muted: str  # secondary text, axis titles
    line: str  # axis lines and cell borders: contrast >= 3
    grid: str  # grid lines: meant to be barely seen
    accent: str  # look here: the current plan, the selected cell, a doubtful value
    attention: str
    ffn: str
    embedding: str
    preset: str
    hand: str
    spread: str  # the standard deviation on top of |mean|
    kl: tuple[str, ...]  # sequential, low to high
    order: tuple[str, ...]  # two-sided, 0 to 1; the middle one is 0.5
    bits: tuple[str, ...]  # ordinal, in the order of BIT_WIDTHS

    def kind(self, kind: str) -> str:
        """Colour of a site or block kind; a whole layer has the colour of attention, which it never meets."""
        kinds = {"attention": self.attention, "ffn": self.ffn, "embedding": self.embedding}
        return kinds.get(kind, self.attention)

    def bit(self, bits: int) -> str:
        """Colour of a bit width. Raises ValueError for a width no plan may hold."""
        if bits not in BIT_WIDTHS:
            raise ValueError(f"bits must be one of {BIT_WIDTHS}, got {bits}")
        return self.bits[BIT_WIDTHS.index(bits)]


LIGHT = Palette(
    background="#FFFFFF",
    surface="#F4F6F8",
    ink="#17212B",
    muted="#52606D",
    line="#7B8794",
    grid="#E4E8EC",
    accent="#B8145F",
    attention="#0B65B0",
    ffn="#BF4B00",
    embedding="#0F9F87",
    preset="#17212B",
    hand="#0B65B0",
    spread="#4A93CF",
    kl=(
        "#F7F4DF", "#EBDBB1", "#E4BF83", "#E4A058", "#DE8040", "#D3603A",
        "#BC4744", "#A0334B", "#7F274E", "#5E1E48", "#3F163C",
    ),
    order=(
        "#A64300", "#B86842", "#C98B6F", "#D8AD9B", "#E5D0C7", "#F1F3F5",
        "#C6D6EA", "#9CBADD", "#739ED0", "#4981C3", "#1564B4",
    ),
    bits=(
        "#DDF4F1", "#B4DFDE", "#8CCACF", "#68B2C3", "#4999B8", "#3180AC", "#20669F", "#1B4B90", "#232B33",
    ),
)  # fmt: skip

DARK = Palette(
    background="#12171D",
    surface="#1D252E",
    ink="#E8EDF2",
    muted="#A4B1BE",
    line="#6E7D8C",
    grid="#27313B",
    accent="#F4609A",
    attention="#5FB2EC",
    ffn="#F2A03D",
    embedding="#2B8A76",
    preset="#E8EDF2",
    hand="#5FB2EC",
    spread="#3B76A3",
    kl=(
        "#2E2131", "#4E2745", "#712C4F", "#943451", "#B4424E", "#D15646",
        "#E3733E", "#EF9240", "#F6B355", "#FBD379", "#FFF0A6",
    ),
    order=(
        "#F2A03D", "#C78A45", "#9E7448", "#765E47", "#504943", "#2B343D",
        "#394D5F", "#466883", "#5485A9", "#61A2D1", "#6FC0FA",
    ),
    bits=(
        "#283854", "#2E4F73", "#306991", "#3285A9", "#3DA1BB", "#57BCCA", "#83D5D5", "#B2ECE3", "#F4F6F8",
    ),
)  # fmt: skip


def colours_for(dark: bool) -> Palette:
    """The colours of the dark or the light theme."""
    return DARK if dark else LIGHT


def contrast(first: str, second: str) -> float:
    """WCAG 2 contrast ratio of two #RRGGBB colours, 1 (same) to 21 (black on white)."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def ink_on(colour: str) -> str:
    """Black or white, whichever reads better on `colour`; the better one always has a contrast above 4.5."""
    return max("#000000", "#FFFFFF", key=lambda ink: contrast(ink, colour))


def with_alpha(colour: str, alpha: float) -> str:
    """#RRGGBB as a CSS rgba() with the given opacity."""
    red, green, blue = _channels(colour)
    return f"rgba({red},{green},{blue},{alpha:g})"


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _luminance(colour: str) -> float:
    scaled = (channel / 255 for channel in _channels(colour))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in scaled)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def layer_label(layer: int) -> str:
    """The name people see for a 0-based layer index: 0 -> "L1"; -1, the embedding, -> "Emb"."""
    return "Emb" if layer < 0 else f"L{layer + 1}"


def fmt_mb(megabytes: float | None) -> str:
    """A size: 415.38 -> "415.4 MB", 0.012 -> "0.01 MB"."""
    if not _present(megabytes):
        return MISSING
    return _fixed(megabytes, 1 if abs(megabytes) >= 1 else 2) + _NBSP + "MB"


def fmt_percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as percent: 0.898 -> "89.8 %"."""
    return _fixed(100 * fraction, digits) + _NBSP + "%" if _present(fraction) else MISSING


def fmt_signed_points(change: float | None, digits: int = 1) -> str:
    """A change between two fractions in percentage points, with a true minus: 0.0123 -> "+1.2 pp", 0.0 -> "0.0 pp"."""
    return _signed(_fixed(100 * change, digits)) + _NBSP + "pp" if _present(change) else MISSING


def fmt_interval(low: float | None, high: float | None, digits: int = 1) -> str:
    """An interval of fractions: (0.877, 0.917) -> "87.7–91.7 %"."""
    if not (_present(low) and _present(high)):
        return MISSING
    return _fixed(100 * low, digits) + _EN_DASH + _fixed(100 * high, digits) + _NBSP + "%"


def fmt_points_interval(low: float | None, high: float | None, digits: int = 1) -> str:
    """An interval of changes in percentage points: (-0.2, 0.05) -> "−20.0 to +5.0 pp"."""
    if not (_present(low) and _present(high)):
        return MISSING
    return f"{_signed(_fixed(100 * low, digits))} to {_signed(_fixed(100 * high, digits))}{_NBSP}pp"


def fmt_kl(nats: float | None, *, unit: bool = False) -> str:
    """A KL divergence, 3 significant digits: 0.09214 -> "0.0921", exactly 0 -> "0", a power below 1e-4."""
    return _significant(nats) + (_NBSP + "nats" if unit else "") if _present(nats) else MISSING


def fmt_lambda(value: float | None) -> str:
    """An eigenvalue with its sign, 3 significant digits: 12.84 -> "+12.8", 0 -> "0"."""
    return _signed(_significant(value)) if _present(value) else MISSING


def fmt_omega(value: float | None) -> str:
    """A sensitivity, 3 significant digits, no sign: 30.1234 -> "30.1"."""
    return _significant(value) if _present(value) else MISSING


def fmt_loss(value: float | None) -> str:
    """A loss in nats, 3 significant digits: 0.21234 -> "0.212"."""
    return _significant(value) if _present(value) else MISSING


def fmt_error(value: float | None) -> str:
    """A squared error, which may have any size, with 2 digits: 0.00075 -> "7.5" times 10 to the -4."""
    if not _present(value):
        return MISSING
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}{_TIMES}10{str(int(exponent)).translate(_SUPERSCRIPT)}".replace("-", _MINUS)


def fmt_weight(value: float | None) -> str:
    """A weight or what flows into one, 3 significant digits: -0.41234 -> "−0.412"."""
    return _significant(value) if _present(value) else MISSING


def fmt_kb(count: int | None) -> str:
    """Bytes in KB of 2^10: 73728 -> "72.0 KB"."""
    return _fixed(count / 1024, 1) + _NBSP + "KB" if _present(count) else MISSING


def fmt_change(value: float | None, digits: int | None = None, unit: str = "") -> str:
    """A change with its sign and fixed decimals, or 3 significant digits: 0.351 -> "+0.351", -0.25 MB at
    1 digit -> "−0.2 MB"."""
    if not _present(value):
        return MISSING
    text = _significant(value) if digits is None else _fixed(value, digits)
    return _signed(text) + (_NBSP + unit if unit else "")


def fmt_probability(value: float | None) -> str:
    """A probability in whole percent that is never rounded to certainty: 0.9987 -> "> 99 %", 1 -> "100 %"."""
    if not _present(value):
        return MISSING
    if 0.995 <= value < 1:
        return f">{_NBSP}99{_NBSP}%"
    if 0 < value < 0.005:
        return f"<{_NBSP}1{_NBSP}%"
    return fmt_percent(value, 0)


def fmt_correlation(value: float | None) -> str:
    """A correlation, two decimals, a true minus: 0.934 -> "0.93"."""
    return _fixed(value, 2) if _present(value) else MISSING


def fmt_correlation_interval(low: float | None, high: float | None) -> str:
    """Its interval: (-0.1, 0.93) -> "−0.10 to 0.93"."""
    if not (_present(low) and _present(high)):
        return MISSING
    return f"{_fixed(low, 2)} to {_fixed(high, 2)}"


def fmt_ratio(value: float | None) -> str:
    """A compression: 7.8123 -> "7.8" and a multiplication sign."""
    return _fixed(value, 1) + _TIMES if _present(value) else MISSING


def fmt_count(count: int | None) -> str:
    """A count with thousands apart: 67349 -> "67,349"."""
    return MISSING if count is None else f"{count:,}".replace("-", _MINUS)


def _present(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _fixed(value: float, digits: int) -> str:
    """Fixed decimals, thousands apart, a true minus, and never a negative zero."""
    text = f"{value:,.{digits}f}"
    if text.startswith("-"):
        return text.replace("-", _MINUS) if any(digit in text for digit in "123456789") else text[1:]
    return text


def _significant(value: float, digits: int = 3) -> str:
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    if power < -4:
        return f"{mantissa}{_TIMES}10{str(power).translate(_SUPERSCRIPT)}".replace("-", _MINUS)
    decimals = digits - 1 - power
    return f"{round(value, decimals):,.{max(decimals, 0)}f}".replace("-", _MINUS)


def _signed(text: str) -> str:
    nonzero = any(digit in text for digit in "123456789")
    return "+" + text if nonzero and not text.startswith(_MINUS) else text
