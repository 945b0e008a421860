"""A store that may fail: that costs the resuming, one line, and no result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from qbert_core.runtime.store import Store, StoreError, UnitKey

T = TypeVar("T")


class Keeping:
    """Finished `units` (a word for people: runs, rows, ..) in a store; when it fails, `warn` gets one line
    and all goes on without."""

    def __init__(self, store: Store, units: str, warn: Callable[[str], None]) -> None:
        self.store = store
        self._units, self._warn = units, warn
        self._warned = False

    def get(self, key: UnitKey, read: Callable[[Any], T]) -> T | None:
        """What `read` makes of the unit's JSON value; None where there is none that can be read.

        `read` may raise KeyError, TypeError or ValueError: a unit is no more trusted than a file.
        """
        try:
            value = self.store.get(key)
            return None if value is None else read(value)
        except OSError as error:
            self.complain(error)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            self.complain(StoreError(f"{self.store.path}: one of them cannot be read; it is computed again"))
        return None

    def put(self, key: UnitKey, value: Any, seconds: float | None = None) -> None:
        """Keep a finished unit, which took `seconds`."""
        try:
            self.store.put(key, value, seconds=seconds)
        except StoreError as error:
            self.complain(error)

    def complain(self, error: OSError) -> None:
        """Warn, unless that was done before."""
        if not self._warned:
            self._warned = True
            self._warn(f"finished {self._units} cannot be kept for a restart: {error}")
