"""Hessian-vector products of one block, without ever forming the Hessian."""

from __future__ import annotations

import torch
from torch import Tensor

from qbert_core.bert import encoder_layer, head
from qbert_core.curvature.blocks import Block
from qbert_core.curvature.inputs import LayerInputs
from qbert_core.errors import InputError
from qbert_core.runtime.events import Events, Silent
from qbert_core.tasks import Batch

KEPT_BYTES = 2**31  # graphs that stay in memory between products, estimated; the others are rebuilt


class BlockHessian:
    """H = d2 L / dw2 of the mean loss L over a run's examples, w the block's n parameters.

    L = (sum of the batches' loss sums) / (sum of their counts), so ragged batches weigh exactly
    what their examples (or labelled tokens) do. The model is in eval mode. A product is
    Hv = d(g . v)/dw with g = dL/dw (Pearlmutter 1994), by differentiating the gradient's graph.
    That graph starts at the block: layers below are constants, layers above pass gradients on
    but get none. The checkpoint's weights are never changed.

    Example: `BlockHessian(LayerInputs(checkpoint, task, examples), block).matvec(v)  # (n,) -> (n,)`
    """

    def __init__(self, inputs: LayerInputs, block: Block, events: Events | None = None) -> None:
        weights = inputs.checkpoint.weights
        leaves = {name: weights[name].detach().requires_grad_() for name in block.parameters}
        self.block = block
        self.products = 0
        self.size = sum(leaf.numel() for leaf in leaves.values())
        self._inputs = inputs
        self._events = events or Silent()
        self._weights = {**weights, **leaves}
        self._leaves = list(leaves.values())
        self._kept: dict[int, tuple[tuple[Tensor, ...], int]] = {}
        self._kept_bytes = 0

    def matvec(self, v: Tensor) -> Tensor:
        """(n,) -> (n,): H v, parameters in the block's order, each flattened.

        Checks `events` between batches and inside them. Raises `InputError` where the loss or the
        product is not finite, or the examples hold nothing to take a loss of.
        """
        parts = torch.split(v, [leaf.numel() for leaf in self._leaves])
        directions = [part.view_as(leaf) for part, leaf in zip(parts, self._leaves, strict=True)]
        product = torch.zeros_like(v)
        total = 0
        for index in range(len(self._inputs.batches)):
            self._events.check()
            gradient, count = self._gradient(index)
            self._events.check()
            if gradient:
                terms = torch.autograd.grad(
                    gradient,
                    self._leaves,
                    directions,
                    retain_graph=index in self._kept,
                    materialize_grads=True,
                )
                product += torch.cat([term.reshape(-1) for term in terms])
            total += count
        if total == 0:
            raise InputError("the examples hold no label the task takes a loss of; give labelled examples")
        product /= total
        if not torch.isfinite(product).all():
            raise InputError(
                f"{self.block.name}: a Hessian-vector product is not finite in {v.dtype}; "
                f"the checkpoint's weights are too large to differentiate twice"
            )
        self.products += 1
        return product

    def _gradient(self, index: int) -> tuple[tuple[Tensor, ...], int]:
        """Gradient of batch `index`'s loss sum, still differentiable, and the batch's count."""
        if index in self._kept:
            return self._kept[index]
        config = self._inputs.checkpoint.config
        batch, mask = self._inputs.batches[index], self._inputs.mask(index)
        x = self._inputs.into(self.block.layer, index)
        for layer in range(self.block.layer, config.layers):
            x, _ = encoder_layer(self._weights, config, layer, x, mask)
        loss, count = self._inputs.task.loss(head(self._weights, config, x), batch)
        if not torch.isfinite(loss):
            raise InputError(
                f"{self.block.name}: the loss is {loss.item()}; this model does not give finite logits "
                f"on these examples, check it with evaluate"
            )
        gradient = torch.autograd.grad(loss, self._leaves, create_graph=True) if count else ()
        held = self._graph_bytes(batch)
        if self._kept_bytes + held <= KEPT_BYTES:
            self._kept_bytes += held
            self._kept[index] = (gradient, count)
        return gradient, count

    def _graph_bytes(self, batch: Batch) -> int:
        """What a batch's graph holds, within a tenth of what was measured for 8 to 256 tokens a row."""
        config = self._inputs.checkpoint.config
        rows, width = batch.input_ids.shape
        layers = config.layers - self.block.layer
        a_token = 20 * config.hidden + 3 * config.intermediate + 3 * config.heads * width  # numbers a layer
        return rows * width * layers * a_token * self._inputs.dtype.itemsize
