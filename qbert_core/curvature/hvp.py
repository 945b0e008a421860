"""Hessian-vector products of one block, without ever forming the Hessian."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from qbert_core.curvature.blocks import Block
from qbert_core.curvature.inputs import LayerInputs, LinearizedBatch
from qbert_core.curvature.linearized import Products
from qbert_core.curvature.products import rounding_pays
from qbert_core.errors import InputError
from qbert_core.runtime.events import Events, Silent


class BlockHessian:
    """H = d2 L / dw2 of the mean loss L over a run's examples, w the block's n parameters.

    L = (sum of the batches' loss sums) / (sum of their counts), so ragged batches weigh exactly
    what their examples (or labelled tokens) do. The model is in eval mode. The checkpoint's weights
    are never changed.

    Of an embedding table only the rows that the examples use count among the n parameters: in all
    others the Hessian is zero. (They grow with the draw; the eigenvalues are those of the whole table.)

    Example: `BlockHessian(LayerInputs(checkpoint, task, examples), block).matvec(v)  # (n,) -> (n,)`
    """

    def __init__(
        self,
        inputs: LayerInputs,
        block: Block,
        events: Events | None = None,
        rows: Mapping[str, Tensor] | None = None,  # of embedding tables: rows that count, ascending
    ) -> None:
        weights = inputs.checkpoint.weights
        self.block = block
        self.products = 0
        self.fast_products = 0
        self._shapes = {name: weights[name].shape for name in block.parameters}
        self._rows: dict[str, Tensor] = {}  # of embedding tables: those in use, ascending
        if block.kind == "embedding":
            self._rows = dict(rows or used_rows(inputs, block))
            self._shapes = {
                name: torch.Size((len(rows), weights[name].shape[1])) for name, rows in self._rows.items()
            }
        self.size = sum(shape.numel() for shape in self._shapes.values())
        self.dtype, self.device = inputs.dtype, inputs.device
        self._inputs = inputs
        self._events = events or Silent()

    @property
    def has_fast(self) -> bool:
        """Whether this machine has fast products that differ from the exact ones."""
        return rounding_pays(self.device.type, self.dtype)

    @torch.no_grad()
    def matvec(self, v: Tensor, fast: bool = False) -> Tensor:
        """(n,) -> (n,): H v, parameters in the block's order, each flattened.

        `fast`: all matrix products of the second order are rounded to bfloat16 (the point around which
        the loss is linearized is not), an error of about 1 % of |H|. Checks `events` between batches
        and layers. Raises `InputError` where the loss or the product is not finite, or the examples
        hold nothing to take a loss of.
        """
        total, count = self.sums(v, fast)
        product = mean_product(total, count, self.block)
        self.products += 1
        self.fast_products += fast
        return product

    @torch.no_grad()
    def sums(self, v: Tensor, fast: bool = False) -> tuple[Tensor, int]:
        """(n,) -> (n,) the product with the Hessian of the loss SUM, and what the sum has terms of."""
        along = dict(zip(self._shapes, self._parts(v), strict=True))
        total = torch.zeros_like(v)
        into = Products(dict(zip(self._shapes, self._parts(total), strict=True)))
        count = 0
        for index in range(len(self._inputs.batches)):
            count += self._add_batch(index, along, into, fast)
        return total, count

    def _parts(self, flat: Tensor) -> list[Tensor]:
        sizes = [shape.numel() for shape in self._shapes.values()]
        shapes = self._shapes.values()
        return [part.view(shape) for part, shape in zip(torch.split(flat, sizes), shapes, strict=True)]

    def _add_batch(self, index: int, along: dict[str, Tensor], into: Products, fast: bool) -> int:
        embedding, top = self.block.kind == "embedding", self._inputs.checkpoint.config.layers
        bottom = 0 if embedding else self.block.layer
        self._events.check()
        linearized = self._inputs.linearized(index, bottom)
        if not linearized.count:
            return 0
        dx: Tensor | None = None
        if embedding:
            dx, kept = linearized.embedding().tangent(
                sum_of(part.index_select(0, self._places(linearized, name)) for name, part in along.items())
            )
            along = {}
        tangents = []
        for layer in range(bottom, top):
            self._events.check()
            tangents.append(linearized.layers[layer].tangent(dx, along if layer == bottom else {}, fast))
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
                through=embedding or layer > bottom,
            )
        if embedding:
            dubar = linearized.embedding().adjoint_tangent(dxbar, kept)
            for name in self._rows:
                if dubar is not None:
                    into.add_rows(name, self._places(linearized, name), dubar)
        return linearized.count

    def _places(self, linearized: LinearizedBatch, name: str) -> Tensor:
        """(N,): where each packed token's row of a table stands among the rows in use."""
        return torch.searchsorted(self._rows[name], linearized.table_rows(name))


def used_rows(inputs: LayerInputs, block: Block) -> dict[str, Tensor]:
    """The rows of each of an embedding block's tables that the examples use, ascending; else nothing."""
    if block.kind != "embedding":
        return {}
    return {name: inputs.used_rows(name) for name in block.parameters}


def mean_product(total: Tensor, count: int, block: Block) -> Tensor:
    """Sums of products over `count` examples (or labelled tokens) -> H v; `total` is used up.

    Raises `InputError` where there is nothing to take a mean of, or it is not finite.
    """
    if count == 0:
        raise InputError("the examples hold no label the task takes a loss of; give labelled examples")
    total /= count
    if not torch.isfinite(total).all():
        raise InputError(
            f"{block.name}: a Hessian-vector product is not finite in {total.dtype}; "
            f"the checkpoint's weights are too large to differentiate twice"
        )
    return total


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """The terms' sum; there is at least one."""
    return torch.stack(list(terms)).sum(0)
