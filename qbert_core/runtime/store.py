"""Finished units of work, by the content they were computed from: one SQLite file.

A killed run finds what it had finished; a second session finds what the first one computed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from qbert_core.runtime.home import cache_home

TABLE = "CREATE TABLE IF NOT EXISTS units (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"


PATIENCE = 10.0  # seconds to wait for another process's write


class StoreError(OSError):
    """The store could not be read or written: disk full, no permission, not a database."""


def default_path() -> Path:
    """store.sqlite in the cache home."""
    return cache_home() / "store.sqlite"


def unit_key(kind: str, **settings: Any) -> str:
    """A digest of everything a unit's result depends on."""
    text = json.dumps([kind, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _prepare(connection: sqlite3.Connection) -> None:
    """Make a new file a store. SQLite's own patience does not cover the change to WAL, which fails at
    once while another process makes the same change."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(TABLE)
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


class Store:
    """Key -> JSON value. Every call opens the file anew, so any thread or process may use one."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()

    def get(self, key: str) -> Any | None:
        """The value under `key`, or None. Raises `StoreError`."""
        if not os.path.exists(self.path):  # noqa: PTH110 (Path.exists raises for a name too long)
            return None
        with self._open() as connection:
            row = connection.execute("SELECT value FROM units WHERE key = ?", (key,)).fetchone()
        try:
            return None if row is None else json.loads(row[0])
        except ValueError:
            raise StoreError(f"{self.path}: the unit {key} cannot be read") from None

    def put(self, key: str, value: Any) -> None:
        """Keep `value` under `key`; whole or not at all, whatever happens. Raises `StoreError`."""
        with self._open() as connection, connection:
            connection.execute("INSERT OR REPLACE INTO units VALUES (?, ?)", (key, json.dumps(value)))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=PATIENCE)) as connection:
                _prepare(connection)
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self.path}: {error}") from None
