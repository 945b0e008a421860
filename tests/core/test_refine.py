"""Refining by measurement: within the budget, on one half of the examples, reported on the other."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_core.allocation import Choice, Unit, sites_of_unit, units_of
from qbert_core.allocation.assignment import bits_of, with_bits
from qbert_core.allocation.neighbours import moves
from qbert_core.allocation.prediction import harm_of, perturbed_units, weighted
from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.cli import main
from qbert_core.curvature import BlockSensitivity, Sensitivity, blocks_of
from qbert_core.errors import Cancelled, InputError
from qbert_core.evaluation import Evaluator
from qbert_core.evaluation.paired import paired_difference, paired_loss
from qbert_core.quantization import ActivationRanges, Plan, calibrate, plan_size, preset_named, sites_of
from qbert_core.quantization.plan import parse_plan
from qbert_core.runtime.events import Silent
from qbert_core.runtime.refine import Refinement, halves, refine
from qbert_core.runtime.store import Store
from qbert_core.runtime.sweep import Measurement
from qbert_core.tasks import Examples, task_named
from tests.tiny import WORDS, make_tiny

ROOT = Path(__file__).resolve().parents[2]
TASK = task_named("sst2")


def sentences(count: int, seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    words = [word for word in WORDS if word.isalpha()]
    texts = [" ".join(generator.choice(words, generator.integers(1, 20))) for _ in range(count)]
    return pd.DataFrame({"sentence": texts, "label": generator.integers(0, 2, count)})


@pytest.fixture(scope="module")
def examples(tiny: Checkpoint) -> Examples:
    return TASK.examples(sentences(61, 0), tiny, "made up")


@pytest.fixture(scope="module")
def ranges(tiny: Checkpoint) -> ActivationRanges:
    return calibrate(tiny, TASK, TASK.examples(sentences(32, 1), tiny, "made up to train"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home" / "store.sqlite")


def sensitivity(model: Checkpoint, granularity: str = "module") -> Sensitivity:
    """Some numbers for every block of a model."""
    draw = np.random.default_rng(0)
    found = []
    for block in blocks_of(model.config, granularity):
        values = tuple(float(v) for v in draw.normal(1, 3, 3))
        found.append(BlockSensitivity(block.name, block.layer, block.kind, values, (0.0,) * 3))
    return Sensitivity(tuple(found), 3, 10, 0.0, 0, model=model.fingerprint)


@pytest.fixture(scope="module")
def start(tiny: Checkpoint) -> Plan:
    return preset_named(tiny.config, "sst2", "qbert-3")


@pytest.fixture(scope="module")
def units(tiny: Checkpoint, start: Plan) -> list[Unit]:
    found = sensitivity(tiny)
    widths = {block.name: [2, 3, 4, 8] for block in found.blocks}
    return weighted(perturbed_units(tiny, start, widths), {b.name: b.omega for b in found.blocks})


def no_warning(line: str) -> None:
    raise AssertionError(line)


Run = Callable[..., Refinement]


@pytest.fixture
def run(
    tiny: Checkpoint,
    examples: Examples,
    ranges: ActivationRanges,
    start: Plan,
    units: list[Unit],
    store: Store,
) -> Run:
    def run(**options: Any) -> Refinement:
        given: dict[str, Any] = {
            "start": start, "units": units, "budget_mb": plan_size(tiny.config, start).size_mb, "store": store,
            "tries": 12, "seed": 0, "warn": no_warning, **options,
        }  # fmt: skip
        return refine(tiny, TASK, examples, ranges, **given)

    return run


def a_unit(name: str, widths: list[int], sizes: list[int], harms: list[float]) -> Unit:
    """More bits take more bytes."""
    return Unit(name, tuple(map(Choice, sorted(widths), np.cumsum(sizes).tolist(), harms)))


units_of_model = st.lists(
    st.lists(st.integers(1, 8), min_size=1, max_size=4, unique=True).flatmap(
        lambda widths: st.tuples(
            st.just(widths),
            st.lists(st.integers(1, 40), min_size=len(widths), max_size=len(widths)),
            st.lists(st.floats(0, 100), min_size=len(widths), max_size=len(widths)),
        )
    ),
    min_size=1,
    max_size=4,
).map(lambda found: [a_unit(f"u{i}", *parts) for i, parts in enumerate(found)])


def one_width_away(units: list[Unit], bits: dict[str, int]) -> list[dict[str, int]]:
    """Every assignment whose units are each at most one width away, one of them above."""
    found = []
    for other in itertools.product(*([c.bits for c in u.choices] for u in units)):
        chosen = dict(zip(bits, other, strict=True))
        order = {u.name: [c.bits for c in u.choices] for u in units}
        steps = [order[name].index(chosen[name]) - order[name].index(bits[name]) for name in bits]
        if max(map(abs, steps)) == 1 and 1 in steps:
            found.append(chosen)
    return found


@given(units_of_model, st.data(), st.integers(-20, 100))
@settings(deadline=None)
def test_moves_keep_the_room_and_exist_where_any_do(
    units: list[Unit], data: st.DataObject, room: int
) -> None:
    bits = {u.name: data.draw(st.sampled_from([c.bits for c in u.choices])) for u in units}
    cost = {(u.name, c.bits): (c.bytes, c.harm) for u in units for c in u.choices}

    def total(chosen: dict[str, int], what: int) -> float:
        return sum(cost[unit, width][what] for unit, width in chosen.items())

    allowed = [c for c in one_width_away(units, bits) if total(c, 0) - total(bits, 0) <= room]
    found = moves(units, bits, room)
    assert bool(found) == bool(allowed)
    ends = [move.applied(bits) for move in found]
    assert all(end in allowed for end in ends)
    assert len({tuple(end.items()) for end in ends}) == len(found)
    for move, end in zip(found, ends, strict=True):
        assert move.bytes == total(end, 0) - total(bits, 0)
        assert move.harm == pytest.approx(total(end, 1) - total(bits, 1), abs=1e-9)
        for other in allowed:  # no unit that stays could go up as well, with less harm
            more = [unit for unit in bits if other[unit] != end[unit]]
            if len(more) == 1 and end[more[0]] == bits[more[0]] < other[more[0]]:
                assert total(other, 1) >= total(end, 1) - 1e-9
    assert [move.harm for move in found] == sorted(move.harm for move in found)


@given(units_of_model, st.data())
@settings(deadline=None)
def test_with_even_steps_every_swap_of_two_is_a_move(units: list[Unit], data: st.DataObject) -> None:
    even = [
        Unit(u.name, tuple(Choice(10 + place, 7 * place, c.harm) for place, c in enumerate(u.choices)))
        for u in units
    ]
    bits = {u.name: data.draw(st.sampled_from([c.bits for c in u.choices])) for u in even}
    top = {u.name: u.choices[-1].bits for u in even}
    swaps = {
        (up, down) for up, down in itertools.permutations(bits, 2) if bits[up] < top[up] and bits[down] > 10
    }
    found = [move.changes for move in moves(even, bits, 0)]
    pairs = [sorted(change, key=lambda unit: change[unit][0] - change[unit][1]) for change in found]
    assert {(up, *down) for up, *down in pairs if len(down) == 1} == swaps


def test_a_large_step_up_is_paid_for_by_several_down() -> None:
    units = [a_unit(f"u{i}", [3, 4, 8], [300, 100, 400], [4.0 + i, 2.0 + i / 2, 1.0]) for i in range(6)]
    found = moves(units, {unit.name: 4 for unit in units}, 0)
    assert found
    for move in found:
        assert sorted(after - before for before, after in move.changes.values()) == [-1, -1, -1, -1, 4]
        assert move.bytes == 0


@pytest.mark.parametrize("granularity", ["layer", "module", "site"])
def test_units_of_a_plan_are_those_of_the_budget(tiny: Checkpoint, granularity: str) -> None:
    found, start = sensitivity(tiny, granularity), preset_named(tiny.config, "sst2", "qbert-4")
    widths = {block.name: [2, 4, 32] for block in found.blocks}
    made = weighted(perturbed_units(tiny, start, widths), {b.name: b.omega for b in found.blocks})
    for one, other in zip(made, units_of(tiny, found, [2, 4, 32], 128), strict=True):
        assert one.name == other.name
        for a, b in zip(one.choices, other.choices, strict=True):
            assert (a.bits, a.bytes) == (b.bits, b.bytes)
            assert a.harm == pytest.approx(b.harm, rel=1e-12)


def test_bits_become_a_plan_and_come_back(tiny: Checkpoint, start: Plan) -> None:
    names = [block.name for block in blocks_of(tiny.config, "module")]
    bits = {name: (2, 3, 4, 8, 32, 1)[place] for place, name in enumerate(names)}
    plan = with_bits(tiny.config, start, bits, "made")
    assert plan.name == "made"
    assert bits_of(tiny.config, plan, names) == bits
    for site in sites_of(tiny.config):
        assert plan.sites[site.name].groups == start.sites[site.name].groups
        if site.layer is None:
            assert plan.sites[site.name] == start.sites[site.name]
    layers = [block.name for block in blocks_of(tiny.config, "layer")]
    assert bits_of(tiny.config, plan, layers) == {}  # halves differ


@given(st.integers(2, 300), st.integers(0, 10))
def test_the_halves_share_nothing_and_leave_nothing_out(count: int, seed: int) -> None:
    choose, report = halves(count, seed)
    assert sorted([*choose, *report]) == list(range(count))
    assert 0 <= len(report) - len(choose) <= 1
    again, _ = halves(count, seed)
    assert (again == choose).all()


def better(one: Measurement, other: Measurement) -> bool:
    """Neither accuracy nor loss worse, one of them better."""
    assert one.loss is not None
    assert other.loss is not None
    gain, fall = one.metrics["accuracy"] - other.metrics["accuracy"], other.loss - one.loss
    return min(gain, fall) >= 0 and max(gain, fall) > 0


def test_every_step_is_better_where_it_is_chosen_and_within_the_budget(
    tiny: Checkpoint, run: Run, units: list[Unit], examples: Examples, ranges: ActivationRanges
) -> None:
    found = run()
    chosen_on = Evaluator(tiny, TASK, examples.take(halves(61, 0)[0]), ranges)
    best = found.start.chosen_on
    accepted = 0
    plans = {found.start.plan.digest}
    for one in found.tried:
        assert plan_size(tiny.config, one.plan).size_mb <= found.budget_mb + 1e-12
        assert one.plan.digest not in plans, "measured twice"
        plans.add(one.plan.digest)
        alone = chosen_on.evaluate(one.plan, attention=False, losses=True)
        assert alone.losses is not None
        assert one.measured.metrics == alone.score.metrics
        assert one.measured.loss == pytest.approx(alone.losses[:, 0].mean())
        assert one.harm == pytest.approx(
            harm_of(units, bits_of(tiny.config, one.plan, [u.name for u in units]))
        )
        assert one.accepted == better(one.measured, best)
        if one.accepted:
            best, accepted = one.measured, accepted + 1
    assert accepted, "the test needs a search that finds something"
    assert found.end.chosen_on == best
    assert found.end.plan.digest == [one.plan.digest for one in found.tried if one.accepted][-1]


def test_the_report_is_of_examples_that_did_not_choose(
    tiny: Checkpoint, run: Run, units: list[Unit], examples: Examples, ranges: ActivationRanges, store: Store
) -> None:
    found = run()
    document = found.to_json()
    json.dumps(document, allow_nan=False)
    other = Evaluator(tiny, TASK, examples.take(halves(61, 0)[1]), ranges)
    before, after = (
        other.evaluate(side.plan, attention=False, losses=True) for side in (found.start, found.end)
    )
    assert before.losses is not None
    assert after.losses is not None
    assert (document["n_select"], document["n_report"]) == (30, 31)
    for side, alone in (("start", before), ("end", after)):
        assert document[side]["report"]["metrics"] == alone.score.metrics
        assert document[side]["report"]["interval"] == alone.score.interval
    expected = paired_difference(TASK, before.grades.tolist(), after.grades.tolist(), 0)
    assert document["difference"]["mean"] == expected.mean == after.score.value - before.score.value
    assert document["difference"]["interval"] == expected.interval
    risen = float((after.losses[:, 0] - before.losses[:, 0]).mean())
    assert document["loss_difference"]["mean"] == pytest.approx(risen)
    low, high = document["loss_difference"]["interval"]
    assert low <= risen <= high
    # what the reporting half says changes nothing of what is chosen
    chosen = [(one["plan_digest"], one["metrics"], one["accepted"]) for one in document["tried"]]
    flipped = examples.take(range(61))
    for row in halves(61, 0)[1]:
        flipped.references[row] = 1 - flipped.references[row]
        flipped.targets[row] = 1 - flipped.targets[row]
    again = refine(
        tiny, TASK, flipped, ranges, found.start.plan, units, found.budget_mb, store,
        tries=12, seed=0, warn=no_warning,
    ).to_json()  # fmt: skip
    assert [(one["plan_digest"], one["metrics"], one["accepted"]) for one in again["tried"]] == chosen
    assert again["end"]["report"]["metrics"]["accuracy"] == pytest.approx(1 - after.score.value)


def test_an_optimum_has_no_better_neighbour_and_ends_the_search(
    run: Run, start: Plan, units: list[Unit]
) -> None:
    few = [replace(unit, choices=unit.choices[1:3]) for unit in units]  # 3 and 4 bits
    found = run(units=few, budget_mb=1000.0, tries=1000)
    assert found.stopped == "optimum"
    assert len(found.tried) < 2 ** len(units)
    best = found.end.chosen_on
    tried = {one.plan.digest: one.measured for one in found.tried} | {start.digest: found.start.chosen_on}
    bits = {unit.name: 3 for unit in units}
    for one in found.tried:
        if one.accepted:
            bits = one.move.applied(bits)
    everything = moves(few, bits, 10**9)
    for move in everything:
        assert not better(tried[with_bits_of(found, move.applied(bits)).digest], best)


def with_bits_of(found: Refinement, bits: dict[str, int]) -> Plan:
    return with_bits(found.config, found.start.plan, bits, "any")


def test_nothing_to_move_leaves_the_plan(run: Run, start: Plan, units: list[Unit]) -> None:
    locked = [replace(u, choices=tuple(c for c in u.choices if c.bits == 3)) for u in units]
    found = run(units=locked)
    assert (found.stopped, found.tried) == ("optimum", ())
    assert found.end.plan == start
    document = found.to_json()
    assert document["difference"]["mean"] == 0
    assert document["difference"]["interval"] == (0, 0)
    assert document["loss_difference"] == {"mean": 0, "interval": (0, 0)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tries": 0}, "tries is 0"),
        ({"budget_mb": 0.001}, "the plan to start from, qbert-3, has"),
    ],
)
def test_bad_input(run: Run, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(**options)


def test_a_start_with_a_width_that_is_not_offered_is_refused(run: Run, units: list[Unit]) -> None:
    with pytest.raises(InputError, match="gives its sites no width"):
        run(units=[replace(units[0], choices=units[0].choices[2:]), *units[1:]])


def test_one_example_cannot_choose_and_report() -> None:
    with pytest.raises(InputError, match="1 examples; refining needs two or more"):
        halves(1, 0)


class StopAt(Silent):
    """Cancels at the n-th question whether to."""

    def __init__(self, number: int) -> None:
        self.left = number

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Cancelled


@pytest.mark.parametrize("number", [0, 3, 20, 70])
def test_a_cancelled_search_goes_on_to_the_same_plan(run: Run, tmp_path: Path, number: int) -> None:
    expected = run(store=Store(tmp_path / "other" / "store.sqlite"))
    with pytest.raises(Cancelled):
        run(events=StopAt(number))
    assert run().to_json() == expected.to_json()


class Heard(Silent):
    def __init__(self) -> None:
        self.told: list[tuple[int, int, Any]] = []

    def progress(self, done: int, total: int, partial: Any = None) -> None:
        self.told.append((done, total, json.loads(json.dumps(partial))))


def test_what_is_finished_is_told_at_once_and_kept(run: Run) -> None:
    first, second = Heard(), Heard()
    found = run(events=first)
    whole = [told for told in first.told if told[2]["running"] is None]
    assert [done for done, _, _ in whole] == [*range(1, 14), 15]
    assert {total for _, total, _ in first.told} == {15}
    assert whole[-1][2]["rows"] == json.loads(json.dumps([one.to_json(found.config) for one in found.tried]))
    assert any(told[2]["running"] for told in first.told)
    assert run(events=second).to_json() == found.to_json()
    assert all(told[2]["running"] is None for told in second.told), "measured again"


def test_the_loss_of_every_example_is_the_tasks_own(
    tiny: Checkpoint, examples: Examples, ranges: ActivationRanges, start: Plan
) -> None:
    found = Evaluator(tiny, TASK, examples, ranges).evaluate(start, attention=False, losses=True)
    assert found.losses is not None
    assert found.losses.shape == (61, 2)
    assert (found.losses[:, 1] == 1).all()
    # a wrong answer of two classes has less than half the probability, a right one more
    right = found.grades[:, 0] == 1
    assert (found.losses[right, 0] <= np.log(2) + 1e-6).all()
    assert (found.losses[~right, 0] >= np.log(2) - 1e-6).all()
    assert Evaluator(tiny, TASK, examples, ranges).evaluate(start, attention=False).losses is None


@pytest.mark.parametrize("task", ["conll03", "squad"])
def test_the_losses_of_windows_add_up_to_the_batchs(task: str) -> None:
    from qbert_core.evaluation.losses import window_losses
    from qbert_core.tasks import Batch

    torch.manual_seed(0)
    lengths = torch.tensor([7, 5, 6])
    if task == "conll03":
        targets = torch.randint(0, 9, (3, 7))
        targets[0, 3] = targets[1, 5:] = -100
        logits = torch.randn(3, 7, 9)
    else:
        targets = torch.tensor([[1, 2, 1, 6], [-1, -1, 1, 4], [3, 3, 2, 5]])
        logits = torch.randn(3, 7, 2)
    batch = Batch(
        [4, 9, 2], torch.ones(3, 7, dtype=torch.long), torch.ones(3, 7, dtype=torch.long), lengths, targets
    )
    total, count = task_named(task).loss(logits, batch)
    found = window_losses(task_named(task), logits, batch)
    assert sum(loss for loss, _ in found) == pytest.approx(float(total), rel=1e-6)
    assert sum(number for _, number in found) == count
    assert min(number for _, number in found) >= 0


def test_the_loss_difference_is_of_means_over_what_counts() -> None:
    before, after = [(2.0, 2), (3.0, 1), (0.0, 0)], [(4.0, 2), (5.0, 1), (0.0, 0)]
    found = paired_loss(before, after, 0)
    assert found is not None
    mean, (low, high) = found
    assert mean == pytest.approx(9 / 3 - 5 / 3)
    assert low <= mean <= high
    assert paired_loss(before, after, 0) == found
    assert paired_loss([(0.0, 0)], [(0.0, 0)], 0) is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A sensitivity and data."""
    place = tmp_path_factory.mktemp("files")
    found = sensitivity(load_checkpoint(str(folder)))
    (place / "s.json").write_text(json.dumps(found.to_json()))
    sentences(40, 3).to_csv(place / "data.csv", index=False)
    return place / "s.json", place / "data.csv"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QBERT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def command(folder: Path, files: tuple[Path, Path], *options: str) -> list[str]:
    given, data = files
    return [
        "allocate", str(folder), "--sensitivity", str(given), "--bits", "2,3,4,8", *options,
        "--task", "sst2", "--data", str(data),
    ]  # fmt: skip


