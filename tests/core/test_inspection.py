"""One example through both models: against transformers' own attention, the Evaluator, and scipy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax

from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.errors import Cancelled, InputError
from qbert_core.evaluation import Evaluator, Inspection
from qbert_core.quantization import calibrate, preset_named
from qbert_core.runtime.events import Flag
from qbert_core.tasks import Task, task_named
from qbert_core.tasks.typed import MAX_CHARACTERS
from tests.tiny import make_tiny

CONTEXT = (
    "the film was made in paris . john lives in london and likes the music . mary is a good actor , "
    "she was never slow . the plot is too clever for you but the end is not so funny . we love the scene ."
)
TABLES: dict[str, dict[str, list[Any]]] = {
    "sst2": {
        "sentence": ["a good film", "a dull and boring story , not funny !", "great", "the plot was poor"],
        "label": [1, 0, 1, 0],
    },
    "conll03": {
        "tokens": [["john", "lives", "in", "london"], ["the", "film", "parising", "."], ["mary"] * 60],
        "ner_tags": [["B-PER", "O", "O", "B-LOC"], ["O"] * 4, ["O"] * 60],
    },
    "squad": {
        "context": [CONTEXT, "mary lives in paris ."],
        "question": ["where lives john ?", "who lives in paris ?"],
        "answers": [{"text": ["london"], "answer_start": [46]}, {"text": ["mary"], "answer_start": [0]}],
    },
}
HEADS = {"sst2": "sequence", "conll03": "token", "squad": "question"}
MODELS = {
    "sst2": transformers.AutoModelForSequenceClassification,
    "conll03": transformers.AutoModelForTokenClassification,
    "squad": transformers.AutoModelForQuestionAnswering,
}


@pytest.fixture(scope="module")
def evaluators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Evaluator]:
    """A tiny model of each head on a few rows; activations in fp32 arithmetic, whatever the CPU can."""
    made = {}
    for name, rows in TABLES.items():
        folder = make_tiny(tmp_path_factory.mktemp("inspection") / name, head=HEADS[name])
        checkpoint, task = load_checkpoint(folder), task_named(name)
        examples = task.examples(pd.DataFrame(rows), checkpoint, "rows")
        ranges = calibrate(checkpoint, task, examples)
        made[name] = Evaluator(checkpoint, task, examples, ranges, integers=False)
    return made


def inspected(e: Evaluator, example: Any, preset: str = "qbert-2", **options: Any) -> Inspection:
    return e.inspect(preset_named(e.checkpoint.config, e.task.name, preset), example, **options)


@pytest.mark.parametrize("name", TABLES)
def test_the_fp32_side_is_transformers_own(evaluators: dict[str, Evaluator], name: str) -> None:
    e = evaluators[name]
    model = MODELS[name].from_pretrained(e.checkpoint.folder, attn_implementation="eager").eval()
    for row in range(len(e.examples)):
        seen = inspected(e, row)
        window = e.examples.windows(row)[seen.window]
        ids = torch.tensor([e.examples.input_ids[window]])
        types = torch.tensor([e.examples.token_type_ids[window]])
        with torch.no_grad():
            out = model(input_ids=ids, token_type_ids=types, output_attentions=True)
        assert list(seen.attention) == [0, 1, 2]
        for layer, theirs in enumerate(out.attentions):
            np.testing.assert_allclose(seen.attention[layer][0], theirs[0].numpy(), atol=2e-6)
        assert seen.tokens == tuple(model_tokens(e, ids))
        if name == "sst2":
            expected = out.logits[0].softmax(-1).numpy()
            np.testing.assert_allclose(seen.before.certainty.probabilities, expected, atol=1e-5)
        if name == "conll03":
            expected = out.logits[0].softmax(-1).numpy()
            words = [p for p in seen.before.certainty.probabilities if p is not None]
            heads = [i for i, t in enumerate(e.examples.targets[window]) if t >= 0]
            np.testing.assert_allclose(words, expected[heads], atol=1e-5)
            assert all(
                max(range(9), key=p.__getitem__) == e.examples.labels.index(tag)
                for p, tag in zip(words, seen.before.answer, strict=False)
            )
        if name == "squad":
            certain = seen.before.certainty
            starts, ends = softmax(out.start_logits[0].numpy()), softmax(out.end_logits[0].numpy())
            assert np.abs(starts - certain.probabilities[0]).min() < 1e-5
            assert np.abs(ends - certain.probabilities[1]).min() < 1e-5
            a, b = certain.span
            assert e.examples.rows["context"][row][a:b] == seen.before.answer


def model_tokens(e: Evaluator, ids: torch.Tensor) -> list[str]:
    return [str(e.checkpoint.tokenizer.id_to_token(int(i))) for i in ids[0]]


def test_a_paragraph_in_several_windows_has_the_score_of_the_best(evaluators: dict[str, Evaluator]) -> None:
    e = evaluators["squad"]
    seen = inspected(e, 0)
    assert seen.windows == len(e.examples.windows(0)) > 1
    model = MODELS["squad"].from_pretrained(e.checkpoint.folder).eval()
    best = -np.inf
    for window in e.examples.windows(0):
        low, high = e.examples.targets[window][2:]
        with torch.no_grad():
            out = model(
                input_ids=torch.tensor([e.examples.input_ids[window]]),
                token_type_ids=torch.tensor([e.examples.token_type_ids[window]]),
            )
        starts, ends = out.start_logits[0].numpy(), out.end_logits[0].numpy()
        last = len(starts) - 1  # the last [SEP] answers nothing
        for first in range(low, high):
            best = max(best, max(starts[first] + ends[first : min(first + 30, last)]))
    assert seen.before.certainty.score == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("preset", ["qbert-2", "directq-4", "baseline"])
def test_answers_and_kl_are_the_evaluators(evaluators: dict[str, Evaluator], name: str, preset: str) -> None:
    e = evaluators[name]
    measured = e.evaluate(preset_named(e.checkpoint.config, name, preset))
    baseline = e.evaluate(preset_named(e.checkpoint.config, name, "baseline"))
    every = [inspected(e, row, preset) for row in range(len(e.examples))]
    assert [seen.after.answer for seen in every] == list(measured.predictions)
    assert [seen.before.answer for seen in every] == list(baseline.predictions)
    windows = np.array([seen.windows for seen in every])
    kl = np.array([seen.kl for seen in every])
    np.testing.assert_allclose(
        (kl * windows[:, None, None]).sum(0) / windows.sum(), measured.attention_kl, rtol=1e-3, atol=1e-6
    )


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from("a good bad film never the plot was !".split()), min_size=1, max_size=50))
def test_attention_is_a_distribution_and_its_divergence_is_scipys(
    evaluators: dict[str, Evaluator], words: list[str]
) -> None:
    seen = inspected(evaluators["sst2"], {"sentence": " ".join(words)}, "qbert-3")
    size = len(seen.tokens)
    for layer, (before, after) in seen.attention.items():
        assert before.shape == after.shape == (2, size, size)
        np.testing.assert_allclose(before.sum(-1), 1, atol=1e-5)
        np.testing.assert_allclose(after.sum(-1), 1, atol=1e-5)
        expected = rel_entr(before.astype(float), after.astype(float)).sum(-1).mean(-1)
        np.testing.assert_allclose(seen.kl[layer], expected, rtol=2e-3, atol=1e-6)


TYPED = {
    "sst2": {"sentence": "a good film"},
    "conll03": {"tokens": "  john lives   in london "},
    "squad": {"context": CONTEXT, "question": "where lives john ?"},
}


@pytest.mark.parametrize("name", TABLES)
def test_a_typed_row_is_answered_like_the_same_row_of_the_data(
    evaluators: dict[str, Evaluator], name: str
) -> None:
    typed, row = inspected(evaluators[name], TYPED[name]), inspected(evaluators[name], 0)
    assert typed.before == row.before
    assert typed.after == row.after
    assert typed.tokens == row.tokens
    np.testing.assert_array_equal(typed.kl, row.kl)


def test_only_the_layers_asked_for_are_kept(evaluators: dict[str, Evaluator]) -> None:
    every = inspected(evaluators["sst2"], 1)
    one, none = inspected(evaluators["sst2"], 1, layers=[2]), inspected(evaluators["sst2"], 1, layers=())
    assert list(one.attention) == [2]
    np.testing.assert_array_equal(one.attention[2][1], every.attention[2][1])
    assert not none.attention
    assert none.before == every.before
    assert none.nbytes < one.nbytes < every.nbytes


@pytest.mark.parametrize(
    ("name", "example", "line"),
    [
        ("sst2", 4, "row 4 is not there; the data have rows 0 to 3"),
        ("sst2", -1, "row -1 is not there"),
        ("sst2", {"sentence": "  \n"}, "sentence is empty; type some text"),
        ("sst2", {}, "sentence is empty"),
        ("sst2", {"sentence": "a" * (MAX_CHARACTERS + 1)}, "sentence has 20,001 characters; at most 20,000"),
        ("conll03", {"tokens": " "}, "tokens is empty"),
        ("squad", {"context": "paris", "question": ""}, "question is empty"),
    ],
)
def test_what_cannot_be_asked_is_said(
    evaluators: dict[str, Evaluator], name: str, example: Any, line: str
) -> None:
    with pytest.raises(InputError, match=line):
        inspected(evaluators[name], example)


def test_a_layer_that_is_not_there_is_said(evaluators: dict[str, Evaluator]) -> None:
    with pytest.raises(InputError, match=r"layers \[3\] asked for; the model has 0 to 2"):
        inspected(evaluators["sst2"], 0, layers=[3])


def test_it_can_be_cancelled(evaluators: dict[str, Evaluator]) -> None:
    flag = Flag()
    flag.cancel()
    with pytest.raises(Cancelled):
        inspected(evaluators["sst2"], 0, events=flag)


def test_a_model_without_finite_logits_is_said(tmp_path: Path) -> None:
    whole = load_checkpoint(make_tiny(tmp_path / "tiny"))
    task: Task = task_named("sst2")
    examples = task.examples(pd.DataFrame(TABLES["sst2"]), whole, "rows")
    ranges = calibrate(whole, task, examples)
    weights = {**whole.weights, "classifier.bias": torch.tensor([float("inf"), 0.0])}
    broken = Checkpoint("broken", whole.config, weights, whole.tokenizer, "", whole.folder)
    with pytest.raises(InputError, match="does not give finite logits on this text"):
        inspected(Evaluator(broken, task, examples, ranges), 0)
