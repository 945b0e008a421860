"""Where everything lies in an exported file, and what it adds to the size a plan promises.

compressed-tensors' format `pack-quantized` keeps four tensors of a quantized matrix (rows, columns):

    weight_packed      (rows, words(columns, width)) int32   the codes q, `packing`
    weight_scale       (rows, 1) fp32                        its group's scale on every row
    weight_zero_point  (words(rows, width), 1) int32         its group's zero point on every row, packed
    weight_shape       (2,) int64                            rows, columns

and w' = (q - zero) scale. Everything else is fp32 under its own name.

`width` is how many bits a code takes in the file. In the layout `mixed` it is the site's own bits. In the
layout `one-width` it is the plan's largest, for every site: transformers 5 with `dequantize=True` reads
every matrix by the first group of the configuration, so a file for it can have one width only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from qbert_core.bert import BertConfig
from qbert_core.checkpoints.safefile import TensorEntry
from qbert_core.export.packing import words
from qbert_core.quantization import Plan, plan_size, sites_of
from qbert_core.quantization.sites import Site
from qbert_core.quantization.size import MB, SCALE_BYTES, ZERO_BYTES

Layout = Literal["one-width", "mixed"]
LAYOUTS: tuple[Layout, ...] = ("one-width", "mixed")
BYTES = {"I32": 4, "F32": 4, "I64": 8}


def stored_widths(config: BertConfig, plan: Plan, layout: Layout) -> dict[str, int]:
    """Quantized site -> bits a code takes in the file."""
    bits = {site.name: plan.sites[site.name].bits for site in sites_of(config)}
    quantized = {name: own for name, own in bits.items() if plan.sites[name].quantized}
    if layout == "one-width":
        return dict.fromkeys(quantized, max(quantized.values(), default=0))
    return quantized


def site_entries(site: Site, width: int) -> dict[str, TensorEntry]:
    """Type and shape of a quantized site's four tensors."""
    return {
        f"{site.name}.weight_packed": TensorEntry("I32", (site.rows, words(site.columns, width))),
        f"{site.name}.weight_scale": TensorEntry("F32", (site.rows, 1)),
        f"{site.name}.weight_zero_point": TensorEntry("I32", (words(site.rows, width), 1)),
        f"{site.name}.weight_shape": TensorEntry("I64", (2,)),
    }


def file_entries(config: BertConfig, widths: Mapping[str, int]) -> dict[str, TensorEntry]:
    """Type and shape of every tensor in the file."""
    sites = {site.parameter: site for site in sites_of(config)}
    entries: dict[str, TensorEntry] = {}
    for name, shape in config.shapes().items():
        site = sites.get(name)
        if site is not None and site.name in widths:
            entries |= site_entries(site, widths[site.name])
        else:
            entries[name] = TensorEntry("F32", shape)
    return entries


def quantization_config(config: BertConfig, widths: Mapping[str, int]) -> dict[str, Any]:
    """`quantization_config` of config.json: a group a width, sites by name, the widest first.

    A reader that takes the first group for all then never mistakes a matrix for one of fewer bits: it
    finds too few codes and stops, instead of reading others.
    """
    groups = {}
    for number, width in enumerate(sorted(set(widths.values()), reverse=True)):
        groups[f"group_{number}"] = {
            "targets": [name for name, own in widths.items() if own == width],
            "weights": {"num_bits": width, "type": "int", "symmetric": False, "strategy": "channel"},
            "format": "pack-quantized",
        }
    matrices = [name for name, shape in config.shapes().items() if len(shape) == 2]
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [name for m in matrices if (name := m.removesuffix(".weight")) not in widths],
    }


def tensor_bytes(config: BertConfig, plan: Plan, layout: Layout) -> int:
    """What the tensors of the file take; its header adds some kilobytes."""
    entries = file_entries(config, stored_widths(config, plan, layout))
    return sum(BYTES[entry.dtype] * math.prod(entry.shape) for entry in entries.values())


def size_account(config: BertConfig, plan: Plan, layout: Layout, file_bytes: int) -> dict[str, Any]:
    """From the size `plan_size` promises to the file's, every byte: MB (2^20 bytes) that add up.

    `promised` + `wider_codes` + `row_ranges` + `padding` + `shapes` + `unquantized` + `header` = `file`.
    """
    widths = stored_widths(config, plan, layout)
    quantized = [site for site in sites_of(config) if site.name in widths]
    parts = {"wider_codes": 0, "row_ranges": 0, "padding": 0, "shapes": 0}
    for site in quantized:
        entry, width = plan.sites[site.name], widths[site.name]
        codes = math.ceil(site.params * width / 8)
        zeros = math.ceil(site.rows * width / 8)
        parts["wider_codes"] += codes - math.ceil(site.params * entry.bits / 8)
        promised = min(entry.groups, site.rows) * (SCALE_BYTES + ZERO_BYTES)
        parts["row_ranges"] += site.rows * SCALE_BYTES + zeros - promised
        held = 4 * (site.rows * words(site.columns, width) + words(site.rows, width))
        parts["padding"] += held - codes - zeros
        parts["shapes"] += 2 * BYTES["I64"]
    # what `plan_size` leaves out: pooler and output layer
    parts["unquantized"] = 4 * sum(math.prod(shape) for shape in config.head_shapes().values())
    parts["header"] = file_bytes - tensor_bytes(config, plan, layout)
    return {
        "promised": plan_size(config, plan).size_mb,
        **{name: size / MB for name, size in parts.items()},
        "file": file_bytes / MB,
    }