def budget_of(folder: Path) -> float:
    """MB of the model at 4 bits."""
    config = load_checkpoint(str(folder)).config
    return plan_size(config, preset_named(config, "sst2", "qbert-4")).size_mb


def test_the_command_refines_the_allocated_plan(
    folder: Path, files: tuple[Path, Path], home: Path, tmp_path: Path
) -> None:
    out, model = tmp_path / "out.json", load_checkpoint(str(folder))
    budget = budget_of(folder)
    size = ["--budget-mb", repr(budget)]
    alone = ["allocate", str(folder), "--sensitivity", str(files[0]), "--bits", "2,3,4,8", *size]
    assert main([*alone, "--out", str(out)]) == 0
    allocated = json.loads(out.read_text())
    assert main([*command(folder, files, *size, "--refine", "6"), "--out", str(out)]) == 0
    document = json.loads(out.read_text())
    told = document["refine"]
    assert told["start"]["plan"] == allocated["plan"]
    assert told["start"]["harm"] == pytest.approx(allocated["harm"])
    assert document["plan"] == told["end"]["plan"]
    assert document["size_mb"] == told["end"]["size_mb"] <= budget
    assert document["harm"] == pytest.approx(sum(row["harm"] for row in document["why"]))
    assert document["frontier"] == allocated["frontier"]
    assert len(told["tried"]) == 6 == told["allowed"]
    assert (told["seed"], told["n_select"], told["n_report"]) == (0, 20, 20)
    plan = parse_plan(document["plan"], sites_of(model.config), "plan")
    for row in document["why"]:
        assert {plan.sites[s.name].bits for s in sites_of_unit(model.config, row["name"])} == {row["bits"]}
    for one in told["tried"]:  # nothing is predicted to do less harm than the frontier's own plan
        if one["size_mb"] <= told["start"]["size_mb"]:
            assert one["harm"] >= allocated["harm"] - 1e-12


