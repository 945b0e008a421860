"""What each lever of the curvature engine is worth, one at a time, on the demo and real SST-2 rows.

First the cost of one Hessian-vector product of the first, a middle and the last layer, by variants that
give the same vector (checked): differentiating a gradient's graph, forward over reverse, ours exact and
rounded, batches of other sizes. Then whole eigenvalues: where the iteration starts, what it must prove,
how large its basis is, which products it uses.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import ROOT, begin, parser, ratio, rounds, save, spread, values
from qbert_core.bert import encoder_layer, head
from qbert_core.checkpoints import load_checkpoint
from qbert_core.curvature import (
    Block,
    BlockHessian,
    Eigenpair,
    LayerInputs,
    blocks_of,
    draw,
    largest_eigenpair,
    random_start,
)
from qbert_core.tasks import task_named
from qbert_core.tasks.data import read_table

CLAIM = "Each lever of the curvature engine, measured by itself"
DATA = ROOT.parent / "shared" / "data" / "sst2" / "train.parquet"
ROWS = 64

Product = Callable[[Tensor], Tensor]


class Differentiated:
    """H v by automatic differentiation of the loss on the same batches, the graph cut at the block."""

    def __init__(self, inputs: LayerInputs, block: Block, keep: bool) -> None:
        weights = inputs.checkpoint.weights
        self._leaves = {name: weights[name].clone().requires_grad_() for name in block.parameters}
        self._weights = {**weights, **self._leaves}
        self._inputs, self._block, self._keep = inputs, block, keep
        # what flows into the block, computed outside of any differentiation
        self._into = [inputs.into(block.layer, index) for index in range(len(inputs.batches))]
        self._kept: dict[int, tuple[Tensor, ...]] = {}

    def loss(self, index: int, weights: dict[str, Tensor]) -> Tensor:
        inputs, config = self._inputs, self._inputs.checkpoint.config
        x = self._into[index]
        for layer in range(self._block.layer, config.layers):
            x, _ = encoder_layer(weights, config, layer, x, inputs.mask(index))
        total, _ = inputs.task.loss(head(weights, config, x), inputs.batches[index])
        return total

    def directions(self, v: Tensor) -> list[Tensor]:
        parts = torch.split(v, [leaf.numel() for leaf in self._leaves.values()])
        return [part.view_as(leaf) for part, leaf in zip(parts, self._leaves.values(), strict=True)]

    def reverse_over_reverse(self, v: Tensor) -> Tensor:
        leaves, directions, total = list(self._leaves.values()), self.directions(v), torch.zeros_like(v)
        for index in range(len(self._inputs.batches)):
            gradient = self._kept.get(index)
            if gradient is None:
                gradient = torch.autograd.grad(self.loss(index, self._weights), leaves, create_graph=True)
                if self._keep:
                    self._kept[index] = gradient
            terms = torch.autograd.grad(gradient, leaves, directions, retain_graph=self._keep)
            total += torch.cat([term.reshape(-1) for term in terms])
        return total / ROWS

    def forward_over_reverse(self, v: Tensor) -> Tensor:
        return self._jvp(self.directions(v))

    def _jvp(self, directions: list[Tensor]) -> Tensor:
        names, total = list(self._leaves), None
        point = tuple(self._inputs.checkpoint.weights[name] for name in names)
        for index in range(len(self._inputs.batches)):

            def gradient(*leaves: Tensor, index: int = index) -> tuple[Tensor, ...]:
                def loss(leaves: tuple[Tensor, ...]) -> Tensor:
                    named = dict(zip(names, leaves, strict=True))
                    return self.loss(index, {**self._inputs.checkpoint.weights, **named})

                return torch.func.grad(loss)(leaves)

            _, terms = torch.func.jvp(gradient, point, tuple(directions))
            term = torch.cat([part.reshape(-1) for part in terms])
            total = term if total is None else total + term
        assert total is not None
        return total / ROWS


def main() -> None:
    options = parser(__doc__, 5)
    options.add_argument("--model", default="demo")
    options.add_argument("--data", type=Path, default=DATA)
    options.add_argument("--draws", type=int, default=2, help="for the second table")
    arguments = options.parse_args()
    began = begin()
    checkpoint, task = load_checkpoint(arguments.model), task_named("sst2")
    examples = task.examples(read_table(str(arguments.data), split="train"), checkpoint, str(arguments.data))

    def inputs_of(run: int, tokens: int | None = None) -> LayerInputs:
        chosen = draw(len(examples), ROWS / len(examples), arguments.seed, run)
        return LayerInputs(checkpoint, task, examples.take(chosen), tokens)

    samples, table = products(arguments, inputs_of, blocks_of(checkpoint.config))
    found = eigenvalues(arguments, inputs_of, blocks_of(checkpoint.config))
    save("curvature_levers", CLAIM, arguments, began, samples, [table, found], [])


def products(arguments: Any, inputs_of: Any, blocks: tuple[Block, ...]) -> tuple[list[Any], dict[str, Any]]:
    layers = (0, len(blocks) // 2, len(blocks) - 1)
    variants: dict[str, Callable[[], dict[str, float]]] = {}
    shared = inputs_of(0)
    for layer in layers:
        block = blocks[layer]
        v = random_start(BlockHessian(shared, block).size, 0)
        v /= torch.linalg.vector_norm(v)
        kept, rebuilt = Differentiated(shared, block, True), Differentiated(shared, block, False)
        ways: dict[str, Product] = {
            "graph rebuilt, reverse over reverse": rebuilt.reverse_over_reverse,
            "forward over reverse (torch.func)": rebuilt.forward_over_reverse,
            "graph kept, reverse over reverse": kept.reverse_over_reverse,
        }
        for tokens in (128, 256, 512, 1024):
            hessian = BlockHessian(inputs_of(0, tokens), block)
            ways[f"ours, exact, {tokens} tokens a batch"] = hessian.matvec
            ways[f"ours, rounded, {tokens} tokens a batch"] = partial(hessian.matvec, fast=True)
        expected = ways["graph kept, reverse over reverse"](v)
        for name, way in ways.items():
            error = float(torch.linalg.vector_norm(way(v) - expected) / torch.linalg.vector_norm(expected))
            allowed = 0.02 if "rounded" in name else 1e-3
            if error > allowed:
                raise SystemExit(f"{name}, layer {layer}: differs by {error:.2g}")
            variants[f"{name}|{layer}"] = partial(timed, way, v, error)
    samples = rounds(variants, arguments.repeats, seed=arguments.seed, patience=arguments.patience)
    rows = []
    for name in dict.fromkeys(variant.split("|")[0] for variant in variants):
        row: list[Any] = [name]
        for layer in layers:
            own = values(samples, f"{name}|{layer}")
            row += [spread(own), ratio(own, values(samples, f"graph kept, reverse over reverse|{layer}"))]
        row.append(max(s["error"] for s in samples if s["variant"].startswith(f"{name}|")))
        rows.append(row)
    columns = ["way"]
    for layer in layers:
        columns += [f"L{layer + 1}, s", "to graph kept"]
    return samples, {
        "title": "One product",
        "columns": [*columns, "relative difference, at most"],
        "rows": rows,
    }


def timed(way: Product, v: Tensor, error: float) -> dict[str, float]:
    started = time.perf_counter()
    way(v)
    return {"seconds": time.perf_counter() - started, "error": error}


def eigenvalues(arguments: Any, inputs_of: Any, blocks: tuple[Block, ...]) -> dict[str, Any]:
    """Products and seconds of all layers of a draw; `previous` holds the eigenvectors of the draw before."""
    previous = {b: ours(inputs_of(99), blocks[b]) for b in range(len(blocks))}
    ways: dict[str, Callable[[LayerInputs, int], Eigenpair]] = {
        "as it is": lambda inputs, b: ours(inputs, blocks[b]),
        "exact products only": lambda inputs, b: ours(inputs, blocks[b], rounded=False),
        "a basis of 8 vectors, restarted": lambda inputs, b: ours(inputs, blocks[b], basis_vectors=8),
        "started from another draw's eigenvector": lambda inputs, b: ours(
            inputs, blocks[b], start=previous[b].vector
        ),
        "stopped by the residual alone": lambda inputs, b: uncertified(inputs, blocks[b]),
    }
    rows, truth = [], {}
    for name, way in ways.items():
        counts, seconds, wrong = [], [], 0
        for run in range(arguments.draws):
            inputs = inputs_of(run)
            started = time.perf_counter()
            pairs = [way(inputs, b) for b in range(len(blocks))]
            seconds.append(time.perf_counter() - started)
            counts.append(sum(pair.products for pair in pairs))
            for b, pair in enumerate(pairs):
                known = truth.setdefault((run, b), pair.value)
                wrong += abs(pair.value - known) > 0.02 * abs(known)
            print(name, run, seconds[-1], counts[-1], file=sys.stderr, flush=True)
        rows.append([name, spread(counts), spread(seconds), f"{wrong} of {arguments.draws * len(blocks)}"])
    cosines = [
        abs(float(previous[b].vector @ ours(inputs_of(0), blocks[b]).vector)) for b in range(len(blocks))
    ]
    rows.append([f"(cosine with another draw's: {', '.join(f'{c:.2f}' for c in cosines)})", "", "", ""])
    columns = ["all layers of a draw", "products", "seconds", "off by more than 2 %"]
    return {"title": "Whole eigenvalues", "columns": columns, "rows": rows}


def ours(
    inputs: LayerInputs, block: Block, *, rounded: bool = True, start: Tensor | None = None, **more: Any
) -> Eigenpair:
    hessian = BlockHessian(inputs, block)
    start = random_start(hessian.size, block.layer) if start is None else start
    fast = partial(hessian.matvec, fast=True) if rounded and hessian.has_fast else None
    return largest_eigenpair(hessian.matvec, start, fast=fast, **more)


def uncertified(inputs: LayerInputs, block: Block) -> Eigenpair:
    """The same iteration, ended as soon as the residual is small, whatever else may be there."""
    from qbert_core.curvature import eigen

    kept, eigen.RISK = eigen.RISK, 1.0
    try:
        return ours(inputs, block)
    finally:
        eigen.RISK = kept


if __name__ == "__main__":
    main()
