"""From sensitivity to bits by rank: the most fragile layers get the higher of two widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qbert_core.curvature import Sensitivity
from qbert_core.errors import InputError

RULES = ("omega", "mean", "omega-perturbation", "trace-perturbation")


def rank(
    sensitivity: Sensitivity, rule: str = "omega", perturbations: Mapping[int, float] | None = None
) -> list[tuple[int, float]]:
    """(layer, score), most sensitive first; of equal scores the lower layer comes first.

    `omega`: |mean(lambda)| + std(lambda), Q-BERT's. `mean`: |mean(lambda)|, as in HAWQ (Dong et al.
    2019). `trace-perturbation`: trace(H) x |W - Q(W)|^2, HAWQ-V2's (Dong et al. 2020; they take the
    trace a parameter, which orders encoder layers alike: all have as many). `omega-perturbation`: the
    same with Omega in the place of the trace. `perturbations` says |W - Q(W)|^2 of every layer (see
    `perturbation.layer_perturbations`) and is used by these two rules alone. Raises `InputError` for another
    rule, perturbations that are missing, or blocks that are not whole layers.
    """
    if rule not in RULES:
        raise InputError(f"rule {rule!r} is not known here; expected one of {', '.join(RULES)}")
    if sensitivity.granularity != "layer":
        raise InputError(
            f"ranking layers needs one block a layer, this sensitivity has one a {sensitivity.granularity}; "
            f"compute it with --block layer"
        )
    if rule == "mean":
        scores = [(block.layer, abs(block.mean)) for block in sensitivity.blocks]
    else:
        scores = [(block.layer, block.omega) for block in sensitivity.blocks]
    if rule == "trace-perturbation":
        traces = {block.layer: block.trace for block in sensitivity.blocks}
        scores = [(layer, trace) for layer, trace in traces.items() if trace is not None]
        if len(scores) < len(traces):
            raise InputError(
                "rule trace-perturbation needs the trace of every layer; compute the sensitivity with "
                "--trace, for example --trace 20"
            )
    if rule.endswith("-perturbation"):
        missing = [layer for layer, _ in scores if layer not in (perturbations or {})]
        if perturbations is None or missing:
            raise InputError(
                f"rule {rule} needs |W - Q(W)|^2 of every layer, layers {missing} have none; "
                f"compute it from the checkpoint's weights"
            )
        scores = [(layer, score * perturbations[layer]) for layer, score in scores]
    return sorted(scores, key=lambda entry: (-entry[1], entry[0]))


def allocate_by_rank(
    sensitivity: Sensitivity,
    bits: Sequence[int] = (2, 4),
    *,
    high: int,
    rule: str = "omega",
    perturbations: Mapping[int, float] | None = None,
) -> dict[int, int]:
    """Layer -> bits, layers ascending: the `high` most sensitive layers get the larger of `bits`.

    `rule` and `perturbations` are those of `rank`; perturbations belong to the smaller of `bits`.
    Raises `InputError` unless `bits` are two different widths of 1..8 or 32 and `high` is between
    0 and the number of layers.
    """
    if len(bits) != 2 or bits[0] == bits[1] or not all(b == 32 or 1 <= b <= 8 for b in bits):
        given = ",".join(str(b) for b in bits)
        raise InputError(f"bits are {given}; expected two different widths of 1..8 or 32, for example 2,4")
    ranked = [layer for layer, _ in rank(sensitivity, rule, perturbations)]
    if not 0 <= high <= len(ranked):
        raise InputError(f"high is {high}; expected 0 to {len(ranked)}, the number of layers")
    first = set(ranked[:high])
    return {layer: max(bits) if layer in first else min(bits) for layer in sorted(ranked)}
