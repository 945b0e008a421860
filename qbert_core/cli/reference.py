"""`python -m qbert_core.cli.reference [--check]`: docs/commands.md, made from the commands' own parsers.

Read from the parsers' actions, and not from --help, whose text depends on the terminal's width and on the
version of Python.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from qbert_core.cli import parser
from qbert_core.cli.documents import DOCUMENTS, INTRODUCTION

FILE = Path(__file__).resolve().parents[2] / "docs" / "commands.md"
TOP = "python -m qbert_core"
Command = tuple[str, argparse.ArgumentParser]


def commands(top: argparse.ArgumentParser, prefix: str = "") -> Iterator[Command]:
    """Every command that runs, by its whole name (`evaluate`, `store ls`), in the order of --help."""
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                below = list(commands(sub, f"{prefix}{name} "))
                yield from below or [(prefix + name, sub)]


def reference() -> str:
    """docs/commands.md as it should be."""
    found = list(commands(parser()))
    contents = ", ".join(f"[{name}](#{name.replace(' ', '-')})" for name, _ in found)
    return "\n".join([INTRODUCTION, f"Commands: {contents}.", *(_section(*c) for c in found)]) + "\n"


def _section(name: str, command: argparse.ArgumentParser) -> str:
    positional = [_placeholder(action) for action in _options(command) if not action.option_strings]
    about = inspect.cleandoc(command.description or "")  # Python 3.13 has cleaned it already
    lines = ["", f"## {name}", "", f"`{' '.join([TOP, name, *positional])} [options]`", "", about, ""]
    lines += ["| option | default | what it is |", "| --- | --- | --- |"]
    lines += [_row(action) for action in _options(command)]
    for group in command._mutually_exclusive_groups:
        names = " and ".join(f"`{action.option_strings[0]}`" for action in group._group_actions)
        one = "One, and only one, of" if group.required else "At most one of"
        lines += ["", f"{one} {names} is given."]
    document = DOCUMENTS.get(name)
    if document is not None:
        lines += ["", "```", *(f"{TOP} {line}" for line in document.examples), "```", ""]
        lines += ["The JSON document has at least:", "", "| key | what it holds |", "| --- | --- |"]
        lines += [f"| `{key}` | {_cell(what)} |" for key, what in document.keys.items()]
    return "\n".join(lines)


def _options(command: argparse.ArgumentParser) -> list[argparse.Action]:
    """All but --help, positional ones first."""
    own = [action for action in command._actions if not isinstance(action, argparse._HelpAction)]
    return sorted(own, key=lambda action: bool(action.option_strings))


def _row(action: argparse.Action) -> str:
    what = (action.help or "") % vars(action)
    if action.choices:
        values = [f"`{choice}`" for choice in action.choices]
        what = f"{', '.join(values[:-1])} or {values[-1]}{': ' + what if what else ''}"
    option = " ".join(filter(None, [*action.option_strings, _placeholder(action)]))
    return f"| `{_cell(option)}` | {_default(action)} | {_cell(what)} |"


def _placeholder(action: argparse.Action) -> str:
    """What stands for the value; nothing for a switch."""
    if action.nargs == 0:
        return ""
    name = action.metavar if isinstance(action.metavar, str) else action.dest.upper().replace("-", "_")
    return f"{name} .." if action.nargs == "+" else name


def _default(action: argparse.Action) -> str:
    if action.required:
        return "required"
    if action.default is None or action.nargs == 0:
        return ""
    return f"`{action.default}`"


def _cell(text: str) -> str:
    """Text that does not end a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")


def main() -> int:
    """Write the file, or with --check say whether it is what the parsers give."""
    options = argparse.ArgumentParser(prog="python -m qbert_core.cli.reference", description=__doc__)
    options.add_argument("--check", action="store_true", help="change nothing; exit code 1 where they differ")
    text = reference()
    if options.parse_args().check:
        same = FILE.read_text(encoding="utf-8") == text
        print(f"docs/commands.md {'is what' if same else 'is not what'} the parsers give")
        return int(not same)
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
