"""Units in one file, from one store to another: gzip, one JSON document a line.

The first line says what the file is and how many units follow. An import trusts nothing of it: sizes are
checked before anything is built from them, every key must be the digest of its unit's own description, and
nothing is written before the whole file was read. What it cannot check is whether a value is right.
"""

from __future__ import annotations

import gzip
import json
import os
import time
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from qbert_core.errors import InputError
from qbert_core.runtime.store.file import StoreError, opened, opened_to_read
from qbert_core.runtime.store.limit import MB, ROW
from qbert_core.runtime.store.schema import UNITS
from qbert_core.runtime.store.store import Entry, Store, insert
from qbert_core.runtime.store.unit import FINGERPRINTS, UnitKey

FORMAT = "qbert-studio store"
VERSION = 1
LINE_BYTES = 160 * MB  # the longest unit: the eigenvectors of a layer of BERT-large take 129 MB
LINE_VALUES = 2_000_000  # numbers, texts and so on in one unit: what bounds the memory JSON may take
BATCH_BYTES = 4 * MB  # written at a time, or one unit, so that others can write in between
MOST = 1e15  # seconds, as a time or as a duration


@dataclass(frozen=True)
class Transferred:
    """What an export or import did."""

    units: int  # written to the file, or new in the store
    bytes: int  # of their values
    left_out: int  # by an export: units that do not say what they answer; by an import: known before


def export_units(store: Store, path: Path) -> Transferred:
    """Write every unit to `path`, as of one moment; the file is there whole or not at all.

    Left out are units of version 0 that nobody has asked for since. Raises `StoreError`, and OSError for
    a file that cannot be written.
    """
    if not store.exists():
        raise InputError(f"{store.path}: there is no store yet, so there is nothing to export")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with closing(_lines(store)) as lines, gzip.open(partial, "wb", compresslevel=6) as file:
            left_out, header = next(lines)
            file.write(_line(header))
            size = 0
            for value_bytes, unit in lines:
                file.write(_line(unit))
                size += value_bytes
        partial.replace(path)
    except StoreError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        partial.unlink(missing_ok=True)
    return Transferred(header["units"], size, left_out)


def import_units(store: Store, path: Path) -> Transferred:
    """Add the units in `path` that the store does not have; what it has stays as it is.

    They are ordinary units there, whatever they were marked as before. Raises `InputError` for a file that
    is damaged, was tampered with, or holds more than the store may; then nothing was added. Raises
    `StoreError` where the store cannot be written.
    """
    count = sum(1 for _ in _units(path, store.limit))  # all of it is sound, or nothing is touched
    new = size = 0
    with opened(store.path) as database:
        for batch in _batches(_units(path, store.limit)):
            with database.atomic("IMMEDIATE"):
                for entry, text in batch:
                    if insert(database, store.limit, entry, text, anew=False):
                        new, size = new + 1, size + len(text)
    return Transferred(new, size, count - new)


def _batches(units: Iterator[tuple[Entry, str]]) -> Iterator[list[tuple[Entry, str]]]:
    batch: list[tuple[Entry, str]] = []
    size = 0
    for unit in units:
        batch.append(unit)
        size += len(unit[1]) + ROW
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    yield batch


def _lines(store: Store) -> Generator[tuple[int, dict[str, Any]], None, None]:
    """The first line, with how many units are left out; then every unit, with the bytes of its value."""
    with opened_to_read(store.path) as database, database.atomic("DEFERRED"):
        every, count = database.execute_sql("SELECT count(*), count(kind) FROM units").fetchone()
        yield every - count, {"format": FORMAT, "version": VERSION, "units": count}
        names = ("key", "kind", "model", "data", "plan", "settings", "seconds", "created", "used", "value")
        query = UNITS.select(*[getattr(UNITS.c, name) for name in names]).where(UNITS.c.kind.is_null(False))
        for unit in query.order_by(UNITS.c.key).dicts().execute(database).iterator():
            size = len(unit["value"].encode())
            try:
                unit |= {name: json.loads(unit[name]) for name in ("settings", "value")}
            except (ValueError, RecursionError):
                raise StoreError(f"the unit {unit['key']} cannot be read") from None
            yield size, unit


