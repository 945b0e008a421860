"""How well predictions rank: the statistics against scipy and by hand, the plans, and the command."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_core.allocation import Choice, Unit
from qbert_core.allocation.assignment import bits_of
from qbert_core.allocation.prediction import harm_of, perturbed_units, predictors
from qbert_core.allocation.sampling import random_bits
from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.cli import main
from qbert_core.curvature import BlockSensitivity, Sensitivity, blocks_of
from qbert_core.errors import Cancelled, InputError
from qbert_core.evaluation.ranks import (
    STATISTICS,
    agreements,
    halves_agreement,
    nearly_equal,
    resampled_agreements,
    signs,
)
from qbert_core.quantization import fake_quantize, plan_size, preset_named, sites_of
from qbert_core.quantization.plan import parse_plan
from qbert_core.runtime.events import Flag
from qbert_core.runtime.frontier import POINTS, study
from qbert_core.tasks import task_named
from tests.tiny import WORDS, make_tiny

TASK = task_named("sst2")
numbers = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=12)


def compare(x: Any, y: Any, near: Any = None, weights: Any = None) -> dict[str, float]:
    x, y = np.asarray(x, float), np.asarray(y, float)
    close = np.ones((len(x), len(x)), bool) if near is None else near
    return agreements(signs(x), signs(y), close, weights)


@given(numbers)
@settings(deadline=None)
def test_rank_correlations_are_scipys_with_ties(pairs: list[tuple[int, int]]) -> None:
    x, y = map(list, zip(*pairs, strict=True))
    found = compare(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert np.isnan([found["spearman"], found["kendall"], found["near"]]).all()
        return
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
    assert found["kendall"] == pytest.approx(scipy.stats.kendalltau(x, y).statistic, abs=1e-12)
    assert found["near"] == pytest.approx(found["kendall"], abs=1e-12)  # all are near here


@given(numbers, st.data())
@settings(deadline=None)
def test_a_plan_that_counts_twice_is_as_if_it_were_there_twice(
    pairs: list[tuple[int, int]], data: st.DataObject
) -> None:
    times = data.draw(st.lists(st.integers(0, 3), min_size=len(pairs), max_size=len(pairs)))
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=len(pairs), max_size=len(pairs)))
    x, y = (np.array(side, float) for side in zip(*pairs, strict=True))
    close = nearly_equal(np.array(sizes, float))
    found = compare(x, y, close, np.array(times, float))
    again = np.repeat(np.arange(len(pairs)), times)
    expected = compare(x[again], y[again], nearly_equal(np.array(sizes, float)[again]))
    for name in STATISTICS:
        assert found[name] == pytest.approx(expected[name], abs=1e-12, nan_ok=True)


@given(numbers, st.data())
@settings(deadline=None)
def test_near_pairs_are_counted_by_hand(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    sizes = data.draw(
        st.lists(st.sampled_from([1.0, 1.005, 1.02, 3.0]), min_size=len(pairs), max_size=len(pairs))
    )
    agree = disagree = x_differ = y_differ = 0
    for (a, b), (c, d) in itertools.combinations(zip(pairs, sizes, strict=True), 2):
        if abs(b - d) > 0.01 * max(b, d):
            continue
        x, y = a[0] - c[0], a[1] - c[1]
        agree += x * y > 0
        disagree += x * y < 0
        x_differ += x != 0
        y_differ += y != 0
    found = compare(*zip(*pairs, strict=True), near=nearly_equal(np.array(sizes)))
    share = agree / (agree + disagree) if agree + disagree else float("nan")
    tau = (agree - disagree) / np.sqrt(x_differ * y_differ) if x_differ * y_differ else float("nan")
    assert found["near_right"] == pytest.approx(share, nan_ok=True)
    assert found["near"] == pytest.approx(tau, nan_ok=True)


def outcomes(means: np.ndarray, examples: int, seed: int) -> np.ndarray:
    """(plans, examples, 1): right or wrong, with these probabilities."""
    draw = np.random.default_rng(seed)
    return (draw.random((len(means), examples)) < means[:, None]).astype(float)[:, :, None]


def wrong(sums: np.ndarray) -> np.ndarray:
    return -sums[:, 0]


def test_intervals_hold_their_value_and_tell_a_prediction_from_none() -> None:
    draw = np.random.default_rng(1)
    quality = draw.random(40)
    sums = outcomes(quality, 300, 2)
    said = {"good": -quality, "none": draw.random(40), "bad": quality, "constant": np.zeros(40)}
    sizes = np.repeat(np.arange(1, 9, dtype=float), 5)
    found = resampled_agreements(said, sums, wrong, sizes, seed=0, resamples=200)
    for name in ("good", "none", "bad"):
        for statistic in STATISTICS:
            one = found[name][statistic]
            assert one.interval is not None
            assert one.value is not None
            assert one.interval[0] <= one.value <= one.interval[1]
    assert found["good"]["spearman"].interval[0] > 0.8  # type: ignore[index]
    assert found["bad"]["spearman"].interval[1] < -0.8  # type: ignore[index]
    low, high = found["none"]["kendall"].interval  # type: ignore[misc]
    assert low < 0 < high
    assert found["good"]["near_right"].interval[0] > 0.5  # type: ignore[index]
    for statistic in STATISTICS:
        assert found["constant"][statistic].value is None
        assert found["constant"][statistic].interval is None
    again = resampled_agreements(said, sums, wrong, sizes, seed=0, resamples=200)
    assert found == again
    assert found != resampled_agreements(said, sums, wrong, sizes, seed=1, resamples=200)


def test_more_of_either_makes_the_interval_narrower() -> None:
    def width(plans: int, examples: int) -> float:
        quality = 0.4 + 0.2 * np.linspace(0, 1, plans)
        found = resampled_agreements(
            {"p": -quality}, outcomes(quality, examples, 0), wrong, np.arange(1.0, plans + 1), seed=0, resamples=300
        )  # fmt: skip
        low, high = found["p"]["spearman"].interval  # type: ignore[misc]
        return high - low

    assert width(80, 400) < width(20, 400)
    assert width(40, 4000) < width(40, 100)


def test_half_the_examples_rank_as_well_as_they_can() -> None:
    quality, sizes = np.linspace(0.3, 0.9, 30), np.arange(1.0, 31)
    same = np.repeat(outcomes(quality, 1, 0), 50, axis=1)  # every example says the same
    some = halves_agreement(same, wrong, sizes, seed=0)
    assert some["spearman"] == pytest.approx(1)
    noise = outcomes(np.full(30, 0.5), 200, 0)
    nothing = halves_agreement(noise, wrong, sizes, seed=0)
    assert abs(nothing["spearman"] or 1) < 0.3
    assert nothing["near"] is None  # no two sizes are nearly equal
    few, many = (
        halves_agreement(outcomes(quality, n, 3), wrong, sizes, seed=0)["spearman"] for n in (20, 2000)
    )
    assert few is not None
    assert many is not None
    assert few < many


def test_resampling_can_be_cancelled() -> None:
    flag = Flag()
    flag.cancel()
    with pytest.raises(Cancelled):
        resampled_agreements(
            {"p": np.arange(5.0)}, outcomes(np.full(5, 0.5), 9, 0), wrong, np.ones(5), seed=0, events=flag
        )


widths = st.lists(st.integers(1, 8), min_size=1, max_size=4, unique=True)


@given(st.lists(widths, min_size=1, max_size=6), st.integers(1, 60), st.integers(0, 5))
@settings(deadline=None)
def test_random_plans_are_different_and_of_the_widths_offered(
    offered: list[list[int]], count: int, seed: int
) -> None:
    units = [
        Unit(f"u{i}", tuple(Choice(b, 10 * b, 0.0) for b in sorted(own))) for i, own in enumerate(offered)
    ]
    first = {unit.name: unit.choices[0].bits for unit in units}
    found = random_bits(units, count, seed, [first])
    assert found == random_bits(units, count, seed, [first])
    keys = [tuple(bits.values()) for bits in found]
    possible = int(np.prod([len(own) for own in offered])) - 1
    assert len(set(keys)) == len(keys) <= min(count, possible)
    assert tuple(first.values()) not in keys
    for bits in found:
        assert list(bits) == [unit.name for unit in units]
        for unit in units:
            assert bits[unit.name] in {choice.bits for choice in unit.choices}


def test_random_plans_have_all_sizes_and_several_of_one() -> None:
    units = [Unit(f"u{i}", tuple(Choice(b, 1000 * b, 0.0) for b in (2, 3, 4, 8))) for i in range(12)]
    found = random_bits(units, 60, 0)
    assert len(found) == 60
    sizes = np.array([sum(bits.values()) for bits in found])
    assert sizes.min() < 12 * 3
    assert sizes.max() > 12 * 6
    assert len(np.unique(sizes)) >= 8
    pairs = int(nearly_equal(sizes.astype(float)).sum()) // 2
    assert pairs >= 12 * 10  # twelve fives


def sensitivity(model: Checkpoint, granularity: str = "layer", traces: bool = False) -> Sensitivity:
    draw = np.random.default_rng(0)
    found = []
    for block in blocks_of(model.config, granularity):
        values = tuple(float(v) for v in draw.normal(1, 3, 3))
        own = {"traces": values, "trace_errors": (0.1,) * 3} if traces else {}
        found.append(BlockSensitivity(block.name, block.layer, block.kind, values, (0.0,) * 3, **own))
    return Sensitivity(tuple(found), 3, 10, 0.0, 0, model=model.fingerprint)


@pytest.mark.parametrize("granularity", ["layer", "module"])
def test_every_rule_weighs_the_same_perturbation(tiny: Checkpoint, granularity: str) -> None:
    found, start = sensitivity(tiny, granularity, traces=True), preset_named(tiny.config, "sst2", "qbert-4")
    units = perturbed_units(tiny, start, {block.name: [2, 4, 32] for block in found.blocks})
    judged = predictors(tiny, found, units)
    assert set(judged) == {"omega", "mean", "trace", "perturbation"}
    for place, block in enumerate(found.blocks):
        size = sum(t.numel() for n, t in tiny.weights.items() if n.startswith(f"{block.name}."))
        sites = [s for s in sites_of(tiny.config) if s.name.startswith(f"{block.name}.")]
        if granularity == "module":
            size, sites = None, None  # modules are no prefixes
        for number, bits in enumerate((2, 4, 32)):
            harms = {name: own[place].choices[number].harm for name, own in judged.items()}
            assert harms["omega"] == pytest.approx(harms["perturbation"] * block.omega)
            assert harms["mean"] == pytest.approx(harms["perturbation"] * abs(block.mean))
            if sites is not None and size is not None:
                assert block.trace is not None
                assert harms["trace"] == pytest.approx(harms["perturbation"] * max(0, block.trace) / size)
                moved = 0.0
                for site in sites if bits < 32 else []:
                    weight = tiny.weights[site.parameter]
                    moved += float(((weight - fake_quantize(weight, bits, 128)).double() ** 2).sum())
                assert harms["perturbation"] == pytest.approx(moved / 2, rel=1e-6)
    assert "trace" not in predictors(tiny, sensitivity(tiny, granularity), units)


def test_the_study_holds_the_frontier_and_random_plans(tiny: Checkpoint) -> None:
    found, start = sensitivity(tiny, "module"), preset_named(tiny.config, "sst2", "qbert-4")
    made = study(tiny, TASK, found, start, [2, 4, 8], 20, 0)
    assert made.variants[0].plan.digest == preset_named(tiny.config, "sst2", "baseline").digest
    frontier = [v for v in made.variants if v.method == "frontier"]
    drawn = [v for v in made.variants if v.method == "random"]
    assert 2 <= len(frontier) <= POINTS
    assert len(drawn) == 20
    digests = [variant.plan.digest for variant in made.variants]
    assert len(set(digests)) == len(digests)
    assert set(made.predicted) == set(digests[1:])
    names = [block.name for block in found.blocks]
    units = perturbed_units(tiny, start, {name: [2, 4, 8] for name in names})
    judged = predictors(tiny, found, units)
    for variant in made.variants[1:]:
        bits = bits_of(tiny.config, variant.plan, names)
        assert set(bits.values()) <= {2, 4, 8}
        said = made.predicted[variant.plan.digest]
        assert said["size"] == -plan_size(tiny.config, variant.plan).size_mb
        assert said["omega"] == pytest.approx(harm_of(judged["omega"], bits))
        for site in sites_of(tiny.config):
            assert variant.plan.sites[site.name].groups == start.sites[site.name].groups
    # no drawn plan beats the frontier's in size and predicted harm
    for one in drawn:
        own = made.predicted[one.plan.digest]
        for best in frontier:
            other = made.predicted[best.plan.digest]
            assert not (own["size"] > other["size"] and own["omega"] < other["omega"] - 1e-12)
    assert study(tiny, TASK, found, start, [2, 4, 8], 20, 0).predicted == made.predicted
    assert set(study(tiny, TASK, found, start, [2, 4, 8], 20, 1).predicted) != set(made.predicted)


def test_a_study_that_cannot_be_is_refused(tiny: Checkpoint) -> None:
    found, start = sensitivity(tiny), preset_named(tiny.config, "sst2", "qbert-4")
    with pytest.raises(InputError, match="0 random plans; expected 1 or more"):
        study(tiny, TASK, found, start, [2, 4], 0, 0)
    with pytest.raises(InputError, match="3 blocks with bits 4 make 1 plans; ranking needs 5 or more"):
        study(tiny, TASK, found, start, [4], 9, 0)
    with pytest.raises(InputError, match=r"layers \[0, 1\]; the model has 0..2"):
        study(tiny, TASK, replace(found, blocks=found.blocks[:2]), start, [2, 4], 9, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A sensitivity and data."""
    place = tmp_path_factory.mktemp("files")
    found = sensitivity(load_checkpoint(str(folder)), "module", traces=True)
    (place / "s.json").write_text(json.dumps(found.to_json()))
    generator = np.random.default_rng(3)
    words = [word for word in WORDS if word.isalpha()]
    texts = [" ".join(generator.choice(words, generator.integers(1, 20))) for _ in range(50)]
    table = pd.DataFrame({"sentence": texts, "label": generator.integers(0, 2, 50)})
    table.to_csv(place / "data.csv", index=False)
    return place / "s.json", place / "data.csv"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QBERT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def command(folder: Path, data: Path, *options: str) -> list[str]:
    return ["sweep", str(folder), "--task", "sst2", "--data", str(data), "--frontier", "12", *options]


