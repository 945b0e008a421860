"""The best plan under a size budget, against every plan there is and against scipy's integer programs."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from qbert_core.allocation import Choice, Frontier, Unit, sites_of_unit, units_of
from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.cli import main
from qbert_core.curvature import BlockSensitivity, Sensitivity, blocks_of
from qbert_core.errors import InputError
from qbert_core.quantization import Plan, fake_quantize, plan_size, sites_of
from qbert_core.quantization.plan import parse_plan
from tests.tiny import make_tiny

choices = st.lists(
    st.builds(Choice, st.integers(1, 8), st.integers(0, 50), st.floats(0, 1e6)), min_size=1, max_size=4
)
units = st.lists(choices, min_size=1, max_size=5).map(
    lambda found: [Unit(f"u{i}", tuple(own)) for i, own in enumerate(found)]
)


def assignments(found: list[Unit]) -> list[tuple[int, float]]:
    """(bytes, harm) of every assignment, added in the units' order as the frontier adds them."""
    every = itertools.product(*(unit.choices for unit in found))
    return [(sum(c.bytes for c in chosen), sum(c.harm for c in chosen)) for chosen in every]


@given(units, st.integers(0, 250))
@settings(deadline=None)
def test_no_assignment_within_the_budget_does_less_harm(found: list[Unit], budget: int) -> None:
    frontier = Frontier(found)
    within = [harm for size, harm in assignments(found) if size <= budget]
    if not within:
        with pytest.raises(InputError, match="below the smallest size"):
            frontier.best(budget)
        return
    index = frontier.best(budget)
    assert frontier.harms[index] == min(within)
    assert frontier.sizes[index] <= budget


@given(units)
@settings(deadline=None)
def test_the_frontier_is_all_assignments_that_no_other_beats(found: list[Unit]) -> None:
    every = set(assignments(found))
    best = {
        (size, harm) for size, harm in every
        if not any(s <= size and h <= harm and (s, h) != (size, harm) for s, h in every)
    }  # fmt: skip
    frontier = Frontier(found)
    assert {(size, harm) for size, harm, _ in frontier} == best
    assert (np.diff(frontier.sizes) > 0).all()
    assert (np.diff(frontier.harms) < 0).all()


@given(units)
@settings(deadline=None)
def test_the_bits_of_a_point_have_its_size_and_harm(found: list[Unit]) -> None:
    distinct = [
        replace(unit, choices=tuple({choice.bits: choice for choice in unit.choices}.values()))
        for unit in found
    ]
    for size, harm, bits in Frontier(distinct):
        chosen = [next(c for c in unit.choices if c.bits == bits[unit.name]) for unit in distinct]
        assert sum(c.bytes for c in chosen) == size
        assert sum(c.harm for c in chosen) == harm


@given(units, st.integers(0, 250))
@settings(deadline=None, max_examples=30)
def test_an_integer_program_finds_nothing_better(found: list[Unit], budget: int) -> None:
    scaled = [
        replace(u, choices=tuple(replace(c, harm=c.harm / 1e6) for c in u.choices)) for u in found
    ]  # HiGHS works with absolute tolerances
    flat = [choice for unit in scaled for choice in unit.choices]
    one_each = np.zeros((len(scaled), len(flat)))
    start = 0
    for row, unit in enumerate(scaled):
        one_each[row, start : start + len(unit.choices)] = 1
        start += len(unit.choices)
    solved = milp(
        [c.harm for c in flat],
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(np.array([[c.bytes for c in flat]]), -np.inf, budget),
        ],
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, 1),
    )
    if solved.x is None:
        with pytest.raises(InputError):
            Frontier(scaled).best(budget)
    else:
        frontier = Frontier(scaled)
        assert frontier.harms[frontier.best(budget)] <= solved.fun + 1e-6


def test_harms_that_are_no_numbers_are_refused() -> None:
    for harm in (float("nan"), float("inf"), -1.0):
        with pytest.raises(InputError, match="expected one or more finite ones from 0"):
            Frontier([Unit("a", (Choice(2, 1, harm),))])
    with pytest.raises(InputError, match="expected one or more"):
        Frontier([Unit("a", ())])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Checkpoint:
    return load_checkpoint(str(folder))


def sensitivity(model: Checkpoint, granularity: str, traces: bool = False) -> Sensitivity:
    """Some numbers for every block of a model."""
    draw = np.random.default_rng(0)
    found = []
    for block in blocks_of(model.config, granularity):
        values = tuple(float(v) for v in draw.normal(1, 3, 3))
        own = {"traces": values, "trace_errors": (0.1,) * 3} if traces else {}
        found.append(BlockSensitivity(block.name, block.layer, block.kind, values, (0.0,) * 3, **own))
    return Sensitivity(tuple(found), runs=3, examples=10, seconds=0.0, hvp_count=0)


@pytest.mark.parametrize("granularity", ["layer", "module", "site"])
def test_harm_is_half_the_curvature_times_the_squared_perturbation(
    model: Checkpoint, granularity: str
) -> None:
    found = sensitivity(model, granularity)
    for unit, block in zip(units_of(model, found, [2, 4, 32], 3), found.blocks, strict=True):
        assert unit.name == block.name
        sites = sites_of_unit(model.config, unit.name)
        for choice in unit.choices:
            moved = 0.0
            if choice.bits < 32:
                for site in sites:
                    weight = model.weights[site.parameter].double()
                    quantized = fake_quantize(weight.float(), choice.bits, 3)
                    moved += float(((weight - quantized.double()) ** 2).sum())
            assert choice.harm == pytest.approx(0.5 * block.omega * moved, rel=1e-5)


