"""The mean loss of a model one of whose layers is moved along given directions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from qbert_core.bert import Weights, dense, encoder_layer, head
from qbert_core.curvature.blocks import Block
from qbert_core.curvature.inputs import LayerInputs
from qbert_core.errors import InputError
from qbert_core.runtime.events import Events, Silent

# Padded tokens, times the layers they go through, at a time. On a CPU more are hardly faster, and fewer
# points at a time are more often heard of: 0.6 s on one core for the first of 6 layers, 384 wide.
STACKED = 2**12
STACKED_ACCELERATOR = 2**16
KEPT_BYTES = 2**30  # of the moved layer's first products; those of further batches are made anew
FIRST_MAPS = ("query", "key", "value")


@dataclass(frozen=True)
class Expansion:
    """Taylor coefficients of L(w + p_1 d_1 + .. + p_k d_k) at p = 0."""

    loss: float
    gradient: tuple[float, ...]  # (k,): g . d_i
    curvature: tuple[tuple[float, ...], ...]  # (k, k): d_i . H d_j


class MovedLayer:
    """L(w + p_1 d_1 + .. + p_k d_k) of the mean loss L over a run's examples, w one encoder layer.

    L is what `BlockHessian` differentiates: the sum of the batches' losses by the sum of their
    counts, in eval mode. What flows into the layer is computed once; so are its products with
    the query, key and value weights and with their directions, since those three maps are linear
    in p. Points are stacked along the batch dimension through the layers above. Of the last layer
    under a sequence head only the position is computed that the head reads. The checkpoint's
    weights are never changed.
    """

    def __init__(
        self,
        inputs: LayerInputs,
        block: Block,  # a whole layer
        directions: Tensor,  # (k, n), parameters in the block's order, each flattened
        events: Events | None = None,
    ) -> None:
        widest = max(batch.input_ids.numel() for batch in inputs.batches)
        depth = inputs.checkpoint.config.layers - block.layer
        room = STACKED if inputs.device.type == "cpu" else STACKED_ACCELERATOR
        trained = {name: inputs.checkpoint.weights[name] for name in block.parameters}
        parts = torch.split(directions, [weight.numel() for weight in trained.values()], dim=1)
        self._inputs = inputs
        self._layer = block.layer
        self._events = events or Silent()
        self._trained = trained
        self._directions = {  # name -> (k, *shape)
            name: part.view(-1, *weight.shape)
            for (name, weight), part in zip(trained.items(), parts, strict=True)
        }
        self._count = len(directions)
        self._stacked = max(1, room // (widest * depth))  # points
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._kept_bytes = 0

    @torch.no_grad()  # as a decorator: it is off again while the reader has its turn
    def losses(self, points: Sequence[Sequence[float]]) -> Iterator[list[float]]:
        """The mean loss at every point (k coordinates each), in order, some points at a time.

        A loss beyond the floating point range is inf or nan. Checks `events` between layers.
        Raises `InputError` where the examples hold nothing to take a loss of.
        """
        for start in range(0, len(points), self._stacked):
            chunk = [self._coordinates(point) for point in points[start : start + self._stacked]]
            weights = [self._weights(point) for point in chunk]
            sums, total = [0.0] * len(chunk), 0
            for index in range(len(self._inputs.batches)):
                losses, count = self._batch(index, chunk, weights)
                sums = [known + float(loss) for known, loss in zip(sums, losses, strict=True)]
                total += count
            yield [known / _counted(total) for known in sums]

    def expansion(self) -> Expansion:
        """Loss, gradient and Hessian in p at p = 0, by differentiating twice in p itself."""
        loss, total = 0.0, 0
        gradient = torch.zeros(self._count, dtype=torch.float64)
        curvature = torch.zeros((self._count, self._count), dtype=torch.float64)
        for index in range(len(self._inputs.batches)):
            point = self._coordinates([0.0] * self._count).requires_grad_()
            (batch_loss,), count = self._batch(index, [point], [self._weights(point)])
            if count:
                (slopes,) = torch.autograd.grad(batch_loss, point, create_graph=True)
                for i, slope in enumerate(slopes):
                    self._events.check()
                    (row,) = torch.autograd.grad(slope, point, retain_graph=i + 1 < self._count)
                    curvature[i] += row.double().cpu()
                gradient += slopes.detach().double().cpu()
                loss += float(batch_loss.detach())
            total += count
        total = _counted(total)
        curvature = (curvature + curvature.T) / (2 * total)
        return Expansion(
            loss / total, tuple((gradient / total).tolist()), tuple(map(tuple, curvature.tolist()))
        )

    def _coordinates(self, point: Sequence[float]) -> Tensor:
        return torch.tensor(point, dtype=self._inputs.dtype, device=self._inputs.device)

    def _weights(self, point: Tensor) -> Weights:
        """The model's weights with the layer at `point`."""
        moved = {
            name: weight + torch.tensordot(point, self._directions[name], 1)
            for name, weight in self._trained.items()
        }
        return {**self._inputs.checkpoint.weights, **moved}

    def _batch(
        self, index: int, points: Sequence[Tensor], weights: Sequence[Weights]
    ) -> tuple[list[Tensor], int]:
        """Sum of batch `index`'s losses at each of the points, and the batch's count."""
        checkpoint, batch = self._inputs.checkpoint, self._inputs.batches[index]
        config, mask = checkpoint.config, self._inputs.mask(index)
        x = self._inputs.into(self._layer, index)
        products = self._first_products(index, x)
        outputs = []
        for point, moved in zip(points, weights, strict=True):
            self._events.check()
            linear = _Linear(moved, products, point)
            queries = self._queries(self._layer)
            outputs.append(
                encoder_layer(moved, config, self._layer, x, mask, linear=linear, queries=queries)[0]
            )
        x = torch.cat(outputs)  # (points * B, T, hidden)
        mask = None if mask is None else mask.repeat(len(points), 1, 1, 1)
        for layer in range(self._layer + 1, config.layers):
            self._events.check()
            x, _ = encoder_layer(checkpoint.weights, config, layer, x, mask, queries=self._queries(layer))
        logits = head(checkpoint.weights, config, x).unflatten(0, (len(points), len(batch)))
        losses = [self._inputs.task.loss(part, batch) for part in logits]
        return [loss for loss, _ in losses], losses[0][1]

    def _queries(self, layer: int) -> int | None:
        config = self._inputs.checkpoint.config
        return 1 if config.head == "sequence" and layer == config.layers - 1 else None

    def _first_products(self, index: int, x: Tensor) -> dict[str, Tensor]:
        """Site -> (1 + k, B, T, hidden): its output at the trained point, and its change along each d."""
        if index in self._kept:
            return self._kept[index]
        products = {}
        for site in (f"bert.encoder.layer.{self._layer}.attention.self.{name}" for name in FIRST_MAPS):
            read = x[:, : self._queries(self._layer)] if site.endswith("query") else x
            slopes, shifts = self._directions[f"{site}.weight"], self._directions[f"{site}.bias"]
            terms = [dense(self._trained, site, read)]
            terms += [F.linear(read, slope, shift) for slope, shift in zip(slopes, shifts, strict=True)]
            products[site] = torch.stack(terms)
        held = sum(product.nbytes for product in products.values())
        if self._kept_bytes + held <= KEPT_BYTES:
            self._kept_bytes += held
            self._kept[index] = products
        return products


class _Linear:
    """The moved layer's linear maps, query, key and value by their products."""

    def __init__(self, weights: Weights, products: dict[str, Tensor], point: Tensor) -> None:
        self._weights = weights
        self._products = products
        self._coefficients = F.pad(point, (1, 0), value=1.0)

    def __call__(self, site: str, x: Tensor) -> Tensor:
        if site in self._products:
            combined: Tensor = torch.tensordot(self._coefficients, self._products[site], 1)
            return combined
        return dense(self._weights, site, x)


def _counted(total: int) -> int:
    if total == 0:
        raise InputError("the examples hold no label the task takes a loss of; give labelled examples")
    return total
