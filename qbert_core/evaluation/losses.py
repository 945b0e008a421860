"""The loss of every window of a batch, where training needs only the whole batch's."""

from __future__ import annotations

from torch import Tensor

from qbert_core.tasks import Batch, Task


def window_losses(task: Task, logits: Tensor, batch: Batch) -> list[tuple[float, int]]:
    """(sum, count) of each window: what the batch's loss is the sum of, and what its mean counts.

    `logits` as the task's `loss` takes them, (B, ..); nats.
    """
    found = []
    for row, window in enumerate(batch.indices):
        one = slice(row, row + 1)
        alone = Batch(
            [window],
            batch.input_ids[one],
            batch.token_type_ids[one],
            batch.lengths[one],
            batch.targets[one],
        )
        total, count = task.loss(logits[one], alone)
        found.append((float(total), count))
    return found
