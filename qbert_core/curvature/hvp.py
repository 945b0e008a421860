"""Hessian-vector products of one block, without ever forming the Hessian."""

from __future__ import annotations

import torch
from torch import Tensor

from qbert_core.curvature.blocks import Block
from qbert_core.curvature.inputs import LayerInputs
from qbert_core.curvature.linearized import Products
from qbert_core.curvature.products import rounding_pays
from qbert_core.errors import InputError
from qbert_core.runtime.events import Events, Silent


class BlockHessian:
    """H = d2 L / dw2 of the mean loss L over a run's examples, w the block's n parameters.

    L = (sum of the batches' loss sums) / (sum of their counts), so ragged batches weigh exactly
    what their examples (or labelled tokens) do. The model is in eval mode. The checkpoint's weights
    are never changed.

    Example: `BlockHessian(LayerInputs(checkpoint, task, examples), block).matvec(v)  # (n,) -> (n,)`
    """

    def __init__(self, inputs: LayerInputs, block: Block, events: Events | None = None) -> None:
        weights = inputs.checkpoint.weights
        self.block = block
        self.products = 0
        self.fast_products = 0
        self._shapes = {name: weights[name].shape for name in block.parameters}
        self.size = sum(shape.numel() for shape in self._shapes.values())
        self._inputs = inputs
        self._events = events or Silent()

    @property
    def has_fast(self) -> bool:
        """Whether this machine has fast products that differ from the exact ones."""
        return rounding_pays(self._inputs.device.type, self._inputs.dtype)

    @torch.no_grad()
    def matvec(self, v: Tensor, fast: bool = False) -> Tensor:
        """(n,) -> (n,): H v, parameters in the block's order, each flattened.

        `fast`: all matrix products of the second order are rounded to bfloat16 (the point around which
        the loss is linearized is not), an error of about 1 % of |H|. Checks `events` between batches
        and layers. Raises `InputError` where the loss or the product is not finite, or the examples
        hold nothing to take a loss of.
        """
        along = dict(zip(self._shapes, self._parts(v), strict=True))
        product = torch.zeros_like(v)
        into = Products(dict(zip(self._shapes, self._parts(product), strict=True)))
        total = 0
        for index in range(len(self._inputs.batches)):
            total += self._add_batch(index, along, into, fast)
        if total == 0:
            raise InputError("the examples hold no label the task takes a loss of; give labelled examples")
        product /= total
        if not torch.isfinite(product).all():
            raise InputError(
                f"{self.block.name}: a Hessian-vector product is not finite in {v.dtype}; "
                f"the checkpoint's weights are too large to differentiate twice"
            )
        self.products += 1
        self.fast_products += fast
        return product

    def _parts(self, flat: Tensor) -> list[Tensor]:
        sizes = [shape.numel() for shape in self._shapes.values()]
        shapes = self._shapes.values()
        return [part.view(shape) for part, shape in zip(torch.split(flat, sizes), shapes, strict=True)]

    def _add_batch(self, index: int, along: dict[str, Tensor], into: Products, fast: bool) -> int:
        bottom, top = self.block.layer, self._inputs.checkpoint.config.layers
        self._events.check()
        linearized = self._inputs.linearized(index, bottom)
        if not linearized.count:
            return 0
        tangents, dx = [], None
        for layer in range(bottom, top):
            self._events.check()
            tangents.append(
                linearized.layers[layer].tangent(dx, along if layer == bottom else {}, fast)
            )
            dx = tangents[-1].out
        if dx is None:  # the block's parameters move nothing
            return linearized.count
        dxbar: Tensor | None = linearized.head_tangent(dx)
        for layer in reversed(range(bottom, top)):
            self._events.check()
            dxbar = linearized.layers[layer].adjoint_tangent(
                dxbar,
                tangents[layer - bottom],
                along if layer == bottom else {},
                into,
                fast,
                through=layer > bottom,
            )
        return linearized.count
