"""Finished units of work, by the content they were computed from: one SQLite file.

A killed run finds what it had finished; a second session finds what the first one computed.
"""

from qbert_core.runtime.store.file import StoreError
from qbert_core.runtime.store.limit import limit_bytes
from qbert_core.runtime.store.store import Entry, Store, default_path
from qbert_core.runtime.store.unit import UnitKey, unit_key

__all__ = ["Entry", "Store", "StoreError", "UnitKey", "default_path", "limit_bytes", "unit_key"]
