"""The loss around a layer's trained weights, over the two directions in which it curves most."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature.analysis import draw
from qbert_core.curvature.blocks import Block, blocks_of
from qbert_core.curvature.eigen import random_start
from qbert_core.curvature.eigenpairs import Eigenpairs, two_largest_eigenpairs
from qbert_core.curvature.fields import Fields, is_number
from qbert_core.curvature.hvp import BlockHessian
from qbert_core.curvature.inputs import LayerInputs
from qbert_core.curvature.losses import Expansion, MovedLayer
from qbert_core.curvature.plane import filter_normalised, flat, project
from qbert_core.errors import InputError
from qbert_core.quantization import Plan, fake_quantize, sites_of
from qbert_core.runtime.events import Events, Silent
from qbert_core.tasks import Examples, Task

NORMALISATIONS = ("none", "filter")
STEPS = 21  # odd: the trained point is on the grid
MAX_STEPS = 201
SHOWN_CHANGE = 0.5  # nats: the change of loss by curvature alone that a default span shows
MARGIN = 1.25  # how far a default span goes beyond the quantized point


@dataclass(frozen=True)
class QuantizedPoint:
    """Where a plan's weights W' = W + D of the layer lie, D projected onto the plane.

    The plane holds next to nothing of D: `loss` is the loss at W', and `loss_at_projection` what
    the surface shows at (x, y); `explained` says how much of D the picture is about. Weights
    only: the plan's activation bits and the other layers' bits play no part.
    """

    plan: str  # its name
    plan_digest: str
    x: float
    y: float
    loss: float  # at W'
    loss_at_projection: float  # at (x, y)
    distance: float  # |D|
    explained: float  # |D's projection|^2 / |D|^2; 1 for a plan that leaves the layer as it is

    @classmethod
    def from_json(cls, document: Any) -> QuantizedPoint:
        source = Fields(document, "landscape quantized")
        return cls(
            plan=source.text("plan"),
            plan_digest=source.text("plan_digest"),
            x=source.number("x"),
            y=source.number("y"),
            loss=source.number("loss"),
            loss_at_projection=source.number("loss_at_projection"),
            distance=source.number("distance"),
            explained=source.number("explained"),
        )


@dataclass(frozen=True)
class Landscape:
    """Mean loss L(w + x d1 + y d2) on a grid; d1, d2 belong to the two eigenvalues of largest magnitude.

    A point that is not computed yet has the loss None. `normalise` is how long d1 and d2 are: none
    (unit eigenvectors: x and y are distances) or filter (Li et al. 2018: 1 is a move as long, row
    for row, as the weights).
    """

    layer: int  # 0-based
    x: tuple[float, ...]  # ascending, symmetric about the trained point 0
    y: tuple[float, ...]
    loss: tuple[tuple[float | None, ...], ...]  # nats, one row a y
    loss_at_zero: float
    gradient: tuple[float, ...]  # (2,): of the mean loss along d1 and d2
    curvature: tuple[tuple[float, ...], ...]  # (2, 2): d_i . H d_j, for unit eigenvectors diagonal
    eigenvalues: tuple[float, ...]  # (2,): the larger magnitude first
    residuals: tuple[float, ...]  # (2,): |Hv - lambda v| / |lambda|
    normalise: str
    quantized: QuantizedPoint
    examples: int
    evaluations: int  # of the mean loss: points of the grid so far, and three besides
    seconds: float
    hvp_count: int  # Hessian-vector products over the examples
    seed: int | None = None
    fraction: float | None = None
    tolerance: float | None = None
    model: str | None = None  # the checkpoint's fingerprint
    data: str | None = None  # the training examples' fingerprint

    @property
    def quadratic(self) -> tuple[tuple[float, ...], ...]:
        """L(0) + g . p + p . C p / 2 at the grid's points p: what slope and curvature alone predict."""
        (g1, g2), ((c11, c12), (_, c22)) = self.gradient, self.curvature
        return tuple(
            tuple(
                self.loss_at_zero + g1 * x + g2 * y + (c11 * x * x + c22 * y * y) / 2 + c12 * x * y
                for x in self.x
            )
            for y in self.y
        )

    def to_json(self) -> dict[str, Any]:
        """The document of the command line's `landscape`."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Any) -> Landscape:
        """The inverse of `to_json`, of one in progress too; `InputError` says what is missing or wrong."""
        source = Fields(document, "landscape")
        x, y = _axis(source, "x"), _axis(source, "y")
        return cls(
            layer=source.count("layer"),
            x=x,
            y=y,
            loss=_table(source, "loss", (len(y), len(x)), holes=True),
            loss_at_zero=source.number("loss_at_zero"),
            gradient=_table(source, "gradient", (2,)),
            curvature=_table(source, "curvature", (2, 2)),
            eigenvalues=_table(source, "eigenvalues", (2,)),
            residuals=_table(source, "residuals", (2,)),
            normalise=source.choice("normalise", NORMALISATIONS),
            quantized=QuantizedPoint.from_json(source.value("quantized")),
            examples=source.count("examples", least=1),
            evaluations=source.count("evaluations"),
            seconds=source.number("seconds"),
            hvp_count=source.count("hvp_count"),
            seed=source.count("seed") if source.has("seed") else None,
            fraction=source.number("fraction") if source.has("fraction") else None,
            tolerance=source.number("tolerance") if source.has("tolerance") else None,
            model=source.text("model") if source.has("model") else None,
            data=source.text("data") if source.has("data") else None,
        )


def landscape(
    checkpoint: Checkpoint,
    task: Task,
    examples: Examples,
    layer: int,  # 0-based
    plan: Plan,
    *,
    steps: int = STEPS,
    span: float | None = None,
    normalise: str = "none",
    fraction: float = 0.1,
    tolerance: float = 0.01,
    seed: int = 0,
    events: Events | None = None,
    finished_pairs: Eigenpairs | None = None,
    finished_losses: Sequence[float] = (),
    on_pairs: Callable[[Eigenpairs], None] | None = None,
    on_losses: Callable[[int, Sequence[float]], None] | None = None,
) -> Landscape:
    """The loss on a `steps` x `steps` grid over [-span, span]^2 around a layer's trained weights.

    The draw of examples is the first run's of a sensitivity analysis with this seed and fraction.
    Points are computed from coarse to fine (`coarse_to_fine`). Without a `span` it is the larger of

        1.25 max(|x|, |y|), (x, y) the quantized point, and
        sqrt(2 SHOWN_CHANGE / max |C_ii|), where curvature alone changes the loss by SHOWN_CHANGE,
        but no further than the length of the layer's weights

    `events` gets (units done, units in all) after every Hessian-vector product, how many there will
    be being unknown, and the Landscape so far with it after every few points; it is asked to cancel
    inside both. `finished_pairs` and `finished_losses`, those of the first points in that order, are
    taken as they are; `on_pairs` gets new pairs, `on_losses` (number of the first, losses) new points, to
    be stored. Losses are computed some points at a time, and rounding may depend on which: to go on to
    the same numbers `finished_losses` must end where an `on_losses` did. Same arguments and machine, same
    numbers. Raises `InputError` for numbers out of
    range, a task that does not fit the model, and a loss that is not finite.
    """
    config = checkpoint.config
    _check(layer, config.layers, steps, span, normalise, fraction, tolerance, seed, len(examples))
    task.check_model(config)
    events = events or Silent()
    started = time.perf_counter()
    block = blocks_of(config, "layer")[layer]
    chosen = examples.take(draw(len(examples), fraction, seed, 0))

    # examples in a LayerInputs of their own: with it goes what a Hessian keeps for its products
    if finished_pairs is not None:
        pairs = finished_pairs
    else:
        pairs = _eigenpairs(LayerInputs(checkpoint, task, chosen), block, seed, tolerance, steps**2, events)
        if on_pairs:
            on_pairs(pairs)
    inputs = LayerInputs(checkpoint, task, chosen)
    directions = pairs.vectors.to(inputs.device, inputs.dtype)
    if normalise == "filter":
        directions = torch.stack([filter_normalised(block, d, checkpoint.weights) for d in directions])
    moved = MovedLayer(inputs, block, directions, events)
    expansion = moved.expansion()
    quantized = _quantized_point(inputs, block, plan, moved, directions, events)
    if span is None:
        weights = flat(block, checkpoint.weights, checkpoint.weights)
        span = _default_span(expansion, quantized, weights, directions)
    axis = tuple(span * (2 * i - steps + 1) / (steps - 1) for i in range(steps))

    loss: list[list[float | None]] = [[None] * steps for _ in axis]
    order = coarse_to_fine(steps)

    def report(done: int) -> Landscape:
        result = Landscape(
            layer=layer,
            x=axis,
            y=axis,
            loss=tuple(map(tuple, loss)),
            loss_at_zero=expansion.loss,
            gradient=expansion.gradient,
            curvature=expansion.curvature,
            eigenvalues=pairs.values,
            residuals=pairs.residuals,
            normalise=normalise,
            quantized=quantized,
            examples=len(chosen),
            evaluations=done + 3,
            seconds=time.perf_counter() - started,
            hvp_count=pairs.products,
            seed=seed,
            fraction=fraction,
            tolerance=tolerance,
            model=checkpoint.fingerprint,
            data=examples.fingerprint,
        )
        events.progress(pairs.products + done, pairs.products + len(order), result)
        return result

    def fill(first: int, losses: Sequence[float]) -> Landscape:
        for (row, column), value in zip(order[first:], losses, strict=False):
            loss[row][column] = _finite(value, axis[column], axis[row])
        return report(first + len(losses))

    done = len(finished_losses)
    result = fill(0, finished_losses)
    for losses in moved.losses([(axis[column], axis[row]) for row, column in order[done:]]):
        result = fill(done, losses)
        if on_losses:
            on_losses(done, losses)
        done += len(losses)
    return result


def coarse_to_fine(steps: int) -> list[tuple[int, int]]:
    """Every (row, column) of a steps x steps grid, such that ever finer sub-grids become complete.

    Sub-grid k has the 2^k + 1 indices round(i (steps - 1) / 2^k), so each holds the one before:

    >>> coarse_to_fine(3)
    [(0, 0), (0, 2), (2, 0), (2, 2), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1)]
    """
    order: dict[tuple[int, int], None] = {}
    level = 0
    while len(order) < steps**2:
        chosen = dict.fromkeys(round(i * (steps - 1) / 2**level) for i in range(2**level + 1))
        order |= dict.fromkeys((row, column) for row in chosen for column in chosen)
        level += 1
    return list(order)


def _eigenpairs(
    inputs: LayerInputs, block: Block, seed: int, tolerance: float, points: int, events: Events
) -> Eigenpairs:
    hessian = BlockHessian(inputs, block, events)

    def matvec(v: Tensor, fast: bool = False) -> Tensor:
        product = hessian.matvec(v, fast)
        events.progress(hessian.products, hessian.products + points)
        return product

    # the first start is that of a sensitivity analysis's first run, so the two agree on lambda
    numbers = np.random.SeedSequence([seed, 0, block.layer]).generate_state(2)
    starts = [random_start(hessian.size, int(n), inputs.dtype, inputs.device) for n in numbers]
    fast = partial(matvec, fast=True) if hessian.has_fast else None
    return two_largest_eigenpairs(matvec, torch.stack(starts), tolerance=tolerance, fast=fast)


def _quantized_point(
    inputs: LayerInputs, block: Block, plan: Plan, moved: MovedLayer, directions: Tensor, events: Events
) -> QuantizedPoint:
    displacement = _displacement(inputs.checkpoint, block, plan)
    (x, y), explained = project(displacement, directions)
    [[there]] = MovedLayer(inputs, block, displacement[None], events).losses([(1.0,)])
    [[projected]] = moved.losses([(x, y)])
    if not math.isfinite(there):
        raise InputError(f"plan {plan.name}: the loss at the layer's quantized weights is {there}")
    return QuantizedPoint(
        plan=plan.name,
        plan_digest=plan.digest,
        x=x,
        y=y,
        loss=there,
        loss_at_projection=_finite(projected, x, y),
        distance=float(torch.linalg.vector_norm(displacement.double())),
        explained=explained,
    )


def _displacement(checkpoint: Checkpoint, block: Block, plan: Plan) -> Tensor:
    """(n,): quantized minus trained parameters of a layer; biases and LayerNorm stay where they are."""
    entries, changes = plan.sites, {}
    for site in sites_of(checkpoint.config):
        entry = entries[site.name]
        if site.layer == block.layer and entry.quantized:
            weight = checkpoint.weights[site.parameter]
            quantized = fake_quantize(weight.cpu(), entry.bits, entry.groups, plan.clip)
            changes[site.parameter] = quantized.to(weight.device) - weight
    return flat(block, changes, checkpoint.weights)


def _default_span(
    expansion: Expansion, quantized: QuantizedPoint, weights: Tensor, directions: Tensor
) -> float:
    """The rule `landscape` documents; 1 where nothing moves and nothing has a length."""
    steepest = max(abs(expansion.curvature[0][0]), abs(expansion.curvature[1][1]))
    length = float(torch.linalg.vector_norm(weights) / torch.linalg.vector_norm(directions, dim=1).max())
    bend = min(math.sqrt(2 * SHOWN_CHANGE / steepest), length) if steepest else length
    return max(bend, MARGIN * abs(quantized.x), MARGIN * abs(quantized.y)) or 1.0


def _finite(loss: float, x: float, y: float) -> float:
    if not math.isfinite(loss):
        raise InputError(f"the loss at x = {x:g}, y = {y:g} is {loss}; give a smaller span")
    return loss


def _axis(source: Fields, name: str) -> tuple[float, ...]:
    axis: tuple[float, ...] = _table(source, name, (len(source.array(name)),))
    if len(axis) < 2 or any(b <= a for a, b in pairwise(axis)):
        raise source.wrong(name, "at least 2 numbers, ascending")
    return axis


def _table(source: Fields, name: str, shape: tuple[int, ...], *, holes: bool = False) -> Any:
    """Nested lists of numbers as nested tuples; `holes`: null stands for a number that is not known."""

    def read(value: Any, depth: int) -> Any:
        if depth < len(shape) and isinstance(value, list) and len(value) == shape[depth]:
            return tuple(read(part, depth + 1) for part in value)
        if depth == len(shape) and is_number(value):
            return float(value)
        if depth == len(shape) and value is None and holes:
            return None
        raise source.wrong(name, f"{' x '.join(map(str, shape))} finite numbers")

    return read(source.value(name), 0)


def _check(
    layer: int,
    layers: int,
    steps: int,
    span: float | None,
    normalise: str,
    fraction: float,
    tolerance: float,
    seed: int,
    examples: int,
) -> None:
    if not 0 <= layer < layers:
        raise InputError(f"layer is {layer}; the model has 0..{layers - 1}")
    if not 3 <= steps <= MAX_STEPS:
        raise InputError(f"steps is {steps}; expected 3 to {MAX_STEPS} points an axis")
    if span is not None and not 0 < span < math.inf:
        raise InputError(f"span is {span}; expected a finite number above 0")
    if normalise not in NORMALISATIONS:
        raise InputError(f"normalise is {normalise!r}; expected one of {', '.join(NORMALISATIONS)}")
    if not 0 < fraction <= 1:
        raise InputError(f"fraction is {fraction}; expected more than 0 and at most 1 (every example)")
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance is {tolerance}; expected more than 0 and less than 1, for example 0.01")
    if seed < 0:
        raise InputError(f"seed is {seed}; expected 0 or more")
    if examples == 0:
        raise InputError("there are no training examples; a landscape needs at least 1")
