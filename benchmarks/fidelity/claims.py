"""The paper's claims as numbers that must be above a limit, written down before anything was measured.

A claim is confirmed when the whole 95 % interval lies above its limit, not confirmed when it lies
below, undecided else. Where the paper says "far" or "little", the limit says what we take that to be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.fidelity.contrast import Key, Measured
from qbert_core.curvature import Sensitivity

BITS = (4, 3, 2)
RESAMPLES = 2000
RECOVERED = 0.5  # "far above uniform 2 bits": at least half of what uniform 2 bits lose
LITTLE = 1.25  # "at little size": at most so many times the size of uniform 2 bits
FAR_KL = 0.5  # "far below": the geometric mean of the heads' ratios is below this
LOSS = 0.023  # "at most 2.3 %"


@dataclass(frozen=True)
class Verdict:
    """What was found of one claim in one setting."""

    claim: str
    setting: str  # "no finetuning", "finetuned" or "curvature"
    verdict: str  # confirmed, not confirmed, undecided
    what: str  # the number, in words
    value: float
    interval: tuple[float, float]
    limit: float
    n: str  # over what

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    claim: str,
    setting: str,
    what: str,
    value: float,
    interval: tuple[float, float],
    n: str,
    limit: float = 0.0,
) -> Verdict:
    """The verdict on "`what` is above `limit`"."""
    low, high = interval
    verdict = "confirmed" if low > limit else "not confirmed" if high < limit else "undecided"
    return Verdict(claim, setting, verdict, what, value, interval, limit, n)


def of_curvature(found: Sensitivity, seed: int = 0) -> list[Verdict]:
    """Claims about the eigenvalues of the layers, by resampling runs."""
    lambdas = np.array([block.lambdas for block in found.blocks])  # (layers, runs)
    layers, runs = lambdas.shape
    generator = np.random.default_rng(seed)
    drawn = [lambdas[:, generator.integers(runs, size=runs)] for _ in range(RESAMPLES)]
    third = layers / 3
    middle = [i for i in range(layers) if third <= i + 0.5 <= 2 * third]
    last = [i for i in range(layers) if i + 0.5 > 2 * third]

    def excess(sample: np.ndarray) -> float:
        """log of middle layers' mean |lambda| to the last ones'."""
        size = np.abs(sample).mean(1)
        return float(np.log(size[middle].mean() / size[last].mean()))

    def orders_differ(sample: np.ndarray) -> bool:
        mean, std = np.abs(sample.mean(1)), sample.std(1)
        return bool((np.argsort(mean + std) != np.argsort(mean)).any())

    low, high = np.percentile([excess(sample) for sample in drawn], [2.5, 97.5])
    value = excess(lambdas)
    n = f"{runs} runs of {found.examples} examples"
    share = float(np.mean([orders_differ(sample) for sample in drawn]))
    differs = orders_differ(lambdas)
    certain = "confirmed" if differs and share > 0.95 else "undecided"
    if not differs and share < 0.05:
        certain = "not confirmed"
    return [
        judge(
            "lambda of the middle layers is above that of the last",
            "curvature",
            f"log of the ratio of the mean size of lambda, layers {_names(middle)} to {_names(last)}",
            value,
            (min(float(low), value), max(float(high), value)),
            n,
        ),
        Verdict(
            "the spread is so large that Omega and the mean order layers differently",
            "curvature",
            certain,
            "share of resamples in which the orders differ"
            + (", as they do over all runs" if differs else ", over all runs they do not"),
            share,
            (share, share),
            0.95,
            n,
        ),
    ]


def of_plans(measured: Measured, sizes: Mapping[str, float], finetuned: bool) -> list[Verdict]:
    """Claims about plans, all without finetuning or all with; those whose plans were not measured are
    left out. `sizes` are MB as stored, by plan."""
    setting = "finetuned" if finetuned else "no finetuning"
    metric = measured.task.metric
    base = ("baseline", False)
    found: list[Verdict] = []

    def has(*names: str) -> bool:
        return all((name, finetuned) in measured.grades for name in names)

    def key(name: str) -> Key:
        return (name, finetuned)

    def say(claim: str, what: str, weights: Mapping[Key, float], limit: float = 0.0) -> None:
        value, interval = measured.contrast(weights)
        seeds = max(len(measured.grades[k]) for k in weights)
        n = f"{measured.n} examples" + (f", {seeds} seeds" if finetuned else "")
        found.append(judge(claim, setting, f"{metric}: {what}", value, interval, n, limit))

    def named(prefix: str) -> str | None:
        return next((name for name, f in measured.grades if f == finetuned and name.startswith(prefix)), None)

    for bits in BITS:
        if has(f"qbert-{bits}", f"directq-{bits}"):
            say(
                f"Q-BERT is above DirectQ at {bits} bits",
                f"qbert-{bits} - directq-{bits}",
                {key(f"qbert-{bits}"): 1, key(f"directq-{bits}"): -1},
            )
    if has("qbert-4", "directq-4", "qbert-2", "directq-2"):
        say(
            "the gap grows as bits fall",
            "gap at 2 bits - gap at 4 bits",
            {key("qbert-2"): 1, key("directq-2"): -1, key("qbert-4"): -1, key("directq-4"): 1},
        )
    mixed, paper = named("qbert-mp-2-3-high"), named("qbert-mp-2-3-paper")
    for rule, name in (("Omega", mixed), ("the paper's layers", paper)):
        if name and has("qbert-2"):
            size = f"at {sizes[name] / sizes['qbert-2']:.2f} times its size"
            say(
                f"2/3 mixed precision by {rule} is far above uniform 2 bits at little size",
                f"{name} - qbert-2 - {RECOVERED:g} (baseline - qbert-2), {size}",
                {key(name): 1, key("qbert-2"): RECOVERED - 1, base: -RECOVERED},
            )
            if sizes[name] > LITTLE * sizes["qbert-2"]:
                found[-1] = Verdict(**{**asdict(found[-1]), "verdict": "not confirmed"})
    for pair in ("2-3", "2-4"):
        forward, backward = named(f"qbert-mp-{pair}-high"), named(f"reverse-{pair}")
        if forward and backward:
            say(
                f"the sensitivity order is above its reverse, {pair.replace('-', '/')}",
                f"{forward} - {backward}",
                {key(forward): 1, key(backward): -1},
            )
    groups = ("groups-1", "groups-heads", "groups-128", "groups-rows")
    if has(*groups):
        one, heads, many, rows = map(key, groups)
        say(
            "what more groups gain saturates",
            "(heads - 1 group) - (a group a row - 128 groups)",
            {heads: 1, one: -1, rows: -1, many: 1},
        )
    for bits in (4, 2):
        if has(f"embedding-{bits}", f"qbert-{bits}"):
            say(
                f"the embedding is more sensitive than the encoder's weights, {bits} bits",
                f"encoder at {bits} (embedding 8) - embedding at {bits} (encoder fp32)",
                {key(f"qbert-{bits}"): 1, key(f"embedding-{bits}"): -1},
            )
        if has(f"word-{bits}", f"position-{bits}"):
            say(
                f"the position embedding is more sensitive than the word embedding, {bits} bits",
                f"word-{bits} - position-{bits}",
                {key(f"word-{bits}"): 1, key(f"position-{bits}"): -1},
            )
    for suffix, words in (("1-2-mp", "1/2 mixed precision"), ("2", "2 bits")):
        if has(f"attention-{suffix}", f"ffn-{suffix}"):
            say(
                f"attention is more robust than the FFN, {words}",
                f"attention-{suffix} - ffn-{suffix}",
                {key(f"attention-{suffix}"): 1, key(f"ffn-{suffix}"): -1},
            )
    if finetuned:
        for name in (mixed, paper):
            if name:
                say(
                    f"quantization-aware finetuning is within {LOSS:.1%} of fp32 at about 13 times less weight, {name}",
                    f"{name} - baseline",
                    {key(name): 1, base: -1},
                    -LOSS,
                )
    return found


def of_attention(
    kl: Mapping[Key, Sequence[Sequence[float]]], finetuned: bool, seed: int = 0
) -> list[Verdict]:
    """Q-BERT's attention KL against DirectQ's, by resampling heads."""
    found = []
    for bits in BITS:
        keys = ((f"qbert-{bits}", finetuned), (f"directq-{bits}", finetuned))
        if any(k not in kl for k in keys):
            continue
        ours, direct = (np.array(kl[k]).ravel() for k in keys)
        logs = np.log(direct / ours)
        generator = np.random.default_rng(seed)
        means = logs[generator.integers(len(logs), size=(RESAMPLES, len(logs)))].mean(1)
        low, high = np.percentile(means, [2.5, 97.5])
        found.append(
            judge(
                f"attention KL of Q-BERT is far below DirectQ's at {bits} bits",
                "finetuned" if finetuned else "no finetuning",
                f"mean over heads of log(KL of directq-{bits} / KL of qbert-{bits})",
                float(logs.mean()),
                (float(low), float(high)),
                f"{len(logs)} heads",
                -math.log(FAR_KL),
            )
        )
    return found


def _names(layers: Sequence[int]) -> str:
    return " ".join(f"L{layer + 1}" for layer in layers)
