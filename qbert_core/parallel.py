"""Independent pieces of work on every core, their results in order.

torch splits each operation among its threads, and they wait for each other at its end. For tensors of a
megabyte that waiting costs what the second core brings: either the threads spin, and hold cores that others need,
or they sleep and are woken some thousand times a second. Whole pieces on threads of their own never wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from itertools import islice
from threading import Barrier, Event
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads for torch's operations, until the block ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_order(work: Callable[[Item, Event], Result], items: Iterable[Item]) -> Generator[Result]:
    """`work(item, stopped)` of every item, as many at a time as torch has threads; results in the items' order.

    Each call has one thread of torch's, so its numbers do not depend on how many there are. It should end soon
    after `stopped` is set, which happens when the reader goes away or another call failed: none is running
    any more when this generator has ended. What a call raises is raised at its turn.
    """
    count, stopped = torch.get_num_threads(), Event()
    if count == 1:
        yield from (work(item, stopped) for item in items)
        return
    pool, rest, running = _pool(count), iter(items), deque[Future[Result]]()
    try:
        for item in islice(rest, 2 * count):  # twice as many: no thread waits for the reader
            running.append(pool.submit(work, item, stopped))
        while running:
            yield running.popleft().result()
            for item in islice(rest, 1):
                running.append(pool.submit(work, item, stopped))
    finally:
        stopped.set()
        for future in running:
            future.cancel()
        wait(running)


@cache
def _pool(count: int) -> ThreadPoolExecutor:
    """Threads of which each has one of torch's."""
    together = Barrier(count + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread takes over the number set last when it first asks: now, not below
        together.wait()

    pool = ThreadPoolExecutor(count, "torch", initializer=begin)
    for _ in range(count):
        pool.submit(lambda: None)
    together.wait()
    torch.set_num_threads(count)  # as it was, for this thread and for those to come
    return pool
