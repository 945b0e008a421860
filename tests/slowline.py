"""A connection on which answers take their time: what is asked arrives at once, what is said comes later."""

from __future__ import annotations

import asyncio
import threading
from asyncio import Queue, StreamReader, StreamWriter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.server import free_port


class SlowLine:
    """A port of this machine that leads to another one. `delay`, in seconds, may change at any time."""

    def __init__(self, target: int) -> None:
        self.target, self.port, self.delay = target, free_port(), 0.0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, ready: Callable[[], None], end: threading.Event) -> None:
        async with await asyncio.start_server(self._connect, "127.0.0.1", self.port):
            ready()
            await asyncio.to_thread(end.wait)

    async def _connect(self, reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(asyncio.CancelledError):  # at the end; asyncio would complain of a connection that passes it on
            await self._carry(reader, writer)

    async def _carry(self, reader: StreamReader, writer: StreamWriter) -> None:
        answers, questions = await asyncio.open_connection("127.0.0.1", self.target)
        pieces: Queue[tuple[float, bytes]] = Queue()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_ask(reader, questions))
                group.create_task(_note(answers, pieces))
                group.create_task(self._answer(pieces, writer))
        except* OSError:
            pass  # one side has gone
        finally:
            writer.close()
            questions.close()

    async def _answer(self, pieces: Queue[tuple[float, bytes]], writer: StreamWriter) -> None:
        while True:
            said, piece = await pieces.get()
            await asyncio.sleep(max(0.0, said + self.delay - asyncio.get_running_loop().time()))
            if not piece:
                raise ConnectionResetError  # the other two have nothing more to do, either
            writer.write(piece)
            await writer.drain()


async def _ask(reader: StreamReader, questions: StreamWriter) -> None:
    while piece := await reader.read(2**16):
        questions.write(piece)
        await questions.drain()
    raise ConnectionResetError


async def _note(answers: StreamReader, pieces: Queue[tuple[float, bytes]]) -> None:
    while piece := await answers.read(2**16):
        pieces.put_nowait((asyncio.get_running_loop().time(), piece))
    pieces.put_nowait((0.0, b""))


@contextmanager
def slow_line(target: int) -> Iterator[SlowLine]:
    """A line to `target`, a port of this machine, until the block ends."""
    line, ready, end = SlowLine(target), threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(line.serve(ready.set, end)), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield line
    finally:
        end.set()
        thread.join(10)
