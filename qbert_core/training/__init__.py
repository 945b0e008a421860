"""Finetuning a BERT on a task, in full precision or for a plan."""

from qbert_core.training.average import average
from qbert_core.training.finetune import TrainingResult, finetune
from qbert_core.training.recipes import Recipe, recipe_for
from qbert_core.training.state import discard_state

__all__ = ["Recipe", "TrainingResult", "average", "discard_state", "finetune", "recipe_for"]
