"""The spectrum of one block's Hessian on one draw of examples: its density and its trace."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from qbert_core.bert import BertConfig
from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature.analysis import draw
from qbert_core.curvature.basis import require_room, seeded_vector
from qbert_core.curvature.blocks import GRANULARITIES, Block, blocks_of
from qbert_core.curvature.density import Curve, Quadrature, lanczos_quadrature, smeared
from qbert_core.curvature.fields import Fields, is_number
from qbert_core.curvature.hvp import BlockHessian
from qbert_core.curvature.inputs import LayerInputs
from qbert_core.curvature.results import KINDS
from qbert_core.curvature.trace import PRODUCTS, TraceEstimate, xtrace
from qbert_core.errors import InputError
from qbert_core.runtime.events import Events, Silent
from qbert_core.tasks import Examples, Task


@dataclass(frozen=True)
class Spectrum:
    """Quadratures of one block's Hessian, and its trace. What a document does not say is None.

    While probes are in progress `quadratures` holds those that are done.
    """

    name: str  # the block's
    layer: int  # 0-based
    kind: str  # layer, attention or ffn
    parameters: int  # n, the Hessian's order
    quadratures: tuple[Quadrature, ...]  # one a probe
    trace: TraceEstimate
    examples: int
    probes: int
    steps: int  # asked for; a probe has fewer nodes where its Krylov space ended
    seconds: float
    seed: int | None = None
    fraction: float | None = None
    model: str | None = None  # the checkpoint's fingerprint
    data: str | None = None  # the training examples' fingerprint

    @property
    def curve(self) -> Curve:
        return smeared(self.quadratures)

    @property
    def lowest(self) -> float:
        """The lowest node of all probes, at least H's lowest eigenvalue."""
        return min(quadrature.nodes[0] for quadrature in self.quadratures)

    @property
    def highest(self) -> float:
        """The highest node of all probes, at most H's highest eigenvalue."""
        return max(quadrature.nodes[-1] for quadrature in self.quadratures)

    @property
    def mean_eigenvalue(self) -> float:
        """tr H / n, HAWQ-V2's criterion."""
        return self.trace.value / self.parameters

    @property
    def hvp_count(self) -> int:
        """Hessian-vector products over the examples."""
        return self.trace.products + sum(len(quadrature.nodes) for quadrature in self.quadratures)

    def moment(self, power: int) -> tuple[float, float]:
        """tr(H^power) / n by the quadratures: mean and population standard deviation over the probes."""
        values = [quadrature.moment(power) for quadrature in self.quadratures]
        return float(np.mean(values)), float(np.std(values))

    def to_json(self) -> dict[str, Any]:
        """The document of the command line's `density`."""
        curve = self.curve
        moments = {name: self.moment(power) for name, power in (("first", 1), ("second", 2))}
        return {
            "block": {
                "name": self.name,
                "layer": self.layer,
                "kind": self.kind,
                "parameters": self.parameters,
            },
            "nodes": [list(quadrature.nodes) for quadrature in self.quadratures],
            "weights": [list(quadrature.weights) for quadrature in self.quadratures],
            "x": curve.x.tolist(),
            "density": curve.density.tolist(),
            "sigma": curve.sigma,
            "lowest": self.lowest,
            "highest": self.highest,
            "moments": {name: {"mean": mean, "std": std} for name, (mean, std) in moments.items()},
            "trace": asdict(self.trace),
            "mean_eigenvalue": self.mean_eigenvalue,
            "examples": self.examples,
            "probes": self.probes,
            "steps": self.steps,
            "seconds": self.seconds,
            "hvp_count": self.hvp_count,
            "seed": self.seed,
            "fraction": self.fraction,
            "model": self.model,
            "data": self.data,
        }

    @classmethod
    def from_json(cls, document: Any) -> Spectrum:
        """The inverse of `to_json`; `InputError` says what is missing or wrong.

        The curve and all else that follows from nodes, weights and trace is worked out anew; the
        ends and mean_eigenvalue must agree with them where they are given.
        """
        source = Fields(document, "spectrum")
        block = Fields(source.value("block"), "spectrum block")
        trace = Fields(source.value("trace"), "spectrum trace")
        nodes, weights = source.array("nodes"), source.array("weights")
        if not nodes or len(nodes) != len(weights):
            raise InputError(
                f"spectrum: nodes of {len(nodes)} and weights of {len(weights)} probes; "
                f"expected both of the same, at least 1"
            )
        result = cls(
            name=block.text("name"),
            layer=block.count("layer"),
            kind=block.choice("kind", KINDS),
            parameters=block.count("parameters", least=1),
            quadratures=tuple(
                _quadrature(n, w, i) for i, (n, w) in enumerate(zip(nodes, weights, strict=True))
            ),
            trace=TraceEstimate(
                trace.number("value"), trace.number("error"), trace.count("products", least=1)
            ),
            examples=source.count("examples", least=1),
            probes=source.count("probes", least=len(nodes)),
            steps=source.count("steps", least=max(map(len, nodes))),
            seconds=source.number("seconds"),
            seed=source.count("seed") if source.has("seed") else None,
            fraction=source.number("fraction") if source.has("fraction") else None,
            model=source.text("model") if source.has("model") else None,
            data=source.text("data") if source.has("data") else None,
        )
        for name in ("lowest", "highest", "mean_eigenvalue"):
            if source.has(name):
                given, right = source.number(name), getattr(result, name)
                if not math.isclose(given, right, rel_tol=1e-6, abs_tol=1e-12):
                    raise InputError(f"spectrum: {name} is {given}, the other numbers give {right}")
        return result


