"""Where things are kept between runs: all of it below $QBERT_HOME where that is set."""

from __future__ import annotations

import os
from pathlib import Path

NAME = "qbert-studio"


def cache_home() -> Path:
    """For what can be computed again: $QBERT_HOME, else ~/.cache/qbert-studio."""
    home = os.environ.get("QBERT_HOME")
    return Path(home) if home else Path.home() / ".cache" / NAME


def data_home() -> Path:
    """For what a person made: $QBERT_HOME, else qbert-studio in $XDG_DATA_HOME or ~/.local/share."""
    home = os.environ.get("QBERT_HOME")
    if home:
        return Path(home)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / NAME
