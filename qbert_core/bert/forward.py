"""The forward pass, cut where the engine needs to cut it: embeddings, one layer, head.

transformers' modules give no place to stop between layers, to read attention without hooks or to
differentiate twice through a fused kernel; these functions compute the same numbers (the tests
compare them with transformers' own forward for all three heads) from a mapping of tensors, so a
quantized variant is the same call with other tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from qbert_core.bert.config import BertConfig

Weights = Mapping[str, Tensor]
# site name, its input -> its output: how a quantized model computes its linear layers
LinearMap = Callable[[str, Tensor], Tensor]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


def padding_mask(lengths: Tensor, width: int, dtype: torch.dtype) -> Tensor | None:
    """(B,) lengths -> (B, 1, 1, width) to add to the scores, or None when nothing is padded."""
    if int(lengths.min()) == width:
        return None
    real = torch.arange(width, device=lengths.device) < lengths[:, None]
    mask = torch.zeros(real.shape, dtype=dtype, device=lengths.device)
    return mask.masked_fill_(~real, torch.finfo(dtype).min)[:, None, None, :]


def _norm(weights: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def dense(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Linear layer `name` as it stands in the weights."""
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def embed(
    weights: Weights,
    config: BertConfig,
    input_ids: Tensor,  # (B, T)
    token_type_ids: Tensor,  # (B, T)
    *,
    training: bool = False,
) -> Tensor:  # (B, T, hidden)
    """Word + type + position embedding, normalised."""
    prefix = "bert.embeddings."
    x = F.embedding(input_ids, weights[prefix + "word_embeddings.weight"])
    x = x + F.embedding(token_type_ids, weights[prefix + "token_type_embeddings.weight"])
    x = x + weights[prefix + "position_embeddings.weight"][: input_ids.shape[1]]
    x = _norm(weights, prefix + "LayerNorm", x, config.eps)
    return F.dropout(x, config.hidden_dropout, training)


def encoder_layer(
    weights: Weights,
    config: BertConfig,
    index: int,
    x: Tensor,  # (B, T, hidden)
    mask: Tensor | None,  # (B, 1, 1, T), added to the scores
    *,
    linear: LinearMap | None = None,
    training: bool = False,
    queries: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Encoder layer `index` (0-based): (B, T, hidden), and its scores (B, heads, T, T).

    The scores are masked and scaled, before the softmax: the attention distribution of query i is
    `softmax(scores[b, h, i])`. With `queries` only the first so many positions are computed, from
    the keys and values of all: (B, queries, hidden) and (B, heads, queries, T).
    """
    linear = linear or partial(dense, weights)
    batch, _, hidden = x.shape
    name = f"bert.encoder.layer.{index}."
    split = (batch, -1, config.heads, hidden // config.heads)
    own = x if queries is None else x[:, :queries]

    query = linear(name + "attention.self.query", own).view(split).transpose(1, 2)
    key = linear(name + "attention.self.key", x).view(split).transpose(1, 2)
    value = linear(name + "attention.self.value", x).view(split).transpose(1, 2)
    scores = query @ key.transpose(2, 3) * (1 / math.sqrt(split[3]))  # (B, heads, T, T)
    if mask is not None:
        scores = scores + mask
    attention = F.dropout(scores.softmax(-1), config.attention_dropout, training)
    context = (attention @ value).transpose(1, 2).reshape(own.shape)

    y = linear(name + "attention.output.dense", context)
    y = F.dropout(y, config.hidden_dropout, training)
    x = _norm(weights, name + "attention.output.LayerNorm", own + y, config.eps)

    y = linear(name + "intermediate.dense", x)
    y = ACTIVATIONS[config.activation](y)
    y = linear(name + "output.dense", y)
    y = F.dropout(y, config.hidden_dropout, training)
    return _norm(weights, name + "output.LayerNorm", x + y, config.eps), scores


def head(weights: Weights, config: BertConfig, x: Tensor, *, training: bool = False) -> Tensor:
    """(B, T, hidden) -> logits: (B, labels) for `sequence`, (B, T, labels) else."""
    if config.head == "question":
        return dense(weights, "qa_outputs", x)
    if config.head == "sequence":
        x = torch.tanh(dense(weights, "bert.pooler.dense", x[:, 0]))
    return dense(weights, "classifier", F.dropout(x, config.classifier_dropout, training))


def forward(
    weights: Weights,
    config: BertConfig,
    input_ids: Tensor,
    token_type_ids: Tensor,
    lengths: Tensor,  # (B,) real tokens of each row
    *,
    linear: LinearMap | None = None,
    training: bool = False,
) -> Tensor:
    """The whole model, embeddings to logits."""
    x = embed(weights, config, input_ids, token_type_ids, training=training)
    mask = padding_mask(lengths, input_ids.shape[1], x.dtype)
    for index in range(config.layers):
        x, _ = encoder_layer(weights, config, index, x, mask, linear=linear, training=training)
    return head(weights, config, x, training=training)
