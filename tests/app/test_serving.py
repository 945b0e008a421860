"""The server for others: what its command line means, whom it answers, and which files it opens."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.serving import UPLOADS, serving, upload_megabytes
from qbert_core.access import VARIABLE
from qbert_core.errors import InputError
from tests.server import app_server


def test_without_serve_everything_is_streamlits() -> None:
    options = serving(["--server.port", "8600"])
    assert options.streamlit == ("--server.port", "8600")
    assert options.environment == {}
    assert upload_megabytes() == 600


def test_serve_sets_what_protects(tmp_path: Path, home: Path) -> None:
    options = serving(
        ["--serve", "--address", "0.0.0.0", "--allow-host", "studio.example.org", "--root", str(tmp_path),
         "--uploads", "50", "--base-path", "/studio/"]
    )  # fmt: skip
    for option in (
        "--server.address=0.0.0.0", "--server.allowedHosts=studio.example.org", "--server.baseUrlPath=studio",
        "--server.enableXsrfProtection=true", "--server.enableCORS=true", "--server.maxUploadSize=50",
        "--server.enableAgentApi=false", "--client.showErrorDetails=none",
    ):  # fmt: skip
        assert option in options.streamlit
    rule = json.loads(options.environment[VARIABLE])
    own = [str(home / name) for name in ("uploads", "plans", "models", "exports")]
    assert rule == {"roots": [str(tmp_path), *own], "hub": False}
    assert options.environment[UPLOADS] == "50"
    assert serving(["--serve", "--uploads", "off"]).environment[UPLOADS] == "0"
    assert json.loads(serving(["--serve", "--hub"]).environment[VARIABLE])["hub"] is True


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--address", "0.0.0.0"], "say by which names browsers may call the server"),
        (["--allow-host", "*"], "any name lets other sites' pages in"),
        (["--root", "/nowhere-at-all"], "--root /nowhere-at-all: no such folder"),
        (["--uploads", "much"], "--uploads much; expected on, off, or a size in MB"),
        (["--port", "x"], "invalid int value"),
        (["--server.enableCORS", "false"], "--serve does not know --server.enableCORS"),
    ],
)
def test_what_would_open_the_server_too_far_is_refused(arguments: list[str], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        serving(["--serve", *arguments])
    assert expected in str(caught.value)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server that answers to studio.test."""
    folder = tmp_path_factory.mktemp("served")
    with app_server(folder, "--serve", "--allow-host", "studio.test", warm=False) as running:
        yield running.port
    assert "Traceback" not in running.log.read_text()


def handshake(port: int, host: str, origin: str | None) -> int:
    """The status of a WebSocket's opening, 101 where it is accepted."""
    lines = [
        "GET /_stcore/stream HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
        *([f"Origin: {origin}"] if origin else []), "", "",
    ]  # fmt: skip
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall("\r\n".join(lines).encode())
        return int(connection.recv(4096).split()[1])


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("studio.test", "https://studio.test", 101),
        ("studio.test", None, 101),
        ("studio.test", "https://evil.test", 403),
        ("evil.test", "http://evil.test", 403),
        ("127.0.0.1", "http://127.0.0.1", 403),
        ("studio.test.evil.test", "https://studio.test", 403),
    ],
)
def test_only_its_own_pages_under_its_own_name_are_answered(
    server: int, host: str, origin: str | None, status: int
) -> None:
    assert handshake(server, host, origin) == status


def test_a_file_cannot_be_sent_without_a_session(server: int) -> None:
    body = b"--x\r\nContent-Disposition: form-data; name=f; filename=a.csv\r\n\r\na\r\n--x--\r\n"
    request = urllib.request.Request(
        f"http://127.0.0.1:{server}/_stcore/upload_file/none/none", body, method="PUT",
        headers={"Content-Type": "multipart/form-data; boundary=x", "Host": "studio.test"},
    )  # fmt: skip
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    assert caught.value.code in (400, 403)


def test_a_foreign_page_does_not_make_the_server_ask_the_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamlit import net_util
    from streamlit.web.server.server_util import is_url_from_allowed_origins

    from app.__main__ import ask_nobody

    monkeypatch.setattr(net_util, "_external_ip", None)
    asked: list[str] = []

    def ask(url: str, **_: object) -> None:
        asked.append(url)

    monkeypatch.setattr(net_util, "_make_blocking_http_get", ask)
    assert not is_url_from_allowed_origins("https://evil.test")
    assert asked, "Streamlit asks no more; `ask_nobody` can go"
    asked.clear()
    ask_nobody()
    assert not is_url_from_allowed_origins("https://evil.test")
    assert not asked
