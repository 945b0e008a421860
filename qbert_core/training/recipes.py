"""How to finetune, and the paper's settings for each task."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qbert_core.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """How to finetune. The defaults are the paper's for SST-2 and MNLI.

    `ema` and `freeze` are for plans with quantized activations: the decay a step of the moving average
    that an input's range is, and the share of the steps after which the ranges stay as they are.
    """

    epochs: int = 3
    lr: float = 2e-5  # peak
    batch_size: int = 32
    warmup: float = 0.1  # share of all steps
    weight_decay: float = 0.01  # not on biases and LayerNorm
    clip_norm: float = 1.0
    average: float = 0.0  # share of the last steps whose weights are averaged into the result
    ema: float = 0.99
    freeze: float = 0.5
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
            ("ema", 0, 1),
            ("freeze", 0, 1),
            ("clip_norm", 0, math.inf),
            ("seed", 0, 2**63),
            ("log_every", 1, 2**63),
        ):
            value = getattr(self, name)
            if not low <= value <= high:  # NaN is in no range
                raise InputError(f"{name} is {value}; expected {low} to {high:g}")


# task -> full precision, quantization-aware: the settings of the authors' code. The length a text is
# cut to (128 tokens, SQuAD 384 with a stride of 128) belongs to the tokenisation.
RECIPES = {
    "sst2": (Recipe(), Recipe()),
    "mnli": (Recipe(), Recipe()),
    "conll03": (Recipe(lr=5e-5, epochs=5, warmup=0.4), Recipe()),
    "squad": (Recipe(lr=3e-5, batch_size=12, epochs=2), Recipe(lr=3e-5, batch_size=12, epochs=1)),
}


def recipe_for(task: str, quantized: bool) -> Recipe:
    """The paper's recipe for a task, in full precision or quantization-aware.

    Raises `InputError` for a task the paper does not have.
    """
    if task not in RECIPES:
        raise InputError(f"no recipe for task {task!r:.40}; there is one for {', '.join(RECIPES)}")
    return RECIPES[task][quantized]
