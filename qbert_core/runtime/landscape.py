"""A landscape that survives a kill: its two eigenpairs and all finished points go to the store at once."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature import Eigenpairs, Landscape, blocks_of, landscape
from qbert_core.quantization import Plan
from qbert_core.runtime.events import Events
from qbert_core.runtime.keeping import Keeping
from qbert_core.runtime.store import Store, UnitKey, unit_key
from qbert_core.tasks import Examples, Task


def stored_landscape(
    checkpoint: Checkpoint,
    task: Task,
    examples: Examples,
    layer: int,
    plan: Plan,
    store: Store,
    *,
    steps: int,
    span: float | None,
    normalise: str,
    fraction: float,
    tolerance: float,
    seed: int,
    events: Events,
    warn: Callable[[str], None],
) -> Landscape:
    """`landscape`, taking what is finished of it from `store` and putting the rest there.

    The eigenpairs are those of every landscape of this layer, whatever its plan, span and steps. A store
    that fails costs only the resuming: `warn` gets one line and the analysis goes on.
    """
    kept = Keeping(store, "points", warn)
    last = time.perf_counter()

    def key(kind: str, plan: str | None = None, **settings: Any) -> UnitKey:
        return unit_key(
            kind,
            model=checkpoint.fingerprint,
            data=examples.fingerprint,
            plan=plan,
            task=task.name,
            layer=layer,
            fraction=fraction,
            tolerance=tolerance,
            seed=seed,
            **settings,
        )

    def points_key(first: int) -> UnitKey:
        return key("landscape-points", plan.digest, steps=steps, span=span, normalise=normalise, first=first)

    def keep(at: UnitKey, value: Any) -> None:
        nonlocal last
        now = time.perf_counter()
        kept.put(at, value, now - last)
        last = now

    def read_pairs(fields: Any) -> Eigenpairs:
        block = blocks_of(checkpoint.config, "layer")[layer]
        return _eigenpairs(fields, sum(checkpoint.weights[name].numel() for name in block.parameters))

    pairs_key = key("landscape-eigenpairs")
    losses: list[float] = []
    while len(losses) < steps**2 and (more := kept.get(points_key(len(losses)), _losses)):
        losses += more[: steps**2 - len(losses)]
    return landscape(
        checkpoint,
        task,
        examples,
        layer,
        plan,
        steps=steps,
        span=span,
        normalise=normalise,
        fraction=fraction,
        tolerance=tolerance,
        seed=seed,
        events=events,
        finished_pairs=kept.get(pairs_key, read_pairs),
        finished_losses=losses,
        on_pairs=lambda found: keep(pairs_key, _document(found)),
        on_losses=lambda first, found: keep(points_key(first), list(found)),
    )


def _losses(value: Any) -> list[float]:
    found = [float(loss) for loss in value]
    if not np.isfinite(found).all():
        raise ValueError("a loss that is not finite")
    return found


def _document(pairs: Eigenpairs) -> dict[str, Any]:
    """Bit for bit: a number in decimal takes twice the room."""
    vectors = pairs.vectors.cpu().contiguous().numpy()
    return {
        "values": list(pairs.values),
        "residuals": list(pairs.residuals),
        "products": pairs.products,
        "dtype": vectors.dtype.name,
        "vectors": base64.b64encode(vectors.tobytes()).decode(),
    }


def _eigenpairs(fields: Any, size: int) -> Eigenpairs:
    if fields["dtype"] not in ("float32", "float64"):
        raise ValueError("vectors of another type")
    numbers = np.frombuffer(base64.b64decode(fields["vectors"], validate=True), fields["dtype"])
    if not np.isfinite(numbers).all():
        raise ValueError("a vector that is not finite")
    (first, second), (residual, other) = fields["values"], fields["residuals"]
    return Eigenpairs(
        values=(float(first), float(second)),
        vectors=torch.from_numpy(numbers.reshape(2, size).copy()),
        residuals=(float(residual), float(other)),
        products=int(fields["products"]),
    )
