"""Files asked for while pages are drawn; what a browser makes of it is in tests/browser/test_overtaken.py."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.forward_msg_queue import ForwardMsgQueue
from streamlit.runtime.media_file_manager import MediaFileManager
from streamlit.runtime.media_file_storage import MediaFileStorageError
from streamlit.runtime.memory_media_file_storage import MemoryMediaFileStorage

from app import delivery, downloads

BUTTON = "the button"
delivery.keep_what_was_drawn()
downloads.keep_files_for_those_who_ask()


@pytest.fixture
def files() -> MediaFileManager:
    return MediaFileManager(MemoryMediaFileStorage("/media"))


def draw(files: MediaFileManager, text: str) -> str:
    """Draw the button; its number."""
    return files.add_deferred(lambda: text, "text/plain", "[0, 1]", "it.txt", element_id=BUTTON)


def content(files: MediaFileManager, url: str) -> bytes:
    return files._storage.get_file(url.removeprefix("/media/")).content  # type: ignore[attr-defined, no-any-return]


def test_a_button_keeps_its_number_and_gives_what_it_was_drawn_with_last(files: MediaFileManager) -> None:
    number = draw(files, "old")
    assert draw(files, "new") == number
    assert content(files, files.execute_deferred(number)) == b"new"
    other = files.add_deferred(lambda: "other", "text/plain", "[0, 2]", element_id="another")
    assert other != number
    assert content(files, files.execute_deferred(other)) == b"other"


def test_a_button_that_is_about_to_be_drawn_is_waited_for(files: MediaFileManager) -> None:
    number = draw(files, "old")
    files.clear_session_refs()  # a run begins
    files.remove_orphaned_files()  # another session's ends
    later = threading.Timer(0.2, draw, (files, "new"))
    later.start()
    assert content(files, files.execute_deferred(number)) == b"new"
    later.join()


def test_a_button_that_is_drawn_no_more_or_disabled_gives_nothing(
    files: MediaFileManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "PATIENCE", 0.1)
    number = draw(files, "it")
    files.remove_deferred("[0, 1]", element_id=BUTTON)
    with pytest.raises(MediaFileStorageError, match="not found"):
        files.execute_deferred(number)
    number = draw(files, "it")
    files.clear_session_refs()
    files.remove_orphaned_files()
    with pytest.raises(MediaFileStorageError, match="not found"):
        files.execute_deferred(number)
    assert not files._deferred_callables, "what they hold may be as large as a model"
    assert not files._deferred_ids_by_session


def test_a_file_is_there_for_a_minute_after_it_was_made_and_not_for_good(
    files: MediaFileManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=0.0)
    monkeypatch.setattr(downloads, "time", clock)
    number = draw(files, "it")
    url = files.execute_deferred(number)

    def collect_at(seconds: float) -> None:
        clock.now = seconds
        for _ in range(3):  # runs of some session
            files.remove_orphaned_files()

    collect_at(0)
    collect_at(59)
    assert files.execute_deferred(number) == url, "the same text once more"
    collect_at(118)
    assert content(files, url) == b"it"
    collect_at(179)
    with pytest.raises(MediaFileStorageError):
        content(files, url)


def test_where_a_file_is_is_told_though_the_page_begins_to_be_drawn() -> None:
    queue = ForwardMsgQueue()
    answer, element = ForwardMsg(), ForwardMsg()
    answer.backend_operation_response.request_id = "1"
    element.delta.new_element.markdown.body = "of the run that was replaced"
    for message in (element, answer):
        queue.enqueue(message)
    queue.clear(retain_lifecycle_msgs=True)
    assert queue.flush() == [answer]
    assert queue.flush() == []
