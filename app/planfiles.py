"""Plans as files, because a command line takes a plan by its file.

A file is named by what its plan does, so the same plan makes the same command and two sessions that ask
for it share one job. The folder is this server's own and goes when the server does.
"""

from __future__ import annotations

import json
import tempfile
import threading
from functools import cache
from pathlib import Path

from qbert_core.quantization import Plan

_LOCK = threading.Lock()


def plan_path(plan: Plan) -> Path:
    """Where the plan's file is, or would be. Raises OSError when there can be no folder for it."""
    return Path(_folder().name) / f"{plan.digest}.json"


def write_plan(plan: Plan) -> Path:
    """Write the plan's file, unless an equal plan was written before, perhaps under another name.

    Raises OSError when it cannot be written.
    """
    path = plan_path(plan)
    with _LOCK:
        path.parent.mkdir(mode=0o700, exist_ok=True)  # a long-running server's may have been swept away
        if not path.exists():
            try:
                path.write_text(json.dumps(plan.to_json()), encoding="utf-8")
            except OSError:
                path.unlink(missing_ok=True)
                raise
    return path


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="qbert-plans-")
