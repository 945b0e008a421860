"""Pieces of work on threads of their own: in order, one of torch's threads each, none left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_core.parallel import in_order, torch_threads

THREADS = 3


@pytest.fixture(autouse=True, scope="module")
def threads() -> Iterator[None]:
    with torch_threads(THREADS):
        yield


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 0.003), max_size=20))
def test_results_come_in_the_order_of_the_items(pauses: list[float]) -> None:
    def work(item: tuple[int, float], _: threading.Event) -> int:
        time.sleep(item[1])
        return item[0]

    assert list(in_order(work, enumerate(pauses))) == list(range(len(pauses)))


def test_as_many_at_a_time_as_torch_has_threads_and_each_has_one() -> None:
    together = threading.Barrier(THREADS, timeout=60)

    def work(_: int, __: threading.Event) -> tuple[int, int]:
        together.wait()  # passes only when so many run at a time
        torch.randn(100_000).sum()  # large enough to be split among threads
        return torch.get_num_threads(), threading.get_ident()

    found = list(in_order(work, range(2 * THREADS)))
    assert {count for count, _ in found} == {1}
    assert len({thread for _, thread in found}) == THREADS
    assert torch.get_num_threads() == THREADS, "the caller's own number stays"
    with ThreadPoolExecutor(1) as another:
        assert another.submit(torch.get_num_threads).result() == THREADS, "and that of other threads"


def test_with_one_thread_it_is_a_loop() -> None:
    with torch_threads(1):
        found = list(in_order(lambda item, _: (item, threading.get_ident()), range(3)))
    assert found == [(item, threading.get_ident()) for item in range(3)]


def test_an_error_is_raised_at_its_turn_and_the_others_are_told_to_stop() -> None:
    stopped_ones: list[int] = []

    def work(item: int, stopped: threading.Event) -> int:
        if item == 1:
            raise ValueError("one")
        if item > 1 and stopped.wait(60):
            stopped_ones.append(item)
        return item

    reading = in_order(work, range(50))
    assert next(reading) == 0
    with pytest.raises(ValueError, match="one"):
        next(reading)
    assert 1 <= len(stopped_ones) <= 2 * THREADS, "those under way; the rest was never begun"


def test_when_the_reader_goes_away_nothing_runs_any_more() -> None:
    running: set[int] = set()

    def work(item: int, stopped: threading.Event) -> int:
        if item:
            running.add(item)
            assert stopped.wait(60)
            time.sleep(0.05)
            running.discard(item)
        return item

    reading = in_order(work, range(50))
    assert next(reading) == 0
    reading.close()
    assert not running


def test_several_at_once_do_not_wait_for_each_other() -> None:
    def work(item: int, _: threading.Event) -> int:
        return item

    first, second = in_order(work, range(30)), in_order(work, range(30))
    assert list(zip(first, second, strict=True)) == [(n, n) for n in range(30)]
