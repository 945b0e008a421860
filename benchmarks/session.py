"""A session of the running app without a browser: Streamlit's own protocol over a websocket.

Thirty browsers would measure Chromium on these cores. What the server does for a session is the same: it
runs the same script, sends the same messages, and is asked again by the same timers (`run_every`).
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.asyncio.client import ClientConnection, connect

from app.plantable import NAME

STATE = re.compile(r'data-state="(\w+)" data-plan="(\w*)" data-n="(\d+)"')
MAX_MESSAGE = 2**28


@dataclass
class Shown:
    """What the state line of the numbers says."""

    kind: str  # current or outdated
    plan: str  # digest
    n: int


@dataclass
class Session:
    """One visitor. `shown` are the numbers on the page; `bytes` and `messages` count what the server sent."""

    address: str
    query: str = ""
    shown: Shown | None = None
    errors: list[str] = field(default_factory=list)
    bytes: int = 0
    messages: int = 0

    _page: str = ""  # hash of its script
    _known: dict[str, ForwardMsg] = field(default_factory=dict)  # by hash: the server sends it only once
    _table: str = ""  # id of the layer table
    _token: str = ""  # which it wants back with an edit
    _edits: list[list[Any]] = field(default_factory=list)  # those it has not taken yet
    _number: int = 0  # of the last one
    _timers: dict[str, asyncio.Task[None]] = field(default_factory=dict)  # fragment -> its timer
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _socket: ClientConnection | None = None
    _reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, and ask for the page."""
        url = self.address.replace("http", "ws", 1) + "/_stcore/stream"
        self._socket = await connect(
            url,
            subprotocols=["streamlit"],
            max_size=MAX_MESSAGE,
            origin=self.address,  # type: ignore[list-item,arg-type]
        )
        self._reading = asyncio.create_task(self._read())
        self._reading.add_done_callback(lambda _: self._changed.set())
        await self.rerun()

    async def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        if self._reading:
            self._reading.cancel()
        if self._socket:
            await self._socket.close()

    async def edit(self, row: int, column: str, value: Any) -> None:
        """Change a cell of the layer table, as `app/plantable/table.js` reports it."""
        self._number += 1
        self._edits = [*self._edits, [self._number, "layer", row, column, value]]
        await self.rerun()

    async def rerun(self, fragment: str = "") -> None:
        """Ask for the page again, or for one of its fragments as its timer does."""
        message = BackMsg()
        asked = message.rerun_script
        asked.query_string, asked.page_script_hash = self.query, self._page
        asked.cached_message_hashes.extend(self._known)
        if self._number:  # a browser says what was edited last with everything it asks for
            edits = {"edits": {"token": self._token, "edits": self._edits}}
            asked.widget_states.widgets.append(WidgetState(id=self._table, json_value=json.dumps(edits)))
        if fragment:
            asked.fragment_id, asked.is_auto_rerun = fragment, True
        assert self._socket is not None
        await self._socket.send(message.SerializeToString())

    async def until(self, wanted: Callable[[Session], bool], timeout: float) -> float:
        """Wait for something to be shown; the moment (`time.perf_counter`) it was. TimeoutError."""
        async with asyncio.timeout(timeout):
            while not wanted(self):
                if self._reading and self._reading.done():
                    self._reading.result()
                    raise ConnectionError("the server has closed the session")
                self._changed.clear()
                await self._changed.wait()
        return time.perf_counter()

    async def _read(self) -> None:
        assert self._socket is not None
        async for data in self._socket:
            assert isinstance(data, bytes)
            self.bytes += len(data)
            self.messages += 1
            message = ForwardMsg()
            message.ParseFromString(data)
            if message.WhichOneof("type") == "ref_hash":
                known = ForwardMsg()
                known.CopyFrom(self._known[message.ref_hash])
                known.metadata.CopyFrom(message.metadata)
                message = known
            elif message.metadata.cacheable:
                self._known[message.hash] = message
            self._take(message)
            self._changed.set()

    def _take(self, message: ForwardMsg) -> None:
        kind = message.WhichOneof("type")
        if kind == "new_session":
            self._page = message.new_session.page_script_hash
        if kind == "new_session" and not message.metadata.run.fragment_ids:
            self._stop(list(self._timers))  # a page drawn anew starts its own
        elif kind == "auto_rerun":
            timer = message.auto_rerun
            self._stop([timer.fragment_id])
            self._timers[timer.fragment_id] = asyncio.create_task(
                self._again(timer.fragment_id, timer.interval)
            )
        elif kind == "stop_auto_rerun":
            self._stop(list(message.stop_auto_rerun.fragment_ids))
        elif kind == "page_info_changed":
            self.query = message.page_info_changed.query_string
        elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            self._element(message.delta.new_element)

    def _element(self, element: Any) -> None:
        kind = element.WhichOneof("type")
        if kind == "html" and (found := STATE.search(element.html.body)):
            self.shown = Shown(found[1], found[2], int(found[3]))
        elif kind == "exception":
            self.errors.append(element.exception.type)
        elif kind == "alert" and element.alert.format == element.alert.ERROR:
            self.errors.append(element.alert.body)
        elif kind == "bidi_component" and element.bidi_component.component_name == NAME:
            component = element.bidi_component
            data = json.loads(component.json or component.mixed.json)
            self._table, self._token = component.id, data["token"]
            self._number = max(self._number, data["seen"])
            self._edits = [edit for edit in self._edits if edit[0] > data["seen"]]

    def _stop(self, fragments: list[str]) -> None:
        for fragment in fragments:
            timer = self._timers.pop(fragment, None)
            if timer:
                timer.cancel()

    async def _again(self, fragment: str, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            await self.rerun(fragment)