def test_the_command_refines_a_given_plan_and_leaves_locked_and_mixed_blocks(
    folder: Path, files: tuple[Path, Path], home: Path, tmp_path: Path
) -> None:
    out, model = tmp_path / "out.json", load_checkpoint(str(folder))
    base = preset_named(model.config, "sst2", "directq-3")
    odd = "bert.encoder.layer.2.attention.self.query"
    plan = base.with_sites({odd: replace(base.sites[odd], bits=5, groups=3)}, "mine")
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_json()))
    budget = plan_size(model.config, plan).size_mb
    options = [
        "--plan",
        str(tmp_path / "plan.json"),
        "--lock",
        "0",
        "--budget-mb",
        repr(budget),
        "--refine",
        "8",
    ]
    assert main([*command(folder, files, *options), "--out", str(out)]) == 0
    document = json.loads(out.read_text())
    assert document["refine"]["start"]["plan"] == plan.to_json()
    assert document["refine"]["tried"]
    moved = {change["name"] for one in document["refine"]["tried"] for change in one["changes"]}
    assert not {name for name in moved if name.startswith("bert.encoder.layer.0.")}
    assert "bert.encoder.layer.2.attention" not in moved
    end = document["plan"]["sites"]
    assert {site: entry["groups"] for site, entry in end.items()} == {
        site: entry.groups for site, entry in plan.sites.items()
    }
    assert "frontier" not in document


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget-mb", "5", "--refine", "0", "--task", "sst2", "--data", "d"], "--refine is 0"),
        (["--budget-mb", "5", "--refine", "3", "--data", "d"], "--refine needs --task"),
        (["--budget-mb", "5", "--refine", "3", "--task", "sst2"], "--refine needs --data"),
        (["--high", "1", "--refine", "3", "--task", "sst2", "--data", "d"], "--refine needs --budget-mb"),
        (["--budget-mb", "5", "--plan", "qbert-4"], "--plan needs --refine"),
        (["--budget-mb", "5", "--limit", "4"], "--limit needs --refine"),
        (["--budget-mb", "5", "--refine", "3", "--task", "sst2", "--data", "d", "--lock", "1"],
         "--lock needs --refine with --plan"),
        (["--budget-mb", "5", "--refine", "3", "--task", "sst2", "--data", "d", "--plan", "qbert-4", "--lock", "7"],
         "--lock 7: layers are 0 to 2"),
        (["--budget-mb", "5", "--refine", "3", "--task", "sst2", "--data", "d", "--plan", "qbert-4",
          "--lock", "0,1,2"], "no block is free"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(
    folder: Path,
    files: tuple[Path, Path],
    home: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    given = ["allocate", str(folder), "--sensitivity", str(files[0]), "--bits", "2,4", *options]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_killed_search_ends_with_the_undisturbed_plan(
    folder: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    arguments = command(folder, files, "--budget-mb", repr(budget_of(folder)), "--refine", "10")

    def begin(home: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "qbert_core", *arguments], cwd=ROOT, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
            env={**os.environ, "QBERT_HOME": str(tmp_path / home), "QBERT_PROGRESS": "json"},
        )  # fmt: skip

    out, _ = begin("quiet").communicate(timeout=600)
    killed = begin("disturbed")
    assert killed.stderr is not None
    for line in killed.stderr:
        if json.loads(line)["done"] >= 5:
            break
    killed.kill()
    killed.communicate()
    assert killed.returncode == -9
    again, _ = begin("disturbed").communicate(timeout=600)
    assert json.loads(again) == json.loads(out)
