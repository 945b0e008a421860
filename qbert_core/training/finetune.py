"""Full-precision finetuning: AdamW, linear warm-up and decay, batches bucketed by length."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from qbert_core.bert import forward
from qbert_core.checkpoints import Checkpoint
from qbert_core.errors import InputError
from qbert_core.runtime.events import Events, Silent
from qbert_core.tasks import Batch, Examples, Score, Task, answers, collate, grades, length_batches

BUCKET = 50  # batches sorted together: long enough to hardly pad, short enough to stay random


@dataclass(frozen=True)
class Recipe:
    """How to finetune. The defaults are the paper's for SST-2 and MNLI."""

    epochs: int = 3
    lr: float = 2e-5  # peak
    batch_size: int = 32
    warmup: float = 0.1  # share of all steps
    weight_decay: float = 0.01  # not on biases and LayerNorm
    clip_norm: float = 1.0
    average: float = 0.0  # share of the last steps whose weights are averaged into the result
    seed: int = 0
    log_every: int = 100  # steps

    def __post_init__(self) -> None:
        for name, low, high in (
            ("epochs", 1, 1000),
            ("batch_size", 1, 2**20),
            ("lr", 0, 1e300),
            ("weight_decay", 0, 1e300),
            ("warmup", 0, 1),
            ("average", 0, 1),
            ("clip_norm", 0, math.inf),
            ("seed", 0, 2**63),
            ("log_every", 1, 2**63),
        ):
            value = getattr(self, name)
            if not low <= value <= high:  # NaN is in no range
                raise InputError(f"{name} is {value}; expected {low} to {high:g}")


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """The finetuned model, its score on the evaluation data, and how it got there."""

    checkpoint: Checkpoint
    score: Score
    curve: list[dict[str, float]]  # step, epoch, loss (mean since the last point), lr; accuracy an epoch
    seconds: float


def finetune(
    base: Checkpoint,
    task: Task,
    train: Examples,
    data: Examples,
    recipe: Recipe,
    events: Events | None = None,
) -> TrainingResult:
    """Finetune every parameter of `base` on `train`; measure on `data` after each epoch.

    The result is the average of the weights over the last `recipe.average` of the steps (the last
    weights where that is 0). Same seed, data, machine and thread count: same weights.
    """
    events = events or Silent()
    started = time.perf_counter()
    torch.manual_seed(recipe.seed)  # dropout draws from the global generator
    order = np.random.default_rng(recipe.seed)
    weights = {name: w.clone().requires_grad_() for name, w in base.weights.items()}
    optimizer = torch.optim.AdamW(_parameter_groups(weights, recipe), lr=recipe.lr, fused=True)
    steps = recipe.epochs * -(-len(train.input_ids) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _linear(s, steps, recipe.warmup))

    mean = _Mean()
    curve: list[dict[str, float]] = []
    loss_sum = loss_count = 0.0
    step = 0
    for epoch in range(recipe.epochs):
        for batch in _epoch(task, train, recipe.batch_size, order):
            events.check()
            logits = forward(
                weights, base.config, batch.input_ids, batch.token_type_ids, batch.lengths, training=True
            )
            total, count = task.loss(logits, batch)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(total / count)
            torch.nn.utils.clip_grad_norm_(weights.values(), recipe.clip_norm)
            lr = float(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
            step += 1
            loss_sum, loss_count = loss_sum + total.item(), loss_count + count
            if not math.isfinite(loss_sum):
                raise InputError(
                    f"step {step}: the loss is not finite any more; try a lower lr than {recipe.lr:g}"
                )
            if step > steps * (1 - recipe.average):
                mean.add(weights)
            if step % recipe.log_every == 0 or step == steps:
                at = step * recipe.epochs / steps
                curve.append({"step": step, "epoch": at, "loss": loss_sum / loss_count, "lr": lr})
                loss_sum = loss_count = 0.0
                events.progress(step, steps, curve[-1])
        score = measure(replace(base, weights=_frozen(weights)), task, data, events)
        curve.append({"step": step, "epoch": epoch + 1, **score.metrics})
        events.progress(step, steps, curve[-1])

    final = replace(base, weights=mean.result() if mean.count else _frozen(weights))
    if not all(bool(torch.isfinite(weight).all()) for weight in final.weights.values()):
        raise InputError(f"the trained weights are not all finite; try a lower lr than {recipe.lr:g}")
    score = measure(final, task, data, events)
    return TrainingResult(final, score, curve, time.perf_counter() - started)


def measure(checkpoint: Checkpoint, task: Task, data: Examples, events: Events | None = None) -> Score:
    """The task's score of a full-precision model."""
    outputs: list[object] = [None] * len(data.input_ids)
    with torch.no_grad():
        for chosen in length_batches(data.lengths, tokens=4096):
            if events:
                events.check()
            batch = collate(task, data, chosen)
            logits = forward(
                checkpoint.weights, checkpoint.config, batch.input_ids, batch.token_type_ids, batch.lengths
            )
            for window, output in zip(chosen, task.predict(logits, batch), strict=True):
                outputs[window] = output
    return task.score(grades(task, answers(task, outputs, data), data))


def _parameter_groups(weights: dict[str, Tensor], recipe: Recipe) -> list[dict[str, object]]:
    decayed = [w for name, w in weights.items() if w.ndim == 2]
    others = [w for name, w in weights.items() if w.ndim < 2]
    return [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _linear(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate at `step`: up over the warm-up, then down to 0 at the end."""
    rising = warmup * steps
    falling = max(0.0, (steps - step) / max(1.0, steps - rising))
    return min(1.0, falling, (step + 1) / rising if rising else 1.0)


def _epoch(task: Task, train: Examples, size: int, order: np.random.Generator) -> Iterator[Batch]:
    """One pass in random order, examples of like length together: shuffle, sort inside buckets,
    shuffle the batches."""
    shuffled = order.permutation(len(train.input_ids))
    lengths = train.lengths  # of windows
    batches = []
    for start in range(0, len(shuffled), size * BUCKET):
        bucket = shuffled[start : start + size * BUCKET]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches += [bucket[i : i + size] for i in range(0, len(bucket), size)]
    for i in order.permutation(len(batches)):
        yield collate(task, train, batches[i])


def _frozen(weights: dict[str, Tensor]) -> MappingProxyType[str, Tensor]:
    return MappingProxyType({name: w.detach() for name, w in weights.items()})


class _Mean:
    """Running mean of the weights over steps."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, Tensor] = {}

    def add(self, weights: dict[str, Tensor]) -> None:
        if not self.sums:
            self.sums = {name: torch.zeros_like(w) for name, w in weights.items()}
        self.count += 1
        torch._foreach_add_(list(self.sums.values()), [w.detach() for w in weights.values()])

    def result(self) -> MappingProxyType[str, Tensor]:
        return MappingProxyType({name: s / self.count for name, s in self.sums.items()})
