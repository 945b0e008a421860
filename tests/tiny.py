"""A BERT small enough to check by brute force: random weights, a real tokenizer, a few kilobytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from tokenizers.implementations import BertWordPieceTokenizer

from qbert_core.bert import BertConfig
from qbert_core.checkpoints import Checkpoint, save_checkpoint

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    ". , ! ? ' - a an the this that it its is was are were be i you he she they we not never no but and or "
    "of to in with for at on so very too much more most film movie story plot actor scene script music end "
    "good great fine funny warm clever moving bad poor dull slow cold awful boring love hate like watch "
    "feel made john mary paris london who where lives ##s ##ed ##ing ##ly ##er ##n"
).split()  # anything else becomes [UNK]
LABELS = {
    "sequence": ("negative", "positive"),
    "token": ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"),
    "question": ("start", "end"),
}


def make_tiny(
    folder: Path,
    head: str = "sequence",  # one of qbert_core.bert.config.HEADS
    labels: Sequence[str] | None = None,  # what the head's task usually has when not given
    layers: int = 3,
    heads: int = 2,
    hidden: int = 16,
    intermediate: int = 32,
    positions: int = 40,
    seed: int = 0,
    scale: float = 0.3,  # standard deviation of matrices; biases and LayerNorm vary by a third of it
) -> Path:
    """Write a random checkpoint (fp32) into `folder`, which is made, and return `folder`.

    Every parameter differs from its neutral value, so that a bias or LayerNorm left out of a
    computation shows; `scale` is large against BERT's 0.02 so that attention is not uniform.
    """
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *WORDS))}
    config = BertConfig(
        head=head,
        labels=tuple(labels) if labels is not None else LABELS[head],
        layers=layers,
        heads=heads,
        hidden=hidden,
        intermediate=intermediate,
        vocabulary=len(vocabulary),
        positions=positions,
        token_types=2,
    )
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, torch.Tensor] = {}
    for name, shape in config.shapes().items():
        spread = scale if len(shape) == 2 else scale / 3
        center = 1.0 if name.endswith("LayerNorm.weight") else 0.0
        weights[name] = center + spread * torch.randn(shape, generator=generator)
    tokenizer = BertWordPieceTokenizer(vocabulary, lowercase=True)._tokenizer
    made = Checkpoint(folder.name, config, MappingProxyType(weights), tokenizer, "", folder)
    save_checkpoint(made, folder, torch.float32)
    return folder
