"""Open an exported folder exactly: plan, activation ranges, and the weights to the last digit.

The folder may come from anywhere. What its weight file must hold follows from config.json and
export.json; the file's header is compared with that before a tensor is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import safetensors
import torch
from tokenizers import Tokenizer
from torch import Tensor

from qbert_core.bert import BertConfig, Weights
from qbert_core.checkpoints import Checkpoint
from qbert_core.checkpoints.description import finetuned_config, read_config_json
from qbert_core.checkpoints.load import WEIGHTS_FILE
from qbert_core.checkpoints.safefile import MAX_FILE, TensorEntry, read_header
from qbert_core.checkpoints.tokenizer import load_tokenizer
from qbert_core.errors import InputError
from qbert_core.export.layout import Layout, file_entries, quantization_config, stored_widths
from qbert_core.export.packing import unpack
from qbert_core.export.sidecar import Sidecar, read_sidecar
from qbert_core.quantization import ActivationRanges, Plan, QuantizedModel, sites_of
from qbert_core.quantization.simulate import linear_map
from qbert_core.quantization.sites import Site
from qbert_core.runtime.events import Events, Silent


@dataclass(frozen=True, eq=False)
class Exported:
    """An exported model: `weights` are dequantized, fp32, by transformers' parameter names."""

    name: str
    config: BertConfig
    plan: Plan
    layout: Layout
    ranges: ActivationRanges | None
    weights: Weights = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    fingerprint: str  # of the weight file
    folder: Path

    def model(self) -> QuantizedModel:
        """What the plan made of the model it came from; linear layers in floating point.

        Raises `InputError` where the plan quantizes inputs and no ranges were exported with it.
        """
        inputs: dict[str, tuple[float, float]] = {}
        if self.plan.activation_bits == 8:
            linear = [s.name for s in sites_of(self.config) if s.layer is not None]
            quantized = [name for name in linear if self.plan.sites[name].quantized]
            if quantized and self.ranges is None:
                raise InputError(
                    f"{self.folder}: was exported without the activation ranges its plan needs; "
                    f"export it again with --task and --train"
                )
            if self.ranges is not None:
                inputs = {name: self.ranges.scale_and_zero(name) for name in quantized}
        return QuantizedModel(self.weights, linear_map(self.weights, inputs, {}) if inputs else None)

    def checkpoint(self) -> Checkpoint:
        """The dequantized weights as a checkpoint in full precision."""
        return Checkpoint(self.name, self.config, self.weights, self.tokenizer, self.fingerprint, self.folder)


def load_exported(folder: Path, events: Events | None = None) -> Exported:
    """Open what `export_checkpoint` wrote.

    Raises `InputError` for a folder that is no export, a file whose tensors are not those that the
    configuration asks for, and codes, scales or zero points out of range.
    """
    events = events or Silent()
    raw = read_config_json(folder)
    config = finetuned_config(raw, str(folder))
    sidecar = read_sidecar(folder, config)
    widths = stored_widths(config, sidecar.plan, sidecar.layout)
    if raw.get("quantization_config") != quantization_config(config, widths):
        raise InputError(
            f"{folder}: quantization_config in config.json does not fit the plan in export.json; "
            f"one of them was changed, export again"
        )
    weights = _read_weights(folder, config, sidecar, widths, events)
    tokenizer = load_tokenizer(folder, config.vocabulary)
    return Exported(
        name=folder.resolve().name,
        config=config,
        plan=sidecar.plan,
        layout=sidecar.layout,
        ranges=sidecar.ranges,
        weights=MappingProxyType(weights),
        tokenizer=tokenizer,
        fingerprint=_digest(folder / WEIGHTS_FILE),
        folder=folder,
    )


def _read_weights(
    folder: Path, config: BertConfig, sidecar: Sidecar, widths: Mapping[str, int], events: Events
) -> dict[str, Tensor]:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise InputError(f"{folder}: no {WEIGHTS_FILE} there")
    _check_entries(path, read_header(path), file_entries(config, widths))
    shapes = config.shapes()
    total = 4 * sum(torch.Size(shape).numel() for shape in shapes.values())
    if total > MAX_FILE:
        raise InputError(f"{folder}: {total:,} bytes when unpacked, more than the {MAX_FILE:,} allowed")
    packed = {site.parameter: site for site in sites_of(config) if site.name in widths}
    weights: dict[str, Tensor] = {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            for done, name in enumerate(shapes):
                events.check()
                if name in packed:
                    site = packed[name]
                    bits = sidecar.plan.sites[site.name].bits
                    weights[name] = _dequantized(file.get_tensor, site, bits, widths[site.name], str(path))
                else:
                    weights[name] = file.get_tensor(name)
                    if not torch.isfinite(weights[name]).all():
                        raise InputError(f"{path}: tensor {name} holds NaN or infinite values")
                events.progress(done + 1, len(shapes))
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file: {error}") from None
    return weights


def _check_entries(path: Path, found: Mapping[str, TensorEntry], wanted: Mapping[str, TensorEntry]) -> None:
    for name, entry in wanted.items():
        if name not in found:
            raise InputError(f"{path}: tensor {name} is missing; config.json and export.json ask for it")
        if found[name] != entry:
            there = f"{found[name].dtype} {list(found[name].shape)}"
            raise InputError(f"{path}: tensor {name} is {there}; expected {entry.dtype} {list(entry.shape)}")
    if len(found) != len(wanted):
        other = next(name for name in found if name not in wanted)
        raise InputError(f"{path}: tensor {other[:80]!r} belongs to no part of the model")


def _dequantized(read: Callable[[str], Tensor], site: Site, bits: int, width: int, path: str) -> Tensor:
    """(q - zero) scale of one site, (rows, columns) fp32."""
    shape = read(f"{site.name}.weight_shape").tolist()
    if shape != [site.rows, site.columns]:
        raise InputError(f"{path}: {site.name}.weight_shape is {shape}; expected {[site.rows, site.columns]}")
    codes = unpack(read(f"{site.name}.weight_packed"), width, site.columns)
    zero = unpack(read(f"{site.name}.weight_zero_point").t().contiguous(), width, site.rows)
    scale = read(f"{site.name}.weight_scale")
    levels = 2**bits - 1
    if int(codes.max()) > levels or int(zero.max()) > levels:
        raise InputError(f"{path}: {site.name} holds codes above {levels}, the largest of {bits} bits")
    if not (torch.isfinite(scale).all() and (scale > 0).all()):
        raise InputError(f"{path}: {site.name}.weight_scale holds values that are not positive and finite")
    return codes.float().sub_(zero.float().t()).mul_(scale)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]
