"""Sweeps: each row is what measuring its plan alone gives, and no kill changes any."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from qbert_core.allocation.experiments import Variant, methods, modules, one_at_a_time
from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.cli import main
from qbert_core.curvature import BlockSensitivity, Sensitivity
from qbert_core.errors import Cancelled, InputError
from qbert_core.evaluation import Evaluator
from qbert_core.quantization import ActivationRanges, Plan, calibrate, plan_size
from qbert_core.runtime.events import Flag, Silent
from qbert_core.runtime.store import Store
from qbert_core.runtime.sweep import Finetuning, Row, applied, sweep
from qbert_core.tasks import Examples, task_named
from qbert_core.training import Recipe, TrainingResult, finetune
from tests.tiny import WORDS, make_tiny

ROOT = Path(__file__).resolve().parents[2]
TASK = task_named("sst2")
RECIPE = Recipe(epochs=1, lr=1e-3, batch_size=8)


def sentences(count: int, seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    words = [word for word in WORDS if word.isalpha()]
    texts = [" ".join(generator.choice(words, generator.integers(1, 20))) for _ in range(count)]
    return pd.DataFrame({"sentence": texts, "label": generator.integers(0, 2, count)})


@pytest.fixture(scope="module")
def examples(tiny: Checkpoint) -> Examples:
    return TASK.examples(sentences(40, 0), tiny, "made up")


@pytest.fixture(scope="module")
def train(tiny: Checkpoint) -> Examples:
    return TASK.examples(sentences(32, 1), tiny, "made up to train")


@pytest.fixture(scope="module")
def ranges(tiny: Checkpoint, train: Examples) -> ActivationRanges:
    return calibrate(tiny, TASK, train)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home" / "store.sqlite")


def never(*arguments: Any, **options: Any) -> TrainingResult:
    raise AssertionError("trained again")


def no_warning(line: str) -> None:
    raise AssertionError(line)


Run = Callable[..., list[Row]]


@pytest.fixture
def run(tiny: Checkpoint, examples: Examples, ranges: ActivationRanges, store: Store) -> Run:
    def run(variants: tuple[Variant, ...], **options: Any) -> list[Row]:
        settings: dict[str, Any] = {"seed": 0, "warn": no_warning, "store": store, **options}
        at = settings.pop("store")
        return sweep(tiny, TASK, examples, ranges, "test", variants, at, **settings)

    return run


def timeless(rows: list[Row]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.to_json().items() if k != "seconds"} for row in rows]


def measured_sensitivity(tiny: Checkpoint, omegas: list[float]) -> Sensitivity:
    blocks = tuple(
        BlockSensitivity(f"bert.encoder.layer.{i}", i, "layer", (value,), (0.0,))
        for i, value in enumerate(omegas)
    )
    return Sensitivity(blocks, 1, 10, 0.0, 0, model=tiny.fingerprint)


def test_every_row_is_what_its_plan_measures_alone(tiny, examples, ranges, run):
    variants = one_at_a_time(tiny.config, "sst2", None)
    rows = run(variants, attention=True)
    assert [row.variant for row in rows] == list(variants)
    for row in rows:
        document = row.to_json()
        alone = Evaluator(tiny, TASK, examples, ranges).evaluate(row.variant.plan)
        assert document["predictions"] == alone.predictions
        assert document["metrics"] == alone.score.metrics
        assert document["interval"] == alone.score.interval
        assert document["attention_kl"] == alone.attention_kl
        assert document["attention_kl_mean"] == pytest.approx(np.mean(alone.attention_kl), abs=1e-15)
        assert document["baseline"]["accuracy"] == alone.baseline.metrics["accuracy"]
        before, after = (score.metrics["accuracy"] for score in (alone.baseline, alone.score))
        assert document["difference"]["mean"] == pytest.approx(after - before, abs=1e-12)
        gained = sum(flip.is_right and not flip.was_right for flip in alone.flips)
        lost = sum(flip.was_right and not flip.is_right for flip in alone.flips)
        assert (document["difference"]["gained"], document["difference"]["lost"]) == (gained, lost)
        size = plan_size(tiny.config, row.variant.plan)
        assert (document["size_mb"], document["weights_mb"]) == (size.size_mb, size.weights_mb)
        assert document["n"] == len(examples)
        assert document["plan_digest"] == row.variant.plan.digest
    assert len({row.to_json()["metrics"]["accuracy"] for row in rows}) > 1
    assert [row.measured.attention_kl for row in run(variants)] == [None] * len(rows)


def test_what_is_applied_counts_at_most_a_group_a_row(tiny):
    plans = {variant.name: variant.plan for variant in modules(tiny.config, "sst2")}
    assert applied(tiny.config, plans["baseline"]) == {
        "bits": [32],
        "groups": [],
        "activation_bits": 32,
        "layer_bits": [[32]] * 3,
    }
    assert applied(tiny.config, plans["ffn-1-2-mp"]) == {
        "bits": [1, 2, 32],
        "groups": [16, 32],  # of 128: hidden 16, intermediate 32
        "activation_bits": 8,
        "layer_bits": [[2, 32], [2, 32], [1, 32]],  # two of three: the middle, then the lower of a tie
    }
    embedding = applied(tiny.config, plans["embedding-4"])
    assert (embedding["activation_bits"], embedding["groups"]) == (32, [2, 40, tiny.config.vocabulary])


def counting(calls: list[str]) -> Any:
    def train(*arguments: Any, plan: Plan | None = None, **options: Any) -> TrainingResult:
        calls.append("fp32" if plan is None else plan.digest)
        return finetune(*arguments, plan=plan, **options)

    return train


def test_equal_plans_are_measured_once_and_say_so(tiny, examples, train, run, store):
    every = methods(tiny.config, "sst2", measured_sensitivity(tiny, [3.0, 2.0, 1.0]), 1)
    variants = (every[0], *(v for v in every if "-2-4-high-" in v.name))
    calls: list[str] = []
    finetuning = Finetuning(train, RECIPE, (0, 1))
    rows = run(variants, finetuning=finetuning, train=counting(calls))
    first: dict[tuple[str, bool, int], Row] = {}
    for row in rows:
        key = (row.variant.plan.digest, row.trained is not None, row.seed)
        if key in first:
            assert row.same_as == first[key].variant.name
            assert row.measured is first[key].measured
        else:
            assert row.same_as is None
            first[key] = row
    # one eigenvalue a layer: the mean alone ranks as Omega does
    hawq = next(row for row in rows if row.variant.name == "hawq-2-4-high-1")
    assert hawq.same_as == "qbert-mp-2-4-high-1"
    assert len(calls) == 2 * len({variant.plan.digest for variant in variants})
    assert calls.count("fp32") == 2
    assert len(rows) == 3 * len(variants)


def test_finetuned_rows_are_what_finetuning_and_measuring_give(tiny, examples, train, ranges, run):
    variants = modules(tiny.config, "sst2")
    chosen = (variants[0], *(v for v in variants if v.name in ("attention-2", "word-2")))
    rows = run(chosen, finetuning=Finetuning(train, RECIPE, (3, 1)), attention=True)
    assert [(row.variant.name, row.seed, row.trained is not None) for row in rows] == [
        (v.name, seed, on) for seed, on in ((0, False), (3, True), (1, True)) for v in chosen
    ]
    original = run(chosen[:1])[0].measured
    for row in rows[3:]:
        plan = row.variant.plan
        quantized = row.variant.name != "baseline"
        result = finetune(
            tiny, TASK, train, examples, replace(RECIPE, seed=row.seed), plan=plan if quantized else None
        )
        expected = Evaluator(
            result.checkpoint, TASK, examples, result.ranges or ranges, reference=tiny
        ).evaluate(plan)
        document = row.to_json()
        assert document["metrics"] == result.score.metrics == expected.score.metrics
        assert document["predictions"] == expected.predictions
        assert document["attention_kl"] == expected.attention_kl
        assert (document["epochs"], document["train_examples"]) == (1, 32)
        assert document["baseline"]["accuracy"] == original.metrics["accuracy"]
    by_seed = {row.seed: row.measured.attention_kl for row in rows[3:] if row.variant.name == "attention-2"}
    assert by_seed[3] != by_seed[1]
    assert rows[0].to_json()["epochs"] is None


def test_finished_rows_come_from_the_store_and_only_for_the_same_question(tiny, train, examples, run):
    variants = one_at_a_time(tiny.config, "sst2", None)[:3]
    calls: list[str] = []
    once = Finetuning(train, RECIPE, (0,))
    rows = run(variants, finetuning=once, train=counting(calls))
    assert len(calls) == 3
    again = run(variants, finetuning=once, train=never)
    assert [row.to_json() for row in again] == [row.to_json() for row in rows]  # seconds, too
    for other in (
        Finetuning(train, replace(RECIPE, lr=2e-3), (0,)),
        Finetuning(train, RECIPE, (1,)),
        Finetuning(train.take(range(31)), RECIPE, (0,)),
    ):
        with pytest.raises(AssertionError, match="trained again"):
            run(variants, finetuning=other, train=never)
    # the seed of the bootstrap asks nothing of the model
    moved = run(variants, finetuning=once, train=never, seed=9)
    assert [row.measured for row in moved] == [row.measured for row in rows]
    # attention asked for later is no reason to train again
    late = run(variants, finetuning=once, train=never, attention=True)
    assert [row.measured for row in late[3:]] == [row.measured for row in rows[3:]]
    assert all(row.measured.attention_kl is not None for row in late)


class StopAt(Silent):
    """Cancels at the n-th question whether to."""

    def __init__(self, number: int) -> None:
        self.left = number

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Cancelled


@pytest.mark.parametrize("number", [0, 3, 17, 60, 125, 170])
def test_a_cancelled_sweep_goes_on_to_the_same_rows(tiny, examples, train, run, store, tmp_path, number):
    variants = one_at_a_time(tiny.config, "sst2", None)[:4]
    finetuning = Finetuning(train, replace(RECIPE, epochs=2), (0,))
    expected = run(variants, finetuning=finetuning, store=Store(tmp_path / "other" / "store.sqlite"))
    with pytest.raises(Cancelled):
        run(variants, finetuning=finetuning, events=StopAt(number))
    assert timeless(run(variants, finetuning=finetuning)) == timeless(expected)
    assert list(store.path.parent.rglob("state.safetensors")) == []


def test_a_state_that_cannot_be_used_does_not_block_its_row(tiny, train, run, store, tmp_path):
    variants = one_at_a_time(tiny.config, "sst2", None)[:1]
    finetuning = Finetuning(train, replace(RECIPE, epochs=2), (0,))
    number, states = 0, []
    while not states:  # cancel later and later, until a training was begun
        number += 1
        with pytest.raises(Cancelled):
            run(variants, finetuning=finetuning, events=StopAt(number))
        states = list(store.path.parent.rglob("state.safetensors"))
    states[0].write_bytes(b"damaged")
    rows = run(variants, finetuning=finetuning)
    assert not states[0].exists()
    elsewhere = Store(tmp_path / "other" / "store.sqlite")
    assert timeless(rows) == timeless(run(variants, finetuning=finetuning, store=elsewhere))


def test_a_sweep_can_be_cancelled_before_it_starts(tiny, run):
    flag = Flag()
    flag.cancel()
    with pytest.raises(Cancelled):
        run(one_at_a_time(tiny.config, "sst2", None), events=flag)


class Heard(Silent):
    def __init__(self) -> None:
        self.told: list[tuple[int, int, Any]] = []

    def progress(self, done: int, total: int, partial: Any = None) -> None:
        self.told.append((done, total, partial))


def test_rows_arrive_one_by_one_without_their_heavy_parts(tiny, run, train):
    variants = one_at_a_time(tiny.config, "sst2", None)[:3]
    heard = Heard()
    rows = run(variants, finetuning=Finetuning(train, RECIPE, (0,)), events=heard, attention=True)
    finished = [(done, total, partial) for done, total, partial in heard.told if partial["running"] is None]
    assert [(done, total) for done, total, _ in finished] == [(i, 6) for i in range(1, 7)]
    for done, _, partial in heard.told:
        assert len(partial["rows"]) == done
        assert len(json.dumps(partial)) < 2000 * (done + 1)
        for row, whole in zip(partial["rows"], rows, strict=False):
            assert not {"plan", "predictions", "attention_kl"} & set(row)
            assert row.items() <= whole.to_json().items()
    assert heard.told[0][2]["running"]["name"] == "baseline"


def test_a_store_that_fails_costs_one_warning(tiny, run, train, tmp_path):
    (tmp_path / "file").write_text("")
    warned: list[str] = []
    variants = one_at_a_time(tiny.config, "sst2", None)[:3]
    finetuning = Finetuning(train, RECIPE, (0,))
    broken = Store(tmp_path / "file" / "store.sqlite")
    rows = run(variants, finetuning=finetuning, store=broken, warn=warned.append)
    assert len(warned) == 1
    assert "finished rows cannot be kept for a restart" in warned[0]
    assert timeless(rows) == timeless(run(variants, finetuning=finetuning))


def test_a_damaged_row_is_computed_again(tiny, run, store, monkeypatch):
    variants = one_at_a_time(tiny.config, "sst2", None)[:2]
    expected = timeless(run(variants))
    get = Store.get
    monkeypatch.setattr(Store, "get", lambda self, key: {**get(self, key), "grades": 5})
    warned: list[str] = []
    assert timeless(run(variants, warn=warned.append)) == expected
    assert len(warned) == 1


def table(task: str) -> pd.DataFrame:
    """Random rows of another task, some of them too long for the tiny model."""
    generator = np.random.default_rng(4)
    words = [word for word in WORDS if word.isalpha()]
    made: list[dict[str, Any]] = []
    for _ in range(24):
        texts = [" ".join(generator.choice(words, generator.integers(2, top))) for top in (90, 9)]
        tokens = texts[1].split()
        tags = ["B-PER" if generator.integers(3) == 0 else "O" for _ in tokens]
        start = texts[0].index(texts[0].split()[1])
        made.append(
            {
                "mnli": {"premise": texts[0], "hypothesis": texts[1], "label": int(generator.integers(3))},
                "conll03": {"tokens": tokens, "ner_tags": tags},
                "squad": {
                    "context": texts[0],
                    "question": texts[1],
                    "answers": {"text": [texts[0].split()[1]], "answer_start": [start]},
                },
            }[task]
        )
    return pd.DataFrame(made)


@pytest.mark.parametrize(
    ("name", "head"), [("mnli", "sequence"), ("conll03", "token"), ("squad", "question")]
)
def test_every_task_is_swept_with_and_without_finetuning(name, head, store, tmp_path):
    task = task_named(name)
    model = load_checkpoint(make_tiny(tmp_path / "model", head, task.default_labels()))
    examples = task.examples(table(name), model, "made up")
    ranges = calibrate(model, task, examples)
    variants = [v for v in modules(model.config, name) if v.name in ("baseline", "ffn-1-2-mp", "embedding-2")]
    rows = sweep(
        model,
        task,
        examples,
        ranges,
        "modules",
        variants,
        store,
        seed=0,
        attention=True,
        finetuning=Finetuning(examples, RECIPE, (0,)),
        warn=no_warning,
    )
    assert len(rows) == 6
    for row in rows[:3]:
        alone = Evaluator(model, task, examples, ranges).evaluate(row.variant.plan)
        document = json.loads(json.dumps(row.to_json()))
        assert document["metrics"] == alone.score.metrics
        assert document["interval"] == list(alone.score.interval)
        assert document["n"] == len(examples) == 24
        change = alone.score.value - alone.baseline.value
        assert document["difference"]["mean"] == pytest.approx(change, abs=1e-12)
        gained = sum(flip.is_right and not flip.was_right for flip in alone.flips)
        lost = sum(flip.was_right and not flip.is_right for flip in alone.flips)
        assert (document["difference"]["gained"], document["difference"]["lost"]) == (gained, lost)
    again = sweep(
        model, task, examples, ranges, "modules", variants, store, seed=0, attention=True,
        finetuning=Finetuning(examples, RECIPE, (0,)), warn=no_warning, train=never,
    )  # fmt: skip
    assert json.dumps([row.to_json() for row in again]) == json.dumps([row.to_json() for row in rows])


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,)])
def test_seeds_are_different_and_from_0(train, seeds):
    with pytest.raises(InputError, match="seed"):
        Finetuning(train, RECIPE, seeds)


# The command line


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(make_tiny(tmp_path / "model"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "data.csv"
    sentences(30, 2).to_csv(path, index=False)
    return str(path)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QBERT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code = main(["sweep", *arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    found = json.loads(captured.out)
    assert isinstance(found, dict)
    return found


def test_methods_computes_the_sensitivity_it_needs_and_takes_it_from_a_file(
    capsys, home, model, data, tmp_path
):
    common = [model, "--task", "sst2", "--data", data, "--methods", "--high", "1"]
    computed = document(capsys, *common, "--train", data, "--runs", "2", "--fraction", "0.4")
    found = computed["sensitivity"]
    assert (found["runs"], found["examples"]) == (2, 12)
    best = max(found["blocks"], key=lambda block: block["omega"])["layer"]
    least = min(found["blocks"], key=lambda block: block["omega"])["layer"]
    rows = {row["name"]: row for row in computed["rows"]}
    for name, layer in (("qbert-mp-2-4-high-1", best), ("reverse-2-4-high-1", least)):
        sites = rows[name]["plan"]["sites"]
        for i in range(3):
            assert sites[f"bert.encoder.layer.{i}.output.dense"]["bits"] == (4 if i == layer else 2)
    path = tmp_path / "s.json"
    path.write_text(json.dumps(found))
    read = document(capsys, *common, "--train", data, "--sensitivity", str(path))
    assert [row["plan_digest"] for row in read["rows"]] == [row["plan_digest"] for row in computed["rows"]]


@pytest.mark.parametrize(
    ("experiment", "count"),
    [(["--groups", "1, heads,4,rows"], 5), (["--modules"], 21), (["--one-at-a-time"], 14)],
)
def test_every_experiment_has_the_documented_rows(capsys, home, model, data, experiment, count):
    found = document(capsys, model, "--task", "sst2", "--data", data, "--limit", "12", *experiment)
    assert len(found["rows"]) == count
    for row in found["rows"]:
        assert set(row) >= {
            "experiment", "name", "method", "plan", "plan_digest", "applied", "finetuned", "seed", "metrics", "n",
            "interval", "baseline", "difference", "size_mb", "weights_mb", "compression", "effective_bits",
            "attention_kl", "attention_kl_mean", "seconds", "epochs", "train_examples",
        }  # fmt: skip
        assert row["n"] == 12
        assert row["finetuned"] is False


def test_a_plan_gives_its_bits_to_group_counts_and_one_at_a_time(capsys, home, model, data):
    common = [model, "--task", "sst2", "--data", data, "--plan", "qbert-3"]
    groups = document(capsys, *common, "--groups", "2")
    assert groups["rows"][1]["applied"]["bits"] == [3, 8]
    one = document(capsys, *common, "--one-at-a-time")
    assert {row["name"]: row["applied"]["bits"] for row in one["rows"]}["only-layer-1"] == [3, 32]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "one of the arguments --methods --groups --modules --one-at-a-time --frontier is required"),
        (["--methods", "--modules"], "not allowed with argument"),
        (["--methods"], "--methods needs --sensitivity FILE, or --train to compute one on"),
        (["--groups", "1,head"], "group count 'head'; expected whole numbers from 1 or the words heads"),
        (["--groups", ""], "group count ''"),
        (["--groups", "0"], "group count '0'"),
        (["--modules", "--finetune"], "--finetune needs --train"),
        (["--modules", "--epochs", "2"], "--epochs needs --finetune"),
        (["--modules", "--seeds", "2"], "--seeds needs --finetune"),
        (["--modules", "--plan", "qbert-4"], "--plan needs --groups or --one-at-a-time"),
        (["--modules", "--high", "1"], "--high needs --methods"),
        (["--modules", "--sensitivity", "x"], "--sensitivity needs --methods"),
        (["--methods", "--train", "DATA", "--high", "4"], "high is 4; expected 0 to 3"),
        (["--methods", "--train", "DATA", "--runs", "0"], "runs is 0"),
        (["--methods", "--train", "DATA", "--fraction", "2"], "fraction is 2.0"),
        (["--methods", "--sensitivity", "/nowhere.json"], "/nowhere.json: no such file"),
        (["--methods", "--sensitivity", "S", "--runs", "3"], "--runs needs --methods without --sensitivity"),
        (["--one-at-a-time", "--plan", "baseline"], "plan baseline quantizes nothing"),
        (
            ["--modules", "--train", "DATA", "--finetune", "--seeds", "0,x"],
            "--seeds '0,x'; expected whole numbers",
        ),
        (["--modules", "--train", "DATA", "--finetune", "--seeds", "1,1"], "seeds are 1,1"),
        (["--modules", "--train", "DATA", "--finetune", "--epochs", "0"], "epochs is 0"),
        (["--modules", "--train", "DATA", "--finetune", "--lr", "nan"], "lr is nan"),
        (["--modules", "--train", "/nowhere.csv"], "/nowhere.csv: no such file"),
        (["--modules", "--limit", "0"], "limit is 0"),
    ],
)
def test_wrong_input_is_one_line(capsys, home, model, data, options, says):
    given = [data if option == "DATA" else option for option in options]
    try:
        code = main(["sweep", model, "--task", "sst2", "--data", data, *given])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert says in captured.err


def test_a_sensitivity_of_another_model_is_refused(capsys, home, model, data, tmp_path):
    path = tmp_path / "s.json"
    other = str(make_tiny(tmp_path / "other", seed=1))
    assert (
        main(["sensitivity", other, "--task", "sst2", "--train", data, "--runs", "1", "--out", str(path)])
        == 0
    )
    capsys.readouterr()
    arguments = ["sweep", model, "--task", "sst2", "--data", data, "--methods", "--sensitivity", str(path)]
    assert main(arguments) == 2
    assert "was computed for another model" in capsys.readouterr().err
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "model": None, "blocks": found["blocks"][:2]}))
    assert main(arguments) == 2
    assert "the model has 0..2" in capsys.readouterr().err


def test_progress_for_people_names_what_runs_and_what_a_row_measured(capsys, home, model, data):
    assert main(["sweep", model, "--task", "sst2", "--data", data, "--groups", "1", "--out", os.devnull]) == 0
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first.startswith("0/2 ")
    assert '"name": "baseline"' in first
    assert last.startswith("2/2 ")
    assert '"name": "groups-1"' in last
    assert '"metrics": {"accuracy": ' in last
    assert "size_mb" not in last


def test_help_explains_the_experiments(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "--help"])
    assert stop.value.code == 0
    assert "128-equivalent" in capsys.readouterr().out


def start(arguments: list[str], home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "qbert_core", "sweep", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "QBERT_HOME": str(home), "QBERT_PROGRESS": "json"},
    )  # fmt: skip


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_seconds(entry) for key, entry in value.items() if key != "seconds"}
    return [without_seconds(entry) for entry in value] if isinstance(value, list) else value


def test_a_killed_sweep_ends_with_the_undisturbed_one(model, data, tmp_path):
    arguments = [
        model, "--task", "sst2", "--data", data, "--train", data, "--groups", "1,2,rows", "--attention",
        "--finetune", "--epochs", "6", "--lr", "0.001", "--seeds", "0,1",
    ]  # fmt: skip
    out, _ = start(arguments, tmp_path / "quiet").communicate(timeout=600)
    expected = json.loads(out)
    rows = len(expected["rows"])
    assert rows == 12
    generator = np.random.default_rng(int.from_bytes(os.urandom(4)))
    # rows done (four are not finetuned), seconds after that: in the middle of a row
    moments = [(int(generator.integers(0, 4)), 0.0)]
    moments += [(int(generator.integers(4, 9)), float(generator.uniform(0, 0.4)))]
    for done, seconds in moments:
        killed = start(arguments, tmp_path / "disturbed")
        assert killed.stderr is not None
        for line in killed.stderr:
            if json.loads(line)["done"] >= done:
                break
        time.sleep(seconds)
        killed.kill()
        killed.communicate()
        assert killed.returncode == -9, f"ended before the kill; moments {moments}"
    out, _ = start(arguments, tmp_path / "disturbed").communicate(timeout=600)
    assert without_seconds(json.loads(out)) == without_seconds(expected), f"moments {moments}"
    assert list((tmp_path / "disturbed").rglob("state.safetensors*")) == []
