"""Whether the address of this run is one the person went to.

The browser sends its address with every message, and a message that left before our last change of the address
arrived still holds the one before. Taken for a choice, that would undo the newest edit. Within a session only
Back and Forward lead to another address: one that is typed or pasted begins a new session.
"""

from __future__ import annotations

from streamlit.runtime.scriptrunner import get_script_run_ctx


def went_back() -> bool:
    """Whether Back or Forward led here."""
    context = get_script_run_ctx()
    return context is not None and context.is_history_navigation
