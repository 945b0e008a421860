"""The paper's rule from sensitivity to bits: the most fragile layers get the higher of two widths."""

from __future__ import annotations

from collections.abc import Sequence

from qbert_core.curvature import Sensitivity
from qbert_core.errors import InputError

RULES = ("omega", "mean")


def rank(sensitivity: Sensitivity, rule: str = "omega") -> list[tuple[int, float]]:
    """(layer, score), most sensitive first; of equal scores the lower layer comes first.

    `omega`: |mean(lambda)| + std(lambda), Q-BERT's. `mean`: |mean(lambda)|, as in HAWQ (Dong et al.
    2019). Raises `InputError` for another rule, or where the blocks are not whole layers.
    """
    if rule not in RULES:
        raise InputError(f"rule {rule!r} is not known here; expected one of {', '.join(RULES)}")
    if sensitivity.granularity != "layer":
        raise InputError(
            f"ranking layers needs one block a layer, this sensitivity has one a {sensitivity.granularity}; "
            f"compute it with --block layer"
        )
    scores = [(b.layer, b.omega if rule == "omega" else abs(b.mean)) for b in sensitivity.blocks]
    return sorted(scores, key=lambda entry: (-entry[1], entry[0]))


def allocate_by_rank(
    sensitivity: Sensitivity, bits: Sequence[int] = (2, 4), *, high: int, rule: str = "omega"
) -> dict[int, int]:
    """Layer -> bits, layers ascending: the `high` most sensitive layers get the larger of `bits`.

    Raises `InputError` unless `bits` are two different widths of 1..8 or 32 and `high` is between
    0 and the number of layers.
    """
    if len(bits) != 2 or bits[0] == bits[1] or not all(b == 32 or 1 <= b <= 8 for b in bits):
        given = ",".join(str(b) for b in bits)
        raise InputError(f"bits are {given}; expected two different widths of 1..8 or 32, for example 2,4")
    ranked = [layer for layer, _ in rank(sensitivity, rule)]
    if not 0 <= high <= len(ranked):
        raise InputError(f"high is {high}; expected 0 to {len(ranked)}, the number of layers")
    first = set(ranked[:high])
    return {layer: max(bits) if layer in first else min(bits) for layer in sorted(ranked)}
