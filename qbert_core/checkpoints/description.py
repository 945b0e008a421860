"""config.json -> BertConfig, with every range checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qbert_core.access import access
from qbert_core.bert import BertConfig
from qbert_core.bert.forward import ACTIVATIONS
from qbert_core.errors import InputError
from qbert_core.jsonfile import read_json

ARCHITECTURES = {
    "BertForSequenceClassification": "sequence",
    "BertForTokenClassification": "token",
    "BertForQuestionAnswering": "question",
}
MAX_CONFIG = 2**20  # bytes
MAX_LABEL = 200  # characters
# config.json's name, ours, largest value accepted (BERT-large and every multilingual BERT fit well)
_SIZES = (
    ("num_hidden_layers", "layers", 96),
    ("num_attention_heads", "heads", 128),
    ("hidden_size", "hidden", 8192),
    ("intermediate_size", "intermediate", 65536),
    ("vocab_size", "vocabulary", 2_000_000),
    ("max_position_embeddings", "positions", 32768),
    ("type_vocab_size", "token_types", 16),
)


def read_config_json(folder: Path) -> dict[str, Any]:
    """The folder's config.json as a dictionary; `InputError` where there is none to be had."""
    path = access().path(folder / "config.json")
    if not path.is_file():
        raise InputError(f"{folder}: no config.json there; a checkpoint folder has one beside its weights")
    raw = read_json(path, MAX_CONFIG)
    if not isinstance(raw, dict):
        raise InputError(f"{path}: holds a JSON {type(raw).__name__}, a config is an object")
    return raw


def finetuned_config(raw: dict[str, Any], source: str) -> BertConfig:
    """The config of a finetuned BERT; `InputError` for other models and for a BERT without a head."""
    names = raw.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or name not in ARCHITECTURES:
        check_is_bert(raw, source)
        raise InputError(
            f"{source}: architecture {name!r:.80} has no task head this tool measures; "
            f"give one of {', '.join(ARCHITECTURES)} (finetune a plain BertModel first: "
            f"python -m qbert_core finetune)"
        )
    head = ARCHITECTURES[name]
    return bert_config(raw, head, ("start", "end") if head == "question" else _labels(raw, source), source)


def check_is_bert(raw: dict[str, Any], source: str) -> None:
    """Raise `InputError` unless config.json says model_type bert."""
    if raw.get("model_type") != "bert":
        raise InputError(
            f"{source}: model_type {raw.get('model_type')!r:.80} is not a BERT; give a folder or hub id "
            f"whose config.json says model_type 'bert'"
        )


def bert_config(raw: dict[str, Any], head: str, labels: tuple[str, ...], source: str) -> BertConfig:
    """config.json's sizes as a `BertConfig` with the given head and labels."""
    check_is_bert(raw, source)
    sizes: dict[str, int] = {}
    for theirs, ours, limit in _SIZES:
        value = raw.get(theirs)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
            raise InputError(f"{source}: config.json has {theirs}={value!r:.60}; expected 1..{limit}")
        sizes[ours] = value
    if sizes["hidden"] % sizes["heads"]:
        raise InputError(
            f"{source}: hidden_size {sizes['hidden']} is not a multiple of "
            f"num_attention_heads {sizes['heads']}"
        )
    activation = raw.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise InputError(f"{source}: hidden_act {activation!r:.60}; known are {', '.join(ACTIVATIONS)}")
    if raw.get("position_embedding_type", "absolute") != "absolute":
        raise InputError(f"{source}: only absolute position embeddings are supported")
    if raw.get("is_decoder") or raw.get("add_cross_attention"):
        raise InputError(f"{source}: a BERT decoder is not supported, give an encoder")
    hidden_dropout = _probability(raw, "hidden_dropout_prob", 0.1, source)
    return BertConfig(
        head=head,
        labels=labels,
        eps=_probability(raw, "layer_norm_eps", 1e-12, source),
        activation=activation,
        hidden_dropout=hidden_dropout,
        attention_dropout=_probability(raw, "attention_probs_dropout_prob", 0.1, source),
        classifier_dropout=_probability(raw, "classifier_dropout", hidden_dropout, source),
        **sizes,
    )


def _probability(raw: dict[str, Any], name: str, default: float, source: str) -> float:
    value = raw.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise InputError(f"{source}: config.json has {name}={value!r:.60}; expected a number in [0, 1)")
    return float(value)


def _labels(raw: dict[str, Any], source: str) -> tuple[str, ...]:
    names = raw.get("id2label")
    if names is None:  # transformers leaves the default two labels out
        count = raw.get("num_labels", 2)
        if not isinstance(count, int) or not 1 <= count <= 4096:
            raise InputError(f"{source}: config.json has num_labels={count!r:.60}; expected 1..4096")
        return tuple(f"LABEL_{i}" for i in range(count))
    try:
        by_id = {int(key): _label(value) for key, value in names.items()}
    except (AttributeError, ValueError, TypeError):
        raise InputError(f"{source}: id2label must map 0..n-1 to names, found {names!r:.200}") from None
    if not 1 <= len(by_id) <= 4096 or sorted(by_id) != list(range(len(by_id))):
        raise InputError(f"{source}: id2label must have the keys 0..n-1, found {sorted(by_id)[:20]}")
    return tuple(by_id[i] for i in range(len(by_id)))


def _label(value: object) -> str:
    """A label as text that can be shown, stored and sent."""
    text = str(value)
    if len(text) > MAX_LABEL or not all(c.isprintable() for c in text):
        raise ValueError
    return text
