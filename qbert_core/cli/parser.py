"""argparse with errors in one line, and the options several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

Command = Callable[[argparse.Namespace], dict[str, Any]]


class Parser(argparse.ArgumentParser):
    """argparse, with errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


class Commands:
    """The commands of one parser; all say where their JSON goes."""

    def __init__(self, top: Parser) -> None:
        self._commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(self, name: str, run: Command, model: str | None = "MODEL") -> Parser:
        """A command; what it is for is `run`'s docstring. Without `model` it is about none."""
        sub: Parser = self._commands.add_parser(
            name, help=(run.__doc__ or "").split("\n")[0], description=run.__doc__
        )
        if model is not None:
            sub.add_argument("model", metavar=model, help="a folder, a hub id (owner/name) or demo")
        sub.add_argument("--out", default="-", metavar="FILE", help="where the JSON goes (- is stdout)")
        sub.set_defaults(run=run)
        return sub

    def group(self, name: str, about: str) -> Commands:
        """A command that has commands of its own."""
        top: Parser = self._commands.add_parser(name, help=about, description=about)
        return Commands(top)


def task_and(c: Parser, *sources: str) -> None:
    """A task, its data (one option for each of `sources`), how many rows of them, and a seed."""
    c.add_argument("--task", required=True, help="sst2, mnli, conll03 or squad")
    for source in sources:
        c.add_argument(source, required=True, help="file, hub:NAME[/CONFIG]:SPLIT or demo")
    c.add_argument("--limit", type=int, metavar="N", help="first N rows")
    c.add_argument("--seed", type=seed, default=0, metavar="N", help="of everything drawn at random")


def seed(text: str) -> int:
    """A seed, for argparse: a whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"seed is {text}; expected a whole number from 0")
    return int(text)
