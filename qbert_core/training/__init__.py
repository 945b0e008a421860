"""Finetuning a BERT on a task."""

from qbert_core.training.average import average
from qbert_core.training.finetune import Recipe, TrainingResult, finetune

__all__ = ["Recipe", "TrainingResult", "average", "finetune"]