def test_rules_weigh_the_same_perturbations(model: Checkpoint) -> None:
    found = sensitivity(model, "layer", traces=True)
    omega, mean, trace = (
        units_of(model, found, [2], 3, rule) for rule in ("omega", "mean", "trace-perturbation")
    )
    for a, b, c, block in zip(omega, mean, trace, found.blocks, strict=True):
        assert b.choices[0].harm == pytest.approx(a.choices[0].harm / block.omega * abs(block.mean))
        size = sum(t.numel() for n, t in model.weights.items() if n.startswith(f"{block.name}."))
        assert block.trace is not None
        assert c.choices[0].harm == pytest.approx(
            a.choices[0].harm / block.omega * max(0, block.trace) / size
        )
    with pytest.raises(InputError, match="has no trace"):
        units_of(model, sensitivity(model, "layer"), [2], 3, "trace-perturbation")


def test_a_locked_unit_keeps_its_bits(model: Checkpoint) -> None:
    found = sensitivity(model, "layer")
    name = found.blocks[1].name
    frontier = Frontier(units_of(model, found, [2, 4, 8], 3, locked={name: 3}))
    assert {bits[name] for _, _, bits in frontier} == {3}


def allocate(folder: Path, tmp_path: Path, found: Sensitivity, *options: str) -> dict[str, Any]:
    given, out = tmp_path / "s.json", tmp_path / "out.json"
    given.write_text(json.dumps(found.to_json()))
    assert main(["allocate", str(folder), "--sensitivity", str(given), *options, "--out", str(out)]) == 0
    document: dict[str, Any] = json.loads(out.read_text())
    return document


@pytest.mark.parametrize("granularity", ["layer", "module", "site"])
def test_the_command_keeps_the_budget_and_misses_no_better_plan(
    folder: Path, model: Checkpoint, tmp_path: Path, granularity: str
) -> None:
    found = sensitivity(model, granularity)
    ends = allocate(folder, tmp_path, found, "--bits", "2,8", "--budget-mb", "1000", "--groups", "3")[
        "frontier"
    ]
    budget = (ends[0]["size_mb"] + ends[-1]["size_mb"]) / 2
    made = allocate(folder, tmp_path, found, "--bits", "2,8", "--budget-mb", str(budget), "--groups", "3")
    plan: Plan = parse_plan(made["plan"], sites_of(model.config), "plan")
    assert made["size_mb"] == plan_size(model.config, plan).size_mb <= budget
    for point in made["frontier"]:  # sizes there are those of whole plans
        assert (point["harm"] < made["harm"]) == (point["size_mb"] > made["size_mb"] + 1e-12)
        if point["size_mb"] > made["size_mb"] + 1e-12:
            assert point["size_mb"] > budget
    assert made["harm"] == pytest.approx(sum(row["harm"] for row in made["why"]))
    for row in made["why"]:
        assert {plan.sites[s.name].bits for s in sites_of_unit(model.config, row["name"])} == {row["bits"]}


def test_exactly_the_size_of_a_plan_is_enough_for_it(folder: Path, model: Checkpoint, tmp_path: Path) -> None:
    found = sensitivity(model, "layer")
    for point in allocate(folder, tmp_path, found, "--bits", "2,3,4", "--budget-mb", "1000")["frontier"]:
        again = allocate(folder, tmp_path, found, "--bits", "2,3,4", "--budget-mb", repr(point["size_mb"]))
        assert again["size_mb"] == pytest.approx(point["size_mb"], abs=1e-12)
        assert again["harm"] == point["harm"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bits", "2,4", "--budget-mb", "0.001"], "the smallest plan with bits 2,4, 128 groups"),
        (["--bits", "2,9", "--budget-mb", "5"], "bits 9"),
        (["--bits", "2,4", "--budget-mb", "-1"], "budget is -1; expected a size in MB above 0"),
        (["--bits", "2,4", "--budget-mb", "nan"], "budget is nan"),
        (["--bits", "2,4", "--budget-mb", "5", "--high", "1"], "not allowed with"),
        (["--bits", "2,4"], "one of the arguments --high --budget-mb is required"),
    ],
)
def test_bad_input(
    folder: Path,
    model: Checkpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    given = tmp_path / "s.json"
    given.write_text(json.dumps(sensitivity(model, "layer").to_json()))
    try:
        code = main(["allocate", str(folder), "--sensitivity", str(given), *options])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_deep_model_with_many_widths_is_solved_whole() -> None:
    torch.manual_seed(0)
    curvature = torch.rand(24).tolist()
    found = [
        Unit(f"L{i}", tuple(Choice(b, 1000 * b + 7, weight * 4.0**-b) for b in range(1, 9)))
        for i, weight in enumerate(curvature)
    ]
    frontier = Frontier(found)
    assert frontier.sizes[0] == 24 * 1007
    assert frontier.sizes[-1] == 24 * 8007
    assert len(frontier) <= 24 * 7 + 1  # equal shapes: one best plan a total number of bits
