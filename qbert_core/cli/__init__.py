"""The command line: one JSON document a command, progress on stderr, exit codes 0, 2 and 130.

A file a group of commands. A command imports what it needs when it runs: torch takes seconds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from qbert_core.cli import allocate, curvature, evaluate, export, finetune, model, store, sweep
from qbert_core.cli.inputs import write_whole
from qbert_core.cli.parser import Commands, Parser
from qbert_core.errors import InputError

FILES = (model, curvature, allocate, evaluate, sweep, finetune, export, store)
DESCRIPTION = "The command line: one JSON document a command, progress on stderr, exit codes 0, 2 and 130."


def parser() -> Parser:
    """The whole command line."""
    top = Parser(prog="python -m qbert_core", description=DESCRIPTION)
    commands = Commands(top)
    for file in FILES:
        file.add(commands)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        if args.out != "-" and not Path(args.out).absolute().parent.is_dir():
            raise InputError(f"--out {args.out}: there is no folder {Path(args.out).absolute().parent}")
        text = json.dumps(args.run(args), indent=1, allow_nan=False) + "\n"
        if args.out == "-":
            sys.stdout.write(text)
        else:
            write_whole(Path(args.out), text)
    except InputError as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {_os_error(error, args.out)}; nothing was changed", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _os_error(error: OSError, out: str) -> str:
    return f"{error.filename or out}: {error.strerror}" if error.strerror else str(error)
