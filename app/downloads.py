"""A file is given to whoever asked for it.

Streamlit makes a file when its button is pressed, under a number that every run of the page gives anew: where the page
is drawn meanwhile, nobody knows that number. And it drops a file that no session refers to when two runs have ended
since, of whatever page of whatever session, be it before the browser has come for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from streamlit.runtime.media_file_manager import MediaFileManager

KEPT = 60.0  # seconds for which a file is there that no session refers to
PATIENCE = 5.0  # seconds until a button that was pressed is drawn again
UNUSED = "unused_since"  # of a manager: when it was seen first that no session refers to a file


def keep_files_for_those_who_ask() -> None:
    """Give buttons numbers that stay, and files time."""
    if hasattr(MediaFileManager.add_deferred, "__wrapped__"):
        return
    for name, with_time in (
        ("add_deferred", _numbered),
        ("execute_deferred", _awaited),
        ("_get_inactive_file_ids", _lingering),
    ):
        setattr(MediaFileManager, name, with_time(getattr(MediaFileManager, name)))


def _numbered(add: Callable[..., str]) -> Callable[..., str]:
    @wraps(add)
    def numbered(manager: MediaFileManager, *arguments: Any, element_id: str = "", **more: Any) -> str:
        made = add(manager, *arguments, element_id=element_id, **more)
        with manager._lock:
            entry = manager._deferred_callables.pop(made)
            session, place = entry["session_id"], entry["coordinates"]
            number = f"{session} {element_id or place}"
            manager._deferred_callables[number] = entry
            numbers = manager._deferred_ids_by_session[session]
            numbers.discard(made)
            numbers.add(number)
            manager._files_by_session_and_coord[session][place] = number
        return number

    return numbered


def _awaited(execute: Callable[..., str]) -> Callable[..., str]:
    @wraps(execute)
    def awaited(manager: MediaFileManager, file_id: str) -> str:
        """In a thread of its own."""
        end = time.monotonic() + PATIENCE
        while file_id not in manager._deferred_callables and time.monotonic() < end:
            time.sleep(0.05)
        with manager._lock:
            _unused(manager).clear()  # what is made may have been made before
        return execute(manager, file_id)

    return awaited


def _lingering(find: Callable[..., set[str]]) -> Callable[..., set[str]]:
    @wraps(find)
    def lingering(manager: MediaFileManager) -> set[str]:
        now, found, since = time.monotonic(), find(manager), _unused(manager)
        for used in since.keys() - found:
            del since[used]
        return {file for file in found if now - since.setdefault(file, now) > KEPT}

    return lingering


def _unused(manager: MediaFileManager) -> dict[str, float]:
    since: dict[str, float] = manager.__dict__.setdefault(UNUSED, {})
    return since
