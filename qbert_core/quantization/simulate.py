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

from qbert_core.bert import Weights, forward
from qbert_core.bert.forward import InputMap
from qbert_core.checkpoints import Checkpoint
from qbert_core.quantization.plan import Plan
from qbert_core.quantization.quantizer import fake_quantize
from qbert_core.quantization.sites import sites_of
from qbert_core.runtime.events import Events
from qbert_core.tasks import Examples, Task, collate

CALIBRATION_EXAMPLES = 256
ACTIVATION_LEVELS = 255


class QuantizedWeights:
    """Fake-quantized sites of one checkpoint, kept by (site, bits, groups, clip).

    Tuning by hand changes a few sites at a time; the others are found here. Least recently used
    tensors go when more than `capacity` bytes are held (by default three quantized models). Safe to
    use from several threads.
    """

    def __init__(self, checkpoint: Checkpoint, capacity: int | None = None) -> None:
        self._checkpoint = checkpoint
        self._sites = sites_of(checkpoint.config)
        self._capacity = capacity or 12 * sum(site.params for site in self._sites)
        self._kept: OrderedDict[tuple[str, int, int, float], Tensor] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def of(self, plan: Plan) -> Weights:
        """All weights of the model under `plan`; tensors that are not quantized are the checkpoint's."""
        entries = plan.sites
        weights = dict(self._checkpoint.weights)
        for site in self._sites:
            entry = entries[site.name]
            if entry.quantized:
                key = (site.name, entry.bits, min(entry.groups, site.rows), float(plan.clip))
                weights[site.parameter] = self._site(key, weights[site.parameter])
        return MappingProxyType(weights)

    def _site(self, key: tuple[str, int, int, float], weight: Tensor) -> Tensor:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        result = fake_quantize(weight, key[1], key[2], key[3])
        with self._lock:
            if key not in self._kept:
                self._kept[key] = result
                self._bytes += result.nbytes
            while self._bytes > self._capacity and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= dropped.nbytes
        return result


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

    def input_map(self, plan: Plan) -> InputMap | None:
        """What a plan does to the inputs of its quantized linear layers: 8 bits per tensor,
        asymmetric, with the definitions of the weights; None when it leaves activations alone."""
        if plan.activation_bits != 8:
            return None
        steps: dict[str, tuple[float, float, float]] = {}
        for site, entry in plan.entries:
            if entry.quantized and site in self.ranges:
                low, high = (np.float32(v) for v in self.ranges[site])
                scale = (high - low) / np.float32(ACTIVATION_LEVELS) or np.float32(1)
                zero = np.round(-low / scale)
                steps[site] = (float(scale), -float(zero), ACTIVATION_LEVELS - float(zero))
        last: list[object] = [None, None, None]  # query, key and value share one input and one range

        def quantize_input(site: str, x: Tensor) -> Tensor:
            if site not in steps:
                return x
            scale, low, high = step = steps[site]
            if last[0] is not x or last[1] != step:
                last[:] = x, step, (x / scale).round_().clamp_(low, high).mul_(scale)
            result = last[2]
            assert isinstance(result, Tensor)
            return result

        return quantize_input


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
            ranges[site] = (min(ranges[site][0], float(low)), max(ranges[site][1], float(high)))
        return x

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
                inputs=record,
            )
    return ActivationRanges(MappingProxyType(ranges), chosen.source, len(chosen))