def _line(document: dict[str, Any]) -> bytes:
    return (json.dumps(document) + "\n").encode()


def _units(path: Path, limit: int) -> Iterator[tuple[Entry, str]]:
    """Every unit and its value's JSON; `InputError` names the line that is wrong."""
    try:
        with gzip.open(path, "rb") as file:
            yield from _checked(path, file, limit)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path}: damaged, or no export of a store: {error}") from None


def _checked(path: Path, file: gzip.GzipFile, limit: int) -> Iterator[tuple[Entry, str]]:
    header = _document(path, 1, file.readline(1000))
    if header.get("format") != FORMAT or type(header.get("units")) is not int:
        raise InputError(f"{path}: no export of a store; expected what `store export` wrote")
    if header.get("version") != VERSION:
        raise InputError(
            f"{path}: of version {header.get('version')!r}, this program reads {VERSION}; update the program"
        )
    count, total = 0, 0
    now = time.time()
    while line := file.readline(LINE_BYTES + 1):
        count += 1
        if len(line) > LINE_BYTES:
            raise InputError(f"{path}: line {count + 1} has more than {LINE_BYTES // MB} MB")
        total += len(line) + ROW
        if total > limit:
            raise InputError(
                f"{path}: holds more than the {limit / MB:g} MB the store may take; raise QBERT_STORE_MB"
            )
        yield _unit(path, count + 1, line, now)
    if count != header["units"]:
        raise InputError(f"{path}: {count} units, but its first line says {header['units']}; export it again")


def _document(path: Path, number: int, line: bytes) -> dict[str, Any]:
    if sum(map(line.count, (b",", b"[", b"{"))) > LINE_VALUES:
        raise InputError(f"{path}: line {number} holds more than {LINE_VALUES} values")
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{path}: line {number} is not readable as JSON") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: line {number} is not a JSON object")
    return document


def _unit(path: Path, number: int, line: bytes, now: float) -> tuple[Entry, str]:
    unit = _document(path, number, line)

    def wrong(name: str, expected: str) -> InputError:
        return InputError(f"{path}: line {number}: {name} is not {expected}")

    if set(unit) != {field.name for field in fields(Entry)} - {"bytes", "kept"} | {"value"}:
        raise InputError(f"{path}: line {number} does not have the fields of a unit")
    if not _is_text(unit["kind"]):
        raise wrong("kind", "a text")
    for name in FINGERPRINTS:
        if unit[name] is not None and not _is_text(unit[name]):
            raise wrong(name, "a text or null")
    if not isinstance(unit["settings"], dict):
        raise wrong("settings", "a JSON object")
    for name in ("seconds", "created", "used"):
        value = unit[name]
        known = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST
        if not known and not (name == "seconds" and value is None):
            raise wrong(name, f"a number from 0 to {MOST:g}")
    settings = json.dumps(unit["settings"], sort_keys=True)
    key = UnitKey(unit["kind"], unit["model"], unit["data"], unit["plan"], settings)
    if unit["key"] != key.digest:
        raise wrong("key", "the digest of what the unit says it answers")
    entry = Entry(
        key=key.digest, kind=key.kind, model=key.model, data=key.data, plan=key.plan, settings=settings,
        bytes=0, seconds=unit["seconds"],
        # a clock that runs ahead elsewhere must not make a unit the last to go here
        created=min(float(unit["created"]), now), used=min(float(unit["used"]), now), kept=False,
    )  # fmt: skip
    return entry, json.dumps(unit["value"])


def _is_text(value: object) -> bool:
    """Whether it is one that can be stored: JSON may hold halves of characters."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
