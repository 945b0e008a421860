"""Requests over a connection, each answered by a stream of replies: how one process works for another.

Any thread of the one side asks; the other side answers every request in a thread of its own, so that a
long answer keeps nobody waiting. Whoever stops listening to an answer thereby cancels it.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any

from qbert_core.errors import Cancelled, InputError
from qbert_core.runtime.events import Events, Flag, Silent

LOOK = 0.01  # seconds between looks at whether an answer is still wanted, while none arrives
MAX_ANSWERS = 64  # under way at once; further requests wait

REPLY, DONE, ERROR = "reply", "done", "error"
CANCEL = None  # in place of a request's name

# Called with a request's arguments and `events`, which says when nobody listens any more.
Answer = Callable[..., Generator[Any, None, None]]


class Gone(Exception):
    """The other side has ended."""


class Failed(Exception):
    """Answering failed in a way nobody foresaw; the text names the exception's type, the other side's
    console has the rest."""


class Caller:
    """The side that asks. `gone` is True once the other side has ended; then nothing is answered."""

    def __init__(self, connection: Connection) -> None:
        self.gone = False
        self._connection = connection
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._inboxes: dict[int, SimpleQueue[tuple[str, Any]]] = {}
        # written by a thread of its own: `tell` must never wait, and one lock less can be held for ever
        self._outbox: SimpleQueue[tuple[int, str | None, tuple[Any, ...]] | None] = SimpleQueue()
        threading.Thread(target=self._read, daemon=True, name="replies").start()
        threading.Thread(target=self._write, daemon=True, name="requests").start()

    def ask(self, name: str, *arguments: Any, events: Events | None = None) -> Iterator[Any]:
        """Make a request and yield its replies; of `events` only `check` is called.

        Raises what answering raised (`InputError`, `MemoryError`, otherwise `Failed`) and `Gone`.
        """
        events = events or Silent()
        number, inbox = next(self._numbers), SimpleQueue[tuple[str, Any]]()
        with self._lock:
            if self.gone:
                raise Gone
            self._inboxes[number] = inbox
        self._outbox.put((number, name, arguments))
        kind = REPLY
        try:
            while True:
                events.check()
                try:
                    kind, value = inbox.get(timeout=LOOK)
                except Empty:
                    continue
                if kind == DONE:
                    return
                if kind == ERROR:
                    raise value
                yield value
        finally:
            del self._inboxes[number]
            if kind == REPLY:
                self._outbox.put((number, CANCEL, ()))

    def tell(self, name: str, *arguments: Any) -> None:
        """Make a request whose answer nobody needs; never waits, so a finalizer may call it."""
        self._outbox.put((next(self._numbers), name, arguments))

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # the reading thread finds out too
            while (message := self._outbox.get()) is not None:
                self._connection.send(message)

    def _read(self) -> None:
        try:
            while True:
                number, kind, value = self._connection.recv()
                inbox = self._inboxes.get(number)
                if inbox is not None:
                    inbox.put((kind, value))
        except (EOFError, OSError):
            pass
        finally:  # also when a reply cannot be read: whoever waits must be told
            with self._lock:
                self.gone = True
                waiting = list(self._inboxes.values())
            for inbox in waiting:
                inbox.put((ERROR, Gone()))
            self._outbox.put(None)
            self._connection.close()


def serve(connection: Connection, answers: Mapping[str, Answer]) -> None:
    """Answer requests by their names until the asking side has ended; what is under way is cancelled then."""
    sending = threading.Lock()
    under_way: dict[int, Flag] = {}
    threads = ThreadPoolExecutor(MAX_ANSWERS, thread_name_prefix="answer")

    def send(number: int, kind: str, value: Any = None) -> None:
        with sending, contextlib.suppress(OSError):  # nobody there any more: `recv` says so below
            connection.send((number, kind, value))

    def answer(number: int, name: str, arguments: tuple[Any, ...], events: Flag) -> None:
        try:
            with contextlib.closing(answers[name](*arguments, events=events)) as replies:
                for reply in replies:
                    send(number, REPLY, reply)
            send(number, DONE)
        except Cancelled:
            pass  # whoever asked has stopped listening
        except InputError as error:
            send(number, ERROR, InputError(str(error)))
        except MemoryError:
            send(number, ERROR, MemoryError())
        except Exception as error:
            traceback.print_exc()
            send(number, ERROR, Failed(type(error).__name__))
        finally:
            del under_way[number]

    while True:
        try:
            number, name, arguments = connection.recv()
        except (EOFError, OSError):
            break
        if name is not CANCEL:
            under_way[number] = Flag()
            threads.submit(answer, number, name, arguments, under_way[number])
        elif (events := under_way.get(number)) is not None:
            events.cancel()
    for events in list(under_way.values()):
        events.cancel()
