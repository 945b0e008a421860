"""A training under way: its weights, optimizer and curve, one step of it, and its state.

AdamW, linear warm-up and decay, batches bucketed by length. The data's order follows from the seed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qbert_core.bert import forward
from qbert_core.checkpoints import Checkpoint
from qbert_core.errors import InputError
from qbert_core.quantization import ActivationRanges, Plan
from qbert_core.quantization.trained import TrainedQuantization
from qbert_core.runtime.events import Events
from qbert_core.tasks import Batch, Examples, Score, Task, collate
from qbert_core.training.measure import measure
from qbert_core.training.quantized import TrainedPlan
from qbert_core.training.recipes import Recipe
from qbert_core.training.state import TrainingState, random_state, restore_random

BUCKET = 50  # batches sorted together: long enough to hardly pad, short enough to stay random
POINT_SECONDS = 5.0  # between two points of the curve at most


class Training:
    """The state of a training, and one step of it."""

    def __init__(
        self,
        base: Checkpoint,
        task: Task,
        train: Examples,
        recipe: Recipe,
        plan: Plan | None,
        device: torch.device,
    ) -> None:
        torch.manual_seed(recipe.seed)  # dropout draws from the global generator
        self._base, self._task, self._train = base, task, train
        self._recipe, self._plan, self._device = recipe, plan, device
        self._weights = {
            name: w.detach().to(device, copy=True).requires_grad_() for name, w in base.weights.items()
        }
        self._optimizer = torch.optim.AdamW(
            _parameter_groups(self._weights, recipe), lr=recipe.lr, fused=True
        )
        self._mean = _Mean()
        self._trained = None if plan is None else TrainedPlan(base.config, plan, recipe.ema, {})
        self._lengths = train.lengths
        self._epoch_steps = -(-len(self._lengths) // recipe.batch_size)
        self.steps = recipe.epochs * self._epoch_steps
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self._loss_sum, self._loss_count, self._lr = 0.0, 0, 0.0
        self._earlier = 0.0  # seconds before the run was interrupted
        self._started = self._last_point = time.perf_counter()
        self._first_step = 0

    @property
    def seconds(self) -> float:
        return self._earlier + time.perf_counter() - self._started

    @property
    def epoch_ends(self) -> bool:
        return self.step % self._epoch_steps == 0

    @property
    def point_due(self) -> bool:
        waited = time.perf_counter() - self._last_point
        return self.step % self._recipe.log_every == 0 or waited >= POINT_SECONDS

    def batches(self) -> Iterator[Batch]:
        """What is left of the epochs, from the current step on."""
        order = np.random.default_rng(self._recipe.seed)
        start = self.step
        for epoch in range(self._recipe.epochs):
            chosen = _epoch(self._lengths, self._recipe.batch_size, order)
            for indices in chosen[max(0, start - epoch * self._epoch_steps) :]:
                yield collate(self._task, self._train, indices)

    def learn(self, batch: Batch) -> None:
        """One step; `InputError` when the loss is not finite any more."""
        recipe, config = self._recipe, self._base.config
        batch = _moved(batch, self._device)
        if self._trained is None:
            logits = forward(
                self._weights, config, batch.input_ids, batch.token_type_ids, batch.lengths, training=True
            )
        else:
            observe = self._plan_has_inputs and self.step < max(1, recipe.freeze * self.steps)
            logits = self._trained.forward(self._weights, batch, training=True, observe=observe)
        total, count = self._task.loss(logits, batch)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total / max(1, count))  # no window of it may have a target
        torch.nn.utils.clip_grad_norm_(self._weights.values(), recipe.clip_norm)
        self._lr = recipe.lr * _linear(self.step, self.steps, recipe.warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr
        self._optimizer.step()
        self.step += 1
        self._loss_sum, self._loss_count = self._loss_sum + total.item(), self._loss_count + count
        if not math.isfinite(self._loss_sum):
            raise InputError(
                f"step {self.step}: the loss is not finite any more; try a lower lr than {recipe.lr:g}"
            )
        if self.step > self.steps * (1 - recipe.average):
            self._mean.add(self._weights)

    @property
    def _plan_has_inputs(self) -> bool:
        return self._plan is not None and self._plan.activation_bits == 8

    def point(self, metrics: dict[str, float]) -> dict[str, float]:
        """The curve's next point."""
        self._last_point = time.perf_counter()
        a_step = (self._last_point - self._started) / max(1, self.step - self._first_step)
        point = {
            "step": self.step,
            "epoch": self.step / self._epoch_steps,
            "loss": self._loss_sum / max(1, self._loss_count),
            "lr": self._lr,
            "eta_seconds": a_step * (self.steps - self.step),
            **metrics,
        }
        self._loss_sum, self._loss_count = 0.0, 0
        self.curve.append(point)
        return point

    def ranges(self) -> ActivationRanges | None:
        """The activation ranges so far, None where activations stay in fp32."""
        if self._trained is None or not self._plan_has_inputs:
            return None
        return self._trained.activation_ranges(self._train.source, len(self._train))

    def trained(self) -> TrainedQuantization | None:
        """What the weights are trained for."""
        return None if self._plan is None else TrainedQuantization(self._plan, self.ranges())

    def measure(self, data: Examples, events: Events) -> Score:
        """The score of the weights as they are."""
        now = replace(self._base, weights=_detached(self._weights))
        return measure(now, self._task, data, events, trained=self.trained())

    def result(self) -> Checkpoint:
        """The finetuned model; `InputError` when it is not finite."""
        final = replace(
            self._base, weights=_detached(self._mean.result() if self._mean.count else self._weights)
        )
        if not all(bool(torch.isfinite(weight).all()) for weight in final.weights.values()):
            raise InputError(
                f"the trained weights are not all finite; try a lower lr than {self._recipe.lr:g}"
            )
        return final

    def state(self, command: dict[str, Any]) -> TrainingState:
        """Everything the rest depends on."""
        tensors: dict[str, Tensor] = random_state(self._device)
        for name, weight in self._weights.items():
            tensors[f"weight.{name}"] = weight
            for key, value in self._optimizer.state[weight].items():
                tensors[f"{key}.{name}"] = value
            if self._mean.count:
                tensors[f"mean.{name}"] = self._mean.sums[name]
        progress = {
            "step": self.step,
            "loss_sum": self._loss_sum,
            "loss_count": self._loss_count,
            "lr": self._lr,
            "mean_count": self._mean.count,
            "seconds": self.seconds,
            "curve": self.curve,
            "ranges": None if self._trained is None else self._trained.ranges,
        }
        return TrainingState(command, progress, tensors)

    def restore(self, state: TrainingState) -> None:
        """Go on from `state`."""
        progress, tensors = state.progress, state.tensors
        self.step = self._first_step = progress["step"]
        self._loss_sum, self._loss_count = progress["loss_sum"], progress["loss_count"]
        self._lr, self._earlier, self.curve = progress["lr"], progress["seconds"], list(progress["curve"])
        self._mean.count = progress["mean_count"]
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(tensors[f"weight.{name}"])
                if self.step:
                    self._optimizer.state[weight] = {
                        key: tensors[f"{key}.{name}"].to(self._device, copy=True)
                        for key in ("step", "exp_avg", "exp_avg_sq")
                    }
                if self._mean.count:
                    self._mean.sums[name] = tensors[f"mean.{name}"].to(self._device, copy=True)
        if self._trained is not None:
            self._trained.ranges = {site: (low, high) for site, (low, high) in progress["ranges"].items()}
        restore_random(tensors, self._device)


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


def _epoch(lengths: np.ndarray, size: int, order: np.random.Generator) -> list[np.ndarray]:
    """One pass in random order, windows of like length together: shuffle, sort inside buckets,
    shuffle the batches."""
    shuffled = order.permutation(len(lengths))
    batches = []
    for start in range(0, len(lengths), size * BUCKET):
        bucket = shuffled[start : start + size * BUCKET]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches += [bucket[i : i + size] for i in range(0, len(bucket), size)]
    return [batches[i] for i in order.permutation(len(batches))]


def _moved(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    names = ("input_ids", "token_type_ids", "lengths", "targets")
    return replace(batch, **{name: getattr(batch, name).to(device, non_blocking=True) for name in names})


def _detached(weights: dict[str, Tensor]) -> MappingProxyType[str, Tensor]:
    """The weights as a checkpoint holds them, on the CPU: evaluations run there."""
    return MappingProxyType({name: w.detach().cpu() for name, w in weights.items()})


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

    def result(self) -> dict[str, Tensor]:
        return {name: s / self.count for name, s in self.sums.items()}
