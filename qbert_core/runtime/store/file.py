"""The SQLite file: opened, recognised, brought to today's version; every failure a `StoreError`."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peewee import OperationalError, PeeweeException, SqliteDatabase

from qbert_core.runtime.store import schema

PATIENCE = 10.0  # seconds to wait for another process's write


class StoreError(OSError):
    """The store could not be read or written: disk full, no permission, not a database."""


@contextmanager
def opened(path: Path) -> Iterator[SqliteDatabase]:
    """The store at `path`, to read and to write; made where there is none. Raises `StoreError`."""
    with _as_store_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _connected(SqliteDatabase(str(path), timeout=PATIENCE)) as database:
            if _version(database) < len(schema.MIGRATIONS):
                _migrate(database)
            database.synchronous = "normal"
            yield database


@contextmanager
def opened_to_read(path: Path) -> Iterator[SqliteDatabase]:
    """The store at `path`, which must be there, even where nothing may be written."""
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        with opened(path) as database:
            yield database
        return
    # a file nobody has open has no -wal beside it, and SQLite could not make one here
    still = not path.with_name(f"{path.name}-wal").exists()
    address = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if still else ''}"
    with _as_store_error(path), _connected(SqliteDatabase(address, uri=True, timeout=PATIENCE)) as database:
        _version(database)
        yield database


@contextmanager
def _connected(database: SqliteDatabase) -> Iterator[SqliteDatabase]:
    database.connect()
    try:
        yield database
    finally:
        # peewee refuses to close what a Ctrl-C left in a transaction; SQLite takes that back and closes
        database.connection().close()


def _version(database: SqliteDatabase) -> int:
    """The file's version; refuses, before anything was written, what is no store this program knows."""
    with database.atomic():  # one view of the file: another process may be changing it from old to new
        return _checked_version(database)


def _checked_version(database: SqliteDatabase) -> int:
    known = len(schema.MIGRATIONS)
    application, version = database.application_id, database.user_version
    if application not in (0, schema.APPLICATION):
        raise StoreError("a database of another program; set QBERT_HOME to another folder, or move it away")
    if version > known:
        raise StoreError(
            f"written by a newer version of this program (its schema is {version}, the newest known here is "
            f"{known}); update the program, or set QBERT_HOME to another folder"
        )
    if version == 0:
        columns = [row[1] for row in database.execute_sql("PRAGMA table_info(units)")]
        if set(database.get_tables()) - {"units"} or columns not in ([], ["key", "value"]):
            raise StoreError("a database, but no store; set QBERT_HOME to another folder, or move it away")
    return int(version)


def _migrate(database: SqliteDatabase) -> None:
    """Every step that is missing, in one transaction; of two processes at once, one finds it done."""
    _use_wal(database)
    with database.atomic("IMMEDIATE"):
        for number, step in enumerate(schema.MIGRATIONS[_version(database) :], _version(database) + 1):
            step(database)
            database.user_version = number
        database.application_id = schema.APPLICATION


def _use_wal(database: SqliteDatabase) -> None:
    """Write-ahead logging, which stays with the file. SQLite's own patience does not cover the change,
    which fails at once while another process makes the same."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            database.journal_mode = "wal"
            return
        except OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextmanager
def _as_store_error(path: Path) -> Iterator[None]:
    outside = sys.exception()  # what the caller is handling
    try:
        yield
    except (PeeweeException, sqlite3.Error, OSError) as error:
        # the first one is what happened: a failed statement, or a Ctrl-C, makes the way out of the
        # transaction fail, too
        first: BaseException = error
        while not isinstance(first, StoreError) and first.__context__ not in (None, outside):
            first = first.__context__
        if not isinstance(first, Exception):
            raise first from None
        raise StoreError(f"{path}: {_explained(first)}") from None


def _explained(error: Exception) -> str:
    text = str(error)
    if "not a database" in text or "malformed" in text:
        return f"{text}; nothing can be kept in it: move it away, and a new one is made"
    if "database is locked" in text:
        return f"{text} by another process, for more than {PATIENCE:g} seconds"
    if "readonly" in text:
        return f"{text}; give a folder that can be written (QBERT_HOME)"
    return text
