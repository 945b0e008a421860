"""What a finetuned model's folder holds beside the checkpoint."""

REPORT = "training.json"
"""What `finetune` measured; written when it is done."""

STATES = ".training"
"""The folder of the state of a training under way."""
