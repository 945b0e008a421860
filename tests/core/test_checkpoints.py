"""Checkpoints: what is written is read back, by us and by transformers; what is broken is named in a line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from qbert_core.bert import forward
from qbert_core.checkpoints import Checkpoint, load_base, load_checkpoint, save_checkpoint
from qbert_core.errors import InputError
from tests.tiny import LABELS, SPECIAL, WORDS, make_tiny

Breakage = Callable[[Path], object]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return make_tiny(tmp_path / "small", layers=1, hidden=8, intermediate=12)


def same_weights(a: Checkpoint, b: Checkpoint) -> bool:
    return set(a.weights) == set(b.weights) and all(
        torch.equal(w, b.weights[n]) for n, w in a.weights.items()
    )


def config_json(folder: Path, **changes: Any) -> None:
    """Change entries of config.json; None takes one out."""
    path = folder / "config.json"
    raw = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))


def tokenizer_json(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    stored = load_file(path)
    change(stored)
    save_file(stored, path)


def parts(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a safetensors file."""
    raw = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def write_parts(folder: Path, header: bytes, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)


def header(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    entries, data = parts(folder)
    change(entries)
    write_parts(folder, json.dumps(entries).encode(), data)


# --- what is written is read back


@pytest.mark.parametrize("head", LABELS)
def test_a_saved_checkpoint_is_read_back_as_it_was(tmp_path: Path, head: str) -> None:
    first = load_checkpoint(make_tiny(tmp_path / "first", head))
    save_checkpoint(first, tmp_path / "elsewhere" / "second", torch.float32)
    second = load_checkpoint(tmp_path / "elsewhere" / "second")
    assert same_weights(first, second)
    assert (second.config, second.fingerprint, second.name) == (first.config, first.fingerprint, "second")
    assert second.tokenizer.encode("a good film").ids == first.tokenizer.encode("a good film").ids
    assert not (tmp_path / "elsewhere" / "second" / ".partial").exists()


@pytest.mark.parametrize("head", LABELS)
def test_transformers_opens_what_is_saved(tmp_path: Path, head: str) -> None:
    checkpoint = load_checkpoint(make_tiny(tmp_path / "made", head))
    save_checkpoint(checkpoint, tmp_path / "saved", torch.float16)
    architecture = json.loads((tmp_path / "saved" / "config.json").read_text())["architectures"][0]
    cls = getattr(transformers, architecture)
    model, report = cls.from_pretrained(tmp_path / "saved", dtype=torch.float32, output_loading_info=True)
    assert not any(report.values())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, checkpoint.weights[name].half().float()), name
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert tokenizer("A good, clever zyx film!")["input_ids"] == (
        checkpoint.tokenizer.encode("A good, clever zyx film!").ids
    )
    if head != "question":
        assert tuple(model.config.id2label.values()) == checkpoint.config.labels


def test_what_transformers_saves_is_read(tmp_path: Path) -> None:
    model = transformers.BertForTokenClassification(
        transformers.BertConfig(
            vocab_size=90, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=24, max_position_embeddings=20, num_labels=5,
        )
    )  # fmt: skip
    model.save_pretrained(tmp_path / "theirs")
    shutil.copy(make_tiny(tmp_path / "ours") / "tokenizer.json", tmp_path / "theirs")
    checkpoint = load_checkpoint(tmp_path / "theirs")
    assert checkpoint.config.labels == tuple(f"LABEL_{i}" for i in range(5))
    assert checkpoint.task == "conll03"
    for name, parameter in model.named_parameters():
        assert torch.equal(checkpoint.weights[name], parameter)


def test_the_fingerprint_is_the_same_wherever_the_model_lies_and_however_it_is_stored(small: Path) -> None:
    fingerprint = load_checkpoint(small).fingerprint
    moved = small.rename(small.with_name("moved"))
    assert load_checkpoint(moved).fingerprint == fingerprint
    tensors(moved, lambda stored: stored.update(bert_unused=torch.ones(3)))  # another tensor, another order
    entries, data = parts(moved)
    write_parts(moved, json.dumps(dict(reversed(entries.items())), indent=3).encode(), data)
    config_json(moved, transformers_version="4.0", torch_dtype="float32")
    assert load_checkpoint(moved).fingerprint == fingerprint
    tensors(moved, lambda stored: stored.update({n: t.double() for n, t in stored.items()}))
    assert load_checkpoint(moved).fingerprint == fingerprint


