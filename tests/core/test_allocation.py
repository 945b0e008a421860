"""The paper's rule from sensitivity to bits, on numbers worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_core.allocation import allocate_by_rank, layer_perturbations, rank
from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.cli import main
from qbert_core.curvature import BlockSensitivity, Sensitivity
from qbert_core.errors import InputError
from tests.tiny import make_tiny

SIX = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "intermediate.dense", "output.dense",
)  # fmt: skip


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


def lost(checkpoint: Checkpoint, layer: int, bits: int, groups: int) -> float:
    """|W - Q(W)|^2 of a layer by the definition of the quantizer, group by group in numpy."""
    total = 0.0
    for site in SIX:
        weight = checkpoint.weights[f"bert.encoder.layer.{layer}.{site}.weight"].numpy().astype(float)
        for group in np.array_split(weight, min(groups, len(weight))):
            low, high = min(group.min(), 0.0), max(group.max(), 0.0)
            scale = (high - low) / (2**bits - 1)
            zero = np.rint(-low / scale)
            codes = np.clip(np.rint(group / scale) + zero, 0, 2**bits - 1)
            total += float(((group - (codes - zero) * scale) ** 2).sum())
    return total


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
@pytest.mark.parametrize("groups", [1, 5, 128])
def test_a_layers_perturbation_is_what_the_quantizer_does_to_its_six_weights(
    tiny: Checkpoint, bits: int, groups: int
) -> None:
    found = layer_perturbations(tiny, bits, groups)
    assert list(found) == [0, 1, 2]
    for layer, value in found.items():
        assert value == pytest.approx(lost(tiny, layer, bits, groups), rel=1e-4)


def test_what_is_no_quantization_has_no_perturbation(tiny: Checkpoint) -> None:
    with pytest.raises(InputError, match=r"bits 32; a perturbation needs 1..8"):
        layer_perturbations(tiny, 32, 1)
    with pytest.raises(InputError, match="groups 0; expected a whole number from 1"):
        layer_perturbations(tiny, 4, 0)
    with pytest.raises(InputError, match="bits 9"):
        layer_perturbations(tiny, 9, 1)


def test_omega_is_weighed_with_the_perturbation() -> None:
    lost = {0: 10.0, 1: 0.5, 2: 1.0, 3: 0.0}
    assert rank(SAMPLES, "omega-perturbation", lost) == [(0, 20.0), (2, 4.0), (1, 2.0), (3, 0.0)]
    bits = allocate_by_rank(SAMPLES, (2, 4), high=2, rule="omega-perturbation", perturbations=lost)
    assert bits == {0: 4, 1: 2, 2: 4, 3: 2}
    for rule in ("omega", "mean"):
        assert rank(SAMPLES, rule, lost) == rank(SAMPLES, rule)


@pytest.mark.parametrize("given", [None, {}, {0: 1.0, 1: 1.0, 3: 1.0}])
def test_the_rule_says_which_perturbations_it_lacks(given: dict[int, float] | None) -> None:
    missing = [2] if given else [0, 1, 2, 3]
    with pytest.raises(InputError) as caught:
        rank(SAMPLES, "omega-perturbation", given)
    assert str(caught.value).startswith(
        f"rule omega-perturbation needs |W - Q(W)|^2 of every layer, layers {missing} have none"
    )


def test_the_command_ranks_by_the_perturbation_at_the_lower_width(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_tiny(tmp_path / "model")
    found = tmp_path / "sensitivity.json"
    measured_rows = measured((2.0, 2.0), (4.0, -2.0), (1.9, 1.9))
    found.write_text(json.dumps(measured_rows.to_json()))
    common = ["allocate", str(model), "--sensitivity", str(found), "--bits", "4,2", "--high", "1"]
    assert main([*common, "--rule", "omega-perturbation", "--groups", "4"]) == 0
    document = json.loads(capsys.readouterr().out)
    by_layer = {row["layer"]: row for row in document["why"]}
    checkpoint = load_checkpoint(model)
    for layer, omega in enumerate((2.0, 4.0, 1.9)):
        row = by_layer[layer]
        assert row["omega"] == pytest.approx(omega)
        assert row["perturbation"] == pytest.approx(lost(checkpoint, layer, 2, 4), rel=1e-4)
        assert row["score"] == pytest.approx(row["omega"] * row["perturbation"])
    scores = [row["score"] for row in document["why"]]
    assert scores == sorted(scores, reverse=True)
    assert [row["bits"] for row in document["why"]] == [4, 2, 2]
    assert document["plan"]["name"] == "omega-perturbation-2-4-high-1"
    assert main(common) == 0
    assert all("perturbation" not in row for row in json.loads(capsys.readouterr().out)["why"])


def test_the_perturbation_can_change_the_order(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(make_tiny(tmp_path / "model"))
    weights = dict(checkpoint.weights)
    for site in SIX:  # what four levels hold exactly is not hurt by two bits
        name = f"bert.encoder.layer.1.{site}.weight"
        weights[name] = torch.bucketize(weights[name], torch.tensor([-0.3, 0.0, 0.3])) - 1.0
    lost = layer_perturbations(replace(checkpoint, weights=weights), 2, 1)
    assert lost[1] == 0
    samples = measured((2.0, 2.0), (4.0, -2.0), (1.9, 1.9))
    assert rank(samples)[0][0] == 1
    assert rank(samples, "omega-perturbation", lost)[-1] == (1, 0.0)
