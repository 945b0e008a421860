"""Units put and got: each whole or not at all, from any thread and any process."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peewee import EXCLUDED, PeeweeException, SqliteDatabase, fn

from qbert_core.runtime.home import cache_home
from qbert_core.runtime.store.file import StoreError, opened, opened_to_read
from qbert_core.runtime.store.limit import MB, ROOM, ROW, limit_bytes, make_room, used_bytes
from qbert_core.runtime.store.schema import UNITS
from qbert_core.runtime.store.unit import UnitKey

GRAIN = 3600.0  # seconds: a unit's last use is known to the hour, so that most reads write nothing


def default_path() -> Path:
    """store.sqlite in the cache home."""
    return cache_home() / "store.sqlite"


@dataclass(frozen=True)
class Entry:
    """A unit without its value."""

    key: str  # the digest of what follows up to `settings`
    kind: str | None  # None, like the next four, for a unit of version 0 not asked for since
    model: str | None
    data: str | None
    plan: str | None
    settings: str | None  # a JSON object
    bytes: int  # of the value
    seconds: float | None  # it took to compute, where known
    created: float  # Unix time
    used: float  # Unix time, to the hour
    kept: bool  # never removed to make room

    @property
    def unit_key(self) -> UnitKey | None:
        """What the unit answers, where that is known."""
        if self.kind is None or self.settings is None:
            return None
        return UnitKey(self.kind, self.model, self.data, self.plan, self.settings)


class Store:
    """UnitKey -> JSON value. Every call opens the file anew, so any thread or process may use one.

    The file never takes more than `limit` bytes: units that can be computed again go first (`make_room`).
    Raises `InputError` for a limit in the environment that is no number.
    """

    def __init__(self, path: Path | None = None, limit: int | None = None) -> None:
        self.path = path or default_path()
        self.limit = limit_bytes() if limit is None else limit

    def get(self, key: UnitKey) -> Any | None:
        """The value under `key`, or None. Raises `StoreError`."""
        if not self.exists():
            return None
        digest = key.digest
        with opened_to_read(self.path) as database:
            # every column there is: a store of version 0 that cannot be brought to today's has two
            rows = database.execute_sql("SELECT * FROM units WHERE key = ?", (digest,))
            names = [column[0] for column in rows.description or ()]
            found = [dict(zip(names, row, strict=True)) for row in rows]
            if not found:
                return None
            _touch(database, key, digest, found[0])
        try:
            return json.loads(found[0]["value"])
        except (ValueError, RecursionError):
            raise StoreError(f"{self.path}: the unit {digest} cannot be read") from None

    def put(self, key: UnitKey, value: Any, *, seconds: float | None = None, kept: bool = False) -> None:
        """Keep `value` under `key`; whole or not at all, whatever happens. Raises `StoreError`.

        `seconds` is what it took to compute. One that is `kept` is never removed to make room.
        """
        now = time.time()
        entry = Entry(
            key.digest, key.kind, key.model, key.data, key.plan, key.settings, 0, seconds, now, now, kept
        )
        with opened(self.path) as database, database.atomic("IMMEDIATE"):
            insert(database, self.limit, entry, json.dumps(value))

    def entries(self) -> list[Entry]:
        """Every unit, the last used first. Raises `StoreError`."""
        if not self.exists():
            return []
        columns = [getattr(UNITS.c, name) for name in Entry.__dataclass_fields__]
        with opened_to_read(self.path) as database:
            query = UNITS.select(*columns).order_by(UNITS.c.used.desc(), UNITS.c.key)
            return [Entry(**{**row, "kept": bool(row["kept"])}) for row in query.dicts().execute(database)]

    def file_bytes(self) -> int:
        """What the file takes on disk, the log that is not yet part of it included."""
        files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def exists(self) -> bool:
        """Whether there is a file."""
        return os.path.exists(self.path)  # noqa: PTH110 (Path.exists raises for a name too long)


def insert(database: SqliteDatabase, limit: int, entry: Entry, text: str, *, anew: bool = True) -> bool:
    """Inside a transaction: the unit with the JSON `text`, in place of one with its key (`anew`) or only
    where there is none. Returns whether it was inserted."""
    if not anew and UNITS.select().where(UNITS.c.key == entry.key).exists(database):
        return False
    size = len(text.encode())
    need = size + ROW
    if used_bytes(database) + need > limit:
        make_room(database, int(limit * (1 - ROOM)) - need, time.time(), entry.key)
    row = {name: getattr(entry, name) for name in Entry.__dataclass_fields__}
    row |= {"bytes": size, "kept": int(entry.kept), "value": text}
    update = {getattr(UNITS.c, name): getattr(EXCLUDED, name) for name in row if name not in ("key", "kept")}
    update[UNITS.c.kept] = fn.MAX(UNITS.c.kept, EXCLUDED.kept)  # what is kept stays so
    values = {getattr(UNITS.c, name): value for name, value in row.items()}
    UNITS.insert(values).on_conflict(conflict_target=[UNITS.c.key], update=update).execute(database)
    if used_bytes(database) > limit and not entry.kept:
        make_room(database, limit, time.time(), entry.key)
        if used_bytes(database) > limit:
            raise StoreError(
                f"no room for a unit of {size / MB:.1f} MB in a store limited to {limit / MB:g} MB; raise "
                f"QBERT_STORE_MB"
            )
    return True


def _touch(database: SqliteDatabase, key: UnitKey, digest: str, found: dict[str, Any]) -> None:
    """Note that the unit was used, and what it answers where version 0 did not say. A reader waits for
    no writer and needs no permission to write: then it is noted another time."""
    now = time.time()
    # a last use in the future is that of a clock that was put back
    if found.get("kind") is not None and 0 <= now - found["used"] < GRAIN:
        return
    described = {getattr(UNITS.c, name): getattr(key, name) for name in UnitKey.__dataclass_fields__}
    try:
        database.pragma("busy_timeout", 0)
        UNITS.update({UNITS.c.used: now, **described}).where(UNITS.c.key == digest).execute(database)
    except PeeweeException:
        pass
