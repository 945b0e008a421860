"""Curvature of the loss: Hessian-vector products, top eigenpairs, and the sensitivity they give."""

from qbert_core.curvature.analysis import (
    Analysis,
    BlockResult,
    RunResult,
    ShardedRun,
    block_eigenpair,
    draw,
)
from qbert_core.curvature.blocks import Block, blocks_of
from qbert_core.curvature.density import Curve, Quadrature, lanczos_quadrature, smeared
from qbert_core.curvature.eigen import Eigenpair, largest_eigenpair, random_start
from qbert_core.curvature.eigenpairs import Eigenpairs, two_largest_eigenpairs
from qbert_core.curvature.hvp import BlockHessian
from qbert_core.curvature.inputs import LayerInputs
from qbert_core.curvature.landscape import Landscape, QuantizedPoint, landscape
from qbert_core.curvature.results import BlockSensitivity, Sensitivity
from qbert_core.curvature.sensitivity import Compute, run_blocks, sensitivity
from qbert_core.curvature.shards import ShardStates, shards_of_a_run
from qbert_core.curvature.spectrum import Spectrum, block_named, spectrum
from qbert_core.curvature.stability import Stability, stability
from qbert_core.curvature.trace import TraceEstimate, block_trace, xtrace

__all__ = [
    "Analysis",
    "Block",
    "BlockHessian",
    "BlockResult",
    "BlockSensitivity",
    "Compute",
    "Curve",
    "Eigenpair",
    "Eigenpairs",
    "Landscape",
    "LayerInputs",
    "Quadrature",
    "QuantizedPoint",
    "RunResult",
    "Sensitivity",
    "ShardStates",
    "ShardedRun",
    "Spectrum",
    "Stability",
    "TraceEstimate",
    "block_eigenpair",
    "block_named",
    "block_trace",
    "blocks_of",
    "draw",
    "lanczos_quadrature",
    "landscape",
    "largest_eigenpair",
    "random_start",
    "run_blocks",
    "sensitivity",
    "shards_of_a_run",
    "smeared",
    "spectrum",
    "stability",
    "two_largest_eigenpairs",
    "xtrace",
]
