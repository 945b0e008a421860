"""Plans and sensitivities as files, because a command line takes them so.

A file is named by what is in it, so the same plan makes the same command and two sessions that ask
for it share one job. A job that goes on after a restart finds its file again: the folder outlasts the
server, and is swept of what no job needs any more.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbert_core.runtime.home import cache_home

if TYPE_CHECKING:  # torch takes seconds, and a server sweeps before its first page
    from qbert_core.quantization import Plan

MONTH = 30 * 24 * 3600.0  # seconds; another server's jobs may need what is newer

_LOCK = threading.Lock()


def folder() -> Path:
    """Where the files are."""
    return cache_home() / "plans"


def plan_path(plan: Plan) -> Path:
    """Where the plan's file is, or would be."""
    return folder() / f"{plan.digest}.json"


def write_plan(plan: Plan) -> Path:
    """Write the plan's file, unless an equal plan was written before, perhaps under another name.

    Raises OSError when it cannot be written.
    """
    return _write(plan_path(plan), json.dumps(plan.to_json()))


def sensitivity_path(document: dict[str, Any]) -> Path:
    """Where the file of what the `sensitivity` command wrote is, or would be."""
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    return folder() / f"sensitivity-{digest[:16]}.json"


def write_sensitivity(document: dict[str, Any]) -> Path:
    """Write it there. Raises OSError when it cannot be written."""
    return _write(sensitivity_path(document), json.dumps(document))


def sweep(needed: Collection[str]) -> None:
    """Remove files that are in no job's arguments, `needed`, and were not asked for within a month."""
    try:
        files = list(folder().iterdir())
    except OSError:
        return
    for file in files:
        try:
            old = time.time() - file.stat().st_mtime > MONTH
            if old and str(file) not in needed:
                file.unlink()
        except OSError:
            continue


def _write(path: Path, text: str) -> Path:
    with _LOCK:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            os.utime(path)  # asked for today
            return path
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return path
