"""How a long computation tells what it does and learns that it should stop."""

from __future__ import annotations

from typing import Any, Protocol

from qbert_core.errors import Cancelled


class Events(Protocol):
    """What a long computation calls between units of at most a few seconds."""

    def progress(self, done: int, total: int, partial: Any = None) -> None:
        """Report `done` of `total` units and, where there is one, the result so far."""

    def check(self) -> None:
        """Raise `Cancelled` when the computation should stop."""


class Silent:
    """Events nobody listens to."""

    def progress(self, done: int, total: int, partial: Any = None) -> None:
        pass

    def check(self) -> None:
        pass


class Flag(Silent):
    """Silent events with a switch: after `cancel()` the next `check()` raises `Cancelled`."""

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def check(self) -> None:
        if self.cancelled:
            raise Cancelled
