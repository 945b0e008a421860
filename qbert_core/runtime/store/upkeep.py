"""Tidying up: units nobody asks for, trainings left behind, the file made smaller."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from peewee import PeeweeException, SqliteDatabase

from qbert_core.runtime import states
from qbert_core.runtime.store.file import opened
from qbert_core.runtime.store.limit import make_room, used_bytes
from qbert_core.runtime.store.store import Store

DAY = 86400.0
STATE_DAYS = 30.0  # how long the state of a training that was stopped is worth its place


@dataclass(frozen=True)
class Removed:
    """What was removed, or would be."""

    units: int
    unit_bytes: int  # of their values
    states: tuple[Path, ...]  # folders of trainings
    state_bytes: int
    used_bytes: int  # by what is left: units and states


def training_home(store: Store) -> Path:
    """Where sweeps keep the states of their trainings: beside the store."""
    return store.path.parent / "training"


def collect(store: Store, *, limit: int, older_than: float | None = None, dry_run: bool = False) -> Removed:
    """Remove what was not used for `older_than` seconds, then units until all takes at most `limit` bytes.

    Never removed: units marked as kept, the state of a training under way, and anything outside the store
    and the folder of states. A state is left behind after `older_than` seconds, 30 days unless given. With
    `dry_run` nothing changes. Raises `StoreError`.
    """
    state_age = STATE_DAYS * DAY if older_than is None else older_than
    found = states.leftovers(training_home(store))
    stale = [s for s in found if s.idle > state_age and not s.in_use]
    if not dry_run:
        stale = [s for s in stale if states.discard(s)]
    held = sum(s.bytes for s in found) - sum(s.bytes for s in stale)
    units = unit_bytes = used = 0
    if store.exists():
        with opened(store.path) as database:
            with database.atomic("IMMEDIATE") as transaction:
                now = time.time()
                units, unit_bytes = (0, 0) if older_than is None else _old(database, now - older_than)
                more, more_bytes = make_room(database, max(0, limit - held), now)
                units, unit_bytes = units + more, unit_bytes + more_bytes
                used = used_bytes(database)
                if dry_run:
                    transaction.rollback()
            if units and not dry_run:
                # takes as much disk again, and the file for itself: without it the room is used again
                with contextlib.suppress(PeeweeException):
                    database.execute_sql("VACUUM")
                used = used_bytes(database)
    folders = tuple(s.folder for s in stale)
    return Removed(units, unit_bytes, folders, sum(s.bytes for s in stale), used + held)


def _old(database: SqliteDatabase, before: float) -> tuple[int, int]:
    where = "FROM units WHERE kept = 0 AND used < ?"
    count, size = database.execute_sql(
        f"SELECT count(*), coalesce(sum(bytes), 0) {where}", (before,)
    ).fetchone()
    database.execute_sql(f"DELETE {where}", (before,))
    return int(count), int(size)
