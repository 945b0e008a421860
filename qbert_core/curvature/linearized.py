"""One encoder layer, linearized around its weights and inputs: the first and second order rules that a
Hessian-vector product needs, written out.

For a loss L(w) the product H v is the derivative of the gradient along v (Pearlmutter 1994, "Fast exact
multiplication by the Hessian"): every value of the forward pass gets a tangent, and so does every value
of the backward pass (its adjoint). All that does not depend on v is computed once, here: the layer's
values, its adjoints, and the derivatives of its activation. A product is then two sweeps, `tangent`
upwards and `adjoint_tangent` downwards, and costs the matrix products it cannot do without: two for
each linear map above the block, six inside it. Differentiating the gradient's graph, as automatic
differentiation does, costs the same matrix products, but several times the passes over memory, leaves
no choice of precision for the second order alone, and multiplies padding.

Linear maps work on packed rows, one a real token; only attention sees the padded rectangle. Where the
head reads the first token alone, the last layer's queries, and all that follows them, are those rows.

Names: x' is the tangent (derivative along v), bar the adjoint (derivative of the loss by it).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qbert_core.bert import ACTIVATIONS, BertConfig, padding_mask
from qbert_core.curvature.products import Operand, times

Reshape = Callable[[Tensor], Tensor]
Directions = Mapping[str, Tensor]  # parameter name -> its part of v; parameters not named do not move


@dataclass(frozen=True)
class Layout:
    """Which rows of a padded (B, T) rectangle are real tokens."""

    shape: tuple[int, int]
    rows: Tensor | None  # (N,) positions in the flattened rectangle; None: all, nothing is padded
    first: Tensor  # (B,) packed positions of the first tokens

    @classmethod
    def of(cls, lengths: Tensor, width: int) -> Layout:
        count = len(lengths)
        first = torch.cumsum(lengths, 0) - lengths
        if int(lengths.min()) == width:
            return cls((count, width), None, first)
        real = torch.arange(width, device=lengths.device) < lengths[:, None]
        return cls((count, width), real.flatten().nonzero().squeeze(1), first)

    def pad(self, packed: Tensor) -> Tensor:
        """(N, n) -> (B, T, n), zeros where nothing is."""
        count, width = self.shape
        if self.rows is not None:
            full = packed.new_zeros((count * width, packed.shape[1]))
            packed = full.index_copy_(0, self.rows, packed)
        return packed.view(count, width, packed.shape[1])

    def pack(self, padded: Tensor) -> Tensor:
        """(B, T, n) -> (N, n)."""
        flat = padded.reshape(-1, padded.shape[-1])
        return flat if self.rows is None else flat.index_select(0, self.rows)


class Linear:
    """y = x W^T + b around known x (N, in) and ybar (N, out), both packed rows."""

    def __init__(self, weights: Mapping[str, Tensor], name: str, x: Tensor) -> None:
        self.weight, self.bias = f"{name}.weight", f"{name}.bias"
        self.w = Operand(weights[self.weight])
        self.b = weights[self.bias]
        self.x = Operand(x)
        self.ybar: Operand

    def value(self) -> Tensor:
        """y, which is not kept: no product needs it."""
        return torch.addmm(self.b, self.x.exact, self.w.exact.t())

    def adjoint(self, ybar: Tensor) -> Tensor:
        """ybar -> xbar."""
        self.ybar = Operand(ybar)
        return ybar @ self.w.exact

    def tangent(self, dx: Operand | None, along: Directions, fast: bool) -> Tensor | None:
        """y' = x' W^T + x W'^T + b'; None is zero."""
        dy = None if dx is None else times(dx, self.w.t, fast)
        if (dw := along.get(self.weight)) is not None:
            dy = _add(dy, times(self.x, Operand(dw).t, fast))
        if (db := along.get(self.bias)) is not None:
            dy = _add(dy, db.expand(len(self.x.exact), -1))
        return dy

    def back(
        self,
        dybar: Tensor | None,
        dx: Operand | None,
        along: Directions,
        into: Products,
        fast: bool,
        through: bool = True,
    ) -> Tensor | None:
        """xbar' = ybar' W + ybar W' (None without `through`); to `into` go the parameters' parts,
        Wbar' = ybar'^T x + ybar^T x' and bbar' = sum of ybar'."""
        moved = _operand(dybar)
        if into.wants(self.weight):
            if moved is not None:
                into.add(self.weight, times(moved.t, self.x, fast))
            if dx is not None:
                into.add(self.weight, times(self.ybar.t, dx, fast))
        if into.wants(self.bias) and dybar is not None:
            into.add(self.bias, dybar.sum(0))
        if not through:
            return None
        dxbar = None if moved is None else times(moved, self.w, fast)
        if (dw := along.get(self.weight)) is not None:
            dxbar = _add(dxbar, times(self.ybar, Operand(dw), fast))
        return dxbar


