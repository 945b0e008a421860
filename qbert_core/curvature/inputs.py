"""The examples of one run in batches, and the model linearized around them, shared by all blocks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qbert_core.bert import embed, encoder_layer, head, padding_mask
from qbert_core.checkpoints import Checkpoint
from qbert_core.curvature.linearized import Layout, LinearizedEmbedding, LinearizedLayer
from qbert_core.errors import InputError
from qbert_core.tasks import Batch, Examples, Task, collate, length_batches

# Padded tokens a batch. Few enough that a batch's values stay in a CPU's cache and that a cancel waits
# for little; an accelerator idles on so few.
BATCH_TOKENS = 256
BATCH_TOKENS_ACCELERATOR = 8192
CACHE_BYTES = 2**31  # of hidden states
LINEARIZED_BYTES = 2**31  # of linearized batches
TABLES = {table: f"bert.embeddings.{table}_embeddings.weight" for table in ("word", "position", "token_type")}


class LinearizedBatch:
    """Loss sum of one batch around the weights: its encoder layers from some layer up, and its head.

    `count` is what the loss sum is a mean over: examples, or labelled tokens.
    """

    def __init__(self, checkpoint: Checkpoint, task: Task, batch: Batch, device: torch.device) -> None:
        self.batch = batch
        self.layout = Layout.of(batch.lengths.to(device), batch.input_ids.shape[1])
        self.count = 0
        self._checkpoint, self._task, self._device = checkpoint, task, device
        self.layers: dict[int, LinearizedLayer] = {}
        self.lowest = checkpoint.config.layers + 1  # layer that is linearized
        self._xbar: Tensor  # adjoint of what flows into the lowest layer
        self._leaf: Tensor  # what flows into the head, a leaf of the gradient's graph
        self._gradient: Tensor | None = None  # of the loss sum by it, differentiable
        self._embedding: LinearizedEmbedding | None = None

    def down_to(self, layer: int, x: Tensor) -> None:
        """Linearize the layers from `layer` up that are not yet; x (B, T, hidden) flows into it."""
        config = self._checkpoint.config
        x = self.layout.pack(x)
        lengths = self.batch.lengths.to(self._device)
        top = min(self.lowest, config.layers)
        for index in range(layer, top):
            first_only = config.head == "sequence" and index == config.layers - 1
            self.layers[index] = LinearizedLayer(
                self._checkpoint.weights, config, index, x, self.layout, lengths, first_only
            )
            x = self.layers[index].value
        if self._gradient is None:
            self._xbar = self._close(x)
        for index in reversed(range(layer, top)):
            self._xbar = self.layers[index].adjoint(self._xbar)
        self.lowest = layer

    @property
    def xbar(self) -> Tensor:
        """(N, hidden): derivative of the loss sum by what flows into the lowest linearized layer."""
        return self._xbar

    def embedding(self) -> LinearizedEmbedding:
        """The embeddings around their tables; all layers must be linearized."""
        if self._embedding is None:
            checkpoint = self._checkpoint
            rows = {name: self.table_rows(name) for name in TABLES.values()}
            self._embedding = LinearizedEmbedding(checkpoint.weights, checkpoint.config, rows, self._xbar)
        return self._embedding

    def table_rows(self, parameter: str) -> Tensor:
        """(N,): each packed token's row in an embedding table."""
        device, (count, width) = self._device, self.layout.shape
        if parameter == TABLES["position"]:
            ids = torch.arange(width, device=device).expand(count, width)
        else:
            ids = self.batch.input_ids if parameter == TABLES["word"] else self.batch.token_type_ids
        return self.layout.pack(ids.to(device).unsqueeze(2)).squeeze(1)

    def head_tangent(self, dx: Tensor) -> Tensor:
        """Second derivative of the loss sum by what flows into the head, times its tangent."""
        assert self._gradient is not None
        # a number, and not dx as `grad_outputs`: where those are given torch imports sympy, half a second
        with torch.enable_grad():
            slope = (self._gradient * dx).sum()
        (result,) = torch.autograd.grad(slope, self._leaf, retain_graph=True, materialize_grads=True)
        return result

    def _close(self, x: Tensor) -> Tensor:
        """Head and loss, by automatic differentiation: they are small, and the task's own."""
        weights, config = self._checkpoint.weights, self._checkpoint.config
        with torch.enable_grad():
            self._leaf = x.detach().requires_grad_()
            rows = self._leaf.unsqueeze(1) if config.head == "sequence" else self.layout.pad(self._leaf)
            loss, self.count = self._task.loss(head(weights, config, rows), self.batch)
            if not torch.isfinite(loss):
                raise InputError(
                    f"the loss is {loss.item()}; this model does not give finite logits "
                    f"on these examples, check it with evaluate"
                )
            if not self.count:
                self._gradient = torch.zeros_like(self._leaf)
            else:
                (self._gradient,) = torch.autograd.grad(loss, self._leaf, create_graph=True)
        return self._gradient.detach()


class LayerInputs:
    """The examples of a run in batches of like length.

    `into` runs them without gradients up to a layer and remembers how far each batch got: blocks are
    visited from the first layer up, so over a whole run every layer is computed once. `linearized`
    keeps batches, linearized, for all blocks of the run; those beyond `keep_bytes` are made anew for every
    product.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        task: Task,
        examples: Examples,
        tokens: int | None = None,
        keep_bytes: int | None = None,  # of linearized batches; LINEARIZED_BYTES when not given
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
        self._linearized: dict[int, LinearizedBatch] = {}
        self._keep_bytes = LINEARIZED_BYTES if keep_bytes is None else keep_bytes
        self.linearized_bytes = 0  # held now

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

    def used_rows(self, parameter: str) -> Tensor:
        """The rows of an embedding table that the examples use, ascending."""
        rows = [self._batch(batch).table_rows(parameter) for batch in self.batches]
        used: Tensor = torch.cat(rows).unique()
        return used

    @torch.no_grad()
    def linearized(self, index: int, layer: int) -> LinearizedBatch:
        """Batch `index` linearized from encoder layer `layer` up."""
        made = self._linearized.get(index)
        if made is None:
            made = self._batch(self.batches[index])
            held = self._bytes(made.batch)
            if self.linearized_bytes + held <= self._keep_bytes:
                self.linearized_bytes += held
                self._linearized[index] = made
        if layer < made.lowest:
            made.down_to(layer, self.into(layer, index))
        return made

    def linearize(self) -> None:
        """Linearize what is kept from the first layer up, as a run does that begins with the first block.

        Where a batch was linearized from decides how what flows into a layer was rounded; so a block gets
        the same last digits whether the blocks before it were computed here or elsewhere.
        """
        for index, batch in enumerate(self.batches):
            if index in self._linearized or self.linearized_bytes + self._bytes(batch) <= self._keep_bytes:
                self.linearized(index, 0)

    def _batch(self, batch: Batch) -> LinearizedBatch:
        return LinearizedBatch(self.checkpoint, self.task, batch, self.device)

    def _bytes(self, batch: Batch) -> int:
        """What a batch holds when all its layers are linearized, the rounded copies included."""
        config = self.checkpoint.config
        a_token = 30 * config.hidden + 5 * config.intermediate + 3 * config.heads * batch.input_ids.shape[1]
        return int(batch.lengths.sum()) * config.layers * a_token * self.dtype.itemsize
