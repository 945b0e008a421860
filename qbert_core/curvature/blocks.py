"""The blocks of the Hessian that get an eigenvalue: a layer, half a layer, or one weight."""

from __future__ import annotations

from dataclasses import dataclass

from qbert_core.bert import BertConfig
from qbert_core.errors import InputError

GRANULARITIES = ("layer", "module", "site")


@dataclass(frozen=True)
class Block:
    """Parameters that are differentiated together; everything else is held fixed."""

    name: str  # bert.encoder.layer.3, bert.encoder.layer.3.ffn, bert.encoder.layer.3.attention.self.query
    layer: int  # 0-based; -1 for an embedding table
    kind: str  # layer, attention, ffn or embedding
    parameters: tuple[str, ...]  # in the order data flows


def blocks_of(config: BertConfig, granularity: str = "layer") -> tuple[Block, ...]:
    """The blocks in the order data flows through them.

    `layer`: all parameters of one encoder layer, biases and LayerNorm included. `module`: its
    attention half (query, key, value, attention.output) and its ffn half (intermediate, output).
    `site`: one weight matrix, or one embedding table. Raises `InputError` for another granularity.
    """
    if granularity not in GRANULARITIES:
        raise InputError(f"block {granularity!r} is not known; expected one of {', '.join(GRANULARITIES)}")
    blocks: list[Block] = []
    if granularity == "site":
        tables = [name for name in config.embedding_shapes() if name.endswith("_embeddings.weight")]
        blocks += [Block(name.removesuffix(".weight"), -1, "embedding", (name,)) for name in tables]
    for layer in range(config.layers):
        name = f"bert.encoder.layer.{layer}"
        parameters = tuple(config.encoder_shapes(layer))
        halves = {
            "attention": tuple(p for p in parameters if p.startswith(f"{name}.attention.")),
            "ffn": tuple(p for p in parameters if not p.startswith(f"{name}.attention.")),
        }
        if granularity == "layer":
            blocks.append(Block(name, layer, "layer", parameters))
        elif granularity == "module":
            blocks += [Block(f"{name}.{kind}", layer, kind, half) for kind, half in halves.items()]
        else:
            blocks += [
                Block(p.removesuffix(".weight"), layer, kind, (p,))
                for kind, half in halves.items()
                for p in half
                if p.endswith(".weight") and "LayerNorm" not in p
            ]
    return tuple(blocks)
