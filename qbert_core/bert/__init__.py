"""BERT as pure functions of its weights."""

from qbert_core.bert.config import BertConfig
from qbert_core.bert.forward import (
    ACTIVATIONS,
    LinearMap,
    Weights,
    dense,
    embed,
    encoder_layer,
    forward,
    head,
    padding_mask,
)

__all__ = [
    "ACTIVATIONS",
    "BertConfig",
    "LinearMap",
    "Weights",
    "dense",
    "embed",
    "encoder_layer",
    "forward",
    "head",
    "padding_mask",
]
