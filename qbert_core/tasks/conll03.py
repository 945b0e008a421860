"""CoNLL-2003: which words name a person, organisation, place or something else? Columns tokens, ner_tags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from qbert_core.bert import BertConfig
from qbert_core.checkpoints import Checkpoint
from qbert_core.errors import InputError
from qbert_core.tasks.base import Batch, Examples, Score, make_examples
from qbert_core.tasks.columns import lists, require_columns, shown
from qbert_core.tasks.entities import entities, first_break
from qbert_core.tasks.interval import bootstraps

LABELS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")
IGNORED = -100  # target of word pieces that are not the first of a word


class Conll03:
    """Named entity recognition (Tjong Kim Sang and De Meulder 2003), tags in IOB2.

    The first piece of every word is labelled. A word beyond the longest sequence, or one the
    tokenizer makes nothing of, gets no label and counts as O.
    """

    name = "conll03"
    head = "token"
    columns = ("tokens", "ner_tags")
    metric = "f1"

    def default_labels(self) -> tuple[str, ...]:
        return LABELS

    def check_model(self, config: BertConfig) -> None:
        if config.head != self.head:
            raise InputError(
                f"task conll03 needs a token classification model; this one has a {config.head} head"
            )
        strange = [label for label in config.labels if label != "O" and label[:2] not in ("B-", "I-")]
        if strange or "O" not in config.labels:
            raise InputError(
                f"task conll03 needs a model with labels O, B-.., I-..; this one has "
                f"{', '.join(config.labels[:12])}"
            )

    def examples(self, table: pd.DataFrame, checkpoint: Checkpoint, source: str) -> Examples:
        self.check_model(checkpoint.config)
        require_columns(table, self.columns, source)
        words = _words(table, source)
        tags = _tags(table, words, checkpoint.config.labels, source)
        ids = {label: i for i, label in enumerate(checkpoint.config.labels)}
        checkpoint.tokenizer.enable_truncation(checkpoint.max_length)
        encoded = checkpoint.tokenizer.encode_batch(words, is_pretokenized=True)
        notes, targets = [], []
        for row, encoding in enumerate(encoded):
            owner: list[int | None] = encoding.word_ids
            heads = [
                p for p, word in enumerate(owner) if word is not None and (p == 0 or owner[p - 1] != word)
            ]
            target = [IGNORED] * len(owner)
            for place in heads:
                target[place] = ids[tags[row][owner[place]]]  # type: ignore[index]
            targets.append(target)
            notes.append([owner[place] for place in heads])
        return make_examples(
            [e.ids for e in encoded],
            [e.type_ids for e in encoded],
            targets,
            table,
            source,
            notes=notes,
            references=tags,
            labels=checkpoint.config.labels,
            cut=[bool(e.overflowing) for e in encoded],
        )

    def targets(self, examples: Examples, indices: Sequence[int], width: int) -> Tensor:
        padded = torch.full((len(indices), width), IGNORED)
        for row, i in enumerate(indices):
            padded[row, : len(examples.targets[i])] = torch.tensor(examples.targets[i])
        return padded

    def loss(self, logits: Tensor, batch: Batch) -> tuple[Tensor, int]:
        targets = batch.targets.to(logits.device)
        total = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=IGNORED
        )
        return total, int((batch.targets != IGNORED).sum())

    def predict(self, logits: Tensor, batch: Batch) -> list[Any]:
        best = logits.argmax(-1).cpu()
        return [ids[target != IGNORED].tolist() for ids, target in zip(best, batch.targets, strict=True)]

    def answer(self, outputs: Sequence[Any], examples: Examples, example: int) -> Any:
        tags = ["O"] * len(examples.references[example])
        (window,) = examples.windows(example)
        for word, label in zip(examples.notes[window], outputs[0], strict=True):
            tags[word] = examples.labels[label]
        return tags

    def grade(self, answer: Any, examples: Examples, example: int) -> tuple[float, ...]:
        """Right as a whole; entities found, given and in the reference."""
        given, wanted = entities(answer), entities(examples.references[example])
        right = float(answer == examples.references[example])
        return right, float(len(given & wanted)), float(len(given)), float(len(wanted))

    def score(self, grades: np.ndarray) -> Score:
        """Entity precision, recall and F1 over all examples together; 0 where there is nothing to count."""
        metrics = {name: float(metric(grades.sum(0)[None])[0]) for name, metric in METRICS.items()}
        return Score(metrics, bootstraps(grades, METRICS), self.metric, len(grades))

    def main(self, sums: np.ndarray, n: int) -> np.ndarray:
        return METRICS["f1"](sums)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where whole is."""
    shares = np.zeros(len(whole))
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


# of sums of grades, (.., 4)
METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "f1": lambda sums: _share(2 * sums[:, 1], sums[:, 2] + sums[:, 3]),
    "precision": lambda sums: _share(sums[:, 1], sums[:, 2]),
    "recall": lambda sums: _share(sums[:, 1], sums[:, 3]),
}


def _words(table: pd.DataFrame, source: str) -> list[list[str]]:
    words = lists(table, "tokens", source)
    for row, sentence in enumerate(words):
        if not sentence:
            raise InputError(f"{source}: row {row + 1}: tokens is empty, expected at least one word")
        for word in sentence:
            if not isinstance(word, str):
                raise InputError(f"{source}: row {row + 1}: tokens holds {shown(word)}, expected words")
    return words


def _tags(table: pd.DataFrame, words: list[list[str]], labels: Sequence[str], source: str) -> list[list[str]]:
    """Tags by name, checked against the words, the model's labels and IOB2."""
    numbered = LABELS if set(labels) == set(LABELS) else labels
    known = {label: label for label in labels} | {str(i): label for i, label in enumerate(numbered)}
    found = []
    for row, given in enumerate(lists(table, "ner_tags", source)):
        at = f"{source}: row {row + 1}"
        if len(given) != len(words[row]):
            raise InputError(
                f"{at}: {len(words[row])} tokens but {len(given)} ner_tags; expected a tag a word"
            )
        tags = []
        for place, tag in enumerate(given):
            name = known.get(str(tag))
            if name is None:
                raise InputError(
                    f"{at}: word {place + 1}: tag {shown(tag)} is not one of the model's: {', '.join(labels[:20])}"
                )
            tags.append(name)
        broken = first_break(tags)
        if broken is not None:
            raise InputError(
                f"{at}: word {broken + 1}: {tags[broken]} begins an entity; in IOB2 the first word of one "
                f"has B-{tags[broken][2:]} (IOB1 files need converting)"
            )
        found.append(tags)
    return found
