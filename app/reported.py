"""What the paper reports: Q-BERT (Shen et al., AAAI 2020, arXiv 1909.05840), BERT-base after
quantization-aware finetuning, in percent. To stand beside our own numbers, never among them.

`confirmed` says that the number was checked in a source; the others are quoted as reported.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Number:
    """One reported number, percent."""

    value: float
    confirmed: bool = False


@dataclass(frozen=True)
class ReportedRow:
    """A row of a table: bits of the weights (or a number of groups), the method, and a number a metric."""

    setting: str
    method: str
    numbers: tuple[Number, ...]  # beside `METRICS` of the task


def _r(*values: float) -> tuple[Number, ...]:
    return tuple(Number(value) for value in values)


def _c(*values: float) -> tuple[Number, ...]:
    return tuple(Number(value, confirmed=True) for value in values)


# task -> the metrics the paper gives of it
METRICS = {
    "sst2": ("Accuracy",),
    "mnli": ("Accuracy, matched", "mismatched"),
    "conll03": ("F1",),
    "squad": ("Exact match", "F1"),
}

# Table 1: weights' bits by method; the embedding has 8 bits, activations 8 (fp32: none quantized)
METHODS: dict[str, tuple[ReportedRow, ...]] = {
    "sst2": (
        ReportedRow("fp32", "baseline", _c(93.00)),
        ReportedRow("8", "Q-BERT", _r(92.88)),
        ReportedRow("4", "DirectQ", _r(85.67)),
        ReportedRow("4", "Q-BERT", _r(92.66)),
        ReportedRow("3", "DirectQ", _r(82.86)),
        ReportedRow("3", "Q-BERT", _r(92.54)),
        ReportedRow("2/4", "Q-BERT mixed", _r(92.55)),
        ReportedRow("2/3", "Q-BERT mixed", _r(92.08)),
        ReportedRow("2", "DirectQ", _r(80.62)),
        ReportedRow("2", "Q-BERT", _r(84.63)),
    ),
    "mnli": (
        ReportedRow("fp32", "baseline", (*_c(84.00), *_r(84.40))),
        ReportedRow("8", "Q-BERT", _r(83.91, 83.83)),
        ReportedRow("4", "DirectQ", _r(76.69, 77.00)),
        ReportedRow("4", "Q-BERT", _r(83.89, 84.17)),
        ReportedRow("3", "DirectQ", _r(70.27, 70.89)),
        ReportedRow("3", "Q-BERT", _r(83.41, 83.83)),
        ReportedRow("2/4", "Q-BERT mixed", (*_c(83.51), *_r(83.55))),
        ReportedRow("2/3", "Q-BERT mixed", (*_c(81.75), *_r(82.29))),
        ReportedRow("2", "DirectQ", _r(53.29, 53.32)),
        ReportedRow("2", "Q-BERT", (*_c(76.56), *_r(77.02))),
    ),
    "conll03": (
        ReportedRow("fp32", "baseline", _r(95.00)),
        ReportedRow("8", "Q-BERT", _r(94.79)),
        ReportedRow("4", "DirectQ", _r(89.86)),
        ReportedRow("4", "Q-BERT", _r(94.90)),
        ReportedRow("3", "DirectQ", _r(84.92)),
        ReportedRow("3", "Q-BERT", _r(94.78)),
        ReportedRow("2/4", "Q-BERT mixed", _r(94.55)),
        ReportedRow("2/3", "Q-BERT mixed", _r(94.37)),
        ReportedRow("2", "DirectQ", _r(54.50)),
        ReportedRow("2", "Q-BERT", _r(91.06)),
    ),
    "squad": (
        ReportedRow("fp32", "baseline", _r(81.54, 88.69)),
        ReportedRow("8", "Q-BERT", _r(81.07, 88.47)),
        ReportedRow("4", "DirectQ", _r(66.05, 77.10)),
        ReportedRow("4", "Q-BERT", _r(80.95, 88.36)),
        ReportedRow("3", "DirectQ", _r(46.77, 59.83)),
        ReportedRow("3", "Q-BERT", _r(79.96, 87.66)),
        ReportedRow("2/4", "Q-BERT mixed", _c(79.85, 87.49)),
        ReportedRow("2/3", "Q-BERT mixed", _c(79.29, 86.95)),
        ReportedRow("2", "DirectQ", _r(4.77, 10.32)),
        ReportedRow("2", "Q-BERT", _c(69.68, 79.60)),
    ),
}

# Table 2: groups a matrix, at 4-bit weights, 8-bit embedding and activations; the paper has no SQuAD here
GROUPS: dict[str, tuple[ReportedRow, ...]] = {
    "sst2": (
        ReportedRow("1", "DirectQ", _r(85.67)),
        ReportedRow("12", "Q-BERT", _r(92.31)),
        ReportedRow("128", "Q-BERT", _r(92.66)),
        ReportedRow("768", "Q-BERT", _r(92.78)),
    ),
    "mnli": (
        ReportedRow("1", "DirectQ", _r(76.69)),
        ReportedRow("12", "Q-BERT", _r(82.37)),
        ReportedRow("128", "Q-BERT", _r(83.89)),
        ReportedRow("768", "Q-BERT", _r(84.00)),
    ),
    "conll03": (
        ReportedRow("1", "DirectQ", _r(89.86)),
        ReportedRow("12", "Q-BERT", _r(94.42)),
        ReportedRow("128", "Q-BERT", _r(94.90)),
        ReportedRow("768", "Q-BERT", _r(94.99)),
    ),
}

# What the text says, all confirmed: experiment -> sentences
TEXTS: dict[str, tuple[str, ...]] = {
    "methods": ("At most 2.3 % lost, with the weights 13 times smaller.",),
    "groups": (
        "Without groups 7 to 11.5 % are lost; with 12 groups less than 2 %.",
        "From 12 to 128 groups at least 0.3 % are gained; from 128 to 768 at most 0.1 %.",
    ),
    "modules": (
        "The embedding at 4 bits with one range a table costs up to 10 % on SST-2, MNLI and CoNLL-03, "
        "over 20 % on SQuAD.",
        "The position table is about 2 % more sensitive than the word table.",
        "Words at 4 and positions at 8 bits bring the tables to 11.6 MB for about 0.5 %.",
        "Self-attention at 1/2 bits mixed costs about 5 %, the feed-forward half about 11 %.",
    ),
    "one-at-a-time": (),
}
