"""How long a job that counts units still takes."""

from __future__ import annotations

from collections import deque

KEPT = 64  # durations remembered
LATEST = 5  # of them that say what a unit takes now
SHORT = 0.1  # of the longest of those: a unit quicker than this was taken from the store, not computed


class Pace:
    """The time units take, judged by those computed lately.

    Units that an earlier run had finished come first and at once: they say nothing about the rest. Nor
    does the first report, which comes after loading.
    """

    def __init__(self, now: float) -> None:
        self._last = now
        self._done = 0
        self._seconds: deque[tuple[float, int]] = deque(maxlen=KEPT)  # a unit of a report, units in it

    def saw(self, now: float, done: int) -> None:
        """`done` units are finished at `now`, in seconds of a clock that never goes back."""
        new = done - self._done
        if new <= 0:
            return
        if self._done:
            self._seconds.append(((now - self._last) / new, new))
        self._last, self._done = now, done

    def remaining(self, now: float, total: int) -> float | None:
        """Seconds to go at `now`; None before the second report, and while only units from the store are there."""
        left = total - self._done
        if not self._seconds or left < 0:
            return None
        each = self._each()
        waited = now - self._last  # on the unit under way
        if waited > each / SHORT:
            return None  # those finished so far were no measure for this one
        return max(each - waited, 0.0) + each * (left - 1) if left else 0.0

    def _each(self) -> float:
        """Seconds a unit."""
        known = list(self._seconds)
        longest = max(each for each, _ in known[-LATEST:])
        real = [(each, count) for each, count in known if each >= SHORT * longest]
        return sum(each * count for each, count in real) / sum(count for _, count in real)
