"""One example through the fp32 model and a plan's: what each attends to, and what each answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qbert_core.bert import embed, encoder_layer, head, padding_mask
from qbert_core.checkpoints import Checkpoint
from qbert_core.errors import InputError
from qbert_core.evaluation.attention import attention_kl
from qbert_core.evaluation.certainty import Certainty, certainty
from qbert_core.quantization import Plan, QuantizedModel
from qbert_core.runtime.events import Events
from qbert_core.tasks import Batch, Examples, Task, collate


@dataclass(frozen=True)
class Reading:
    """One model's answer, as in `Evaluation.predictions`, and how sure it is of it."""

    answer: Any
    certainty: Certainty


@dataclass(frozen=True, eq=False)
class Inspection:
    """Both models on one example.

    `tokens` and `attention` are of the window fp32's answer is in, `window` of `windows`. `kl` is the mean
    over the windows, (layers, heads), nats. `attention` holds the layers asked for: the distributions of
    the fp32 model and of the plan's, each (heads, T, T) fp32, a row a query.
    """

    plan: Plan
    tokens: tuple[str, ...]
    window: int
    windows: int
    before: Reading
    after: Reading
    kl: np.ndarray = field(repr=False)
    attention: Mapping[int, tuple[np.ndarray, np.ndarray]] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Of the arrays: what keeping it costs."""
        return self.kl.nbytes + sum(a.nbytes + b.nbytes for a, b in self.attention.values())


@torch.no_grad()
def inspect(
    task: Task,
    reference: Checkpoint,
    model: QuantizedModel,
    plan: Plan,
    examples: Examples,
    example: int,
    *,
    layers: Collection[int] | None = None,  # whose attention to keep; all when None
    events: Events,
) -> Inspection:
    """Run `example` through `reference` in fp32 and through `model`, what `plan` makes of the checkpoint.

    The functions are those of an `Evaluator`; it pads other examples with this one, so that logits can
    differ in the last digits. Raises `InputError` for a row or layer that is not there, `Cancelled`
    between layers.
    """
    config, count = reference.config, reference.config.layers
    if not 0 <= example < len(examples):
        raise InputError(f"row {example} is not there; the data have rows 0 to {len(examples) - 1}")
    kept = set(range(count) if layers is None else layers)
    if not kept <= set(range(count)):
        raise InputError(f"layers {sorted(kept)} asked for; the model has 0 to {count - 1}")
    batch = collate(task, examples, examples.windows(example))
    mask = padding_mask(batch.lengths, batch.input_ids.shape[1], torch.float32)
    hidden = embed(reference.weights, config, batch.input_ids, batch.token_type_ids)
    other = embed(model.weights, config, batch.input_ids, batch.token_type_ids)
    kl, attention = [], {}
    for layer in range(count):
        events.check()
        hidden, scores = encoder_layer(reference.weights, config, layer, hidden, mask)
        other, others = encoder_layer(model.weights, config, layer, other, mask, linear=model.linear)
        kl.append(attention_kl(torch.log_softmax(scores, -1), others, batch.lengths).mean(0))
        if layer in kept:
            attention[layer] = (scores, others)
    before = _reading(task, head(reference.weights, config, hidden), batch, examples, example)
    after = _reading(task, head(model.weights, config, other), batch, examples, example)
    shown = before.certainty.window
    length = int(batch.lengths[shown])
    return Inspection(
        plan,
        tuple(str(reference.tokenizer.id_to_token(int(token))) for token in batch.input_ids[shown, :length]),
        shown,
        len(batch),
        before,
        after,
        torch.stack(kl).numpy(),
        {
            layer: (_weights(scores[shown], length), _weights(others[shown], length))
            for layer, (scores, others) in attention.items()
        },
    )


def _reading(task: Task, logits: Tensor, batch: Batch, examples: Examples, example: int) -> Reading:
    if not torch.isfinite(logits).all():
        raise InputError("the model does not give finite logits on this text; its weights are too large")
    outputs = task.predict(logits, batch)
    return Reading(
        task.answer(outputs, examples, example),
        certainty(task.head, logits, outputs, batch.lengths, examples, example),
    )


def _weights(scores: Tensor, length: int) -> np.ndarray:
    """(heads, T, T) scores -> attention among the real tokens, (heads, length, length)."""
    made: np.ndarray = scores.softmax(-1)[:, :length, :length].numpy()
    return np.ascontiguousarray(made)