def block_named(config: BertConfig, name: str) -> Block:
    """The block of any granularity with this name; `InputError` when there is none."""
    for granularity in GRANULARITIES:
        for block in blocks_of(config, granularity):
            if block.name == name:
                return block
    raise InputError(
        f"block {name!r} is not known; expected bert.encoder.layer.I with I from 0 to {config.layers - 1}, "
        f"or with .attention, .ffn or the name of a weight matrix behind it"
    )


def spectrum(
    checkpoint: Checkpoint,
    task: Task,
    examples: Examples,
    block: Block,
    *,
    fraction: float = 0.1,
    steps: int = 60,
    probes: int = 4,
    trace_products: int = PRODUCTS,
    seed: int = 0,
    events: Events | None = None,
    finished: Mapping[int, Quadrature] | None = None,
    finished_trace: TraceEstimate | None = None,
    on_probe: Callable[[int, Quadrature], None] | None = None,
    on_trace: Callable[[TraceEstimate], None] | None = None,
) -> Spectrum:
    """Trace, then `probes` quadratures, of the block's Hessian of the mean loss over one draw.

    The draw is the first run's of a sensitivity analysis with this seed and fraction. Probes are
    uniform on the sphere, so the expectation of a quadrature is the spectrum itself (Ubaru, Chen and
    Saad 2017). `events` gets (products done, products in all) after every product, the Spectrum so
    far with it after every probe, and is asked to cancel inside every product. Probes in `finished`
    (by number) and `finished_trace` are taken as they are; `on_probe` and `on_trace` get the new ones,
    to be stored. Same arguments and machine, same numbers. Raises `InputError` for numbers out of
    range, a task that does not fit the model, and more steps than memory is allowed for.
    """
    _check(fraction, steps, probes, seed, len(examples))
    task.check_model(checkpoint.config)
    events = events or Silent()
    started = time.perf_counter()
    chosen = examples.take(draw(len(examples), fraction, seed, 0))
    inputs = LayerInputs(checkpoint, task, chosen)
    hessian = BlockHessian(inputs, block, events)
    require_room(min(steps, hessian.size), hessian.size, inputs.dtype)  # before the trace, not after it
    total = min(trace_products, hessian.size) + probes * min(steps, hessian.size)

    known = 0  # products of finished parts

    def matvec(v: Tensor) -> Tensor:
        product = hessian.matvec(v)
        events.progress(known + hessian.products, total)
        return product

    if finished_trace is not None:
        trace, known = finished_trace, finished_trace.products
    else:
        trace = xtrace(
            matvec,
            hessian.size,
            products=trace_products,
            seed=[seed, 0],
            dtype=inputs.dtype,
            device=inputs.device,
        )
        if on_trace:
            on_trace(trace)
    quadratures: list[Quadrature] = []
    for probe in range(probes):
        quadrature = (finished or {}).get(probe)
        if quadrature is not None:
            known += len(quadrature.nodes)
        else:
            start = seeded_vector(hessian.size, [seed, 1, probe], inputs.dtype, inputs.device)
            quadrature = lanczos_quadrature(matvec, start, steps)
            if on_probe:
                on_probe(probe, quadrature)
        quadratures.append(quadrature)
        result = Spectrum(
            name=block.name,
            layer=block.layer,
            kind=block.kind,
            parameters=hessian.size,
            quadratures=tuple(quadratures),
            trace=trace,
            examples=len(chosen),
            probes=probes,
            steps=steps,
            seconds=time.perf_counter() - started,
            seed=seed,
            fraction=fraction,
            model=checkpoint.fingerprint,
            data=examples.fingerprint,
        )
        done = total if len(quadratures) == probes else known + hessian.products
        events.progress(done, total, result)
    return result


def _quadrature(nodes: object, weights: object, probe: int) -> Quadrature:
    source = Fields({"nodes": nodes, "weights": weights}, f"spectrum probe {probe}")
    found = {}
    for name in ("nodes", "weights"):
        values = source.array(name)
        if not values or not all(map(is_number, values)):
            raise source.wrong(name, "finite numbers")
        found[name] = tuple(map(float, values))
    if len(found["nodes"]) != len(found["weights"]) or list(found["nodes"]) != sorted(found["nodes"]):
        raise source.wrong("nodes", "one a weight, ascending")
    if min(found["weights"]) < 0 or not math.isclose(sum(found["weights"]), 1, rel_tol=1e-6):
        raise source.wrong("weights", "no negative number and a sum of 1")
    return Quadrature(found["nodes"], found["weights"])


def _check(fraction: float, steps: int, probes: int, seed: int, examples: int) -> None:
    if not 0 < fraction <= 1:
        raise InputError(f"fraction is {fraction}; expected more than 0 and at most 1 (every example)")
    if steps < 1:
        raise InputError(f"steps is {steps}; expected at least 1")
    if probes < 1:
        raise InputError(f"probes is {probes}; expected at least 1")
    if seed < 0:
        raise InputError(f"seed is {seed}; expected 0 or more")
    if examples == 0:
        raise InputError("there are no training examples; a spectrum needs at least 1")
