"""Tasks to lanes: where their data is, again where a worker is lost, twice where one is slow.

What a task gives follows from the task alone, so it does not matter which worker did it, nor how often.
"""

from __future__ import annotations

import queue
import statistics
import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from qbert_core.errors import Cancelled, InputError
from qbert_core.runtime.lanes import Crew, Lane
from qbert_core.runtime.worker import Missing, Name, Parcel, Task, engine, perform

TICK = 0.2  # seconds between two looks at who is there and what takes too long
LOSSES = 3  # workers a task may be lost with before it is given up: it may be what ends them
SLOW = 2.0  # times the expected seconds after which an idle worker does a task a second time
HUNG = (20.0, 60.0)  # times the expected seconds, but at least so many, after which a worker is given up
HUNG_UNKNOWN = 1800.0  # seconds after which it is where nothing is known yet


@dataclass(eq=False)
class _Ticket:
    task: Task
    number: int
    future: Future[Any] = field(default_factory=Future)
    lanes: dict[Lane, float] = field(default_factory=dict)  # where it is under way, since when
    losses: int = 0


class Dispatcher:
    """Hands tasks to a crew's lanes from a thread of its own. Leaving the context ends all that is under way.

    `submit` gives a future: of what the task gives, of the error it raises, `InputError` where the workers
    fail, `Cancelled` where the dispatcher is closed before.
    """

    def __init__(self, crew: Crew, threads: int = 1) -> None:
        self.session = uuid.uuid4().hex
        self._crew, self._threads = crew, threads
        self._inbox: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._parcels: dict[Name, Parcel] = {}
        self._pending: dict[tuple[int, ...], deque[_Ticket]] = {}
        self._owner: dict[tuple[int, ...], Lane] = {}  # of a group: who has what it needs
        self._open: set[_Ticket] = set()
        self._busy: dict[Lane, dict[Future[Any], _Ticket]] = {}
        self._rates: dict[type, deque[float]] = defaultdict(lambda: deque(maxlen=50))  # seconds / work
        self._count = 0
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._thread.start()

    def __enter__(self) -> Dispatcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def workers(self) -> int:
        """How many there are now."""
        return len(self._busy)

    def close(self) -> None:
        """End all that is under way; those who wait get `Cancelled`."""
        self._inbox.put(("close",))
        self._thread.join(5.0)  # it may be asking a scheduler that does not answer

    def submit(self, task: Task, parcels: Iterable[Parcel]) -> Future[Any]:
        """A future of what `task` gives; `parcels` are what it `needs`."""
        with self._lock:
            if self._error is not None:
                raise self._error
            self._count += 1
            ticket = _Ticket(task, self._count)
            self._inbox.put(("submit", ticket, tuple(parcels)))
        return ticket.future

    def forget(self, parcel: Parcel) -> None:
        """No task needs the parcel any more."""
        self._inbox.put(("forget", parcel))

    def _run(self) -> None:
        error: BaseException = Cancelled()
        looked = 0.0
        try:
            while True:
                try:
                    message: tuple[Any, ...] | None = self._inbox.get(timeout=TICK)
                except queue.Empty:
                    message = None
                if message is not None and message[0] == "close":
                    break
                if message is not None:
                    self._take(message)
                if time.monotonic() - looked > TICK:
                    self._look()
                    looked = time.monotonic()
                if self._inbox.empty():
                    self._fill()
        except BaseException as caught:  # whatever it is, those who wait must hear of it
            error = caught
        with self._lock:
            self._error = error
        self._crew.close(self.session)
        while not self._inbox.empty():
            message = self._inbox.get()
            if message[0] == "submit":
                self._open.add(message[1])
        for ticket in self._open:
            if not ticket.future.done():
                ticket.future.set_exception(error)

    def _take(self, message: tuple[Any, ...]) -> None:
        if message[0] == "submit":
            _, ticket, parcels = message
            self._parcels |= {parcel.name: parcel for parcel in parcels}
            self._open.add(ticket)
            self._queue(ticket)
        elif message[0] == "forget":
            self._parcels.pop(message[1].name, None)
            self._crew.forget(message[1])
        else:
            _, lane, future = message
            self._settle(lane, future)

    def _queue(self, ticket: _Ticket, first: bool = False) -> None:
        group = self._pending.setdefault(ticket.task.group, deque())
        if first:
            group.appendleft(ticket)
        else:
            group.append(ticket)

    def _look(self) -> None:
        """Who came, who went, who hangs."""
        lanes = self._crew.lanes()
        for lane in set(self._busy) - set(lanes):
            self._drop(lane)
        for lane in lanes:
            self._busy.setdefault(lane, {})
        now = time.monotonic()
        for lane, tickets in list(self._busy.items()):
            for ticket in tickets.values():
                expected = self._expected(ticket.task)
                limit = HUNG_UNKNOWN if expected is None else max(HUNG[1], HUNG[0] * expected)
                if lane in ticket.lanes and now - ticket.lanes[lane] > limit:
                    self._lose(lane)
                    break

    def _settle(self, lane: Lane, future: Future[Any]) -> None:
        ticket = self._busy.get(lane, {}).pop(future, None)
        if ticket is None:
            return  # of a lane given up meanwhile
        since = ticket.lanes.pop(lane)
        error = Cancelled() if future.cancelled() else future.exception()
        if ticket not in self._open:
            return  # somebody else was faster
        if future.cancelled() or (error is not None and self._crew.is_loss(error)):
            self._busy[lane][future] = ticket  # counts among what is lost with the lane
            ticket.lanes[lane] = since
            self._lose(lane)
        elif error is not None:
            self._open.discard(ticket)
            ticket.future.set_exception(error)
        elif isinstance(future.result(), Missing):
            lane.holds.clear()
            if not ticket.lanes:
                self._queue(ticket, first=True)
        else:
            self._rates[type(ticket.task)].append((time.monotonic() - since) / ticket.task.work)
            self._open.discard(ticket)
            ticket.future.set_result(future.result())

    def _lose(self, lane: Lane) -> None:
        self._drop(lane)
        self._crew.lost(lane)
        for new in self._crew.lanes():
            self._busy.setdefault(new, {})

    def _drop(self, lane: Lane) -> None:
        """What a lane had under way goes back to the others, oldest first."""
        tickets = sorted(self._busy.pop(lane).values(), key=lambda ticket: ticket.number, reverse=True)
        self._owner = {group: owner for group, owner in self._owner.items() if owner is not lane}
        for ticket in tickets:
            ticket.lanes.pop(lane, None)
            if ticket not in self._open:
                continue
            ticket.losses += 1
            if ticket.losses >= LOSSES:
                raise InputError(
                    f"{LOSSES} workers ended during the same task, perhaps for want of memory; finished runs "
                    f"are kept: start again with fewer --workers or more memory"
                )
            if not ticket.lanes:
                self._queue(ticket, first=True)

    def _fill(self) -> None:
        """Give every lane what it can take: tasks of its own groups first, then of nobody's, then others'."""
        for lane in sorted(self._busy, key=lambda lane: len(self._busy[lane])):
            while lane in self._busy and len(self._busy[lane]) < lane.depth:
                ticket = self._next(lane) or self._second(lane)
                if ticket is None:
                    break
                self._send(lane, ticket)

    def _next(self, lane: Lane) -> _Ticket | None:
        mine = free = other = None
        for group in self._pending:
            owner = self._owner.get(group)
            if owner is lane:
                mine = group
                break
            if owner is None and free is None:
                free = group
            other = group  # the last one: its owner comes to it last
        chosen = mine or free or other
        if chosen is None:
            return None
        ticket = self._pending[chosen].popleft() if chosen in (mine, free) else self._pending[chosen].pop()
        if not self._pending[chosen]:
            del self._pending[chosen]
        self._owner.setdefault(chosen, lane)
        return ticket

    def _second(self, lane: Lane) -> _Ticket | None:
        """With nothing left to hand out: the task that takes longest against what was expected."""
        now, found, longest = time.monotonic(), None, SLOW
        if self._busy[lane]:
            return None
        for ticket in self._open:
            expected = self._expected(ticket.task)
            if expected is None or len(ticket.lanes) != 1 or lane in ticket.lanes:
                continue
            times = (now - next(iter(ticket.lanes.values()))) / max(expected, 0.5)
            if times > longest:
                found, longest = ticket, times
        return found

    def _expected(self, task: Task) -> float | None:
        rates = self._rates.get(type(task))
        return statistics.median(rates) * task.work if rates else None

    def _send(self, lane: Lane, ticket: _Ticket) -> None:
        names = [name for name in ticket.task.needs if name not in lane.holds]
        ticket.lanes[lane] = time.monotonic()
        try:
            things = [self._crew.hand_over(self._parcels[name]) for name in names]
            future = lane.submit(perform, self.session, engine(), self._threads, ticket.task, names, *things)
        except Exception as error:
            if not self._crew.is_loss(error):
                raise
            future = Future()
            future.set_exception(error)
        lane.holds.update(names)
        self._busy[lane][future] = ticket
        future.add_done_callback(lambda done: self._inbox.put(("done", lane, done)))
