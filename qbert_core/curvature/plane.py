"""Two directions in the space of a block's parameters: their scale, and what falls onto their plane."""

from __future__ import annotations

import torch
from torch import Tensor

from qbert_core.bert import Weights
from qbert_core.curvature.blocks import Block


def flat(block: Block, tensors: Weights, like: Weights) -> Tensor:
    """(n,): `tensors` one after the other in the block's order, zeros for those that are not there."""
    parts = [tensors.get(name, torch.zeros_like(like[name])) for name in block.parameters]
    return torch.cat([part.reshape(-1) for part in parts])


def filter_normalised(block: Block, direction: Tensor, weights: Weights) -> Tensor:
    """(n,) -> (n,): each row of each weight matrix scaled to the norm of that row of the weights.

    Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets", section 4: d_ij |w_ij| / |d_ij|,
    where filter j of a fully connected layer is the row of weights of neuron j. Biases and LayerNorm
    are left where they are (their directions are zero), as by the authors' code with `ignore=biasbn`,
    its default: their norms are no scale of the function. A row without direction stays without.
    """
    scaled = []
    sizes = [weights[name].numel() for name in block.parameters]
    for name, part in zip(block.parameters, torch.split(direction, sizes), strict=True):
        weight = weights[name]
        if weight.dim() < 2:
            scaled.append(torch.zeros_like(part))
            continue
        rows = part.view_as(weight)
        own = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        wanted = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
        scaled.append((rows * (wanted / own).where(own > 0, 0)).reshape(-1))
    return torch.cat(scaled)


def project(displacement: Tensor, directions: Tensor) -> tuple[tuple[float, ...], float]:
    """Coordinates p (k,) of the point sum p_i d_i nearest to `displacement` (n,), and its share.

    The share is |sum p_i d_i|^2 / |displacement|^2, 1 for no displacement at all. The directions
    (k, n) need be neither of unit length nor orthogonal: p solves (d_i . d_j) p = d_i . displacement.
    """
    directions, displacement = directions.double(), displacement.double()
    gram = directions @ directions.T
    shadow = directions @ displacement
    point = torch.linalg.pinv(gram, hermitian=True) @ shadow
    whole = float(displacement @ displacement)
    share = min(max(float(point @ shadow) / whole, 0.0), 1.0) if whole else 1.0
    return tuple(point.tolist()), share
