"""What every task must do alike: evaluate as transformers does, edit by edit, and have its curvature."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.cli import main
from qbert_core.curvature import sensitivity
from qbert_core.evaluation import Evaluation, Evaluator, calibration
from qbert_core.quantization import fake_quantize, preset_named, presets, sites_of
from qbert_core.tasks import TASKS, Examples, Task, answers, collate, task_named
from tests.tiny import WORDS, make_tiny

PLAIN = [word for word in WORDS if word.isalpha()]
TAGS = ("O", "B-PER", "I-PER", "O", "B-LOC", "O", "O")
HEADS = {"sst2": "sequence", "mnli": "sequence", "conll03": "token", "squad": "question"}


def some(generator: np.random.Generator, low: int, high: int) -> str:
    return " ".join(generator.choice(PLAIN, generator.integers(low, high)))


def rows(task: str, count: int = 24) -> pd.DataFrame:
    """Random rows; some too long for the tiny model."""
    generator = np.random.default_rng(3)
    made: list[dict[str, Any]] = []
    for _ in range(count):
        match task:
            case "sst2":
                made.append({"sentence": some(generator, 1, 60), "label": int(generator.integers(2))})
            case "mnli":
                pair = {"premise": some(generator, 1, 30), "hypothesis": some(generator, 1, 20)}
                made.append({**pair, "label": int(generator.integers(3))})
            case "conll03":
                tokens = some(generator, 1, 50).split()
                tags = [TAGS[i % len(TAGS)] for i in range(len(tokens))]
                made.append({"tokens": tokens, "ner_tags": tags})
            case "squad":
                context = some(generator, 3, 120)
                answer = str(generator.choice(context.split()))
                asked = {"context": context, "question": some(generator, 1, 12)}
                made.append({**asked, "answers": {"text": [answer], "answer_start": [context.index(answer)]}})
    return pd.DataFrame(made)


class Case:
    """A task, a tiny model for it, and data."""

    def __init__(self, name: str, folder: Path, count: int = 24, **shape: Any) -> None:
        self.task: Task = task_named(name)
        labels = self.task.default_labels()
        self.model: Checkpoint = load_checkpoint(make_tiny(folder / name, HEADS[name], labels, **shape))
        self.table = rows(name, count)
        self.examples: Examples = self.task.examples(self.table, self.model, "made up")
        self.ranges = calibration(self.model, self.task, self.examples, None)

    def evaluator(self, **options: int) -> Evaluator:
        options = {"tokens_per_batch": 128, **options}
        return Evaluator(self.model, self.task, self.examples, self.ranges, integers=False, **options)


@pytest.fixture(scope="module", params=list(TASKS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp("every"))


def theirs(case: Case, weights: dict[str, torch.Tensor] | None = None) -> list[Any]:
    """Every example's answer by transformers' model, a window at a time."""
    kind = getattr(transformers, transformers.AutoConfig.from_pretrained(case.model.folder).architectures[0])
    model = kind.from_pretrained(case.model.folder).eval()
    if weights:
        model.load_state_dict(weights, strict=False)
    outputs = []
    for window in range(len(case.examples.input_ids)):
        batch = collate(case.task, case.examples, [window])
        with torch.no_grad():
            found = model(batch.input_ids, token_type_ids=batch.token_type_ids)
        logits = (
            torch.stack([found.start_logits, found.end_logits], -1)
            if HEADS[case.task.name] == "question"
            else found.logits
        )
        outputs += case.task.predict(logits, batch)
    return answers(case.task, outputs, case.examples)


def test_the_baseline_answers_as_transformers_does(case: Case) -> None:
    result = case.evaluator().evaluate(preset_named(case.model.config, case.task.name, "baseline"))
    assert list(result.predictions) == theirs(case)
    assert result.n == result.total == len(case.table)
    assert result.score == result.baseline
    assert not result.flips
    assert result.attention_kl == ((0.0,) * 2,) * 3


def test_quantized_weights_answer_as_in_transformers(case: Case) -> None:
    plan = preset_named(case.model.config, case.task.name, "qbert-3")
    plan = type(plan)(plan.name, 32, plan.entries)  # inputs in full precision
    weights = dict(case.model.weights)
    for site in sites_of(case.model.config):
        entry = plan.sites[site.name]
        weights[site.parameter] = fake_quantize(weights[site.parameter], entry.bits, entry.groups)
    result = case.evaluator().evaluate(plan)
    assert list(result.predictions) == theirs(case, weights)
    assert {flip.index for flip in result.flips} == {
        i for i, (a, b) in enumerate(zip(theirs(case), result.predictions, strict=True)) if a != b
    }


def same(one: Evaluation, other: Evaluation) -> bool:
    return (
        one.score == other.score
        and one.baseline == other.baseline
        and one.predictions == other.predictions
        and one.flips == other.flips
        and one.attention_kl == other.attention_kl
        and np.array_equal(one.grades, other.grades)
    )


def test_after_edits_the_result_is_that_of_a_fresh_evaluation(case: Case) -> None:
    living = case.evaluator()
    plans = presets(case.model.config, case.task.name)
    for plan in (*plans, *reversed(plans)):
        assert same(living.evaluate(plan), case.evaluator().evaluate(plan)), plan.name


def test_partial_results_are_over_whole_examples(case: Case) -> None:
    plan = preset_named(case.model.config, case.task.name, "directq-2")
    seen = list(case.evaluator(tokens_per_batch=64).stream(plan))
    counts = [result.n for result in seen]
    assert counts == sorted(counts)
    assert counts[0] > 0
    assert counts[-1] == len(case.table)
    last = dict(zip(seen[-1].indices, seen[-1].predictions, strict=True))
    for result in seen:
        for index, prediction in zip(result.indices, result.predictions, strict=True):
            assert last[index] == prediction
    if case.task.name == "squad":
        assert len(case.examples.input_ids) > len(case.table)


def test_an_evaluation_of_many_batches_is_put_together_a_bounded_number_of_times(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qbert_core.evaluation.evaluator.MAX_RESULTS", 3)
    plan = preset_named(case.model.config, case.task.name, "qbert-2")
    seen = list(case.evaluator(tokens_per_batch=1).stream(plan))
    assert 1 <= len(seen) <= 3
    assert seen[-1].complete
    assert same(seen[-1], case.evaluator(tokens_per_batch=1).evaluate(plan))


@pytest.mark.parametrize("name", TASKS)
def test_eigenvalues_are_those_of_transformers_own_loss(name: str, tmp_path: Path) -> None:
    small = Case(name, tmp_path, 6, layers=2, hidden=4, intermediate=6, positions=24, scale=0.5)
    result = sensitivity(small.model, small.task, small.examples, runs=1, fraction=1.0, tolerance=1e-3)
    block = result.blocks[-1]
    values = np.linalg.eigvalsh(gradient_hessian(small, block.name))
    assert block.lambdas[0] == pytest.approx(values[np.abs(values).argmax()], rel=2e-3)


def gradient_hessian(case: Case, block: str) -> np.ndarray:
    """Dense, of the mean over what the task's loss counts, window by window and without padding."""
    kind = getattr(transformers, transformers.AutoConfig.from_pretrained(case.model.folder).architectures[0])
    model = kind.from_pretrained(case.model.folder, attn_implementation="eager").double().eval()
    names = [name for name, _ in model.named_parameters() if name.startswith(block + ".")]
    values = [dict(model.named_parameters())[name].detach() for name in names]
    sizes = [value.numel() for value in values]
    batches = [collate(case.task, case.examples, [w]) for w in range(len(case.examples.input_ids))]
    counted = sum(count(batch) for batch in batches)

    def one(batch: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        def loss(flat: torch.Tensor) -> torch.Tensor:
            shaped = [p.view_as(v) for p, v in zip(torch.split(flat, sizes), values, strict=True)]
            keywords: dict[str, Any] = {"token_type_ids": batch.token_type_ids}
            if HEADS[case.task.name] == "question":
                start, end = batch.targets[:, :2].T
                keywords |= {"start_positions": start, "end_positions": end}
            else:
                keywords["labels"] = batch.targets
            parameters = dict(zip(names, shaped, strict=True))
            found = torch.func.functional_call(model, parameters, (batch.input_ids,), keywords)
            scaled: torch.Tensor = found.loss * count(batch) / counted
            return scaled

        return loss

    flat = torch.cat([value.reshape(-1) for value in values])
    total = torch.zeros(len(flat), len(flat), dtype=torch.float64)
    for batch in batches:
        if count(batch):
            total += torch.autograd.functional.hessian(one(batch), flat, vectorize=True)
    return total.numpy()


def count(batch: Any) -> int:
    """What a window adds to the mean's denominator: labelled tokens, or 1."""
    return (
        int((batch.targets != -100).sum()) if batch.targets.dim() == 2 and batch.targets.shape[1] != 4 else 1
    )


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_the_command_line_measures_it(case: Case, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        case.table.to_parquet(path)
    else:
        case.table.to_json(path, orient="records", lines=True)
    out = tmp_path / "out.json"
    code = main(
        ["evaluate", str(case.model.folder), "--task", case.task.name, "--data", str(path),
         "--plan", "qbert-mp-2-3", "--attention", "--out", str(out)]
    )  # fmt: skip
    assert code == 0
    document = json.loads(out.read_text())
    plan = preset_named(case.model.config, case.task.name, "qbert-mp-2-3")
    expected = Evaluator(case.model, case.task, case.examples, case.ranges).evaluate(plan)
    assert document["metrics"] == expected.score.metrics
    assert document["predictions"] == list(expected.predictions)
    assert set(document["metrics"]) == set(document["intervals"])
    assert document["truncated"] == case.examples.truncated
    assert document["n"] == len(case.table)


def test_weights_are_left_alone(case: Case) -> None:
    before = {name: weight.clone() for name, weight in case.model.weights.items()}
    case.evaluator().evaluate(preset_named(case.model.config, case.task.name, "qbert-2"))
    assert isinstance(case.model.weights, MappingProxyType)
    assert all(torch.equal(before[name], weight) for name, weight in case.model.weights.items())
