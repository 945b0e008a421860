"""Figures of the dashboard: pure functions from data to a plotly Figure.

Show one with `st.plotly_chart(figure, theme=None, config=chart_config("name"), alt=alt_text(figure))`:
`theme=None`, because a figure already carries its own colours for light and dark.
"""

from .bits import SiteBits, bits_strip
from .blocks import BlockSensitivity
from .frame import alt_text, chart_config, empty_figure
from .heatmap import kl_heatmap
from .omega import omega_bars
from .palette import (
    MISSING,
    Palette,
    colours_for,
    fmt_count,
    fmt_interval,
    fmt_kl,
    fmt_lambda,
    fmt_mb,
    fmt_omega,
    fmt_percent,
    fmt_ratio,
    fmt_signed_points,
    layer_label,
)
from .plans import PlanKind, PlanPoint, pareto
from .samples import RESIDUAL_LIMIT, lambda_samples
from .scatter import size_accuracy_scatter

__all__ = [
    "MISSING",
    "RESIDUAL_LIMIT",
    "BlockSensitivity",
    "Palette",
    "PlanKind",
    "PlanPoint",
    "SiteBits",
    "alt_text",
    "bits_strip",
    "chart_config",
    "colours_for",
    "empty_figure",
    "fmt_count",
    "fmt_interval",
    "fmt_kl",
    "fmt_lambda",
    "fmt_mb",
    "fmt_omega",
    "fmt_percent",
    "fmt_ratio",
    "fmt_signed_points",
    "kl_heatmap",
    "lambda_samples",
    "layer_label",
    "omega_bars",
    "pareto",
    "size_accuracy_scatter",
]