def test_the_command_ranks_what_it_measured(
    folder: Path, files: tuple[Path, Path], home: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("QBERT_PROGRESS", "json")
    out, model = tmp_path / "out.json", load_checkpoint(str(folder))
    assert main([*command(folder, files[1], "--sensitivity", str(files[0])), "--out", str(out)]) == 0
    document, told = json.loads(out.read_text()), document_lines(capsys.readouterr().err)
    rows, ranks = document["rows"], document["ranks"]
    assert document["experiment"] == "frontier"
    assert (rows[0]["method"], rows[0]["predicted"]) == ("baseline", None)
    plans = rows[1:]
    assert ranks["plans"] == len(plans)
    assert (ranks["examples"], ranks["seed"], ranks["resampled"]) == (50, 0, "plans and examples")
    for row in plans:
        plan = parse_plan(row["plan"], sites_of(model.config), "row")
        assert row["predicted"]["size"] == pytest.approx(-plan_size(model.config, plan).size_mb)
        assert {"omega", "mean", "trace", "perturbation"} < set(row["predicted"])
    for found in ranks["rows"]:
        x = [row["predicted"][found["predictor"]] for row in plans]
        y = [-row["metrics"]["accuracy"] if found["target"] == "accuracy" else row["loss"] for row in plans]
        assert found["spearman"]["value"] == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
        assert found["kendall"]["value"] == pytest.approx(scipy.stats.kendalltau(x, y).statistic)
        low, high = found["spearman"]["interval"]
        assert low <= found["spearman"]["value"] <= high
        assert (found["near"]["value"] is None) == (found["predictor"] == "size")
    assert {row["predictor"] for row in ranks["rows"]} == set(plans[0]["predicted"])
    assert [half["target"] for half in ranks["halves"]] == ["accuracy", "loss"]
    # rows arrive with what is predicted of them, and are kept
    last = [partial for partial in told if partial["running"] is None][-1]
    assert [row["predicted"] for row in last["rows"]] == [row["predicted"] for row in rows]
    assert all("loss" in row for row in last["rows"])
    assert main([*command(folder, files[1], "--sensitivity", str(files[0])), "--out", str(out)]) == 0
    assert not any(partial["running"] for partial in document_lines(capsys.readouterr().err))
    again = json.loads(out.read_text())
    assert again["ranks"] == ranks


def document_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line)["partial"] for line in text.splitlines()]


