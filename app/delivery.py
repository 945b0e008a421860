"""A page that was drawn whole reaches the browser whole.

Streamlit drops what a run has still to deliver of a part when that part is asked for at that moment: it is going
to be drawn again. But where the run drew the whole page, the browser is still told that it came to its end. It
then takes away what it did not get, with what was chosen there, and a moment later shows the part with every
choice as at the very beginning, unknown to the server.
"""

from __future__ import annotations

from functools import wraps

from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.forward_msg_queue import ForwardMsgQueue


def keep_whole_runs() -> None:
    """Have every session deliver what the page's run has drawn before its end, and only then the part."""
    if hasattr(ForwardMsgQueue.clear, "__wrapped__"):
        return
    clear = ForwardMsgQueue.clear

    @wraps(clear)
    def keeping(
        queue: ForwardMsgQueue, retain_lifecycle_msgs: bool = False, fragment_ids_this_run: list[str] | None = None
    ) -> None:
        waiting = queue._queue  # another list takes its place
        clear(queue, retain_lifecycle_msgs, fragment_ids_this_run)
        if fragment_ids_this_run and any(map(_whole_run_ended, waiting)):
            queue._queue = waiting

    ForwardMsgQueue.clear = keeping  # type: ignore[assignment, method-assign]


def _whole_run_ended(message: ForwardMsg) -> bool:
    ended: bool = message.HasField("script_finished")
    return ended and message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY
