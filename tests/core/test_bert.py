"""Our forward pass against transformers' own, at every point where the engine cuts it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from torch import Tensor

from qbert_core.bert import BertConfig, dense, embed, encoder_layer, forward, head, padding_mask
from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.tasks import TASKS, collate
from tests.tiny import make_tiny

CLASSES: dict[str, Any] = {
    "sequence": transformers.BertForSequenceClassification,
    "token": transformers.BertForTokenClassification,
    "question": transformers.BertForQuestionAnswering,
}
LENGTHS = (3, 9, 4, 12, 1, 12)


def double(folder: Path) -> tuple[Checkpoint, Any]:
    """The checkpoint in `folder` in float64, by us and by transformers, in eval mode."""
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    theirs = getattr(transformers, architecture).from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float64
    )
    assert theirs.config._attn_implementation == "eager"
    return load_checkpoint(folder).to(torch.float64), theirs.eval()


@pytest.fixture(scope="module", params=CLASSES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Any]:
    return double(make_tiny(tmp_path_factory.mktemp("bert") / request.param, request.param))


def ragged(lengths: Sequence[int] = LENGTHS, vocabulary: int = 90) -> tuple[Tensor, Tensor, Tensor]:
    """Random ids and types, padded to the longest, and the lengths."""
    random = torch.Generator().manual_seed(7)
    shape = (len(lengths), max(lengths))
    ids = torch.randint(vocabulary, shape, generator=random)
    types = torch.randint(2, shape, generator=random)
    real = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    return ids * real, types * real, torch.tensor(lengths)


@torch.no_grad()
def theirs_on(model: Any, ids: Tensor, types: Tensor, lengths: Tensor) -> Any:
    return model(
        input_ids=ids,
        token_type_ids=types,
        attention_mask=(torch.arange(ids.shape[1]) < lengths[:, None]).long(),
        output_hidden_states=True,
        output_attentions=True,
    )


def logits_of(output: Any) -> Tensor:
    if "logits" in output:
        return output.logits
    return torch.stack([output.start_logits, output.end_logits], dim=-1)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("lengths", [LENGTHS, (6, 6), (5,)], ids=["ragged", "unpadded", "one"])
def test_logits_equal_transformers(both: tuple[Checkpoint, Any], lengths: Sequence[int]) -> None:
    checkpoint, model = both
    batch = ragged(lengths)
    assert_close(forward(checkpoint.weights, checkpoint.config, *batch), logits_of(theirs_on(model, *batch)))


def test_hidden_states_and_attention_equal_transformers_at_every_layer(both: tuple[Checkpoint, Any]) -> None:
    checkpoint, model = both
    ids, types, lengths = batch = ragged()
    output = theirs_on(model, *batch)
    config, weights = checkpoint.config, checkpoint.weights
    x = embed(weights, config, ids, types)
    assert_close(x, output.hidden_states[0])
    mask = padding_mask(lengths, ids.shape[1], torch.float64)
    for layer in range(config.layers):
        x, scores = encoder_layer(weights, config, layer, x, mask)
        assert_close(scores.softmax(-1), output.attentions[layer])
        assert_close(x, output.hidden_states[layer + 1])
    assert_close(head(weights, config, x), logits_of(output))


def test_training_mode_drops_what_transformers_drops(both: tuple[Checkpoint, Any]) -> None:
    # same order of the same draws from the global generator, so the same seed drops the same units
    checkpoint, model = both
    batch = ragged()
    torch.manual_seed(3)
    ours = forward(checkpoint.weights, checkpoint.config, *batch, training=True)
    model.train()
    try:
        torch.manual_seed(3)
        assert_close(ours, logits_of(theirs_on(model, *batch)))
    finally:
        model.eval()
    assert not torch.equal(ours, forward(checkpoint.weights, checkpoint.config, *batch))


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"])
def test_every_known_activation_and_an_unusual_epsilon_equal_transformers(
    tmp_path: Path, activation: str
) -> None:
    folder = make_tiny(tmp_path / "unusual", layers=2, heads=4, positions=12, labels=("a", "b", "c"))
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"hidden_act": activation, "layer_norm_eps": 1e-3}))
    checkpoint, model = double(folder)
    batch = ragged()
    assert_close(forward(checkpoint.weights, checkpoint.config, *batch), logits_of(theirs_on(model, *batch)))


def test_padding_does_not_change_real_positions(both: tuple[Checkpoint, Any]) -> None:
    checkpoint, _ = both
    ids, types, lengths = ragged()
    together = forward(checkpoint.weights, checkpoint.config, ids, types, lengths)
    for row, length in enumerate(LENGTHS):
        alone = forward(
            checkpoint.weights,
            checkpoint.config,
            ids[row : row + 1, :length],
            types[row : row + 1, :length],
            lengths[row : row + 1],
        )
        padded = together[row] if checkpoint.config.head == "sequence" else together[row, :length]
        torch.testing.assert_close(padded, alone[0], rtol=0, atol=1e-12)


def test_what_stands_in_the_padding_does_not_matter_to_the_last_bit(both: tuple[Checkpoint, Any]) -> None:
    checkpoint, _ = both
    ids, types, lengths = ragged()
    padding = torch.arange(ids.shape[1]) >= lengths[:, None]
    before = forward(checkpoint.weights, checkpoint.config, ids, types, lengths)
    after = forward(
        checkpoint.weights,
        checkpoint.config,
        torch.where(padding, torch.full_like(ids, 50), ids),
        torch.where(padding, torch.ones_like(types), types),
        lengths,
    )
    for row, length in enumerate(LENGTHS):
        part = slice(None) if checkpoint.config.head == "sequence" else slice(length)
        assert torch.equal(before[row][part], after[row][part])


def test_an_unpadded_batch_has_no_mask() -> None:
    assert padding_mask(torch.tensor([4, 4]), 4, torch.float32) is None
    mask = padding_mask(torch.tensor([2, 4]), 4, torch.float32)
    assert mask is not None
    assert mask.shape == (2, 1, 1, 4)
    assert (mask[:, 0, 0] == 0).tolist() == [[True, True, False, False], [True] * 4]


def test_the_linear_map_computes_every_linear_layer_of_the_encoder(
    both: tuple[Checkpoint, Any],
) -> None:
    checkpoint, model = both
    batch = ragged()
    seen: list[str] = []

    def double_value_inputs(name: str, x: Tensor) -> Tensor:
        seen.append(name)
        return dense(checkpoint.weights, name, x * 2 if name.endswith("self.value") else x)

    ours = forward(checkpoint.weights, checkpoint.config, *batch, linear=double_value_inputs)
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".encoder." in name
    ]
    assert sorted(seen) == sorted(linear)
    handles = [
        module.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
        for name, module in model.named_modules()
        if name.endswith("self.value")
    ]
    try:
        assert_close(ours, logits_of(theirs_on(model, *batch)))
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", CLASSES)
def test_parameter_names_and_shapes_are_those_of_transformers_bert_base(name: str) -> None:
    labels = ("start", "end") if name == "question" else ("a", "b", "c")
    config = BertConfig(name, labels, 12, 12, 768, 3072, 30522, 512, 2)
    with torch.device("meta"):
        model = CLASSES[name](transformers.BertConfig(num_labels=len(labels)))
    assert config.shapes() == {n: tuple(p.shape) for n, p in model.named_parameters()}
    in_encoder = {n for n in config.shapes() if ".encoder." in n}
    assert {n for i in range(12) for n in config.encoder_shapes(i)} == in_encoder
    parts = (config.embedding_shapes(), *(config.encoder_shapes(i) for i in range(12)), config.head_shapes())
    assert sum(len(part) for part in parts) == len(config.shapes())


@pytest.fixture(scope="module")
def real(shared: Path) -> Checkpoint:
    return load_checkpoint(shared / "checkpoints" / "minilm-sst2")


@pytest.fixture(scope="module")
def sentences(shared: Path) -> list[str]:
    table = pd.read_parquet(shared / "data" / "sst2" / "validation_even.parquet")
    return table["sentence"].tolist()


def test_a_real_checkpoint_gives_transformers_logits_in_fp32(
    real: Checkpoint, sentences: list[str], shared: Path
) -> None:
    model = transformers.BertForSequenceClassification.from_pretrained(
        shared / "checkpoints" / "minilm-sst2", attn_implementation="eager", dtype=torch.float32
    ).eval()
    table = pd.DataFrame({"sentence": sentences[:24], "label": 0})
    examples = TASKS["sst2"].examples(table, real, "24 rows")
    batch = collate(TASKS["sst2"], examples, range(24))
    inputs = (batch.input_ids, batch.token_type_ids, batch.lengths)
    with torch.no_grad():
        ours = forward(real.weights, real.config, *inputs)
    theirs = logits_of(theirs_on(model, *inputs))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


def test_token_ids_equal_transformers_tokenizer_on_real_sentences(
    real: Checkpoint, sentences: list[str], shared: Path
) -> None:
    long = [" ".join(sentences[i : i + 12]) for i in range(0, 48, 12)]
    texts = [*sentences[:200], *long, "", " ", "Ünïcödé 中文 ☂ [SEP] don't", "a" * 300]
    theirs = transformers.AutoTokenizer.from_pretrained(shared / "checkpoints" / "minilm-sst2")(
        texts, truncation=True, max_length=real.max_length
    )
    examples = TASKS["sst2"].examples(pd.DataFrame({"sentence": texts, "label": 1}), real, "texts")
    assert examples.input_ids == theirs["input_ids"]
    assert examples.token_type_ids == theirs["token_type_ids"]
    assert real.max_length == 128
    assert (examples.lengths[200:204] == 128).all()
    assert np.all(examples.lengths <= 128)


def test_a_sequence_is_never_longer_than_the_model_has_positions(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(make_tiny(tmp_path / "short", layers=1, positions=7))
    table = pd.DataFrame({"sentence": ["good " * 50, "bad film"], "label": [1, 0]})
    examples = TASKS["sst2"].examples(table, checkpoint, "long")
    assert examples.lengths.tolist() == [7, 4]
    assert examples.input_ids[0][-1] == checkpoint.tokenizer.token_to_id("[SEP]")


def test_the_model_without_dropout_is_the_same_in_training_and_eval(both: tuple[Checkpoint, Any]) -> None:
    checkpoint, _ = both
    still = replace(checkpoint.config, hidden_dropout=0.0, attention_dropout=0.0, classifier_dropout=0.0)
    batch = ragged()
    assert torch.equal(
        forward(checkpoint.weights, still, *batch, training=True),
        forward(checkpoint.weights, still, *batch),
    )


def test_the_first_positions_alone_are_those_of_the_whole_layer(both: tuple[Checkpoint, Any]) -> None:
    checkpoint, _ = both
    ids, types, lengths = ragged()
    config, weights = checkpoint.config, checkpoint.weights
    x = embed(weights, config, ids, types)
    mask = padding_mask(lengths, ids.shape[1], torch.float64)
    whole, scores = encoder_layer(weights, config, 0, x, mask)
    for queries in (1, 3):
        part, part_scores = encoder_layer(weights, config, 0, x, mask, queries=queries)
        assert_close(part, whole[:, :queries])
        assert_close(part_scores, scores[:, :, :queries])
