"""A sensitivity analysis that survives a kill: every finished run goes to the store at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature import (
    Analysis,
    RunResult,
    Sensitivity,
    blocks_of,
    sensitivity,
    shards_of_a_run,
)
from qbert_core.runtime.events import Events
from qbert_core.runtime.executors import Place, in_processes
from qbert_core.runtime.keeping import Keeping
from qbert_core.runtime.store import Store, UnitKey, unit_key
from qbert_core.tasks import Examples, Task


def stored_sensitivity(
    checkpoint: Checkpoint,
    task: Task,
    examples: Examples,
    store: Store,
    *,
    runs: int,
    fraction: float,
    granularity: str,
    tolerance: float,
    seed: int,
    events: Events,
    high: int | None = None,
    confidence: float = 0.95,
    until_stable: bool = False,
    trace: int = 0,
    workers: int = 1,
    place: Place | None = None,
    warn: Callable[[str], None],
) -> Sensitivity:
    """`sensitivity`, taking finished runs from `store` and putting new ones there.

    Runs are computed in `place`, in `workers` processes, or here. A store that fails costs only the
    resuming: `warn` gets one line and the analysis goes on.
    """
    kept = Keeping(store, "runs", warn)
    shards = shards_of_a_run(checkpoint.config, examples, fraction) if 0 < fraction <= 1 else 1

    cut: dict[str, Any] = {"shards": shards} if shards > 1 else {}

    def key(run: int) -> UnitKey:
        return unit_key(
            "certified-sensitivity-run",
            model=checkpoint.fingerprint,
            task=task.name,
            data=examples.fingerprint,
            fraction=fraction,
            granularity=granularity,
            tolerance=tolerance,
            trace=trace,
            seed=seed,
            run=run,
            **cut,
        )

    def keep(result: RunResult) -> None:
        kept.put(key(result.run), asdict(result), result.seconds)

    found = {run: kept.get(key(run), _run_result) for run in range(runs)}
    finished = {run: result for run, result in found.items() if result is not None}
    compute = None
    if place is None and workers != 1:
        place = partial(in_processes, workers=workers)
    if place is not None:
        blocks = blocks_of(checkpoint.config, granularity)
        analysis = Analysis(checkpoint, task, examples, blocks, fraction, tolerance, seed, trace, shards)
        compute = place(analysis, events=events)
    return sensitivity(
        checkpoint,
        task,
        examples,
        runs=runs,
        fraction=fraction,
        granularity=granularity,
        tolerance=tolerance,
        seed=seed,
        high=high,
        confidence=confidence,
        until_stable=until_stable,
        trace=trace,
        events=events,
        finished=finished,
        on_run=keep,
        compute=compute,
        shards=shards,
    )


def _run_result(fields: Any) -> RunResult:
    return RunResult(
        fields["run"],
        tuple(fields["lambdas"]),
        tuple(fields["residuals"]),
        fields["products"],
        fields["seconds"],
        tuple(fields["risks"]),
        fields["rounded"],
        tuple(fields["traces"]),
        tuple(fields["trace_errors"]),
    )
