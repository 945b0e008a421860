"""Figures of the dashboard: pure functions from data to a plotly Figure.

Show one with `st.plotly_chart(figure, theme=None, config=chart_config("name"), alt=alt_text(figure))`:
`theme=None`, because a figure already carries its own colours for light and dark.
"""

from .allheads import Shown, all_heads
from .attention import WINDOW, attention_maps
from .bits import SiteBits, bits_strip
from .blocks import BlockSensitivity, title
from .confidence import rank_confidence
from .contest import Contender, contest_marks
from .contour import landscape_contour
from .density import Spectrum, density_curve
from .enlarged import enlarged
from .errors import ErrorPoint, error_steps
from .frame import alt_text, chart_config, empty_figure
from .groupcounts import group_count_marks
from .heatmap import kl_heatmap
from .histogram import weight_histogram
from .history import Check, stability_history
from .holdings import Holding, holding_bars
from .kldifference import kl_difference
from .landscape import SURFACE_HEIGHT, Landscape, Quantized, known_grid
from .marks import ROW, layer_outline
from .methods import LayerKL, kl_by_layer
from .omega import omega_bars
from .pairs import bits_pair
from .palette import (
    MISSING,
    Palette,
    colours_for,
    fmt_change,
    fmt_correlation,
    fmt_correlation_interval,
    fmt_count,
    fmt_error,
    fmt_interval,
    fmt_kb,
    fmt_kl,
    fmt_lambda,
    fmt_loss,
    fmt_mb,
    fmt_omega,
    fmt_percent,
    fmt_points_interval,
    fmt_probability,
    fmt_ratio,
    fmt_signed_points,
    fmt_weight,
    layer_label,
)
from .parts import part_bars, part_label
from .plans import PlanKind, PlanPoint, pareto
from .predicted import PredictedRow, predicted_scatter
from .rows import SweepRow, row_key
from .samples import RESIDUAL_LIMIT, lambda_samples
from .scatter import size_accuracy_scatter
from .settings import setting_marks
from .surface import landscape_surface
from .training import Point, epoch_metric, loss_curve

__all__ = [
    "MISSING",
    "RESIDUAL_LIMIT",
    "ROW",
    "SURFACE_HEIGHT",
    "WINDOW",
    "BlockSensitivity",
    "Check",
    "Contender",
    "ErrorPoint",
    "Holding",
    "Landscape",
    "LayerKL",
    "Palette",
    "PlanKind",
    "PlanPoint",
    "Point",
    "PredictedRow",
    "Quantized",
    "Shown",
    "SiteBits",
    "Spectrum",
    "SweepRow",
    "all_heads",
    "alt_text",
    "attention_maps",
    "bits_pair",
    "bits_strip",
    "chart_config",
    "colours_for",
    "contest_marks",
    "density_curve",
    "empty_figure",
    "enlarged",
    "epoch_metric",
    "error_steps",
    "fmt_change",
    "fmt_correlation",
    "fmt_correlation_interval",
    "fmt_count",
    "fmt_error",
    "fmt_interval",
    "fmt_kb",
    "fmt_kl",
    "fmt_lambda",
    "fmt_loss",
    "fmt_mb",
    "fmt_omega",
    "fmt_percent",
    "fmt_points_interval",
    "fmt_probability",
    "fmt_ratio",
    "fmt_signed_points",
    "fmt_weight",
    "group_count_marks",
    "holding_bars",
    "kl_by_layer",
    "kl_difference",
    "kl_heatmap",
    "known_grid",
    "lambda_samples",
    "landscape_contour",
    "landscape_surface",
    "layer_label",
    "layer_outline",
    "loss_curve",
    "omega_bars",
    "pareto",
    "part_bars",
    "part_label",
    "predicted_scatter",
    "rank_confidence",
    "row_key",
    "setting_marks",
    "size_accuracy_scatter",
    "stability_history",
    "title",
    "weight_histogram",
]
