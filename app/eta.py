"""How long a job that counts units still takes."""

from __future__ import annotations

from collections import deque

KEPT = 64  # durations remembered
LATEST = 5  # of them that say what a unit takes now
SHORT = 0.1  # of the longest of those: a unit quicker than this was taken from the store, not computed


class Pace:
    """The time units take, judged by those computed lately.

    Units that an earlier run had finished come first and at once: they say nothing about the rest. The
    first report includes loading, and counts only while there is no other.
    """

    def __init__(self, now: float) -> None:
        self._last = now
        self._done = 0
        self._first: float | None = None  # seconds a unit of the first report
        self._seconds: deque[tuple[float, int]] = deque(maxlen=KEPT)  # a unit of a report, units in it

    def saw(self, now: float, done: int) -> None:
        """`done` units are finished at `now`, in seconds of a clock that never goes back."""
        new = done - self._done
        if new <= 0:
            return
        each = (now - self._last) / new
        if self._first is None:
            self._first = each
        else:
            self._seconds.append((each, new))
        self._last, self._done = now, done

    def remaining(self, now: float, total: int) -> float | None:
        """Seconds to go at `now`; None while only units from the store, or none, are finished."""
        left = total - self._done
        if self._first is None or left < 0:
            return None
        each = self._each()
        waited = now - self._last  # on the unit under way
        if waited > each / SHORT:
            return None  # those finished so far were no measure for this one
        return max(each - waited, 0.0) + each * (left - 1) if left else 0.0

    def _each(self) -> float:
        """Seconds a unit."""
        assert self._first is not None
        known = list(self._seconds) or [(self._first, 1)]
        longest = max(each for each, _ in known[-LATEST:])
        real = [(each, count) for each, count in known if each >= SHORT * longest]
        return sum(each * count for each, count in real) / sum(count for _, count in real)
