"""Runs killed with SIGKILL at random moments: what was finished is there, the result is the undisturbed one.

A tiny random model: what is measured is the store, and a run of it has as many units as one of a real model.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.record import ROOT, begin, goal, parser, save, spread

CLAIM = "A kill at any moment loses nothing that was finished, and the resumed result is the undisturbed one"


def kills(command: str, moments: int, seed: int) -> dict[str, Any]:
    """What `tests.killing` found."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.killing", command, "--moments", str(moments), "--seed", str(seed),
             "--folder", folder],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{command}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    options = parser(__doc__, repeats=50)
    options.add_argument("--commands", default="sensitivity,sweep,density,landscape")
    arguments = options.parse_args()
    began = begin()
    samples, rows, goals = [], [], []
    for command in arguments.commands.split(","):
        found = kills(command, arguments.repeats, arguments.seed)
        print(f"{command}: {len(found['moments'])} kills", file=sys.stderr, flush=True)
        for number, (moment, units) in enumerate(zip(found["moments"], found["units"], strict=True)):
            samples.append(
                {"round": number, "variant": command, "seconds": moment, "units": units, "others": 0.0,
                 "disturbed": False, "kept": True}
            )  # fmt: skip
        rows.append(
            [command, len(found["moments"]), found["inside_writes"], found["rounds"], found["lost"],
             found["unsound"], found["unequal"], spread(found["moments"])]
        )  # fmt: skip
        goals += [
            goal(f"{command}: units lost", found["lost"], 0),
            goal(f"{command}: unsound files", found["unsound"], 0),
            goal(f"{command}: results unlike the undisturbed one", found["unequal"], 0),
        ]
    columns = [
        "command", "kills", "of them aimed at a write", "stores carried to the end", "units lost",
        "unsound files", "results unlike the undisturbed one", "seconds from the start to the kill",
    ]  # fmt: skip
    table = {"title": "Kills at random moments", "columns": columns, "rows": rows}
    save("kills", CLAIM, arguments, began, samples, [table], goals)


if __name__ == "__main__":
    main()
