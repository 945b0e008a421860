"""Attention KL: how far the quantized model looks elsewhere than the fp32 model.

For one layer and head, with p the fp32 and q the quantized distribution of a query position,
KL = sum over keys of p log(p / q), natural logarithm; averaged over the real query positions of an
example, then over examples.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attention_kl(reference: Tensor, scores: Tensor, lengths: Tensor) -> Tensor:
    """KL a head of each example, in nats.

    `reference` (B, heads, T, T) is the log-softmax of the fp32 model's scores, `scores` the
    quantized model's, masked, before the softmax; `lengths` (B,) counts the real tokens.
    Returns (B, heads). A masked key has p = 0 and a finite logarithm, so it adds exactly 0.
    """
    log_q = torch.log_softmax(scores, -1)
    per_query = (reference.exp() * (reference - log_q)).sum(-1)  # (B, heads, T)
    width = scores.shape[-1]
    real = (torch.arange(width, device=scores.device) < lengths[:, None])[:, None, :]
    # a sum of rounded terms can fall a hair below 0, a divergence cannot
    return (per_query * real).sum(-1).div(lengths[:, None]).clamp_(min=0)
