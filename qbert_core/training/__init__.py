"""Finetuning a BERT on a task."""

from qbert_core.training.finetune import Recipe, TrainingResult, finetune

__all__ = ["Recipe", "TrainingResult", "finetune"]