def test_half_precision_storage_changes_the_fingerprint_only_through_the_values(small: Path) -> None:
    exact = load_checkpoint(small)
    save_checkpoint(exact, small.with_name("half"), torch.float16)
    half = load_checkpoint(small.with_name("half"))
    assert half.fingerprint != exact.fingerprint
    assert all(torch.equal(w, exact.weights[name].half().float()) for name, w in half.weights.items())
    save_checkpoint(half, small.with_name("full"), torch.float32)
    assert load_checkpoint(small.with_name("full")).fingerprint == half.fingerprint
    save_checkpoint(half, small.with_name("half again"), torch.float16)
    assert load_checkpoint(small.with_name("half again")).fingerprint == half.fingerprint


def nudge(stored: dict[str, torch.Tensor]) -> None:
    weight = stored["bert.encoder.layer.0.output.dense.weight"]
    weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))


def rename_word(raw: dict[str, Any]) -> None:
    vocabulary = raw["model"]["vocab"]
    vocabulary["movies"] = vocabulary.pop("movie")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: tensors(folder, nudge),
        lambda folder: config_json(folder, id2label={"0": "negative", "1": "happy"}),
        lambda folder: config_json(folder, id2label={"0": "positive", "1": "negative"}),
        lambda folder: tokenizer_json(folder, rename_word),
        lambda folder: config_json(folder, num_attention_heads=4),
        lambda folder: config_json(folder, layer_norm_eps=1e-5),
    ],
    ids=["one weight by one bit", "a label", "labels swapped", "a word", "heads", "epsilon"],
)
def test_whatever_changes_results_changes_the_fingerprint(small: Path, change: Breakage) -> None:
    before = load_checkpoint(small).fingerprint
    change(small)
    assert load_checkpoint(small).fingerprint != before


def test_the_weights_cannot_be_replaced_in_a_loaded_checkpoint(tiny: Checkpoint) -> None:
    assert isinstance(tiny.weights, MappingProxyType)
    with pytest.raises(TypeError):
        tiny.weights["classifier.bias"] = torch.zeros(2)  # type: ignore[index]