class Norm:
    """y = g (x - mean) / sigma + b, row by row: with u the normalised rows, ubar = g ybar and the
    self-adjoint J a = (a - mean(a) - u mean(u a)) / sigma, both x' -> u' and ubar -> xbar are J."""

    def __init__(self, weights: Mapping[str, Tensor], name: str, x: Tensor, eps: float) -> None:
        self.weight, self.bias = f"{name}.weight", f"{name}.bias"
        self.g = weights[self.weight]
        centred = x - x.mean(-1, keepdim=True)
        self.inverse = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
        self.u = centred * self.inverse
        self.value = torch.addcmul(weights[self.bias], self.u, self.g)
        self.ybar: Tensor
        self.ubar: Tensor
        self.mean_ubar_u: Tensor
        self.xbar: Tensor

    def _jacobian(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """J a, and mean(u a)."""
        along_u = (self.u * a).mean(-1, keepdim=True)
        result = torch.addcmul(a - a.mean(-1, keepdim=True), self.u, along_u, value=-1)
        return result.mul_(self.inverse), along_u

    def adjoint(self, ybar: Tensor) -> Tensor:
        """ybar -> xbar."""
        self.ybar, self.ubar = ybar, self.g * ybar
        self.xbar, self.mean_ubar_u = self._jacobian(self.ubar)
        return self.xbar

    def tangent(self, dx: Tensor | None, along: Directions) -> tuple[Tensor | None, NormTangent | None]:
        """y' = g u' + g' u + b', u' = J x', and what `adjoint_tangent` needs of it."""
        dy = kept = None
        if dx is not None:
            du, growth = self._jacobian(dx)  # growth: sigma' = mean(u x')
            dy, kept = self.g * du, NormTangent(du, growth)
        if (dg := along.get(self.weight)) is not None:
            dy = _add(dy, self.u * dg)
        if (db := along.get(self.bias)) is not None:
            dy = _add(dy, db.expand_as(self.u))
        return dy, kept

    def adjoint_tangent(
        self, dybar: Tensor | None, kept: NormTangent | None, along: Directions
    ) -> Tensor | None:
        """xbar' = J ubar' + J' ubar with ubar' = g ybar' + g' ybar and
        J' a = -(sigma'/sigma) J a - (u' mean(u a) + u mean(u' a)) / sigma."""
        dubar = None if dybar is None else self.g * dybar
        if (dg := along.get(self.weight)) is not None:
            dubar = _add(dubar, self.ybar * dg)
        dxbar = None if dubar is None else self._jacobian(dubar)[0]
        if kept is not None:
            turn = torch.addcmul(kept.growth * self.xbar, kept.du, self.mean_ubar_u)
            turn.addcmul_(self.u, (kept.du * self.ubar).mean(-1, keepdim=True))
            turn.mul_(self.inverse)
            dxbar = turn.neg_() if dxbar is None else dxbar.sub_(turn)
        return dxbar

    def collect(self, into: Products, dybar: Tensor | None, kept: NormTangent | None) -> None:
        """gbar' = sum of ybar' u + ybar u', bbar' = sum of ybar'."""
        if into.wants(self.weight):
            if dybar is not None:
                into.add(self.weight, (dybar * self.u).sum(0))
            if kept is not None:
                into.add(self.weight, (self.ybar * kept.du).sum(0))
        if into.wants(self.bias) and dybar is not None:
            into.add(self.bias, dybar.sum(0))


@dataclass(frozen=True)
class NormTangent:
    """u' and sigma' of one `Norm.tangent`."""

    du: Tensor
    growth: Tensor


class Products:
    """H v as it is summed up, a tensor a parameter of the block."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._sums = dict(parameters)

    def wants(self, name: str) -> bool:
        return name in self._sums

    def add(self, name: str, term: Tensor) -> None:
        self._sums[name] += term

    def add_rows(self, name: str, rows: Tensor, terms: Tensor) -> None:
        """Term i to row `rows[i]`."""
        self._sums[name].index_add_(0, rows, terms)


@dataclass
class LayerTangent:
    """The tangents of one layer's values that its `adjoint_tangent` needs; None is zero."""

    x: Operand | None = None
    asking: Operand | None = None  # the rows of x that have queries
    heads: tuple[Tensor | None, ...] = ()  # of query, key and value, (B, heads, T, d)
    attention: Tensor | None = None
    context: Operand | None = None
    first_norm: NormTangent | None = None
    middle: Operand | None = None
    inner: Tensor | None = None  # of the activation's input
    activated: Operand | None = None
    second_norm: NormTangent | None = None
    out: Tensor | None = field(default=None, repr=False)


class LinearizedLayer:
    """Encoder layer `index` (0-based) around its weights and the rows x (N, hidden) that flow into it.

    `value` is what flows out: (N, hidden), or with `first_only` (B, hidden), a row a sequence. Call
    `adjoint` once, with the derivative of the loss by `value`; then `tangent` and `adjoint_tangent` as
    often as there are products.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        config: BertConfig,
        index: int,
        x: Tensor,
        layout: Layout,
        lengths: Tensor,
        first_only: bool = False,
    ) -> None:
        name = f"bert.encoder.layer.{index}."
        self._layout = layout
        self._heads = config.heads
        self._first = layout.first if first_only else None
        self._scale = 1 / math.sqrt(config.hidden // config.heads)
        asking = x if self._first is None else x.index_select(0, self._first)

        self._q = Linear(weights, name + "attention.self.query", asking)
        self._k = Linear(weights, name + "attention.self.key", x)
        self._v = Linear(weights, name + "attention.self.value", x)
        self.query = self._split_queries(self._q.value())
        self.key, self.val = self._split(self._k.value()), self._split(self._v.value())
        scores = self.query @ self.key.transpose(2, 3) * self._scale
        mask = padding_mask(lengths, layout.shape[1], x.dtype)
        self.attention = (scores if mask is None else scores + mask).softmax(-1)
        self._o = Linear(weights, name + "attention.output.dense", self._merge(self.attention @ self.val))
        self._norm1 = Norm(weights, name + "attention.output.LayerNorm", asking + self._o.value(), config.eps)
        self._up = Linear(weights, name + "intermediate.dense", self._norm1.value)
        activated, self._slope, self._bend = _activation(config.activation, self._up.value())
        self._down = Linear(weights, name + "output.dense", activated)
        self._norm2 = Norm(
            weights, name + "output.LayerNorm", self._norm1.value + self._down.value(), config.eps
        )
        self.value = self._norm2.value

    def adjoint(self, outbar: Tensor) -> Tensor:
        """Derivative of the loss by `value` -> by x, (N, hidden)."""
        wbar = self._norm2.adjoint(outbar)
        abar = self._down.adjoint(wbar)
        self._bend = self._bend * abar  # the second derivative is only needed times this
        hbar = wbar + self._up.adjoint(self._slope * abar)
        ubar = self._norm1.adjoint(hbar)
        self.contextbar = self._split_queries(self._o.adjoint(ubar))
        self.attentionbar = self.contextbar @ self.val.transpose(2, 3)
        self.attentionbar = self.attentionbar - (self.attentionbar * self.attention).sum(-1, keepdim=True)
        self.scoresbar = self.attention * self.attentionbar * self._scale
        xbar = self._k.adjoint(self._pack_heads(self.scoresbar.transpose(2, 3) @ self.query))
        xbar += self._v.adjoint(self._pack_heads(self.attention.transpose(2, 3) @ self.contextbar))
        return self._add_rows(xbar, ubar + self._q.adjoint(self._merge(self.scoresbar @ self.key)))

    def tangent(self, dx: Tensor | None, along: Directions, fast: bool = False) -> LayerTangent:
        """Tangents of the layer's values for x' (N, hidden) and the parameters' directions."""
        asking = dx if dx is None or self._first is None else dx.index_select(0, self._first)
        x = _operand(dx)
        t = LayerTangent(x, x if asking is dx else _operand(asking))
        dq = _maybe(self._split_queries, self._q.tangent(t.asking, along, fast))
        dk = _maybe(self._split, self._k.tangent(t.x, along, fast))
        dv = _maybe(self._split, self._v.tangent(t.x, along, fast))
        t.heads = (dq, dk, dv)
        dscores = None if dq is None else dq @ self.key.transpose(2, 3)
        if dk is not None:
            dscores = _add(dscores, self.query @ dk.transpose(2, 3))
        dcontext = None if dv is None else self.attention @ dv
        if dscores is not None:
            dscores = dscores.mul_(self._scale)
            mean = (self.attention * dscores).sum(-1, keepdim=True)
            t.attention = self.attention * (dscores - mean)
            dcontext = _add(dcontext, t.attention @ self.val)
        t.context = _operand(_maybe(self._merge, dcontext))
        du = _add(self._o.tangent(t.context, along, fast), asking)
        middle, t.first_norm = self._norm1.tangent(du, along)
        t.middle = _operand(middle)
        t.inner = self._up.tangent(t.middle, along, fast)
        t.activated = None if t.inner is None else Operand(self._slope * t.inner)
        dw = _add(self._down.tangent(t.activated, along, fast), middle)
        t.out, t.second_norm = self._norm2.tangent(dw, along)
        return t

    def adjoint_tangent(
        self,
        doutbar: Tensor | None,
        t: LayerTangent,
        along: Directions,
        into: Products,
        fast: bool = False,
        through: bool = True,
    ) -> Tensor | None:
        """Tangent of `adjoint`: derivative by `value`'s -> by x's, (N, hidden); the parameters' parts of
        H v are added to `into`. Without `through` nothing flows on to x and None is returned."""
        self._norm2.collect(into, doutbar, t.second_norm)
        dwbar = self._norm2.adjoint_tangent(doutbar, t.second_norm, along)
        dabar = self._down.back(dwbar, t.activated, along, into, fast)
        dzbar = None if dabar is None else dabar.mul_(self._slope)
        if t.inner is not None:
            dzbar = self._bend * t.inner if dzbar is None else dzbar.addcmul_(self._bend, t.inner)
        dhbar = _add(self._up.back(dzbar, t.middle, along, into, fast), dwbar)
        self._norm1.collect(into, dhbar, t.first_norm)
        dubar = self._norm1.adjoint_tangent(dhbar, t.first_norm, along)
        dcontextbar = _maybe(self._split_queries, self._o.back(dubar, t.context, along, into, fast))
        dqbar, dkbar, dvbar = self._attention_back(dcontextbar, t)
        own = self._q.back(_maybe(self._merge, dqbar), t.asking, along, into, fast, through)
        dxbar = _add(
            self._k.back(_maybe(self._pack_heads, dkbar), t.x, along, into, fast, through),
            self._v.back(_maybe(self._pack_heads, dvbar), t.x, along, into, fast, through),
        )
        if not through:
            return None
        own = _add(own, dubar)
        if own is None or self._first is None:
            return _add(dxbar, own)
        if dxbar is None:
            dxbar = torch.zeros_like(self._k.x.exact)
        return self._add_rows(dxbar, own)

    def _attention_back(
        self, dcontextbar: Tensor | None, t: LayerTangent
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Tangents of the adjoints of query, key and value, (B, heads, T, d)."""
        dq, dk, dv = t.heads
        dscoresbar = dvbar = dattentionbar = None
        if dcontextbar is not None:
            dattentionbar = dcontextbar @ self.val.transpose(2, 3)
            dvbar = self.attention.transpose(2, 3) @ dcontextbar
        if dv is not None:
            dattentionbar = _add(dattentionbar, self.contextbar @ dv.transpose(2, 3))
        if dattentionbar is not None:
            mean = (dattentionbar * self.attention).sum(-1, keepdim=True)
            dscoresbar = self.attention * (dattentionbar - mean)
        if t.attention is not None:
            # P'(Pbar - r) - P sum(Pbar P'); Pbar - r serves in the sum as well, for the rows of P' sum to 0
            moved = t.attention * self.attentionbar
            moved.addcmul_(self.attention, moved.sum(-1, keepdim=True), value=-1)
            dscoresbar = _add(dscoresbar, moved)
            dvbar = _add(dvbar, t.attention.transpose(2, 3) @ self.contextbar)
        dqbar = dkbar = None
        if dscoresbar is not None:
            dscoresbar = dscoresbar.mul_(self._scale)
            dqbar, dkbar = dscoresbar @ self.key, dscoresbar.transpose(2, 3) @ self.query
        if dk is not None:
            dqbar = _add(dqbar, self.scoresbar @ dk)
        if dq is not None:
            dkbar = _add(dkbar, self.scoresbar.transpose(2, 3) @ dq)
        return dqbar, dkbar, dvbar

    def _split(self, packed: Tensor) -> Tensor:
        """(N, hidden) -> (B, heads, T, d)."""
        count, width = self._layout.shape
        return self._layout.pad(packed).view(count, width, self._heads, -1).transpose(1, 2)

    def _split_queries(self, packed: Tensor) -> Tensor:
        if self._first is None:
            return self._split(packed)
        return packed.view(len(packed), 1, self._heads, -1).transpose(1, 2)

    def _pack_heads(self, split: Tensor) -> Tensor:
        """(B, heads, T, d) -> (N, hidden)."""
        count, _, width, _ = split.shape
        return self._layout.pack(split.transpose(1, 2).reshape(count, width, -1))

    def _merge(self, split: Tensor) -> Tensor:
        """The inverse of `_split_queries`."""
        if self._first is None:
            return self._pack_heads(split)
        return split.transpose(1, 2).reshape(len(split), -1)

    def _add_rows(self, everywhere: Tensor, asking: Tensor) -> Tensor:
        if self._first is None:
            return everywhere + asking
        return everywhere.index_add_(0, self._first, asking)


def _maybe(shape: Reshape, value: Tensor | None) -> Tensor | None:
    return None if value is None else shape(value)


def _operand(value: Tensor | None) -> Operand | None:
    return None if value is None else Operand(value)


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


class LinearizedEmbedding:
    """What flows into the first layer, around the tables' rows: Norm(word + type + position)."""

    def __init__(
        self, weights: Mapping[str, Tensor], config: BertConfig, rows: Mapping[str, Tensor], xbar: Tensor
    ) -> None:
        """`rows`: table's parameter name -> (N,) its row for each packed token; `xbar` (N, hidden)."""
        x = sum((weights[name].index_select(0, chosen) for name, chosen in rows.items()), torch.zeros(()))
        self._norm = Norm(weights, "bert.embeddings.LayerNorm", x.to(xbar), config.eps)
        self._norm.adjoint(xbar)

    def tangent(self, du: Tensor) -> tuple[Tensor | None, NormTangent | None]:
        """(N, hidden) tangent of the rows' sum -> of what flows into the first layer."""
        return self._norm.tangent(du, {})

    def adjoint_tangent(self, dxbar: Tensor | None, kept: NormTangent | None) -> Tensor | None:
        """Tangent of the adjoint of the rows' sum, (N, hidden)."""
        return self._norm.adjoint_tangent(dxbar, kept, {})


def _activation(name: str, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f(z), f'(z), f''(z)."""
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        value = ACTIVATIONS[name](leaf)
        (slope,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), leaf, materialize_grads=True)
    return value.detach(), slope.detach(), bend
