"""Plans and sensitivities as files, because a command line takes them so.

A file is named by what is in it, so the same plan makes the same command and two sessions that ask
for it share one job. The folder is this server's own and goes when the server does.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

from qbert_core.quantization import Plan

_LOCK = threading.Lock()


def plan_path(plan: Plan) -> Path:
    """Where the plan's file is, or would be. Raises OSError when there can be no folder for it."""
    return Path(_folder().name) / f"{plan.digest}.json"


def write_plan(plan: Plan) -> Path:
    """Write the plan's file, unless an equal plan was written before, perhaps under another name.

    Raises OSError when it cannot be written.
    """
    return _write(plan_path(plan), json.dumps(plan.to_json()))


def sensitivity_path(document: dict[str, Any]) -> Path:
    """Where the file of what the `sensitivity` command wrote is, or would be. Raises OSError as above."""
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    return Path(_folder().name) / f"sensitivity-{digest[:16]}.json"


def write_sensitivity(document: dict[str, Any]) -> Path:
    """Write it there. Raises OSError when it cannot be written."""
    return _write(sensitivity_path(document), json.dumps(document))


def _write(path: Path, text: str) -> Path:
    with _LOCK:
        path.parent.mkdir(mode=0o700, exist_ok=True)  # a long-running server's may have been swept away
        if not path.exists():
            try:
                path.write_text(text, encoding="utf-8")
            except OSError:
                path.unlink(missing_ok=True)
                raise
    return path


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="qbert-plans-")
