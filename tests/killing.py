"""Commands killed with SIGKILL at random moments, again and again, until they have finished.

`python -m tests.killing COMMAND --moments N --folder DIR` prints one JSON document. Every start is a fork of
this process, which has imported everything: torch alone takes seconds, and a kill is to hit the work.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import select
import signal
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a fork inherits no threads, only their locks
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch

import qbert_core.cli
import qbert_core.evaluation
import qbert_core.runtime.landscape
import qbert_core.runtime.sensitivity
import qbert_core.runtime.spectrum
import qbert_core.runtime.sweep
import qbert_core.tasks.data
from qbert_core.runtime.store import Store, UnitKey
from tests.tiny import make_tiny

WRITING = 0.04  # seconds that a write of a unit may take
COMMANDS = {
    "sensitivity": ["--train", "{data}", "--runs", "16", "--fraction", "0.5"],
    "sweep": ["--data", "{data}", "--groups", "1,2,rows", "--train", "{data}", "--finetune", "--epochs", "1"],
    "density": ["--train", "{data}", "--layer", "1", "--probes", "8", "--steps", "10", "--fraction", "1"],
    "landscape": ["--train", "{data}", "--layer", "0", "--steps", "15", "--fraction", "1"],
}  # fmt: skip
SENTENCES = ("a great film", "dull", "i love this", "an awful movie with a poor plot", "she never made more")


@dataclass
class Kills:
    """What a series of killed starts found."""

    moments: list[float] = field(default_factory=list)  # seconds from the start to each kill
    inside_writes: int = 0  # kills aimed at a unit's write
    units: list[int] = field(default_factory=list)  # finished at each kill, of the round
    rounds: int = 0  # stores that were begun, each carried to the end
    lost: int = 0  # units whose write had returned, that were not there after a kill
    unsound: int = 0  # kills after which SQLite's integrity_check found something
    unequal: int = 0  # rounds that did not end in the undisturbed result

    def enough(self, moments: int) -> bool:
        """Whether there were so many, one of them after something was finished."""
        return len(self.moments) >= moments and any(self.units)


def run(command: list[str], home: Path, out: Path, log: int | None, told: int | None) -> int:
    """In a fork: the command; what it finishes goes to `log`, the start of each write to `told`."""
    os.environ["QBERT_HOME"] = str(home)
    put = Store.put

    def watched(self: Store, key: UnitKey, value: Any, **options: Any) -> None:
        if told is not None:
            os.write(told, b".")
        put(self, key, value, **options)
        if log is not None:
            digest = hashlib.sha256(json.dumps(value).encode()).hexdigest()
            os.write(log, f"{key.digest} {digest}\n".encode())

    Store.put = watched  # type: ignore[method-assign]
    return qbert_core.cli.main([*command, "--out", str(out)])


def start(command: list[str], home: Path, out: Path, log: Path) -> tuple[int, int]:
    """The fork's process id, and where to read when it begins a write."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        with contextlib.suppress(BaseException):
            torch.set_num_threads(1)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            os.close(told)
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            code = run(command, home, out, descriptor, tell)
        os._exit(code)
    os.close(tell)
    return child, told


def ended(child: int, within: float) -> int | None:
    """The exit code, or None when it is still running after so many seconds."""
    deadline = time.monotonic() + within
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.001)


def timeless(document: Any) -> Any:
    """Without every `seconds`: all else must be equal."""
    if isinstance(document, dict):
        return {name: timeless(value) for name, value in document.items() if name != "seconds"}
    return [timeless(value) for value in document] if isinstance(document, list) else document


def check(home: Path, log: Path, kills: Kills) -> int:
    """Look at the store after a kill; how many units it has."""
    path = home / "store.sqlite"
    if not path.exists():
        kills.lost += log.exists() and bool(log.read_text())
        return 0
    with closing(sqlite3.connect(path)) as connection:
        (sound,) = connection.execute("PRAGMA integrity_check").fetchone()
        kills.unsound += sound != "ok"
        tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'units'").fetchone()[0]
        rows = connection.execute("SELECT key, value FROM units").fetchall() if tables else []
    found = {key: hashlib.sha256(value.encode()).hexdigest() for key, value in rows}
    for line in log.read_text().splitlines() if log.exists() else ():
        key, _, digest = line.partition(" ")
        kills.lost += found.get(key) != digest
    return len(found)


def whole(command: list[str], folder: Path) -> tuple[Any, float, float]:
    """The undisturbed result, what it takes, and what a start takes that finds everything finished."""
    seconds = []
    for _ in range(2):
        began = time.monotonic()
        child, told = start(command, folder / "whole", folder / "whole.json", folder / "whole.log")
        code = ended(child, 600)
        os.close(told)
        if code != 0:
            raise SystemExit(f"the undisturbed command ended with {code}")
        seconds.append(time.monotonic() - began)
        if len(seconds) == 1:
            result = json.loads((folder / "whole.json").read_text())
    return timeless(result), seconds[0], seconds[1]


def kill_often(command: list[str], moments: int, seed: int, folder: Path) -> Kills:
    """Kill the command `moments` times, more often where no kill came after a finished unit; every store is carried
    on until it has the whole result.

    Every second kill is aimed at the write of a unit: one comes at any moment of a short part of the run,
    one within some milliseconds of the beginning of a write.
    """
    random_ = random.Random(seed)
    expected, full, least = whole(command, folder)
    span = least + max(0.3, (full - least) / 5)
    kills = Kills()
    while not kills.enough(moments):
        home, out, log = (folder / f"{kills.rounds}{ending}" for ending in ("", ".json", ".log"))
        code, units, patience = None, 0, span
        while code is None:
            child, told = start(command, home, out, log)
            began = time.monotonic()
            aimed = len(kills.moments) % 2 == 1
            if kills.enough(moments):
                code = ended(child, 600)
            elif aimed:
                for _ in range(random_.randint(1, 3)):
                    if select.select([told], [], [], patience)[0]:
                        os.read(told, 1)
                code = ended(child, random_.uniform(0, WRITING))
            else:
                code = ended(child, random_.uniform(0, patience))
            os.close(told)
            if code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                kills.moments.append(time.monotonic() - began)
                kills.inside_writes += aimed
                before, units = units, check(home, log, kills)
                kills.units.append(units)
                # on a machine that others use a start may take longer than it did
                patience = span if units > before else 1.3 * patience
                print(f"kill {len(kills.moments)}: {units} units finished", file=sys.stderr, flush=True)
        if code != 0:
            raise SystemExit(f"a resumed command ended with {code}")
        check(home, log, kills)
        kills.unequal += timeless(json.loads(out.read_text())) != expected
        kills.rounds += 1
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    data = args.folder / "data.csv"
    lines = [f"{sentence},{i % 2}" for i, sentence in enumerate(SENTENCES * 6)]
    data.write_text("sentence,label\n" + "\n".join(lines) + "\n")
    model = make_tiny(args.folder / "model")
    options = [option.format(data=data) for option in COMMANDS[args.command]]
    command = [args.command, str(model), "--task", "sst2", *options]
    json.dump(vars(kill_often(command, args.moments, args.seed, args.folder)), sys.stdout)


if __name__ == "__main__":
    main()
