"""Every weight tensor of a BERT that can be quantized."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from qbert_core.bert import BertConfig

EMBEDDINGS = ("word", "position", "token_type")


@dataclass(frozen=True)
class Site:
    """One weight matrix, by its module's name; rows are output neurons (or table entries)."""

    name: str
    kind: str  # attention, ffn or embedding
    layer: int | None  # 0-based; None for an embedding table
    rows: int
    columns: int

    @property
    def params(self) -> int:
        return self.rows * self.columns

    @property
    def parameter(self) -> str:
        """The tensor's name in a checkpoint."""
        return f"{self.name}.weight"


@cache
def sites_of(config: BertConfig) -> tuple[Site, ...]:
    """The sites in the order data flows through them: three tables, then six a layer."""
    shapes = config.embedding_shapes()
    sites = []
    for table in EMBEDDINGS:
        name = f"bert.embeddings.{table}_embeddings"
        sites.append(Site(name, "embedding", None, *shapes[f"{name}.weight"]))
    for layer in range(config.layers):
        for parameter, shape in config.encoder_shapes(layer).items():
            if len(shape) == 2:
                name = parameter.removesuffix(".weight")
                kind = "attention" if ".attention." in name else "ffn"
                sites.append(Site(name, kind, layer, *shape))
    return tuple(sites)
