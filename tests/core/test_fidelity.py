"""Verdicts of the fidelity benchmark: made data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fidelity.claims import judge, of_attention, of_curvature, of_plans
from benchmarks.fidelity.contrast import Key, Measured
from qbert_core.curvature import BlockSensitivity, Sensitivity
from qbert_core.tasks import TASKS, difference

SST2 = TASKS["sst2"]


def right(share: float, seeds: int = 1, n: int = 1000, seed: int = 0) -> np.ndarray:
    """Grades of a plan that is right on the first `share` of an order common to all plans."""
    order = np.random.default_rng(seed).permutation(n)
    return np.tile((order < share * n).astype(float)[None, :, None], (seeds, 1, 1))


def measured(shares: dict[str, float], finetuned: bool = False) -> Measured:
    grades: dict[Key, np.ndarray] = {
        (name, finetuned): right(share, 2 if finetuned else 1) for name, share in shares.items()
    }
    return Measured(SST2, {("baseline", False): right(0.9), **grades})


def verdict(found: list, words: str) -> str:
    (one,) = [v for v in found if words in v.claim]
    return one.verdict


def test_a_contrast_of_two_plans_is_their_paired_difference() -> None:
    both = measured({"a": 0.8, "b": 0.7})
    value, (low, high) = both.contrast({("a", False): 1, ("b", False): -1})
    expected, (their_low, their_high) = difference(SST2, right(0.7)[0], right(0.8)[0])
    assert value == pytest.approx(expected)
    assert low == pytest.approx(their_low, abs=0.004)
    assert high == pytest.approx(their_high, abs=0.004)


@settings(deadline=None, max_examples=10)
@given(share=st.floats(0.1, 0.9))
def test_equal_plans_differ_by_nothing_at_all(share: float) -> None:
    both = measured({"a": share, "b": share})
    assert both.contrast({("a", False): 1, ("b", False): -1}) == (0, (0, 0))


def test_seeds_that_disagree_widen_the_interval() -> None:
    steady = Measured(SST2, {("a", True): np.concatenate([right(0.8), right(0.8)])})
    torn = Measured(SST2, {("a", True): np.concatenate([right(0.7), right(0.9)])})
    widths = []
    for one in (steady, torn):
        value, (low, high) = one.contrast({("a", True): 1})
        assert value == pytest.approx(0.8)
        widths.append(high - low)
    assert widths[1] > 2 * widths[0]


@pytest.mark.parametrize(
    ("interval", "expected"),
    [((0.1, 0.3), "confirmed"), ((-0.3, -0.1), "not confirmed"), ((-0.1, 0.1), "undecided")],
)
def test_a_verdict_needs_the_whole_interval(interval: tuple[float, float], expected: str) -> None:
    assert judge("c", "s", "w", sum(interval) / 2, interval, "n").verdict == expected
    shifted = (interval[0] + 1, interval[1] + 1)
    assert judge("c", "s", "w", 1 + sum(interval) / 2, shifted, "n", 1.0).verdict == expected


def test_claims_about_plans_follow_the_numbers() -> None:
    good = {
        "qbert-4": 0.89, "directq-4": 0.85, "qbert-3": 0.88, "directq-3": 0.75, "qbert-2": 0.7, "directq-2": 0.5,
        "qbert-mp-2-3-high-3": 0.86, "reverse-2-3-high-3": 0.75, "embedding-4": 0.7, "word-4": 0.85,
        "position-4": 0.75, "attention-2": 0.8, "ffn-2": 0.6,
        "groups-1": 0.6, "groups-heads": 0.8, "groups-128": 0.88, "groups-rows": 0.89,
    }  # fmt: skip
    sizes = dict.fromkeys(good, 10.0) | {"qbert-mp-2-3-high-3": 11.0}
    for finetuned in (False, True):
        found = of_plans(measured(good, finetuned), sizes, finetuned)
        assert len(found) > 9
        kept = [v for v in found if "within 2.3%" not in v.claim]
        assert {v.verdict for v in kept} == {"confirmed"}, [v for v in kept if v.verdict != "confirmed"]
        assert {v.setting for v in found} == {"finetuned" if finetuned else "no finetuning"}
    assert verdict(found, "within 2.3%") == "not confirmed"  # 4 points below
    turned = {name: 1.5 - share for name, share in good.items()}
    found = of_plans(measured(turned), sizes, False)
    judged = [v for v in found if "far above" not in v.claim]
    assert {v.verdict for v in judged} == {"not confirmed"}


def test_far_above_at_a_large_size_is_not_confirmed() -> None:
    shares = {"qbert-2": 0.6, "qbert-mp-2-3-high-3": 0.89}
    sizes = {"qbert-2": 10.0, "qbert-mp-2-3-high-3": 14.0}
    assert verdict(of_plans(measured(shares), sizes, False), "far above") == "not confirmed"


def test_a_claim_without_its_plans_is_left_out() -> None:
    assert of_plans(measured({"qbert-4": 0.8}), {"qbert-4": 1.0}, False) == []


def curvature(lambdas: list[list[float]]) -> Sensitivity:
    blocks = tuple(
        BlockSensitivity(f"bert.encoder.layer.{i}", i, "layer", tuple(own), (0.0,) * len(own))
        for i, own in enumerate(lambdas)
    )
    return Sensitivity(blocks, len(lambdas[0]), 64, 0.0, 0)


def test_claims_about_curvature_follow_the_eigenvalues() -> None:
    noise = np.random.default_rng(0).normal(0, 0.3, (6, 10))
    middle_high = np.array([4, 4, 9, 9, 1, 1])[:, None] + noise
    found = of_curvature(curvature(middle_high.tolist()))
    assert found[0].verdict == "confirmed"
    assert (
        of_curvature(curvature(middle_high[::-1][[0, 1, 4, 5, 2, 3]].tolist()))[0].verdict == "not confirmed"
    )
    apart = (np.array([6, 5, 4, 3, 2, 1]) * 10)[:, None] + noise
    assert of_curvature(curvature(apart.tolist()))[1].verdict == "not confirmed"
    swing = apart.copy()
    swing[5, ::2] = -28  # layer 6: hardly a mean, but a spread above the whole of layer 5
    swing[5, 1::2] = 28
    assert of_curvature(curvature(swing.tolist()))[1].verdict == "confirmed"


def test_claims_about_attention_follow_the_heads() -> None:
    heads = np.random.default_rng(0).uniform(0.5, 1.5, (6, 12))
    for factor, expected in ((10.0, "confirmed"), (1.2, "not confirmed")):
        kl = {("qbert-4", False): heads.tolist(), ("directq-4", False): (factor * heads).tolist()}
        (one,) = of_attention(kl, False)
        assert one.verdict == expected
        assert one.value == pytest.approx(np.log(factor))
