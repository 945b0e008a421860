"""How large the store may become, and what goes when it would become larger."""

from __future__ import annotations

import math
import os

from peewee import SqliteDatabase

from qbert_core.errors import InputError

DEFAULT_MB = 2048.0
MB = 2**20
ROW = 512  # bytes a unit takes besides its value, at least: its description, the indexes
ROOM = 0.1  # of the limit: made at once when it is reached, so that not every write has to make some
UNKNOWN_SECONDS = 1.0  # what a unit cost of which that is not known


def limit_bytes() -> int:
    """$QBERT_STORE_MB, else 2048, in bytes of 2^20 a MB. Raises `InputError` for anything not above 0."""
    text = os.environ.get("QBERT_STORE_MB", "")
    try:
        megabytes = float(text) if text else DEFAULT_MB
    except ValueError:
        megabytes = math.nan
    if not 0 < megabytes < math.inf:
        raise InputError(f"QBERT_STORE_MB is {text}; expected a number of MB above 0, for example 2048")
    return int(megabytes * MB)


def used_bytes(database: SqliteDatabase) -> int:
    """What the units take in the file; pages that were freed are used again first."""
    pages, free, size = (database.pragma(name) for name in ("page_count", "freelist_count", "page_size"))
    return int((pages - free) * size)


def make_room(database: SqliteDatabase, limit: int, now: float, spare: str | None = None) -> tuple[int, int]:
    """Inside a transaction: remove units until what is left takes at most `limit` bytes.

    First goes what is worth least: a unit saves the seconds it took each time it is asked for again, which
    is the rarer the longer it was not asked for, so its worth a byte is seconds / (bytes x time unused). Of
    units of equal cost and size the least recently used goes first. Those marked as kept never go, nor does
    the unit with the key `spare`. Returns how many went, and their bytes.
    """
    units = bytes_ = 0
    while (used := used_bytes(database)) > limit:
        # all of it is in the index, so no value is read
        rows = database.execute_sql(
            "SELECT key, bytes FROM units WHERE kept = 0 AND key IS NOT ?"
            " ORDER BY max(? - used, 1.0) * (bytes + ?) / max(coalesce(seconds, ?), 0.001) DESC, used, key"
            " LIMIT 1000",
            (spare, now, ROW, UNKNOWN_SECONDS),
        ).fetchall()
        if not rows:
            break
        freed = 0
        for key, size in rows:
            database.execute_sql("DELETE FROM units WHERE key = ?", (key,))
            units, bytes_, freed = units + 1, bytes_ + size, freed + size
            if used - freed <= limit and used_bytes(database) <= limit:
                break
    return units, bytes_
