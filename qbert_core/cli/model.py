"""`info` and `presets`: what a model is made of, and the plans the tool knows for it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from qbert_core.cli.parser import Commands


def info_command(args: argparse.Namespace) -> dict[str, Any]:
    """Sites and sizes of a model."""
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.quantization import fp32_size, sites_of

    checkpoint = load_checkpoint(args.model)
    config = checkpoint.config
    return {
        "fingerprint": checkpoint.fingerprint,
        "task": checkpoint.task,
        "head": config.head,
        "labels": config.labels,
        "layers": config.layers,
        "heads": config.heads,
        "sites": [{**asdict(site), "params": site.params} for site in sites_of(config)],
        "size_mb": fp32_size(config),
    }


def presets_command(args: argparse.Namespace) -> dict[str, Any]:
    """The plans the tool knows, for this model's depth and task."""
    from qbert_core.checkpoints import load_checkpoint
    from qbert_core.quantization import presets

    checkpoint = load_checkpoint(args.model)
    return {"plans": [plan.to_json() for plan in presets(checkpoint.config, checkpoint.task)]}


def add(commands: Commands) -> None:
    """This file's commands and their options."""
    commands.add("info", info_command)
    commands.add("presets", presets_command)
