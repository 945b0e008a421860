"""The paper's rule from sensitivity to bits, on numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_core.allocation import allocate_by_rank, rank
from qbert_core.curvature import BlockSensitivity, Sensitivity
from qbert_core.errors import InputError


def measured(*lambdas: tuple[float, ...]) -> Sensitivity:
    """A sensitivity with these eigenvalues, a tuple a layer."""
    blocks = tuple(
        BlockSensitivity(f"bert.encoder.layer.{i}", i, "layer", row, (0.0,) * len(row))
        for i, row in enumerate(lambdas)
    )
    return Sensitivity(blocks, runs=len(lambdas[0]), examples=10, seconds=0.0, hvp_count=0)


# |mean| 2, 1, 0, 3; population std 0, 3, 4, 0: Omega 2, 4, 4, 3
SAMPLES = measured((2.0, 2.0), (4.0, -2.0), (4.0, -4.0), (-3.0, -3.0))


def test_omega_puts_the_mean_and_the_spread_together_and_ties_go_to_the_lower_layer() -> None:
    assert rank(SAMPLES) == [(1, 4.0), (2, 4.0), (3, 3.0), (0, 2.0)]


def test_hawqs_rule_sees_the_mean_alone_without_its_sign() -> None:
    assert rank(SAMPLES, "mean") == [(3, 3.0), (0, 2.0), (1, 1.0), (2, 0.0)]


def test_the_most_sensitive_layers_get_the_higher_bits() -> None:
    assert allocate_by_rank(SAMPLES, (2, 4), high=2) == {0: 2, 1: 4, 2: 4, 3: 2}
    assert allocate_by_rank(SAMPLES, (4, 2), high=2) == {0: 2, 1: 4, 2: 4, 3: 2}
    assert allocate_by_rank(SAMPLES, (2, 3), high=1, rule="mean") == {0: 2, 1: 2, 2: 2, 3: 3}
    assert allocate_by_rank(SAMPLES, (2, 32), high=0) == dict.fromkeys(range(4), 2)
    assert allocate_by_rank(SAMPLES, (2, 8), high=4) == dict.fromkeys(range(4), 8)


rows = st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1, max_size=12)


@given(rows, st.integers(0, 12))
@settings(deadline=None)
def test_no_layer_with_fewer_bits_is_more_sensitive(values: list[tuple[float, ...]], high: int) -> None:
    sensitivity = measured(*values)
    high = min(high, len(values))
    bits = allocate_by_rank(sensitivity, (2, 4), high=high)
    assert list(bits) == list(range(len(values)))
    assert list(bits.values()).count(4) == high
    omega = {block.layer: block.omega for block in sensitivity.blocks}
    chosen = [omega[layer] for layer in bits if bits[layer] == 4]
    others = [omega[layer] for layer in bits if bits[layer] == 2]
    if chosen and others:
        assert min(chosen) >= max(others)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"high": 5}, "high is 5; expected 0 to 4, the number of layers"),
        ({"high": -1}, "high is -1"),
        ({"high": 1, "bits": (4, 4)}, "bits are 4,4; expected two different widths"),
        ({"high": 1, "bits": (0, 4)}, "bits are 0,4"),
        ({"high": 1, "bits": (4, 9)}, "bits are 4,9"),
        ({"high": 1, "bits": (2,)}, "bits are 2;"),
        ({"high": 1, "bits": (2, 3, 4)}, "bits are 2,3,4"),
        ({"high": 1, "rule": "median"}, "rule 'median' is not known here; expected one of omega, mean"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        allocate_by_rank(SAMPLES, **options)
    assert "\n" not in str(caught.value)


def test_halves_of_layers_are_not_ranked_as_layers() -> None:
    halves = tuple(
        replace(block, name=f"{block.name}.{kind}", kind=kind)
        for block in SAMPLES.blocks
        for kind in ("attention", "ffn")
    )
    with pytest.raises(InputError, match="has one a module; compute it with --block layer"):
        rank(replace(SAMPLES, blocks=halves))
