"""Figures of the dashboard: pure functions from data to a plotly Figure.

Show one with `st.plotly_chart(figure, theme=None, config=chart_config("name"), alt=alt_text(figure))`:
`theme=None`, because a figure already carries its own colours for light and dark.
"""

from .bits import SiteBits, bits_strip
from .blocks import BlockSensitivity, title
from .confidence import rank_confidence
from .contour import landscape_contour
from .density import Spectrum, density_curve
from .frame import alt_text, chart_config, empty_figure
from .heatmap import kl_heatmap
from .history import Check, stability_history
from .landscape import Landscape, Quantized, known_grid
from .omega import omega_bars
from .palette import (
    MISSING,
    Palette,
    colours_for,
    fmt_count,
    fmt_interval,
    fmt_kl,
    fmt_lambda,
    fmt_loss,
    fmt_mb,
    fmt_omega,
    fmt_percent,
    fmt_probability,
    fmt_ratio,
    fmt_signed_points,
    layer_label,
)
from .plans import PlanKind, PlanPoint, pareto
from .samples import RESIDUAL_LIMIT, lambda_samples
from .scatter import size_accuracy_scatter
from .surface import landscape_surface

__all__ = [
    "MISSING",
    "RESIDUAL_LIMIT",
    "BlockSensitivity",
    "Check",
    "Landscape",
    "Palette",
    "PlanKind",
    "PlanPoint",
    "Quantized",
    "SiteBits",
    "Spectrum",
    "alt_text",
    "bits_strip",
    "chart_config",
    "colours_for",
    "density_curve",
    "empty_figure",
    "fmt_count",
    "fmt_interval",
    "fmt_kl",
    "fmt_lambda",
    "fmt_loss",
    "fmt_mb",
    "fmt_omega",
    "fmt_percent",
    "fmt_probability",
    "fmt_ratio",
    "fmt_signed_points",
    "kl_heatmap",
    "known_grid",
    "lambda_samples",
    "landscape_contour",
    "landscape_surface",
    "layer_label",
    "omega_bars",
    "pareto",
    "rank_confidence",
    "size_accuracy_scatter",
    "stability_history",
    "title",
]
