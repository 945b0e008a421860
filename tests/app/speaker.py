"""A stand-in for the processes that jobs start: it says what a test wants said, when the test wants it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# prints the lines of a file one after the other, waiting for the file `go` before the last, then writes `result`
SPEAKER = """
import os, sys, time
folder, out = sys.argv[1], sys.argv[-1]
lines = open(folder + "/lines").read().splitlines()
for number, line in enumerate(lines, 1):
    print(line, file=sys.stderr, flush=True)
while not os.path.exists(folder + "/go"):
    time.sleep(0.01)
result = open(folder + "/result").read()
if not result:
    sys.exit(2)
open(out, "w").write(result)
"""


class Speaker:
    """What started jobs do: say `lines`, wait to be released, give `result`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commands: list[list[str]] = []

    def say(self, *partials: Any, total: int = 10) -> None:
        events = [{"done": n, "total": total, "partial": p} for n, p in enumerate(partials, 1)]
        (self.folder / "lines").write_text("\n".join(map(json.dumps, events)))

    def give(self, result: Any) -> None:
        (self.folder / "result").write_text(json.dumps(result))
        (self.folder / "go").touch()

    def hold(self) -> None:
        """The next job waits again instead of giving the last one's result."""
        (self.folder / "go").unlink()

    def fail(self, line: str) -> None:
        (self.folder / "lines").write_text(f"error: {line}")
        (self.folder / "result").write_text("")
        (self.folder / "go").touch()

    def start(self, arguments: list[str]) -> subprocess.Popen[str]:
        self.commands.append(arguments)
        command = [sys.executable, "-S", "-c", SPEAKER, str(self.folder), *arguments]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
