"""The real data the studies run on: slices beside the project, not part of it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.record import ROOT

DATA = ROOT.parent / "shared" / "data"
FILES = {  # task -> training data, data to measure on
    "sst2": ("sst2/train.parquet", "sst2/validation_even.parquet"),
    "mnli": ("mnli/train_9k.parquet", "mnli/validation_matched_shared.parquet"),
    "conll03": ("conll2003/train.parquet", "conll2003/validation.parquet"),
    "squad": ("squad/train_subset.parquet", "squad/validation_first_half.parquet"),
}


def training_data(task: str) -> Path:
    return DATA / FILES[task][0]


def validation_data(task: str) -> Path:
    return DATA / FILES[task][1]
