"""Requests over a connection: streams of replies, errors, cancel, and the end of either side."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Generator, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import pytest

from app.engine.channel import Answer, Caller, Failed, Gone, serve
from qbert_core.errors import Cancelled, InputError
from qbert_core.runtime.events import Events, Flag, Silent
from tests.app.tools import PATIENCE, until

Replies = Generator[Any, None, None]


class Answers:
    """Something to ask for."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.stopped: list[str] = []

    def count(self, number: int, events: Events) -> Replies:
        yield from range(number)

    def forever(self, name: str, events: Events) -> Replies:
        try:
            while True:
                events.check()
                yield name
                time.sleep(0.001)
        finally:
            self.stopped.append(name)

    def silence(self, name: str, events: Events) -> Replies:
        try:
            while True:
                events.check()
                time.sleep(0.001)
        finally:
            self.stopped.append(name)
        yield name

    def note(self, number: int, events: Events) -> Replies:
        self.told.append(number)
        yield from ()

    def fail(self, error: Exception, events: Events) -> Replies:
        yield "so far"
        raise error

    def unsendable(self, events: Events) -> Replies:
        yield threading.Lock()

    def table(self) -> dict[str, Answer]:
        return {
            "count": self.count, "forever": self.forever, "silence": self.silence, "note": self.note,
            "fail": self.fail, "unsendable": self.unsendable,
        }  # fmt: skip


class After(Silent):
    """Cancels at the check that comes `seconds` after the first, or later."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began: float | None = None

    def check(self) -> None:
        self._began = self._began or time.monotonic()
        if time.monotonic() - self._began >= self._seconds:
            raise Cancelled


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def there(answers: Answers) -> Iterator[Connection]:
    """The asking end of a connection; a thread serves the other. Both ends end with the test."""
    here, there = Pipe()
    with socket.socket(fileno=os.dup(there.fileno())) as line:
        serving = threading.Thread(target=serve, args=(here, answers.table()))
        serving.start()
        yield there
        line.shutdown(socket.SHUT_RDWR)
        serving.join(PATIENCE)
        assert not serving.is_alive(), "serving ends when the asking side does"


@pytest.fixture
def caller(there: Connection) -> Caller:
    return Caller(there)


def test_replies_arrive_in_order_and_all(caller: Caller) -> None:
    assert list(caller.ask("count", 500)) == list(range(500))
    assert list(caller.ask("count", 0)) == []


def test_requests_of_many_threads_are_answered_at_once_each_with_its_own(caller: Caller) -> None:
    long = caller.ask("forever", "long")
    assert next(long) == "long"
    found: dict[int, list[int]] = {}

    def ask(number: int) -> None:
        found[number] = list(caller.ask("count", number))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == {number: list(range(number)) for number in range(20)}
    assert next(long) == "long"
    long.close()


@pytest.mark.parametrize(
    ("raised", "arrives", "text"),
    [
        (InputError("row 2: label 'ä' is not known; there is 0, 1"), InputError, None),
        (MemoryError("here"), MemoryError, ""),
        (RuntimeError("/home/me/secret"), Failed, "RuntimeError"),
    ],
)
def test_an_error_follows_the_replies_before_it(
    caller: Caller, raised: Exception, arrives: type[Exception], text: str | None
) -> None:
    replies = caller.ask("fail", raised)
    assert next(replies) == "so far"
    with pytest.raises(arrives) as error:
        next(replies)
    assert str(error.value) == (str(raised) if text is None else text)
    assert list(caller.ask("count", 2)) == [0, 1]


@pytest.mark.parametrize(("name", "arguments"), [("nothing", ()), ("count", ()), ("count", (1, 2))])
def test_a_request_nobody_can_answer_is_an_error_and_no_end(
    caller: Caller, name: str, arguments: tuple[int, ...]
) -> None:
    with pytest.raises(Failed, match=r"KeyError|TypeError"):
        list(caller.ask(name, *arguments))
    assert list(caller.ask("count", 1)) == [0]


def test_a_reply_that_cannot_be_sent_is_an_error_and_no_end(caller: Caller) -> None:
    with pytest.raises(Failed):
        list(caller.ask("unsendable"))
    assert list(caller.ask("count", 1)) == [0]


@pytest.mark.parametrize("name", ["forever", "silence"])
def test_a_cancel_stops_the_answer_whether_it_speaks_or_not(
    caller: Caller, answers: Answers, name: str
) -> None:
    with pytest.raises(Cancelled):
        list(caller.ask(name, "x", events=After(0.05)))
    until(lambda: answers.stopped == ["x"], "the answer stopped")
    assert list(caller.ask("count", 2)) == [0, 1]


def test_who_stops_listening_stops_the_answer(caller: Caller, answers: Answers) -> None:
    for _ in caller.ask("forever", "x"):
        break
    until(lambda: answers.stopped == ["x"], "the answer stopped")


def test_what_is_cancelled_before_it_is_asked_is_not_answered(caller: Caller, answers: Answers) -> None:
    events = Flag()
    events.cancel()
    with pytest.raises(Cancelled):
        list(caller.ask("forever", "x", events=events))
    until(lambda: answers.stopped in ([], ["x"]) and not caller._inboxes, "nothing under way")


def test_telling_waits_for_nothing(caller: Caller, answers: Answers) -> None:
    for number in range(50):
        caller.tell("note", number)
    until(lambda: len(answers.told) == 50, "all told")
    assert sorted(answers.told) == list(range(50))


def test_the_other_sides_end_ends_every_request(answers: Answers) -> None:
    here, there = Pipe()
    caller = Caller(there)
    ends: list[BaseException] = []

    def ask() -> None:
        try:
            list(caller.ask("silence", "x"))
        except Gone as error:
            ends.append(error)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    until(lambda: len(caller._inboxes) == 5, "five requests")
    here.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(ends) == 5
    assert caller.gone
    with pytest.raises(Gone):
        list(caller.ask("count", 1))
    caller.tell("note", 1)  # a finalizer may run at any time


def test_a_message_cut_off_ends_the_requests_too() -> None:
    here, there = Pipe()
    caller = Caller(there)
    replies = caller.ask("count", 1)
    threading.Timer(0.05, lambda: (os.write(here.fileno(), b"\x00\x00\x10\x00half"), here.close())).start()
    with pytest.raises(Gone):
        next(replies)
