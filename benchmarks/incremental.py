"""After an edit of one layer, only what changed is computed again.

Peer: transformers' own model (naive.py), evaluated in full. Ours: an evaluator that holds the plan
before the edit; every edit leads to a plan, and to states, that were never computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.naive import BATCH, Naive
from benchmarks.record import Sample, Table, begin, goal, parser, ratio, rounds, save, spread, values
from benchmarks.stream import timed_stream
from qbert_core.bert import forward
from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.evaluation import Evaluator, calibration
from qbert_core.quantization import ActivationRanges, Plan, Quantizer, SitePlan, preset_named, sites_of
from qbert_core.quantization.integer import integer_products_pay
from qbert_core.tasks import Batch, Examples, Task, collate, length_batches, task_named
from qbert_core.tasks.data import read_table

SST2 = Path(__file__).resolve().parents[2] / "shared" / "data" / "sst2" / "validation_even.parquet"
TOKENS = 512  # a batch, as in the evaluator
CLAIM = "One edited layer costs at most a tenth of a naive evaluation of the whole model"


class Subject:
    """One model on one data set, and every way of measuring it that is compared."""

    def __init__(self, checkpoint: Checkpoint, task: Task, examples: Examples, seed: int) -> None:
        self.checkpoint, self.task, self.examples = checkpoint, task, examples
        self.ranges: ActivationRanges = calibration(checkpoint, task, examples, None)
        self.evaluator = Evaluator(checkpoint, task, examples, self.ranges)
        self.simulated = Evaluator(checkpoint, task, examples, self.ranges, integers=False)
        self.layers = checkpoint.config.layers
        four = preset_named(checkpoint.config, task.name, "qbert-4")
        ffn = {s.name: SitePlan(3, 128) for s in sites_of(checkpoint.config) if s.kind == "ffn"}
        # an edit takes a layer's FFN from 4 to 3 bits, or, from the second plan, from 3 to 4
        self._before = ((four, 3), (four.with_sites(ffn), 4))
        self._turn = count()
        self._groups = count(129)  # never one that was used before
        self._weights = Quantizer(checkpoint, self.ranges).model(with_activations(four, 32)).weights
        shuffled = np.random.default_rng(seed).permutation(len(examples)).tolist()
        wide = checkpoint.max_length
        self._batches = {
            f"padded to {wide}": [_widen(b, wide) for b in self._cut(list(range(len(examples))))],
            "random, padded to the longest": self._cut(shuffled),
            "sorted by length": [
                collate(task, examples, c) for c in length_batches(examples.lengths, TOKENS)
            ],
        }

    def _cut(self, order: list[int]) -> list[Batch]:
        starts = range(0, len(order), BATCH)
        return [collate(self.task, self.examples, order[start : start + BATCH]) for start in starts]

    @property
    def batchings(self) -> dict[str, int]:
        """Name -> padded tokens."""
        return {name: sum(b.input_ids.numel() for b in batches) for name, batches in self._batches.items()}

    def edit(self, layer: int, activation_bits: int = 8) -> dict[str, float]:
        """Change the FFN bits of one layer."""
        before, bits = self._before[next(self._turn) % 2]
        before = with_activations(before, activation_bits)
        sites = [s for s in sites_of(self.checkpoint.config) if s.kind == "ffn" and s.layer == layer]

        def edited() -> Plan:
            groups = next(self._groups)
            return before.with_sites({site.name: SitePlan(bits, groups) for site in sites})

        self.evaluator.evaluate(edited())  # what other variants pushed out in front of the layer is back
        return self._stream(self.evaluator, edited(), expected_share=(self.layers - layer) / self.layers)

    def whole(
        self, *, attention: bool = True, activation_bits: int = 8, integers: bool = True
    ) -> dict[str, float]:
        """Change the position table: every layer runs again, one site is quantized again."""
        evaluator = self.evaluator if integers else self.simulated
        before = with_activations(self._before[0][0], activation_bits)
        table = {"bert.embeddings.position_embeddings": SitePlan(8, next(self._groups))}
        return self._stream(evaluator, before.with_sites(table), expected_share=1.0, attention=attention)

    def scratch(self) -> dict[str, float]:
        """A new evaluator, the fp32 reference and every quantized weight included."""
        began = time.perf_counter()
        evaluator = Evaluator(self.checkpoint, self.task, self.examples, self.ranges)
        return self._stream(evaluator, self._before[0][0], expected_share=1.0, began=began)

    def forwards(self, batching: str) -> dict[str, float]:
        """Only the forward passes of the quantized model, activations in fp32."""
        began = time.perf_counter()
        with torch.no_grad():
            for b in self._batches[batching]:
                logits = forward(
                    self._weights, self.checkpoint.config, b.input_ids, b.token_type_ids, b.lengths
                )
                self.task.predict(logits, b)
        return {"seconds": time.perf_counter() - began}

    def naive(self, peer: Naive) -> dict[str, float]:
        """The peer, from ready-made quantized weights."""
        began = time.perf_counter()
        peer.evaluate(self._weights)
        return {"seconds": time.perf_counter() - began}

    def agree(self, peer: Naive) -> dict[str, float]:
        """That both measure the same: share of equal predictions, and the largest difference of a KL."""
        four = self._before[0][0]
        ours = self.evaluator.evaluate(with_activations(four, 32))
        predictions, kl = peer.evaluate(self._weights)
        assert kl is not None
        equal = sum(a == b for a, b in zip(ours.predictions, predictions, strict=True)) / len(predictions)
        difference = (torch.tensor(ours.attention_kl) - kl).abs().max()
        if equal < 0.99 or difference > 1e-3:
            raise SystemExit(
                f"the two do not measure the same: {equal:.3f} equal, KL off by {difference:.2e}"
            )
        return {"equal_predictions": equal, "largest_kl_difference": float(difference)}

    def _stream(
        self,
        evaluator: Evaluator,
        plan: Plan,
        *,
        expected_share: float,
        attention: bool = True,
        began: float | None = None,
    ) -> dict[str, float]:
        first, seconds, result = timed_stream(evaluator, plan, attention=attention, began=began)
        share = result.layers_run / result.layers_total
        if abs(share - expected_share) > 1e-9 or not result.complete:
            raise SystemExit(f"{share:.3f} of the layers ran, expected {expected_share:.3f}")
        return {"seconds": seconds, "first": first}


def with_activations(plan: Plan, bits: int) -> Plan:
    return replace(plan, activation_bits=bits)


def _widen(batch: Batch, width: int) -> Batch:
    more = (0, width - batch.input_ids.shape[1])
    ids, types = F.pad(batch.input_ids, more), F.pad(batch.token_type_ids, more)
    return Batch(batch.indices, ids, types, batch.lengths, batch.targets)


def tables(subject: Subject, samples: list[Sample]) -> tuple[list[Table], list[dict[str, object]]]:
    """Edits by layer, references, levers; and the goal."""
    peers = [values(samples, name) for name in ("naive with attention", "naive")]
    scratch = values(samples, "scratch")
    rows: list[list[object]] = []

    def row(name: str, times: list[float], first: list[float]) -> None:
        ratios = [ratio(times, other) for other in (*peers, scratch)]
        rows.append([name, spread(times), spread(first), *ratios])

    for layer in range(subject.layers):
        times, first = (values(samples, f"edit {layer + 1}", key) for key in ("seconds", "first"))
        row(f"edit of layer {layer + 1}", times, first)
    mean = over_layers(subject, samples, "edit", "seconds")
    float_mean = over_layers(subject, samples, "fp32 activations, edit", "seconds")
    row("**mean over the layers**", mean, over_layers(subject, samples, "edit", "first"))
    row(
        "the same, activations in fp32",
        float_mean,
        over_layers(subject, samples, "fp32 activations, edit", "first"),
    )
    for name, variant in (
        ("all layers (an embedding edit)", "whole"),
        ("from scratch, no caches", "scratch"),
    ):
        row(name, values(samples, variant), values(samples, variant, "first"))
    rows.append(["naive, with attention KL", spread(peers[0]), "", "1", "", ""])
    rows.append(["naive, accuracy only", spread(peers[1]), "", "", "1", ""])
    columns = ["evaluation", "seconds", "first partial result, s"]
    columns += ["to naive with attention KL", "to naive, accuracy only", "to ours from scratch"]
    edit = "A one-layer edit, attention measured, mean over layers, to the naive evaluation"
    goals = [
        goal(f"{edit} with attention KL", ratio(mean, peers[0]), 0.1),
        goal(f"{edit} of accuracy only", ratio(mean, peers[1]), 0.1),
        goal(f"{edit} with attention KL, activations in fp32 as there", ratio(float_mean, peers[0]), 0.1),
    ]
    edits = {"title": "One edited layer", "columns": columns, "rows": rows}
    return [edits, _levers(subject, samples, mean)], goals


def over_layers(subject: Subject, samples: list[Sample], edit: str, key: str) -> list[float]:
    """Mean over the layers, a round each."""
    by_layer = [values(samples, f"{edit} {layer + 1}", key) for layer in range(subject.layers)]
    return [sum(times) / len(times) for times in zip(*by_layer, strict=True)]


def _levers(subject: Subject, samples: list[Sample], mean: list[float]) -> Table:
    padded, shuffled, by_length = (values(samples, name) for name in subject.batchings)
    tokens = list(subject.batchings.values())
    bare, whole = values(samples, "whole, fp32 activations, no attention"), values(samples, "whole")
    rows = [
        ["forward passes alone, padded to full length", tokens[0], spread(padded), ""],
        ["padded to the longest of a random batch", tokens[1], spread(shuffled), ratio(shuffled, padded)],
        [
            f"sorted by length, {TOKENS} tokens a batch",
            tokens[2],
            spread(by_length),
            ratio(by_length, shuffled),
        ],
        ["with the evaluator around it", "", spread(bare), ratio(bare, by_length)],
    ]
    how = "in whole numbers" if integer_products_pay() else "in fp32 without int8 instructions"
    for name, variant in (
        ("+ inputs of linear layers quantized, in fp32", "whole, simulated, no attention"),
        (f"+ inputs of linear layers quantized, {how}", "whole, no attention"),
        ("+ attention KL", "whole, fp32 activations"),
        (f"+ attention KL, inputs quantized, {how}", "whole"),
    ):
        times = values(samples, variant)
        rows.append([name, "", spread(times), ratio(times, bare)])
    rows.append(
        ["of the last: only layers that changed, mean over layers", "", spread(mean), ratio(mean, whole)]
    )
    return {
        "title": "Each lever by itself: the ratio is to the line above; of the + lines, to the evaluator's",
        "columns": ["what", "padded tokens", "seconds", "ratio"],
        "rows": rows,
    }


def main() -> None:
    options = parser(__doc__, 5)
    options.add_argument("--model", default="demo")
    options.add_argument("--data", default=str(SST2) if SST2.is_file() else "demo")
    options.add_argument("--limit", type=int)
    arguments = options.parse_args()
    checkpoint = load_checkpoint(arguments.model)
    task = task_named("sst2")
    table = read_table(arguments.data, limit=arguments.limit)
    subject = Subject(checkpoint, task, task.examples(table, checkpoint, arguments.data), arguments.seed)
    peer, peer_with_attention = (Naive(checkpoint, subject.examples, attention=a) for a in (False, True))
    agreement = subject.agree(peer_with_attention)

    variants: dict[str, Callable[[], dict[str, float]]] = {
        "naive": lambda: subject.naive(peer),
        "naive with attention": lambda: subject.naive(peer_with_attention),
        "scratch": subject.scratch,
        "whole": subject.whole,
        "whole, no attention": lambda: subject.whole(attention=False),
        "whole, fp32 activations": lambda: subject.whole(activation_bits=32),
        "whole, simulated, no attention": lambda: subject.whole(attention=False, integers=False),
        "whole, fp32 activations, no attention": lambda: subject.whole(attention=False, activation_bits=32),
    }
    for layer in range(subject.layers):
        variants[f"edit {layer + 1}"] = lambda layer=layer: subject.edit(layer)  # type: ignore[misc]
        variants[f"fp32 activations, edit {layer + 1}"] = lambda layer=layer: subject.edit(layer, 32)  # type: ignore[misc]
    for batching in subject.batchings:
        variants[batching] = lambda batching=batching: subject.forwards(batching)  # type: ignore[misc]

    began = begin()
    samples = rounds(variants, arguments.repeats, seed=arguments.seed, patience=arguments.patience)
    made, goals = tables(subject, samples)
    data = {
        "model": checkpoint.name,
        "fingerprint": checkpoint.fingerprint,
        "data": Path(arguments.data).name,
        "examples": len(subject.examples),
        "tokens": int(subject.examples.lengths.sum()),
        "agreement": agreement,
    }
    save("incremental", CLAIM, arguments, began, samples, made, goals, measured=data)


if __name__ == "__main__":
    main()
