"""SST-2: is a sentence positive? Columns sentence, label."""

from __future__ import annotations

from qbert_core.tasks.classification import Classification


class Sst2(Classification):
    """Binary sentiment of single sentences (Socher et al. 2013, as in GLUE)."""

    name = "sst2"
    columns = ("sentence", "label")
    labels = ("negative", "positive")
