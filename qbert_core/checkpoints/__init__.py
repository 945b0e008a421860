"""Read a finetuned BERT safely, know it by its content, write one that others can read."""

from qbert_core.checkpoints.checkpoint import Checkpoint
from qbert_core.checkpoints.load import demo_folder, load_base, load_checkpoint
from qbert_core.checkpoints.save import save_checkpoint

__all__ = ["Checkpoint", "demo_folder", "load_base", "load_checkpoint", "save_checkpoint"]
