"""A spectrum that survives a kill: its trace and every finished probe go to the store at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature import Block, Quadrature, Spectrum, TraceEstimate, spectrum
from qbert_core.curvature.trace import PRODUCTS
from qbert_core.runtime.events import Events
from qbert_core.runtime.keeping import Keeping
from qbert_core.runtime.store import Store, UnitKey, unit_key
from qbert_core.tasks import Examples, Task


def stored_spectrum(
    checkpoint: Checkpoint,
    task: Task,
    examples: Examples,
    block: Block,
    store: Store,
    *,
    fraction: float,
    steps: int,
    probes: int,
    seed: int,
    events: Events,
    warn: Callable[[str], None],
) -> Spectrum:
    """`spectrum`, taking what is finished of it from `store` and putting the rest there.

    A store that fails costs only the resuming: `warn` gets one line and the analysis goes on.
    """
    kept = Keeping(store, "probes", warn)
    last = time.perf_counter()

    def key(kind: str, **settings: Any) -> UnitKey:
        return unit_key(
            kind,
            model=checkpoint.fingerprint,
            data=examples.fingerprint,
            task=task.name,
            block=block.name,
            fraction=fraction,
            seed=seed,
            **settings,
        )

    def probe_key(probe: int) -> UnitKey:
        return key("spectrum-probe", steps=steps, probe=probe)

    def keep(at: UnitKey, found: TraceEstimate | Quadrature) -> None:
        nonlocal last
        now = time.perf_counter()
        kept.put(at, asdict(found), now - last)
        last = now

    trace_key = key("spectrum-trace", products=PRODUCTS)
    found = {probe: kept.get(probe_key(probe), _quadrature) for probe in range(probes)}
    return spectrum(
        checkpoint,
        task,
        examples,
        block,
        fraction=fraction,
        steps=steps,
        probes=probes,
        seed=seed,
        events=events,
        finished={probe: quadrature for probe, quadrature in found.items() if quadrature is not None},
        finished_trace=kept.get(trace_key, _trace),
        on_probe=lambda probe, quadrature: keep(probe_key(probe), quadrature),
        on_trace=lambda trace: keep(trace_key, trace),
    )


def _trace(fields: Any) -> TraceEstimate:
    return TraceEstimate(float(fields["value"]), float(fields["error"]), int(fields["products"]))


def _quadrature(fields: Any) -> Quadrature:
    nodes, weights = (tuple(map(float, fields[name])) for name in ("nodes", "weights"))
    if not nodes or len(nodes) != len(weights):
        raise ValueError("nodes and weights of different lengths")
    return Quadrature(nodes, weights)
