"""The whole Hessian of one block of a tiny sentiment model, through transformers, in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from torch import Tensor

from qbert_core.curvature import Block
from qbert_core.tasks import Examples
from qbert_core.tasks.base import make_examples


def random_examples(lengths: tuple[int, ...] = (3, 9, 4, 4, 7, 12, 3), seed: int = 5) -> Examples:
    """Random word ids with random labels, an example a length."""
    random = np.random.default_rng(seed)
    ids = [[int(i) for i in random.integers(1, 60, length)] for length in lengths]
    labels = [int(random.integers(2)) for _ in lengths]
    types = [[0] * len(row) for row in ids]
    return make_examples(ids, types, labels, pd.DataFrame({"row": range(len(ids))}), "random")


def dense_hessian(folder: Path, block: Block, examples: Examples) -> NDArray[np.float64]:
    """(n, n): the Hessian of the mean loss by the block's parameters, one example at a time, unpadded."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, attn_implementation="eager"
    )
    model = model.double().eval()
    values = [dict(model.named_parameters())[name].detach() for name in block.parameters]
    sizes = [value.numel() for value in values]

    def loss(flat: Tensor) -> Tensor:
        shaped = [p.view_as(v) for p, v in zip(torch.split(flat, sizes), values, strict=True)]
        parameters = dict(zip(block.parameters, shaped, strict=True))
        terms = []
        for ids, types, label in zip(
            examples.input_ids, examples.token_type_ids, examples.targets, strict=True
        ):
            inputs = {"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([types])}
            logits = torch.func.functional_call(model, parameters, (), inputs).logits
            terms.append(F.cross_entropy(logits, torch.tensor([label])))
        return torch.stack(terms).mean()

    flat = torch.cat([value.reshape(-1) for value in values])
    hessian = torch.autograd.functional.hessian(loss, flat, vectorize=True)
    assert isinstance(hessian, Tensor)
    return hessian.numpy()
