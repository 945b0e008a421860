"""What can be quantized, to how many bits, how large it is then, and what its weights become."""

from qbert_core.quantization.anatomy import (
    GroupAnatomy,
    SiteAnatomy,
    errors_by_count,
    errors_by_width,
    group_anatomy,
    site_anatomy,
    squared_error,
)
from qbert_core.quantization.plan import Plan, SitePlan
from qbert_core.quantization.presets import preset_named, presets
from qbert_core.quantization.quantizer import fake_quantize, group_ranges
from qbert_core.quantization.simulate import (
    ActivationRanges,
    QuantizedModel,
    Quantizer,
    calibrate,
)
from qbert_core.quantization.sites import Site, sites_of
from qbert_core.quantization.size import PlanSize, fp32_size, plan_size, site_bytes

__all__ = [
    "ActivationRanges",
    "GroupAnatomy",
    "Plan",
    "PlanSize",
    "QuantizedModel",
    "Quantizer",
    "Site",
    "SiteAnatomy",
    "SitePlan",
    "calibrate",
    "errors_by_count",
    "errors_by_width",
    "fake_quantize",
    "fp32_size",
    "group_anatomy",
    "group_ranges",
    "plan_size",
    "preset_named",
    "presets",
    "site_anatomy",
    "site_bytes",
    "sites_of",
    "squared_error",
]
