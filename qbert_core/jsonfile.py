"""A JSON file from outside: its size is known before it is parsed, and every key is there once.

Two parsers may differ on which of two equal keys counts; here none does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qbert_core.errors import InputError

MAX_DEPTH = 64  # no document of ours has more than 8


def read_json(path: Path, limit: int) -> Any:
    """The value in the file at `path` of at most `limit` bytes.

    Raises `InputError` for a file that is not there, is larger, is not UTF-8 or not JSON, nests deeper
    than `MAX_DEPTH`, or names a key twice.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
            size = len(raw) if len(raw) <= limit else max(path.stat().st_size, len(raw))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise InputError(f"{path}: cannot be read: {cause(error)}") from None
    if size > limit:
        raise InputError(f"{path}: {size:,} bytes, more than the {limit:,} allowed")
    try:
        return parse_json(raw)
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON: {error}") from None


def parse_json(raw: bytes) -> Any:
    """The value in UTF-8 bytes; `ValueError` for what `read_json` refuses."""
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_object)
        _check_depth(value)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    return value


def cause(error: BaseException, longest: int = 300) -> str:
    """What an exception says, in one printable line."""
    text = (getattr(error, "strerror", None) or str(error)).strip() or type(error).__name__
    return printable(text.splitlines()[0], longest)


def printable(text: str, longest: int = 120) -> str:
    """A name from a file as it may stand in a message: one line, no control characters, not long."""
    shown = "".join(c if c.isprintable() else "?" for c in text[:longest])
    return shown if len(text) <= longest else f"{shown}.."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r:.60} is there twice")
    return made


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for entry in level:
            if isinstance(entry, dict):
                inner += [v for v in entry.values() if isinstance(v, dict | list)]
            elif isinstance(entry, list):
                inner += [v for v in entry if isinstance(v, dict | list)]
        if not inner:
            return
        level = inner
    raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
