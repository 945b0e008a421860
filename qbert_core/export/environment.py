"""What a result was computed with, for somebody who wants to compute it again."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("torch", "numpy", "tokenizers", "safetensors")
ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """Versions, machine and, where the project is a git checkout, its commit."""
    return {
        "Python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "Threads": str(torch.get_num_threads()),
        "Machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "Commit": _commit() or "not a git checkout",
    }


def _commit() -> str | None:
    """The checkout's commit, `-dirty` where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):  # no git here
        return None
    return done.stdout.strip() if done.returncode == 0 else None