def test_the_command_computes_a_sensitivity_where_it_gets_none(
    folder: Path, files: tuple[Path, Path], home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    options = ["--train", str(files[1]), "--runs", "2", "--bits", "2,4,32", "--plan", "directq-4"]
    assert main([*command(folder, files[1], *options), "--out", str(out)]) == 0
    document = json.loads(out.read_text())
    assert document["sensitivity"]["runs"] == 2
    for row in document["rows"][1:]:
        assert {entry["groups"] for entry in row["plan"]["sites"].values()} == {1}
        assert set(row["applied"]["bits"]) <= {2, 4, 8, 32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--frontier needs --sensitivity FILE, or --train"),
        (["--train", "DATA", "--finetune"], "leave --finetune out"),
        (["--train", "DATA", "--bits", "2,9"], "bits 9"),
        (["--train", "DATA", "--high", "1"], "--high needs --methods"),
    ],
)
def test_wrong_options_are_one_line(
    folder: Path, files: tuple[Path, Path], home: Path, capsys: pytest.CaptureFixture[str],
    options: list[str], message: str,
) -> None:  # fmt: skip
    given = [str(files[1]) if option == "DATA" else option for option in options]
    assert main(command(folder, files[1], *given)) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error


def test_bits_need_the_frontier(
    folder: Path, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "sweep",
        str(folder),
        "--task",
        "sst2",
        "--data",
        str(files[1]),
        "--modules",
        "--bits",
        "2,4",
    ]
    assert main(arguments) == 2
    assert "--bits needs --frontier" in capsys.readouterr().err
