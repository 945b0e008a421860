"""What a class predicts at each step, and what the numbers say. No answer is written down here: each follows
from measured numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.figures import (
    fmt_count,
    fmt_error,
    fmt_interval,
    fmt_omega,
    fmt_percent,
    fmt_points_interval,
    fmt_signed_points,
    layer_label,
)
from app.lessons.plans import CHOICES
from app.lessons.settings import Settings
from app.words import WORDS
from qbert_core.allocation import rank
from qbert_core.curvature import Sensitivity
from qbert_core.evaluation import Evaluation
from qbert_core.evaluation.paired import paired_difference
from qbert_core.quantization import Site
from qbert_core.tasks import Task

SEED = 0  # of the bootstrap
LOSSES = ("Less than 1 point", "1 to 5 points", "More than 5 points")
PARTS = ("Attention: 4 matrices", "FFN: 2 matrices", "Both alike")
FACTORS = {"Hardly changes": 1, "Doubles": 2, "4 times as large": 4, "8 times as large": 8}


@dataclass(frozen=True)
class Question:
    """What is asked, and what can be answered."""

    text: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Truth:
    """The options that are right (several where they tie), and the numbers that say so."""

    options: tuple[str, ...]
    words: str


def tables_question(settings: Settings, metric: str) -> Question:
    bits = "fp32" if settings.tables > 8 else f"{settings.tables} bit{'s' if settings.tables > 1 else ''}"
    return Question(f"Only the tables at {bits}, all else fp32: how much {metric} is lost?", LOSSES)


def groups_question(metric: str) -> Question:
    return Question(f"4 bits with 1 range a matrix instead of 128: how much {metric} is lost?", LOSSES)


def parts_question() -> Question:
    return Question("Which part of a layer holds more weights?", PARTS)


def error_question(settings: Settings) -> Question:
    bits = _from(settings)
    less = f"{bits - 1} bit{'s' if bits > 2 else ''}"
    return Question(f"From {bits} bits to {less}: what happens to the mean squared error?", tuple(FACTORS))


def layer_question(layers: int) -> Question:
    return Question("Which layer is the most sensitive?", tuple(layer_label(i) for i in range(layers)))


def choice_question(high: int, metric: str) -> Question:
    layers = f"{high} layer{'s' if high != 1 else ''}"
    return Question(f"4 bits for {layers}, 2 for the others. Whose 4 bits give the best {metric}?", CHOICES)


def loss_truth(task: Task, before: Evaluation, after: Evaluation) -> Truth:
    """What `after` loses against `before`, both of the same examples; paired, with its 95 % interval."""
    found = paired_difference(task, _grades(before), _grades(after), SEED)
    loss = -100 * found.mean
    option = LOSSES[0] if loss < 1 else LOSSES[1] if loss <= 5 else LOSSES[2]
    interval = fmt_points_interval(*found.interval)
    words = f"{fmt_signed_points(found.mean)}, 95 %: {interval}, {_n(after.n)}"
    return Truth((option,), words)


def parts_truth(sites: Sequence[Site]) -> Truth:
    """From one layer's sites."""
    held = [sum(site.params for site in sites if site.kind == kind) for kind in ("attention", "ffn")]
    option = PARTS[2] if held[0] == held[1] else PARTS[held.index(max(held))]
    total = sum(held)
    return Truth(
        (option,),
        f"attention {fmt_count(held[0])} ({fmt_percent(held[0] / total, 0)}), "
        f"FFN {fmt_count(held[1])} ({fmt_percent(held[1] / total, 0)}) weights",
    )


def error_truth(settings: Settings, errors: Sequence[float]) -> Truth:
    """From the mean squared errors at 1 to 8 bits: the factor nearest to the ratio, on a logarithmic scale."""
    bits = _from(settings)
    more, less = errors[bits - 1], errors[bits - 2]
    numbers = f"{fmt_error(more)} at {bits} bits, {fmt_error(less)} at {bits - 1}"
    if more == 0:  # nothing was rounded, so there is no ratio
        return Truth((next(iter(FACTORS)),) if less == 0 else (), f"{numbers}: no ratio")
    ratio = less / more
    if ratio == 0:
        return Truth((), numbers)
    option = min(FACTORS, key=lambda name: abs(math.log2(ratio / FACTORS[name])))
    return Truth((option,), f"{numbers}: {ratio:.1f} times")


def layer_truth(sensitivity: Sensitivity) -> Truth:
    ranked = rank(sensitivity)
    (layer, omega), (second, other) = ranked[0], ranked[min(1, len(ranked) - 1)]
    return Truth(
        (layer_label(layer),),
        f"Ω = {fmt_omega(omega)}, then {layer_label(second)} with {fmt_omega(other)}; "
        f"{sensitivity.runs} run{'s' if sensitivity.runs > 1 else ''} of {_n(sensitivity.examples)}",
    )


def choice_truth(task: Task, found: Mapping[str, Evaluation]) -> Truth:
    """The choices with the highest metric, and how sure it is that the next one is lower."""
    values = {choice: result.score.metrics[task.metric] for choice, result in found.items()}
    best = max(values.values())
    winners = tuple(choice for choice, value in values.items() if value == best)
    first = found[winners[0]]
    words = f"{fmt_percent(best)}, 95 %: {fmt_interval(*first.score.interval)}, {_n(first.n)}"
    others = [choice for choice in values if choice not in winners]
    if others:
        following = max(others, key=lambda choice: values[choice])
        gap = paired_difference(task, _grades(found[following]), _grades(first), SEED)
        words += f"; next {fmt_percent(values[following])}, ahead by {fmt_signed_points(gap.mean)} "
        words += f"({fmt_points_interval(*gap.interval)})"
        if gap.interval[0] <= 0:
            words += ": too close to call"
    return Truth(winners, words)


def metric_word(task: Task) -> str:
    """The task's metric inside a sentence."""
    words = WORDS[task.name].metric
    return words if words.endswith("F1") else words.lower()


def _n(examples: int) -> str:
    """How many, in one piece: "n = 400"."""
    return f"n = {fmt_count(examples)}".replace(" ", "\N{NO-BREAK SPACE}")


def _from(settings: Settings) -> int:
    return max(settings.bits, 2)  # there is no width below 1


def _grades(result: Evaluation) -> list[list[float]]:
    grades: list[list[float]] = result.grades.tolist()
    return grades
