"""What was drawn whole reaches the browser.

Streamlit drops what waits to be delivered where the next run begins, because it is going to be drawn again. That
holds only for a run of the whole page. Where a part alone is asked for,

- what the page's run drew of the part is dropped, but the browser is still told that this run came to its end. It
  takes away what it did not get, with what was chosen there, and a moment later shows the part with every choice as
  at the very beginning, unknown to the server;
- a part that takes longer to draw than until it is asked for again is not seen for as long as the server is busy;
- where the run has ended and the server has yet to hear of its last messages, the part gets a thread of its own, and
  those messages count as of a run that was replaced. What they change stays as it was, for good.

And what a run says in passing, and where a file is that was asked for, is not said again by the run that replaces it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.app_session import AppSession
from streamlit.runtime.forward_msg_queue import ForwardMsgQueue
from streamlit.runtime.scriptrunner.script_runner import ScriptRunnerEvent

NEXT = "next_runner"  # of one that ended: who draws the part


def keep_what_was_drawn() -> None:
    """Have every session deliver what was drawn before a part is asked for, and only then the part."""
    if hasattr(ForwardMsgQueue.clear, "__wrapped__"):
        return
    ForwardMsgQueue.clear = _keeping(ForwardMsgQueue.clear)  # type: ignore[method-assign]
    AppSession._create_scriptrunner = _linking(AppSession._create_scriptrunner)  # type: ignore[method-assign]
    handle = AppSession._handle_scriptrunner_event_on_event_loop
    AppSession._handle_scriptrunner_event_on_event_loop = _passing_on(handle)  # type: ignore[method-assign]


def _keeping(clear: Callable[..., None]) -> Callable[..., None]:
    @wraps(clear)
    def keeping(
        queue: ForwardMsgQueue,
        retain_lifecycle_msgs: bool = False,
        fragment_ids_this_run: list[str] | None = None,
    ) -> None:
        if fragment_ids_this_run:
            queue._delta_index_map = {}  # what comes is put behind what waits, not in its place
            return
        if not retain_lifecycle_msgs:  # all has been delivered
            clear(queue)
            return
        answers = [message for message in queue._queue if message.HasField("backend_operation_response")]
        clear(queue, retain_lifecycle_msgs, fragment_ids_this_run)
        queue._queue += answers

    return keeping


def _linking(create: Callable[..., None]) -> Callable[..., None]:
    @wraps(create)
    def linking(session: AppSession, *arguments: Any) -> None:
        ended = session._scriptrunner  # one that was told to end is not there any more
        create(session, *arguments)
        if ended is not None:
            setattr(ended, NEXT, session._scriptrunner)

    return linking


def _passing_on(handle: Callable[..., None]) -> Callable[..., None]:
    @wraps(handle)
    def passing_on(
        session: AppSession,
        sender: Any,
        event: ScriptRunnerEvent,
        message: ForwardMsg | None = None,
        *rest: Any,
        **more: Any,
    ) -> None:
        now = session._scriptrunner
        if event is not ScriptRunnerEvent.SHUTDOWN:  # that would end the one that draws the part
            while sender is not now and hasattr(sender, NEXT):
                sender = getattr(sender, NEXT)
        handle(session, now if _in_passing(message) else sender, event, message, *rest, **more)

    return passing_on


def _in_passing(message: ForwardMsg | None) -> bool:
    return message is not None and message.delta.new_element.WhichOneof("type") == "toast"