def test_a_failed_save_leaves_the_old_checkpoint(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(small)
    changed = replace(checkpoint, weights={n: w + 1 for n, w in checkpoint.weights.items()})
    names = sorted(path.name for path in small.iterdir())

    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qbert_core.checkpoints.save.json.dumps", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(changed, small, torch.float32)
    monkeypatch.undo()
    assert load_checkpoint(small).fingerprint == checkpoint.fingerprint
    assert sorted(path.name for path in small.iterdir()) == names


def test_vocab_txt_is_read_with_its_case(small: Path) -> None:
    (small / "tokenizer.json").unlink()
    (small / "vocab.txt").write_text("\n".join((*SPECIAL, *WORDS, "Paris")) + "\n")
    config_json(small, vocab_size=91)
    tensors(
        small,
        lambda stored: stored.update({"bert.embeddings.word_embeddings.weight": torch.randn(91, 8)}),
    )
    lower = load_checkpoint(small)
    (small / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased = load_checkpoint(small)
    text = "Paris is GOOD , paris lives"
    for checkpoint, lowercase in ((lower, True), (cased, False)):
        theirs = transformers.BertTokenizer(vocab=str(small / "vocab.txt"), do_lower_case=lowercase)
        assert checkpoint.tokenizer.encode(text).ids == theirs(text)["input_ids"]
    assert lower.fingerprint != cased.fingerprint


# --- a body without a head


def test_a_fresh_head_is_drawn_on_a_plain_body_by_its_seed(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=90, hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=20,
    )  # fmt: skip
    model = transformers.BertModel(config)
    model.save_pretrained(tmp_path / "body")
    shutil.copy(make_tiny(tmp_path / "ours") / "tokenizer.json", tmp_path / "body")
    one, again, other = (load_base(tmp_path / "body", "token", ("O", "B", "I"), seed) for seed in (1, 1, 2))
    for name, parameter in model.named_parameters():
        if "pooler" not in name:
            assert torch.equal(one.weights[f"bert.{name}"], parameter)
    assert same_weights(one, again)
    assert not torch.equal(one.weights["classifier.weight"], other.weights["classifier.weight"])
    assert one.weights["classifier.weight"].shape == (3, 64)
    assert 0.01 < float(one.weights["classifier.weight"].std()) < 0.03
    assert not one.weights["classifier.bias"].any()
    kept = load_base(tmp_path / "body", "sequence", ("no", "yes"), 1)
    assert torch.equal(kept.weights["bert.pooler.dense.weight"], model.pooler.dense.weight)


# --- every bad input is named in one line


def cut(folder: Path, by: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-by])


def pad(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + bytes(16))


def only_bin(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')


def lose(stored: dict[str, torch.Tensor]) -> None:
    del stored["bert.encoder.layer.0.intermediate.dense.bias"]


def reshape(stored: dict[str, torch.Tensor]) -> None:
    stored["bert.encoder.layer.0.intermediate.dense.weight"] = torch.zeros(8, 12)


def nan(stored: dict[str, torch.Tensor]) -> None:
    stored["bert.encoder.layer.0.attention.self.key.weight"][3, 2] = torch.nan


def infinite(stored: dict[str, torch.Tensor]) -> None:
    stored["classifier.bias"][1] = -torch.inf


def too_large_for_fp32(stored: dict[str, torch.Tensor]) -> None:
    stored["classifier.bias"] = torch.tensor([1e300, 0.0], dtype=torch.float64)


def whole_numbers(stored: dict[str, torch.Tensor]) -> None:
    stored["classifier.weight"] = torch.zeros(2, 8, dtype=torch.int64)


def template(first: dict[str, Any], cls: int = 2) -> dict[str, Any]:
    """A tokenizers TemplateProcessing that puts [CLS] and [SEP] around the pieces `first`."""
    end = {"SpecialToken": {"id": "[SEP]", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, first, end],
        "pair": [first, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "[CLS]": {"id": "[CLS]", "ids": [cls], "tokens": ["[CLS]"]},
            "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
        },
    }


A = {"Sequence": {"id": "A", "type_id": 0}}
BROKEN: dict[str, tuple[Breakage, str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "empty config": (lambda f: (f / "config.json").write_text(""), "config.json: not readable as JSON"),
    "cut config": (lambda f: (f / "config.json").write_text('{"a": '), "config.json: not readable as JSON"),
    "binary config": (lambda f: (f / "config.json").write_bytes(b"\xff\x00\xfe"), "not readable as JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[1]"), "holds a JSON list"),
    "deep config": (lambda f: (f / "config.json").write_text("[" * 500_000), "not readable as JSON"),
    "huge config": (lambda f: (f / "config.json").write_text(" " * 2_000_000), "2,000,000 bytes"),
    "not a BERT": (
        lambda f: config_json(f, model_type="roberta", architectures=["RobertaForSequenceClassification"]),
        "model_type 'roberta' is not a BERT",
    ),
    "another type by its model_type": (lambda f: config_json(f, model_type="distilbert"), "'distilbert'"),
    "no head": (lambda f: config_json(f, architectures=["BertModel"]), "'BertModel' has no task head"),
    "no architecture": (lambda f: config_json(f, architectures=None), "has no task head"),
    "odd architecture": (lambda f: config_json(f, architectures=[["x"]]), "has no task head"),
    "layers": (lambda f: config_json(f, num_hidden_layers=10**9), "num_hidden_layers=1000000000"),
    "no layers": (lambda f: config_json(f, num_hidden_layers=0), "num_hidden_layers=0"),
    "more layers than stored": (lambda f: config_json(f, num_hidden_layers=2), "encoder.layer.1"),
    "negative": (lambda f: config_json(f, intermediate_size=-3), "intermediate_size=-3"),
    "fraction": (lambda f: config_json(f, vocab_size=90.5), "vocab_size=90.5"),
    "true": (lambda f: config_json(f, type_vocab_size=True), "type_vocab_size=True"),
    "heads": (
        lambda f: config_json(f, num_attention_heads=3),
        "8 is not a multiple of num_attention_heads 3",
    ),
    "no hidden size": (lambda f: config_json(f, hidden_size=None), "hidden_size=None"),
    "activation": (lambda f: config_json(f, hidden_act="swish9"), "hidden_act 'swish9'"),
    "odd activation": (lambda f: config_json(f, hidden_act=["gelu"]), "hidden_act ['gelu']"),
    "dropout": (lambda f: config_json(f, hidden_dropout_prob=1.5), "hidden_dropout_prob=1.5"),
    "epsilon": (lambda f: config_json(f, layer_norm_eps="tiny"), "layer_norm_eps='tiny'"),
    "epsilon not a number": (lambda f: config_json(f, layer_norm_eps=float("nan")), "layer_norm_eps=nan"),
    "relative positions": (
        lambda f: config_json(f, position_embedding_type="relative_key"),
        "only absolute position embeddings",
    ),
    "decoder": (lambda f: config_json(f, is_decoder=True), "decoder is not supported"),
    "labels with a gap": (lambda f: config_json(f, id2label={"0": "a", "2": "b"}), "id2label must have"),
    "labels in a list": (lambda f: config_json(f, id2label=["a", "b"]), "id2label must map"),
    "pickled weights": (only_bin, "never opened; convert them"),
    "shards": (shards, "weights are in shards; write them as one file"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors there"),
    "missing tensor": (
        lambda f: tensors(f, lose),
        "tensor bert.encoder.layer.0.intermediate.dense.bias is missing",
    ),
    "wrong shape": (lambda f: tensors(f, reshape), "has shape [8, 12], config.json says [12, 8]"),
    "NaN": (lambda f: tensors(f, nan), "attention.self.key.weight holds NaN"),
    "infinity": (lambda f: tensors(f, infinite), "classifier.bias holds NaN or infinite values"),
    "beyond fp32": (lambda f: tensors(f, too_large_for_fp32), "classifier.bias holds NaN or infinite"),
    "integers": (lambda f: tensors(f, whole_numbers), "tensor classifier.weight is I64; expected one of"),
    "truncated": (lambda f: cut(f, 5), "truncated or padded"),
    "cut in the header": (lambda f: cut(f, len(parts(f)[1]) + 40), "cut off"),
    "three bytes": (lambda f: (f / "model.safetensors").write_bytes(b"abc"), "too short"),
    "padded": (pad, "truncated or padded"),
    "huge header": (
        lambda f: (f / "model.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}"),
        "its header claims 1,152,921,504,606,846,976 bytes",
    ),
    "header not JSON": (lambda f: write_parts(f, b"not JSON", b""), "broken safetensors header"),
    "header a list": (lambda f: write_parts(f, b"[]      ", b""), "broken safetensors header"),
    "header in UTF-16": (
        lambda f: write_parts(f, json.dumps(parts(f)[0]).encode("utf-16"), parts(f)[1]),
        "broken safetensors header: 'utf-8' codec",
    ),
    "metadata not text": (lambda f: header(f, lambda h: h.update(__metadata__=5)), "not a safetensors file"),
    "unknown dtype": (
        lambda f: header(f, lambda h: h["classifier.bias"].update(dtype="Q7")),
        "classifier.bias has the unknown type 'Q7'",
    ),
    "negative shape": (lambda f: header(f, lambda h: h["classifier.bias"].update(shape=[-2])), "shape [-2]"),
    "huge shape": (
        lambda f: header(f, lambda h: h["classifier.bias"].update(shape=[2**40, 2**40])),
        "classifier.bias of F32[1099511627776, 1099511627776] does not fit",
    ),
    "overlap": (
        lambda f: header(f, lambda h: h["classifier.bias"].update(data_offsets=[0, 8])),
        "does not fit its place",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer there"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{\n}"), "tokenizer.json: not a token"),
    "a key twice": (
        lambda f: (f / "config.json").write_text('{"hidden_size": 8, "hidden_size": 16}'),
        "the key 'hidden_size' is there twice",
    ),
    "a tensor twice": (
        lambda f: write_parts(
            f,
            json.dumps(parts(f)[0]).encode()[:-1]
            + b', "classifier.bias": '
            + json.dumps(parts(f)[0]["classifier.bias"]).encode()
            + b"}",
            parts(f)[1],
        ),
        "the key 'classifier.bias' is there twice",
    ),
    "another field of a tensor": (
        lambda f: header(f, lambda h: h["classifier.bias"].update(file="/etc/passwd")),
        "has the fields",
    ),
    "nested deeply": (
        lambda f: (f / "config.json").write_text('{"a": ' + "[" * 80 + "]" * 80 + "}"),
        "nested deeper than 64 levels",
    ),
    "label with a line end": (
        lambda f: config_json(f, id2label={"0": "a\nb", "1": "c"}),
        "id2label must map 0..n-1 to names",
    ),
    "label without end": (
        lambda f: config_json(f, id2label={"0": "a" * 10_000, "1": "c"}),
        "id2label must map 0..n-1 to names",
    ),
    "another kind of tokenizer": (
        lambda f: tokenizer_json(f, lambda t: t["model"].update(type="BPE", merges=[])),
        "the model is 'BPE', BERT's is WordPiece",
    ),
    "a regular expression that takes for ever": (
        lambda f: tokenizer_json(
            f,
            lambda t: t.update(
                pre_tokenizer={
                    "type": "Split",
                    "pattern": {"Regex": "(a+)+$"},
                    "behavior": "Isolated",
                    "invert": False,
                }
            ),
        ),
        "the pre_tokenizer is 'Split'",
    ),
    "a replacement that grows": (
        lambda f: tokenizer_json(
            f,
            lambda t: t.update(
                normalizer={
                    "type": "Sequence",
                    "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10_000}],
                }
            ),
        ),
        "the normalizer is 'Replace'",
    ),
    "words without end": (
        lambda f: tokenizer_json(f, lambda t: t["model"].update(max_input_chars_per_word=2**40)),
        "max_input_chars_per_word is 1099511627776",
    ),
    "negative id": (
        lambda f: tokenizer_json(f, lambda t: t["model"]["vocab"].update(movie=-1)),
        "token movie has the id -1",
    ),
    "not BERT's tokenizer": (
        lambda f: tokenizer_json(f, lambda t: (t["model"]["vocab"].pop("[CLS]"), t["added_tokens"].clear())),
        "it has no [CLS]",
    ),
    "words beyond the model": (
        lambda f: tokenizer_json(f, lambda t: t["model"]["vocab"].update(more=90)),
        "knows token ids up to 90, the model has 90 rows",
    ),
    "special ids beyond the model": (
        lambda f: tokenizer_json(f, lambda t: t.update(post_processor=template(A, cls=10**6))),
        "does not put [CLS] and [SEP] around",
    ),
    "types beyond the model": (
        lambda f: tokenizer_json(
            f, lambda t: t.update(post_processor=template({"Sequence": {"id": "A", "type_id": 7}}))
        ),
        "does not put [CLS] and [SEP] around",
    ),
    "no special tokens": (
        lambda f: tokenizer_json(f, lambda t: t.update(post_processor=None)),
        "does not put [CLS] and [SEP] around",
    ),
    "unknown words not provided for": (
        lambda f: tokenizer_json(f, lambda t: t["model"].update(unk_token="[NONE]")),
        "not a tokenizer that can be used",
    ),
    "vocab.txt not text": (
        lambda f: ((f / "tokenizer.json").unlink(), (f / "vocab.txt").write_bytes(b"\xff\xfe\x00")),
        "vocab.txt: not a tokenizer",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused_in_one_line_that_names_what_is_wrong(small: Path, name: str) -> None:
    damage, expected = BROKEN[name]
    damage(small)
    with pytest.raises(InputError) as caught:
        load_checkpoint(small)
    message = str(caught.value)
    assert expected in message
    assert str(small) in message  # which of the user's folders it is
    assert len(message.splitlines()) == 1


def test_a_sound_template_tokenizer_is_accepted(small: Path) -> None:
    before = load_checkpoint(small).tokenizer.encode("a good film").ids
    tokenizer_json(small, lambda t: t.update(post_processor=template(A)))
    assert load_checkpoint(small).tokenizer.encode("a good film").ids == before


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("no/such/folder", "no such folder; give a folder, a hub id like owner/name, or demo"),
        ("nowhere", "no such folder"),
        ("", "no config.json"),  # the working directory
        ("bert-base/that-is-not-here", "could not be fetched from the hub"),
        ("../../etc", "no such folder"),
    ],
)
def test_a_model_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        load_checkpoint(model)
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_instead_of_a_folder_is_named(small: Path) -> None:
    with pytest.raises(InputError, match=r"is a file; give the folder that holds config\.json"):
        load_checkpoint(small / "model.safetensors")


def test_pickled_weights_are_not_opened_even_beside_sound_ones(small: Path) -> None:
    (small / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    assert load_checkpoint(small).config.layers == 1


# --- damage at random: it loads and runs, or it is an InputError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=3)), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("sound") / "model", layers=1, hidden=4, intermediate=4, heads=1)


def loads_or_is_refused(folder: Path) -> None:
    try:
        checkpoint = load_checkpoint(folder)
    except InputError:
        return
    if checkpoint.config.head == "sequence":
        encoded = checkpoint.tokenizer.encode("a good zyx film")
        ids, types = torch.tensor([encoded.ids]), torch.tensor([encoded.type_ids])
        logits = forward(checkpoint.weights, checkpoint.config, ids, types, torch.tensor([len(encoded.ids)]))
        assert logits.shape == (1, len(checkpoint.config.labels))


def with_file(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    sound = path.read_bytes()
    path.write_bytes(content)
    try:
        loads_or_is_refused(folder)
    finally:
        path.write_bytes(sound)


def edited(raw: bytes, edits: list[tuple[float, bytes]], within: int) -> bytes:
    """Bytes written over others at positions below `within`; an empty edit deletes a byte."""
    for place, new in edits:
        at = int(place * min(within, len(raw)))
        raw = raw[:at] + new + raw[at + max(1, len(new)) :]
    return raw


@settings(deadline=None, max_examples=150)
@given(edits=EDITS)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_random_bytes_in_a_text_file_load_or_are_refused(
    sound: Path, name: str, edits: list[tuple[float, bytes]]
) -> None:
    raw = (sound / name).read_bytes()
    with_file(sound, name, edited(raw, edits, len(raw)))


@settings(deadline=None, max_examples=150)
@given(edits=EDITS, in_header=st.booleans())
def test_random_bytes_in_the_weights_load_or_are_refused(
    sound: Path, edits: list[tuple[float, bytes]], in_header: bool
) -> None:
    raw = (sound / "model.safetensors").read_bytes()
    within = 8 + int.from_bytes(raw[:8], "little") if in_header else len(raw)
    with_file(sound, "model.safetensors", edited(raw, edits, within))


@settings(deadline=None, max_examples=150)
@given(
    field=st.sampled_from(["dtype", "shape", "data_offsets", None]),
    which=st.integers(0, 200),
    value=JSON | st.lists(st.integers(-(2**65), 2**65), max_size=3),
)
def test_random_values_in_the_weights_header_load_or_are_refused(
    sound: Path, field: str | None, which: int, value: Any
) -> None:
    entries, data = parts(sound)
    name = list(entries)[which % len(entries)]
    if field is None:
        entries[name] = value
    else:
        entries[name][field] = value
    raw = json.dumps(entries).encode()
    with_file(sound, "model.safetensors", len(raw).to_bytes(8, "little") + raw + data)


@settings(deadline=None, max_examples=200)
@given(key=st.integers(0, 200), value=JSON)
def test_random_values_in_the_config_load_or_are_refused(sound: Path, key: int, value: Any) -> None:
    raw = json.loads((sound / "config.json").read_text())
    names = (*raw, "position_embedding_type", "is_decoder", "num_labels", "unknown")
    with_file(sound, "config.json", json.dumps(raw | {names[key % len(names)]: value}).encode())


@settings(deadline=None, max_examples=150)
@given(key=st.integers(0, 200), value=JSON)
def test_random_values_in_the_tokenizer_load_or_are_refused(sound: Path, key: int, value: Any) -> None:
    raw = json.loads((sound / "tokenizer.json").read_text())
    places = [(raw, k) for k in raw] + [(v, k) for v in raw.values() if isinstance(v, dict) for k in v]
    parent, name = places[key % len(places)]
    parent[name] = value
    with_file(sound, "tokenizer.json", json.dumps(raw).encode())
