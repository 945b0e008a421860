"""What a command tells while it works: events on stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


class Progress:
    """Events printed to stderr: a line a few times a second for people, or every event as one JSON
    object a line, partial result included, for a program (QBERT_PROGRESS=json)."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._last = 0.0
        self._json = os.environ.get("QBERT_PROGRESS") == "json"

    def progress(self, done: int, total: int, partial: Any = None) -> None:
        if self._json:
            document = partial.to_json() if hasattr(partial, "to_json") else partial
            print(
                json.dumps({"done": done, "total": total, "partial": document}), file=sys.stderr, flush=True
            )
            return
        now = time.perf_counter()
        if done < total and now - self._last < 0.5:
            return
        self._last = now
        print(f"{done}/{total}  {now - self._started:.1f} s  {brief(partial)}", file=sys.stderr, flush=True)

    def check(self) -> None:
        """Nothing to do: Ctrl-C arrives as KeyboardInterrupt."""


def warn(line: str) -> None:
    """A warning, on stderr."""
    print(f"warning: {line}", file=sys.stderr)


def brief(partial: Any) -> str:
    """What a person wants to read of a partial result; of a sweep's: what is running, or the last row."""
    if isinstance(partial, dict) and "rows" in partial:
        last = partial["rows"][-1] if partial["rows"] else {}
        ended = {name: last.get(name) for name in ("name", "finetuned", "seed", "metrics")}
        partial = partial["running"] or ended
    return json.dumps(partial) if isinstance(partial, dict) else ""
