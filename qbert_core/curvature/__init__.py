"""Curvature of the loss: Hessian-vector products, top eigenpairs, and the sensitivity they give."""

from qbert_core.curvature.blocks import Block, blocks_of
from qbert_core.curvature.eigen import Eigenpair, largest_eigenpair, random_start
from qbert_core.curvature.hvp import BlockHessian
from qbert_core.curvature.inputs import LayerInputs
from qbert_core.curvature.results import BlockSensitivity, Sensitivity
from qbert_core.curvature.sensitivity import RunResult, block_eigenpair, draw, sensitivity

__all__ = [
    "Block",
    "BlockHessian",
    "BlockSensitivity",
    "Eigenpair",
    "LayerInputs",
    "RunResult",
    "Sensitivity",
    "block_eigenpair",
    "blocks_of",
    "draw",
    "largest_eigenpair",
    "random_start",
    "sensitivity",
]
