"""What a person asked of the server in a page, and whether it has turned to that.

Until it has, the page stands as still as one that is done: a test would go on too early where the server is late.
"""

from __future__ import annotations

import time
from weakref import WeakKeyDictionary

from playwright.sync_api import Page, WebSocket
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

PATIENCE = 60  # seconds


class Asked:
    """The requests that no run has begun for: the part's name of each, of the page none."""

    def __init__(self) -> None:
        self.waiting: list[str] = []

    def send(self, frame: bytes | str) -> None:
        request = BackMsg.FromString(_bytes(frame)).rerun_script
        if request.ByteSize() and not request.is_auto_rerun:
            self.waiting.append(request.fragment_id)

    def receive(self, frame: bytes | str) -> None:
        message = ForwardMsg.FromString(_bytes(frame))
        if message.HasField("new_session"):
            parts = set(message.metadata.run.fragment_ids)
            self.waiting = [part for part in self.waiting if parts and part not in parts]


_asked: WeakKeyDictionary[Page, Asked] = WeakKeyDictionary()


def listen(page: Page) -> None:
    """Hear what a page, from its beginning, asks and is told."""
    asked = _asked[page] = Asked()

    def connected(line: WebSocket) -> None:
        asked.waiting.clear()  # what was asked on another line
        line.on("framesent", asked.send)
        line.on("framereceived", asked.receive)

    page.on("websocket", connected)


def wait_until_heard(page: Page) -> None:
    """Wait until a run has begun for each request. AssertionError where none does."""
    asked, end = _asked[page], time.monotonic() + PATIENCE
    while asked.waiting:
        assert time.monotonic() < end, f"asked {PATIENCE} s ago and not heard: {asked.waiting}"
        page.wait_for_timeout(50)


def _bytes(frame: bytes | str) -> bytes:
    return frame if isinstance(frame, bytes) else frame.encode()
