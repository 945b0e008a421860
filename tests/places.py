"""What every place that computes an analysis must do: inline, processes, any executor, a cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature import Analysis, RunResult, blocks_of, sensitivity
from qbert_core.runtime.events import Silent
from qbert_core.runtime.executors import Place
from qbert_core.tasks import Examples, task_named

SST2 = task_named("sst2")


def check_place(place: Place, tiny: Checkpoint, examples: Examples, granularity: str, shards: int) -> None:
    """The contract of a place: the numbers of one process, bit for bit, and every run complete once."""
    options: dict[str, Any] = {"runs": 2, "fraction": 0.5, "granularity": granularity, "seed": 2, "trace": 4}
    kept: list[RunResult] = []
    blocks = blocks_of(tiny.config, granularity)
    analysis = Analysis(tiny, SST2, examples, blocks, 0.5, 0.01, 2, 4, shards)
    found = sensitivity(
        tiny,
        SST2,
        examples,
        **options,
        shards=shards,
        compute=place(analysis, events=Silent()),
        on_run=kept.append,
    )
    here = sensitivity(tiny, SST2, examples, **options, shards=shards)
    assert replace(found, seconds=0.0) == replace(here, seconds=0.0)
    assert sorted(run.run for run in kept) == [0, 1]
    assert torch.get_num_threads() == 1
