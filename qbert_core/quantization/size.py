"""How large a quantized model is. A megabyte here is 2^20 bytes, as in the paper.

Counted are the three embedding tables and the encoder; pooler and output layer stay fp32 and are
left out. Two figures:

- `weights_mb`, the paper's way: params x bits, no range metadata. A bias counts at its site's bits,
  a LayerNorm at the bits of the site before it (for a uniform layer: at the layer's bits); the
  embeddings' LayerNorm is left out, as in the paper's 415.38 MB for BERT-base.
- `size_mb`, what must be stored: each site's codes packed to whole bytes, an fp32 scale and a
  one-byte zero point a group (it is a whole number in 0..255), and every bias and LayerNorm,
  the embeddings' too, in fp32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qbert_core.bert import BertConfig
from qbert_core.quantization.plan import FULL, Plan, SitePlan
from qbert_core.quantization.sites import Site, sites_of

MB = 2**20
SCALE_BYTES, ZERO_BYTES = 4, 1


@dataclass(frozen=True)
class PlanSize:
    """Sizes in MB (2^20 bytes); `compression` is fp32 `size_mb` over the plan's;
    `effective_bits` is stored bits a counted parameter, scales and zero points included."""

    weights_mb: float
    size_mb: float
    embedding_mb: float  # of size_mb
    encoder_mb: float  # of size_mb
    compression: float
    effective_bits: float


def fp32_size(config: BertConfig) -> dict[str, float]:
    """MB of the fp32 model: total = embedding (the tables) + encoder; `unquantized` is the rest
    (the embeddings' LayerNorm, pooler, output layer)."""
    tables = sum(site.params for site in sites_of(config) if site.layer is None)
    layers = [config.encoder_shapes(layer) for layer in range(config.layers)]
    encoder = sum(math.prod(shape) for layer in layers for shape in layer.values())
    everything = sum(math.prod(shape) for shape in config.shapes().values())
    megabytes = 4 / MB
    return {
        "total": (tables + encoder) * megabytes,
        "embedding": tables * megabytes,
        "encoder": encoder * megabytes,
        "unquantized": (everything - tables - encoder) * megabytes,
    }


def site_bytes(site: Site, entry: SitePlan) -> tuple[int, int]:
    """What one site takes: its packed codes (or its fp32 numbers), and the scales and zero points of its
    groups. Its bias is in neither."""
    ranges = entry.applied(site.rows) * (SCALE_BYTES + ZERO_BYTES)
    return math.ceil(site.params * entry.bits / 8), ranges


def plan_size(config: BertConfig, plan: Plan) -> PlanSize:
    """The size of `config`'s model under `plan`."""
    entries = plan.sites
    paper_bits = 0
    stored = {"embedding": 8 * config.hidden, "encoder": 0}  # bytes; the embeddings' LayerNorm
    counted = 2 * config.hidden
    for site in sites_of(config):
        entry = entries[site.name]
        extra = 0  # bias and LayerNorm parameters that go with this site
        if site.layer is not None:
            extra = site.rows
            if site.name.endswith("output.dense"):
                extra += 2 * config.hidden
        place = "embedding" if site.layer is None else "encoder"
        paper_bits += (site.params + extra) * entry.bits
        counted += site.params + extra
        stored[place] += sum(site_bytes(site, entry)) + 4 * extra
    size = sum(stored.values())
    return PlanSize(
        weights_mb=paper_bits / 8 / MB,
        size_mb=size / MB,
        embedding_mb=stored["embedding"] / MB,
        encoder_mb=stored["encoder"] / MB,
        compression=counted * FULL / 8 / size,
        effective_bits=size * 8 / counted,
    )
