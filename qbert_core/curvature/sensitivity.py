"""Sensitivity of a finetuned BERT: top Hessian eigenvalue of every block, over several draws of data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature.analysis import Analysis, BlockResult, RunResult, draw, in_turn
from qbert_core.curvature.blocks import Block, blocks_of
from qbert_core.curvature.inputs import LayerInputs
from qbert_core.curvature.results import BlockSensitivity, Sensitivity
from qbert_core.curvature.shards import check_shards, shards_of_a_run
from qbert_core.curvature.stability import Stability, stability
from qbert_core.errors import InputError
from qbert_core.runtime.events import Events, Silent
from qbert_core.tasks import Examples, Task

# numbers of runs -> their results, some of them first in part, as they arrive
Compute = Callable[[Sequence[int]], Iterator[RunResult]]


def sensitivity(
    checkpoint: Checkpoint,
    task: Task,
    examples: Examples,
    *,
    runs: int = 10,
    fraction: float = 0.1,
    granularity: str = "layer",
    tolerance: float = 0.01,
    seed: int = 0,
    high: int | None = None,
    confidence: float = 0.95,
    until_stable: bool = False,
    trace: int = 0,
    events: Events | None = None,
    finished: Mapping[int, RunResult] | None = None,
    on_run: Callable[[RunResult], None] | None = None,
    compute: Compute | None = None,
    shards: int | None = None,
) -> Sensitivity:
    """Lambda samples and Omega of every block: `runs` runs, each on its own draw of `examples`.

    From the third run on the result says how sure the ranking is (`stability`) for the set of the
    `high` most sensitive blocks, half of them unless given. With `until_stable` the analysis ends, at
    the latest after `runs` runs, as soon as a bootstrap gives that set a probability of `confidence`.

    `trace` is the number of products to spend on every block's trace in every run (0: none).

    `events` gets (blocks done, blocks in all, Sensitivity so far) after every block and is asked
    to cancel inside every product. Runs in `finished` (by number) are taken as they are; `on_run`
    gets each new one when it is complete, to be stored. `compute` may compute the runs elsewhere, in
    any order; here they are computed one after the other. `shards` is the number of parts a run's
    examples are multiplied in (`shards_of_a_run` unless given). Same arguments, kind of machine and
    number of threads, same lambdas.
    Raises `InputError` for numbers out of range and a task that does not fit the model.
    """
    _check(runs, fraction, tolerance, seed, confidence, len(examples))
    if trace and trace < 4:
        raise InputError(f"trace is {trace}; expected 0 (none) or at least 4 products, for example 20")
    check_shards(shards)
    task.check_model(checkpoint.config)
    events = events or Silent()
    blocks = blocks_of(checkpoint.config, granularity)
    samples = {run: result for run, result in (finished or {}).items() if run < runs}
    if any(len(result.lambdas) != len(blocks) for result in samples.values()):
        raise ValueError(f"a finished run does not have the {len(blocks)} blocks of a {granularity} run")
    if high is None:
        high = max(1, len(blocks) // 2)
    if not 1 <= high < max(2, len(blocks)):
        raise InputError(f"high is {high}; expected 1 to {len(blocks) - 1}, fewer than there are blocks")
    if shards is None:
        shards = shards_of_a_run(checkpoint.config, examples, fraction)
    total = runs * len(blocks)
    stable: Stability | None = None
    judged = 0  # runs

    def summary(runs: int = runs, stopped: str = "runs") -> Sensitivity:
        return Sensitivity(
            blocks=_by_block(blocks, samples),
            runs=runs,
            stopped=stopped,
            stability=stable,
            hvp_rounded=sum(sample.rounded for sample in samples.values()),
            examples=len(draw(len(examples), fraction, seed, 0)),
            seconds=sum(sample.seconds for sample in samples.values()),
            hvp_count=sum(sample.products for sample in samples.values()),
            seed=seed,
            fraction=fraction,
            tolerance=tolerance,
            model=checkpoint.fingerprint,
            data=examples.fingerprint,
            shards=shards,
        )

    def report() -> None:
        done = sum(len(sample.lambdas) for sample in samples.values())
        if done:
            events.progress(done, total, summary())

    def advance() -> bool:
        """Judge the ranking by the runs that are complete without a gap; whether to stop there."""
        nonlocal stable, judged
        while judged in samples and len(samples[judged].lambdas) == len(blocks):
            judged += 1
            lambdas = [samples[run].lambdas for run in range(judged)]
            stable = stability(lambdas, high=high, confidence=confidence, seed=seed, before=stable)
            if until_stable and stable is not None and stable.stable_after is not None:
                return True
        return False

    if compute is None:
        analysis = Analysis(checkpoint, task, examples, blocks, fraction, tolerance, seed, trace, shards)
        compute = partial(in_turn, analysis, events=events)
    stop = advance()
    report()
    if not stop:
        for result in compute(tuple(run for run in range(runs) if run not in samples)):
            samples[result.run] = result
            whole = len(result.lambdas) == len(blocks)
            stop = whole and advance()
            report()
            if whole and on_run:
                on_run(result)
            if stop:
                break
    if stop:
        samples = {run: samples[run] for run in range(judged)}
        return summary(judged, "stable")
    return summary()


def run_blocks(
    checkpoint: Checkpoint,
    task: Task,
    examples: Examples,
    blocks: Sequence[Block],
    run: int,
    tolerance: float,
    seed: int,
    trace: int = 0,
    events: Events | None = None,
) -> Iterator[RunResult]:
    """One run over its `examples`, whole: the result so far after every block, the last one complete."""
    analysis = Analysis(checkpoint, task, examples, tuple(blocks), 1.0, tolerance, seed, trace)
    inputs = LayerInputs(checkpoint, task, examples)
    results: list[BlockResult] = []
    for index in range(len(blocks)):
        if events:
            events.check()
        results.append(analysis.block(inputs, run, index, events))
        yield RunResult.of(run, results)


def _by_block(blocks: tuple[Block, ...], samples: Mapping[int, RunResult]) -> tuple[BlockSensitivity, ...]:
    rows = []
    for index, block in enumerate(blocks):
        reached = [samples[run] for run in sorted(samples) if index < len(samples[run].lambdas)]
        if reached:
            lambdas = tuple(sample.lambdas[index] for sample in reached)
            residuals = tuple(sample.residuals[index] for sample in reached)
            rows.append(
                BlockSensitivity(
                    block.name, block.layer, block.kind, lambdas, residuals,
                    risks=_column([sample.risks for sample in reached], index),
                    traces=_column([sample.traces for sample in reached], index),
                    trace_errors=_column([sample.trace_errors for sample in reached], index),
                )
            )  # fmt: skip
    return tuple(rows)


def _column(rows: Sequence[tuple[float, ...]], index: int) -> tuple[float, ...] | None:
    """Entry `index` of every row, or None where a run was not asked for it."""
    return tuple(row[index] for row in rows) if all(index < len(row) for row in rows) else None


def _check(runs: int, fraction: float, tolerance: float, seed: int, confidence: float, examples: int) -> None:
    if runs < 1:
        raise InputError(f"runs is {runs}; expected at least 1")
    if not 0 < fraction <= 1:
        raise InputError(f"fraction is {fraction}; expected more than 0 and at most 1 (every example)")
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance is {tolerance}; expected more than 0 and less than 1, for example 0.01")
    if not 0.5 <= confidence < 1:
        raise InputError(
            f"confidence is {confidence}; expected at least 0.5 and less than 1, for example 0.95"
        )
    if seed < 0:
        raise InputError(f"seed is {seed}; expected 0 or more")
    if examples == 0:
        raise InputError("there are no training examples; sensitivity needs at least 1")
