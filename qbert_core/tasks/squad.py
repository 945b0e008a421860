"""SQuAD v1.1: which words of a paragraph answer a question? Columns context, question, answers."""

from __future__ import annotations

from collections.abc import Sequence
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
from qbert_core.tasks.columns import parse_json, require_columns, shown, texts
from qbert_core.tasks.interval import bootstrap, wilson
from qbert_core.tasks.spans import best_spans, windows
from qbert_core.tasks.squad_rules import exact_match, f1

QUESTION_TOKENS = 64  # a longer question is cut
STEP = 128  # tokens from one window of a paragraph to the next (doc stride)
LONGEST_ANSWER = 30  # tokens
UNKNOWN = -1  # target of an answer that is not in the paragraph: no loss


class Squad:
    """Extractive question answering (Rajpurkar et al. 2016), windows and answers as in BERT's run_squad.

    A target is (first token, last token, low, high): the answer, and the tokens an answer may begin at.
    Windows without the answer point at [CLS]. The loss is the mean of the two cross entropies over the
    window's real tokens, whatever it is padded to.
    """

    name = "squad"
    head = "question"
    columns = ("context", "question", "answers")
    metric = "f1"

    def default_labels(self) -> tuple[str, ...]:
        return ("start", "end")

    def check_model(self, config: BertConfig) -> None:
        if config.head != self.head:
            raise InputError(
                f"task squad needs a question answering model; this one has a {config.head} head"
            )

    def examples(self, table: pd.DataFrame, checkpoint: Checkpoint, source: str) -> Examples:
        self.check_model(checkpoint.config)
        require_columns(table, self.columns, source)
        contexts = _filled(table, "context", source)
        questions = _filled(table, "question", source)
        answers = _answers(table, source)
        tokenizer, longest = checkpoint.tokenizer, checkpoint.max_length
        tokenizer.no_truncation()
        cls, sep = tokenizer.encode("").ids
        unique = list(dict.fromkeys(contexts))
        read = {
            text: (encoding.ids, np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2))
            for text, encoding in zip(
                unique, tokenizer.encode_batch(unique, add_special_tokens=False), strict=True
            )
        }
        input_ids, token_types, targets, notes, counts, cut = [], [], [], [], [], []
        asked = min(QUESTION_TOKENS, (longest - 3) // 2)
        encoded = tokenizer.encode_batch(questions, add_special_tokens=False)
        for row, (context, question) in enumerate(zip(contexts, encoded, strict=True)):
            ids, offsets = read[context]
            if not ids:
                raise InputError(f"{source}: row {row + 1}: the tokenizer makes nothing of the context")
            span = _span(context, answers[row], offsets)
            front = [cls, *question.ids[:asked], sep]
            cut.append(len(question.ids) > asked)
            made = windows(len(ids), longest - len(front) - 1, STEP)
            counts.append(len(made))
            for window in made:
                shift = len(front) - window.start  # place in the paragraph -> place in the window
                own = ids[window.start : window.end]
                input_ids.append([*front, *own, sep])
                token_types.append([0] * len(front) + [1] * (len(own) + 1))
                if span is None:
                    place = (UNKNOWN, UNKNOWN)
                elif window.start <= span[0] and span[1] < window.end:
                    place = (span[0] + shift, span[1] + shift)
                else:
                    place = (0, 0)
                targets.append((*place, window.low + shift, window.high + shift))
                notes.append((offsets, shift))
        return make_examples(
            input_ids,
            token_types,
            targets,
            table,
            source,
            notes=notes,
            references=[texts for texts, _ in answers],
            counts=counts,
            cut=cut,
            labels=checkpoint.config.labels,
        )

    def targets(self, examples: Examples, indices: Sequence[int], width: int) -> Tensor:
        return torch.tensor([examples.targets[i] for i in indices])

    def loss(self, logits: Tensor, batch: Batch) -> tuple[Tensor, int]:
        targets, lengths = batch.targets.to(logits.device), batch.lengths.to(logits.device)
        padding = torch.arange(logits.shape[1], device=logits.device) >= lengths[:, None]
        logits = logits.masked_fill(padding[:, :, None], torch.finfo(logits.dtype).min)
        ends = [
            F.cross_entropy(logits[:, :, end], targets[:, end], reduction="sum", ignore_index=UNKNOWN)
            for end in (0, 1)
        ]
        return (ends[0] + ends[1]) / 2, int((batch.targets[:, 0] != UNKNOWN).sum())

    def predict(self, logits: Tensor, batch: Batch) -> list[Any]:
        places = np.arange(logits.shape[1])
        low, high = batch.targets[:, 2:3].numpy(), batch.targets[:, 3:4].numpy()
        paragraph = batch.token_type_ids.numpy() == 1
        paragraph &= places < batch.lengths[:, None].numpy() - 1  # but not the last [SEP]
        starts, ends = logits.float().cpu().numpy().transpose(2, 0, 1)
        return best_spans(starts, ends, (places >= low) & (places < high), paragraph, LONGEST_ANSWER)

    def answer(self, outputs: Sequence[Any], examples: Examples, example: int) -> Any:
        best = max(range(len(outputs)), key=lambda i: outputs[i][0])  # the first among equals
        _, first, last = outputs[best]
        offsets, shift = examples.notes[examples.windows(example)[best]]
        context: str = examples.rows["context"].iloc[example]
        return context[offsets[first - shift, 0] : offsets[last - shift, 1]]

    def grade(self, answer: Any, examples: Examples, example: int) -> tuple[float, ...]:
        references = examples.references[example]
        return exact_match(answer, references), f1(answer, references)

    def score(self, grades: np.ndarray) -> Score:
        n = len(grades)
        exact, overlap = grades.sum(0)
        metrics = {"exact_match": float(exact / n), "f1": float(overlap / n)}
        intervals = {
            "exact_match": wilson(int(exact), n),
            "f1": bootstrap(grades, lambda sums: self.main(sums, n)),
        }
        return Score(metrics, intervals, self.metric, n)

    def main(self, sums: np.ndarray, n: int) -> np.ndarray:
        f1s: np.ndarray = sums[:, 1] / n
        return f1s


def _filled(table: pd.DataFrame, column: str, source: str) -> list[str]:
    values = texts(table, column, source)
    for row, value in enumerate(values):
        if not value.strip():
            raise InputError(f"{source}: row {row + 1}: {column} is empty, expected text")
    return values


def _answers(table: pd.DataFrame, source: str) -> list[tuple[list[str], list[int]]]:
    """The texts and starts of each row's answers; starts may be missing."""
    found = []
    for row, value in enumerate(table["answers"].tolist()):
        made = parse_json(value) if isinstance(value, str) else value
        given = made.get("text") if isinstance(made, dict) else None
        answers = None if given is None or isinstance(given, str) else list(given)
        if not answers or not all(isinstance(text, str) for text in answers):
            what = "no answer" if answers == [] else shown(value)
            raise InputError(
                f'{source}: row {row + 1}: answers is {what}, expected {{"text": [..], "answer_start": [..]}} '
                f"with at least one answer (SQuAD v1.1)"
            )
        found.append((answers, _starts(made.get("answer_start"), f"{source}: row {row + 1}")))
    return found


def _starts(value: Any, at: str) -> list[int]:
    starts = list(value) if isinstance(value, list | tuple | np.ndarray) else value
    if starts is None:
        return []
    if not isinstance(starts, list) or not all(isinstance(start, int | np.integer) for start in starts):
        raise InputError(f"{at}: answer_start is {shown(value)}, expected a whole number for each answer")
    return starts


def _span(context: str, answers: tuple[list[str], list[int]], offsets: np.ndarray) -> tuple[int, int] | None:
    """First and last token of the first answer; None where the paragraph does not hold it."""
    (text, *_), starts = answers
    start = starts[0] if starts else context.find(text)
    if start < 0 or context[start : start + len(text)] != text:
        start = context.find(text)
    if start < 0 or not text.strip():
        return None
    end = start + len(text)
    inside = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None
