"""A page that was drawn whole reaches the browser whole.

Streamlit loses what a run of the page has still to deliver in two ways, both where a part is asked for at that
moment:

- what it drew of the part is dropped: it is going to be drawn again. But the browser is still told that the page's
  run came to its end. It then takes away what it did not get, with what was chosen there, and a moment later shows
  the part with every choice as at the very beginning, unknown to the server.
- where the run has ended and the server has yet to hear of its last messages, the part gets a thread of its own,
  and those messages count as of a run that was replaced. What they change stays as it was, for good.
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


def keep_whole_runs() -> None:
    """Have every session deliver what the page's run has drawn before its end, and only then the part."""
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
        waiting = queue._queue  # another list takes its place
        clear(queue, retain_lifecycle_msgs, fragment_ids_this_run)
        if fragment_ids_this_run and any(map(_whole_run_ended, waiting)):
            queue._queue = waiting

    return keeping


def _whole_run_ended(message: ForwardMsg) -> bool:
    ended: bool = message.HasField("script_finished")
    return ended and message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY


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
        session: AppSession, sender: Any, event: ScriptRunnerEvent, *rest: Any, **more: Any
    ) -> None:
        if event is not ScriptRunnerEvent.SHUTDOWN:  # that would end the one that draws the part
            while sender is not session._scriptrunner and hasattr(sender, NEXT):
                sender = getattr(sender, NEXT)
        handle(session, sender, event, *rest, **more)

    return passing_on
