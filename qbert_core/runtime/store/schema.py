"""The tables of a store, and the steps from every older version of them to today's.

The version is SQLite's `user_version`. A step is never changed once it was released: a new version is a
step more.
"""

from __future__ import annotations

from collections.abc import Callable

from peewee import SqliteDatabase, Table

APPLICATION = 0x51424552  # "QBER": SQLite's application_id, which tells our files from other programs'

UNITS = Table("units")


def _first(database: SqliteDatabase) -> None:
    """From version 0, a table of keys and values or nothing at all.

    What an old unit answers is not known before it is asked for again. `value` comes last, so that
    reading the columns before it leaves a large value's pages alone.
    """
    old = "units" in database.get_tables()
    if old:
        database.execute_sql("ALTER TABLE units RENAME TO old")
    database.execute_sql(
        "CREATE TABLE units ("
        " key TEXT NOT NULL PRIMARY KEY, kind TEXT, model TEXT, data TEXT, plan TEXT, settings TEXT,"
        " bytes INTEGER NOT NULL, seconds REAL, created REAL NOT NULL, used REAL NOT NULL,"
        " kept INTEGER NOT NULL DEFAULT 0, value TEXT NOT NULL)"
    )
    database.execute_sql("CREATE INDEX units_worth ON units (kept, bytes, seconds, used, key)")
    if old:
        database.execute_sql(
            "INSERT INTO units (key, bytes, created, used, value)"
            " SELECT key, length(CAST(value AS BLOB)), now, now, value"
            " FROM old, (SELECT (julianday('now') - 2440587.5) * 86400 AS now)"
        )
        database.execute_sql("DROP TABLE old")


MIGRATIONS: tuple[Callable[[SqliteDatabase], None], ...] = (_first,)  # to version 1, 2, ..
