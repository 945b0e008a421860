"""Quantizing the whole of BERT-base costs no more than copying it twice, whatever the number of groups.

Peers: two `clone` passes over the same tensors, two `copy_` passes into memory that is already there,
a loop over the groups, and torch's own kernel for fake quantization with ranges from `amin`, `amax`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.record import Sample, Table, begin, goal, parser, ratio, rounds, save, spread, values
from qbert_core.bert import BertConfig
from qbert_core.quantization import fake_quantize, sites_of
from qbert_core.quantization.integer import IntegerLinear, integer_linear

BITS = 4
GROUPS = {"1": 1, "12": 12, "128": 128, "768": 768, "one a row": 10**9}
BERT_BASE = BertConfig("sequence", ("negative", "positive"), 12, 12, 768, 3072, 30522, 512, 2)
CLAIM = "Quantizing every weight of BERT-base costs at most two copies of it, for any number of groups"

Quantizer = Callable[[Tensor, int], Tensor | IntegerLinear]  # weight (rows, columns), groups


def ours(weight: Tensor, groups: int) -> Tensor:
    return fake_quantize(weight, BITS, groups)


def as_whole_numbers(weight: Tensor, groups: int) -> IntegerLinear | Tensor:
    """What the evaluator makes of a linear layer: int8 codes and their sums, ready to multiply."""
    return (
        integer_linear(weight, BITS, groups, 100.0)
        if weight.shape[0] in (768, 3072)
        else ours(weight, groups)
    )


def loop_over_groups(weight: Tensor, groups: int) -> Tensor:
    """The definition, a group at a time."""
    levels = 2**BITS - 1
    parts = []
    for group in torch.tensor_split(weight, min(groups, weight.shape[0])):
        low, high = group.min().clamp(max=0), group.max().clamp(min=0)
        scale = (high - low) / levels
        zero = torch.round(-low / scale)
        codes = torch.clamp(torch.round(group / scale) + zero, 0, levels)
        parts.append((codes - zero) * scale)
    return torch.cat(parts)


def torch_per_channel(weight: Tensor, groups: int) -> Tensor:
    """torch's kernel for fake quantization, a group a channel."""
    levels = 2**BITS - 1
    rows, columns = weight.shape
    small, larger = divmod(rows, min(groups, rows))  # the first `larger` groups have one row more
    parts = []
    for part, height in (
        (weight[: larger * (small + 1)], small + 1),
        (weight[larger * (small + 1) :], small),
    ):
        if len(part):
            view = part.view(-1, height * columns)
            low, high = view.amin(1), view.amax(1)
            scale = (high.clamp_(min=0) - low.clamp_(max=0)) / levels
            zero = torch.round(-low / scale).int()
            parts.append(
                torch.fake_quantize_per_channel_affine(view, scale, zero, 0, 0, levels).view(part.shape)
            )
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def agreement(weights: list[Tensor]) -> dict[str, float]:
    """Share of values that peers and we agree on bit for bit, at 128 groups."""
    sample = weights[:1] + weights[3:9]
    total = sum(w.numel() for w in sample)
    same = {}
    for name, peer in (("loop_over_groups", loop_over_groups), ("torch_per_channel", torch_per_channel)):
        same[name] = sum(int((peer(w, 128) == ours(w, 128)).sum()) for w in sample) / total
    if same["loop_over_groups"] < 1 or same["torch_per_channel"] < 0.999:
        raise SystemExit(f"the quantizers do not agree: {same}")
    return same


def timed(work: Callable[[], object]) -> Callable[[], dict[str, float]]:
    def measure() -> dict[str, float]:
        began = time.perf_counter()
        kept = work()
        seconds = time.perf_counter() - began
        del kept
        return {"seconds": seconds}

    return measure


def variants(weights: list[Tensor]) -> dict[str, Callable[[], dict[str, float]]]:
    targets = [torch.empty_like(w).fill_(0) for w in weights]

    def clone_twice() -> list[Tensor]:
        clones = [w.clone() for w in weights]
        del clones
        return [w.clone() for w in weights]

    def copy_twice() -> None:
        for _ in range(2):
            for target, weight in zip(targets, weights, strict=True):
                target.copy_(weight)

    def all_sites(quantizer: Quantizer, groups: int) -> Callable[[], list[Tensor | IntegerLinear]]:
        return lambda: [quantizer(w, groups) for w in weights]

    made = {"clone twice": timed(clone_twice), "copy_ twice": timed(copy_twice)}
    for name, groups in GROUPS.items():
        made[f"ours, {name}"] = timed(all_sites(ours, groups))
    made["ours as int8 codes, 128"] = timed(all_sites(as_whole_numbers, 128))
    made["loop over groups, 128"] = timed(all_sites(loop_over_groups, 128))
    made["torch per channel, 128"] = timed(all_sites(torch_per_channel, 128))
    return made


def tables(samples: list[Sample], names: list[str]) -> tuple[list[Table], list[dict[str, object]]]:
    clone, copy = values(samples, "clone twice"), values(samples, "copy_ twice")
    rows = []
    for name in names:
        times = values(samples, name)
        rows.append([name, spread(times), ratio(times, clone), ratio(times, copy)])
    by_groups = [values(samples, f"ours, {name}") for name in GROUPS]
    worst = [max(row) for row in zip(*by_groups, strict=True)]
    best = [min(row) for row in zip(*by_groups, strict=True)]
    goals = [
        goal("Quantizing at 128 groups, to cloning twice", ratio(values(samples, "ours, 128"), clone), 1),
        goal("The slowest number of groups, to cloning twice", ratio(worst, clone), 1),
        goal("The slowest number of groups, to the fastest", ratio(worst, best), 1.5),
    ]
    columns = ["what, groups", "seconds", "to two clones", "to two copies into memory that is there"]
    return [{"title": "All 75 matrices of BERT-base, 4 bits", "columns": columns, "rows": rows}], goals


def main() -> None:
    options = parser(__doc__, 15)
    options.add_argument("--layers", type=int, default=BERT_BASE.layers, help="fewer for a trial run")
    arguments = options.parse_args()
    torch.manual_seed(arguments.seed)
    sites = [s for s in sites_of(BERT_BASE) if s.layer is None or s.layer < arguments.layers]
    weights = [torch.randn(site.rows, site.columns) * 0.02 for site in sites]
    agreed = agreement(weights)
    began = begin()
    made = variants(weights)
    samples = rounds(made, arguments.repeats, seed=arguments.seed, patience=arguments.patience)
    rows, goals = tables(samples, list(made))
    facts = {"matrices": len(weights), "values": sum(w.numel() for w in weights), "agreement": agreed}
    save("quantizer", CLAIM, arguments, began, samples, rows, goals, measured=facts)


if __name__ == "__main__":
    main()
