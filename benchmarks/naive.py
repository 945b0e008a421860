"""The peer: transformers' own model, evaluated again in full after every edit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qbert_core.checkpoints import Checkpoint
from qbert_core.tasks import Examples

BATCH = 32


class Naive:
    """Batches of 32 in the data's order, padded to the model's full length, eager attention.

    Where it could be done in two ways it gets the faster one: the fp32 model's attention is computed
    once and kept, with its entropy, so that KL costs one logarithm and one product of each weight; the
    quantized weights are given to it ready-made; activations are left in fp32.
    """

    def __init__(self, checkpoint: Checkpoint, examples: Examples, *, attention: bool) -> None:
        from transformers import BertForSequenceClassification

        self._model = BertForSequenceClassification.from_pretrained(
            checkpoint.folder, attn_implementation="eager", dtype=torch.float32
        )
        self._model.train(False)
        self._batches = [
            _padded(examples, range(start, min(start + BATCH, len(examples))), checkpoint.max_length)
            for start in range(0, len(examples), BATCH)
        ]
        self._reference: list[list[tuple[Tensor, Tensor]]] | None = None
        if attention:
            with torch.no_grad():
                self._reference = [
                    [
                        (p, torch.xlogy(p, p).sum(-1))
                        for p in self._model(**b, output_attentions=True).attentions
                    ]
                    for b in self._batches
                ]

    def evaluate(self, weights: Mapping[str, Tensor]) -> tuple[list[int], Tensor | None]:
        """Predictions, and mean KL (layers, heads) where attention is measured."""
        predictions: list[int] = []
        divergences = []
        with torch.no_grad():
            self._model.load_state_dict(dict(weights))
            for number, batch in enumerate(self._batches):
                output = self._model(**batch, output_attentions=self._reference is not None)
                predictions += output.logits.argmax(-1).tolist()
                if self._reference is not None:
                    divergences.append(_divergence(self._reference[number], output.attentions, batch))
        kl = torch.cat(divergences, 2).mean(2) if divergences else None
        return predictions, kl


def _padded(examples: Examples, indices: range, width: int) -> dict[str, Tensor]:
    ids, types, mask = (torch.zeros(len(indices), width, dtype=torch.long) for _ in range(3))
    for row, i in enumerate(indices):
        length = len(examples.input_ids[i])
        ids[row, :length] = torch.tensor(examples.input_ids[i])
        types[row, :length] = torch.tensor(examples.token_type_ids[i])
        mask[row, :length] = 1
    return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}


def _divergence(
    reference: list[tuple[Tensor, Tensor]], attentions: tuple[Tensor, ...], batch: dict[str, Tensor]
) -> Tensor:
    """(layers, heads, B): sum over keys of p log p - p log q, averaged over the real queries."""
    real = batch["attention_mask"][:, None, :]  # (B, 1, T)
    tiny = torch.finfo(torch.float32).tiny
    layers = []
    for (p, negative_entropy), q in zip(reference, attentions, strict=True):
        per_query = negative_entropy - (p * q.clamp_min(tiny).log()).sum(-1)  # (B, heads, T)
        layers.append(((per_query * real).sum(-1) / real.sum(-1)).T)
    return torch.stack(layers)
