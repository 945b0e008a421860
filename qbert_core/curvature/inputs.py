"""What flows into each encoder layer, for all the examples of one run."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qbert_core.bert import embed, encoder_layer, padding_mask
from qbert_core.checkpoints import Checkpoint
from qbert_core.tasks import Batch, Examples, Task, collate, length_batches

# Padded tokens a batch. Measured on a CPU, more are slower (a small draw holds all lengths, so a wide
# batch is half padding), and a batch is what a cancel waits for; an accelerator idles on so few.
BATCH_TOKENS = 256
BATCH_TOKENS_ACCELERATOR = 4096
CACHE_BYTES = 2**31


class LayerInputs:
    """The examples of a run in batches of like length, run without gradients up to a layer.

    Blocks are visited from the first layer up, so each batch remembers what flowed into the last
    layer asked for and goes on from there: over a whole run every layer is computed once. Batches
    beyond `CACHE_BYTES` of such states are computed anew from the embeddings.
    """

    def __init__(
        self, checkpoint: Checkpoint, task: Task, examples: Examples, tokens: int | None = None
    ) -> None:
        config = checkpoint.config
        some = next(iter(checkpoint.weights.values()))
        if tokens is None:
            tokens = BATCH_TOKENS if some.device.type == "cpu" else BATCH_TOKENS_ACCELERATOR
        self.checkpoint = checkpoint
        self.task = task
        self.device = some.device
        self.dtype = some.dtype
        self.batches: list[Batch] = [
            collate(task, examples, chosen) for chosen in length_batches(examples.lengths, tokens)
        ]
        token_bytes = config.hidden * some.element_size()
        sizes = np.cumsum([batch.input_ids.numel() * token_bytes for batch in self.batches])
        self._cacheable = int(np.searchsorted(sizes, CACHE_BYTES, side="right"))  # batches
        self._reached: dict[int, tuple[int, Tensor]] = {}  # batch -> layer, what flows into it

    def mask(self, index: int) -> Tensor | None:
        """The padding mask of batch `index`, as `encoder_layer` takes it."""
        batch = self.batches[index]
        return padding_mask(batch.lengths.to(self.device), batch.input_ids.shape[1], self.dtype)

    @torch.no_grad()
    def into(self, layer: int, index: int) -> Tensor:
        """(B, T, hidden): what flows into encoder layer `layer` (0-based) for batch `index`."""
        weights, config = self.checkpoint.weights, self.checkpoint.config
        reached, x = self._reached.get(index, (config.layers, None))
        if x is None or reached > layer:
            batch = self.batches[index]
            ids, types = batch.input_ids.to(self.device), batch.token_type_ids.to(self.device)
            reached, x = 0, embed(weights, config, ids, types)
        mask = self.mask(index)
        for between in range(reached, layer):
            x, _ = encoder_layer(weights, config, between, x, mask)
        if index < self._cacheable:
            self._reached[index] = (layer, x)
        return x
