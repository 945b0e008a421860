"""The model a plan makes: its weights, and what happens to the inputs of its linear layers."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from qbert_core.bert import LinearMap, Weights, dense, forward
from qbert_core.checkpoints import Checkpoint
from qbert_core.errors import InputError
from qbert_core.quantization.integer import (
    COLUMNS,
    InputCodes,
    IntegerLinear,
    integer_linear,
    integer_products_pay,
    quantize_input,
)
from qbert_core.quantization.plan import Plan
from qbert_core.quantization.quantizer import fake_quantize
from qbert_core.quantization.sites import sites_of
from qbert_core.runtime.events import Events
from qbert_core.tasks import Examples, Task, collate

CALIBRATION_EXAMPLES = 256
ACTIVATION_LEVELS = 255


@dataclass(frozen=True)
class ActivationRanges:
    """The frozen input range of every linear site: site -> (low, high), low <= 0 <= high."""

    ranges: Mapping[str, tuple[float, float]]
    source: str  # the data they were calibrated on
    examples: int

    @property
    def digest(self) -> str:
        text = repr(sorted(self.ranges.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def scale_and_zero(self, site: str) -> tuple[float, float]:
        """The 8-bit quantizer of a site's input, by the definitions of the weights, in fp32."""
        low, high = (np.float32(v) for v in self.ranges[site])
        scale = (high - low) / np.float32(ACTIVATION_LEVELS) or np.float32(1)
        return float(scale), float(np.round(-low / scale))


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """What a plan makes of a checkpoint: its tensors, and how its linear layers are computed.

    `weights` holds the dequantized embedding tables, and the dequantized encoder weights where linear
    layers are computed in floating point; `linear` is None for a model without quantized inputs.
    """

    weights: Weights
    linear: LinearMap | None


class Quantizer:
    """Quantized models of one checkpoint. Sites are kept by (site, bits, groups, clip).

    Tuning by hand changes a few sites at a time; the others are found here. Least recently used
    sites go when more than `capacity` bytes are held (by default three quantized models). Safe to
    use from several threads.

    Where inputs are 8-bit too, linear layers run in whole numbers (see `integer`) where that is the faster
    way on this CPU, or as `integers` says; else inputs are quantized and dequantized in fp32. The two differ
    by fp32's rounding only.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        ranges: ActivationRanges,
        *,
        integers: bool | None = None,
        capacity: int | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._ranges = ranges
        self._sites = sites_of(checkpoint.config)
        self._integers = integer_products_pay() if integers is None else integers
        self._capacity = capacity or 12 * sum(site.params for site in self._sites)
        self._kept: OrderedDict[tuple[bool, str, int, int, float], Tensor | IntegerLinear] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def model(self, plan: Plan) -> QuantizedModel:
        """The model `plan` makes; tensors that are not quantized are the checkpoint's own."""
        entries = plan.sites
        weights = dict(self._checkpoint.weights)
        inputs: dict[str, tuple[float, float]] = {}
        layers: dict[str, IntegerLinear] = {}
        for site in self._sites:
            entry = entries[site.name]
            if not entry.quantized:
                continue
            linear = site.layer is not None and plan.activation_bits == 8
            if linear:
                inputs[site.name] = self._ranges.scale_and_zero(site.name)
            whole = linear and self._integers and site.columns in COLUMNS
            key = (whole, site.name, entry.bits, min(entry.groups, site.rows), float(plan.clip))
            made = self._site(key, weights[site.parameter])
            if isinstance(made, IntegerLinear):
                layers[site.name] = made
            else:
                weights[site.parameter] = made
        frozen = MappingProxyType(weights)
        return QuantizedModel(frozen, linear_map(frozen, inputs, layers) if inputs else None)

    def _site(self, key: tuple[bool, str, int, int, float], weight: Tensor) -> Tensor | IntegerLinear:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        make = integer_linear if key[0] else fake_quantize
        result = make(weight, key[2], key[3], key[4])
        with self._lock:
            if key not in self._kept:
                self._kept[key] = result
                self._bytes += result.nbytes
            while self._bytes > self._capacity and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= dropped.nbytes
        return result


def linear_map(
    weights: Weights, inputs: Mapping[str, tuple[float, float]], layers: Mapping[str, IntegerLinear]
) -> LinearMap:
    """How linear layers are computed: those in `inputs` (site -> scale and zero point) quantize theirs,
    those also in `layers` multiply whole numbers. Safe to use from several threads."""
    # query, key and value share one input and one range: quantize it once
    kept = threading.local()

    def linear(site: str, x: Tensor) -> Tensor:
        if site not in inputs:
            return dense(weights, site, x)
        scale, zero = step = inputs[site]
        whole = site in layers
        last: tuple[Tensor, tuple[float, float], bool, InputCodes | Tensor] | None
        last = getattr(kept, "last", None)
        if last is None or last[0] is not x or last[1:3] != (step, whole):
            codes: InputCodes | Tensor
            if whole:
                codes = quantize_input(x, scale, zero)
            else:
                codes = (x / scale).round_().clamp_(-zero, ACTIVATION_LEVELS - zero).mul_(scale)
            kept.last = last = (x, step, whole, codes)
        made = last[3]
        if isinstance(made, InputCodes):
            result = layers[site](made, weights[f"{site}.bias"])
            return result.view(*x.shape[:-1], -1)
        return dense(weights, site, made)

    return linear


def calibrate(
    checkpoint: Checkpoint, task: Task, examples: Examples, events: Events | None = None
) -> ActivationRanges:
    """Range of the input of every linear site over the first examples, fp32 model, padding excluded.

    `CALIBRATION_EXAMPLES` are used, or all where there are fewer.
    """
    chosen = examples.take(range(min(CALIBRATION_EXAMPLES, len(examples))))
    names = {site.name for site in sites_of(checkpoint.config) if site.layer is not None}
    ranges = dict.fromkeys(names, (0.0, 0.0))

    def record(site: str, x: Tensor) -> Tensor:
        if site in names:
            low, high = torch.aminmax(x)
            if not (torch.isfinite(low) and torch.isfinite(high)):
                raise InputError(f"the input of {site} is not finite; the model's weights are too large")
            ranges[site] = (min(ranges[site][0], float(low)), max(ranges[site][1], float(high)))
        return dense(checkpoint.weights, site, x)

    lengths = chosen.lengths
    with torch.no_grad():
        for length in np.unique(lengths):  # one length a batch: nothing is padded, all that is seen is real
            if events:
                events.check()
            batch = collate(task, chosen, np.flatnonzero(lengths == length))
            forward(
                checkpoint.weights,
                checkpoint.config,
                batch.input_ids,
                batch.token_type_ids,
                batch.lengths,
                linear=record,
            )
    return ActivationRanges(MappingProxyType(ranges), chosen.source, len(chosen))
