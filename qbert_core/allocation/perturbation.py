"""What quantization does to the weights of each encoder layer: |W - Q(W)|^2."""

from __future__ import annotations

import torch

from qbert_core.checkpoints import Checkpoint
from qbert_core.errors import InputError
from qbert_core.quantization import SitePlan, fake_quantize, sites_of


def layer_perturbations(checkpoint: Checkpoint, bits: int, groups: int) -> dict[int, float]:
    """Layer -> |W - Q(W)|^2, summed over the layer's six weight matrices, layers ascending.

    Q is the group quantizer at `bits` (1..8) and `groups`, ranges not clipped. To rank layers for two
    widths, give the LOWER one: |W - Q(W)|^2 is then what a layer suffers unless it is among those that
    get the higher width, where it all but vanishes. Raises `InputError` for bits or groups out of range.
    """
    entry = SitePlan(bits, groups)
    if not entry.quantized:
        raise InputError(f"bits {bits}; a perturbation needs 1..8, at 32 nothing is perturbed")
    sums = dict.fromkeys(range(checkpoint.config.layers), 0.0)
    for site in sites_of(checkpoint.config):
        if site.layer is not None:
            weight = checkpoint.weights[site.parameter]
            difference = weight - fake_quantize(weight, entry.bits, entry.groups)
            sums[site.layer] += float(torch.sum(difference.double() ** 2))
    return sums
