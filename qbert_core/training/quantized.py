"""The model a plan makes of weights that are still being trained.

Forward it is the model that `quantization.Quantizer` makes (linear layers in floating point), made
anew from the fp32 weights at every step; backward it is straight-through (`straight_through`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from qbert_core.bert import BertConfig, LinearMap, Weights, forward
from qbert_core.quantization import ActivationRanges, Plan, sites_of
from qbert_core.quantization.simulate import ACTIVATION_LEVELS
from qbert_core.quantization.straight_through import (
    fake_quantize_input,
    fake_quantize_rows,
    fake_quantize_weight,
)
from qbert_core.tasks import Batch

WORDS = "bert.embeddings.word_embeddings.weight"
POSITIONS = "bert.embeddings.position_embeddings.weight"


class TrainedPlan:
    """A plan in training: its forward pass, and the input ranges it has seen so far.

    `ranges` holds (low, high), low <= 0 <= high, of every linear layer's input, quantized or not, so
    that other plans can be measured on the result; it is empty where activations stay in fp32. They are
    moving averages over batches of the minimum and maximum at real tokens (Jacob et al. 2018), from
    the first batch's on.
    """

    def __init__(
        self, config: BertConfig, plan: Plan, decay: float, ranges: Mapping[str, tuple[float, float]]
    ) -> None:
        self.ranges = dict(ranges)
        self._config = config
        self._plan = plan
        self._decay = decay
        self._sites = {site.name: site for site in sites_of(config)}

    def activation_ranges(self, source: str, examples: int) -> ActivationRanges:
        """The ranges as everybody else takes them."""
        return ActivationRanges(MappingProxyType(dict(self.ranges)), source, examples)

    def forward(self, weights: Weights, batch: Batch, *, training: bool, observe: bool = False) -> Tensor:
        """Logits of a batch; with `observe` its inputs move the ranges first."""
        entries = self._plan.sites
        used = dict(weights)
        ids = batch.input_ids
        for name, site in self._sites.items():
            if site.layer is not None or not entries[name].quantized:
                continue
            if site.parameter == WORDS:  # a few hundred rows of thirty thousand
                rows, ids = torch.unique(ids, return_inverse=True)
            else:
                stop = ids.shape[1] if site.parameter == POSITIONS else site.rows
                rows = torch.arange(stop, device=ids.device)
            entry = entries[name]
            table = weights[site.parameter]
            used[site.parameter] = fake_quantize_rows(table, rows, entry.bits, entry.groups, self._plan.clip)
        linear = self._linear(used, batch, observe)
        return forward(
            used, self._config, ids, batch.token_type_ids, batch.lengths, linear=linear, training=training
        )

    def _linear(self, weights: Weights, batch: Batch, observe: bool) -> LinearMap:
        entries, clip = self._plan.sites, self._plan.clip
        quantizes = self._plan.activation_bits == 8
        width = batch.input_ids.shape[1]
        padding = None
        if int(batch.lengths.min()) < width:
            padding = torch.arange(width, device=batch.lengths.device) >= batch.lengths[:, None]
        # query, key and value share one input: its range is taken and it is quantized once
        seen: tuple[Tensor, tuple[float, float]] | None = None
        made: tuple[Tensor, tuple[float, float], Tensor] | None = None

        def linear(site: str, x: Tensor) -> Tensor:
            nonlocal seen, made
            entry = entries[site]
            if quantizes and observe:
                if seen is None or seen[0] is not x:
                    seen = (x, _ends(x.detach(), padding))
                self._move(site, *seen[1])
            weight = weights[f"{site}.weight"]
            if entry.quantized:
                weight = fake_quantize_weight(weight, entry.bits, entry.groups, clip)
                if quantizes and site in self.ranges:
                    if made is None or made[0] is not x or made[1] != self.ranges[site]:
                        scale, zero = self._quantizer(site)
                        quantized = fake_quantize_input(x, scale, zero, ACTIVATION_LEVELS)
                        made = (x, self.ranges[site], quantized)
                    x = made[2]
            return torch.nn.functional.linear(x, weight, weights[f"{site}.bias"])

        return linear

    def _move(self, site: str, low: float, high: float) -> None:
        if not math.isfinite(low) or not math.isfinite(high):
            return  # the loss will not be finite either, and there it is reported
        old = self.ranges.get(site)
        if old is not None:
            low, high = (
                self._decay * a + (1 - self._decay) * b for a, b in zip(old, (low, high), strict=True)
            )
        self.ranges[site] = (low, high)

    def _quantizer(self, site: str) -> tuple[float, float]:
        """Scale and zero point, by the code that an evaluation uses."""
        return ActivationRanges({site: self.ranges[site]}, "", 0).scale_and_zero(site)


def _ends(x: Tensor, padding: Tensor | None) -> tuple[float, float]:
    """Smallest and largest value of (B, T, columns) at real tokens, widened to hold 0."""
    low, high = x.amin(-1), x.amax(-1)  # (B, T)
    if padding is not None:
        low, high = low.masked_fill(padding, 0), high.masked_fill(padding, 0)
    ends: list[float] = torch.stack([low.amin(), high.amax()]).tolist()
    return min(ends[0], 0.0), max(ends[1], 0.0)
