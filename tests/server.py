"""The app's server as people start it: `python -m app` in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START = 120  # seconds a server may take until it answers, on a machine that does other things too
END = 60  # seconds it may take to end


@dataclass(frozen=True)
class Server:
    """A server that answers. `log` is what it printed so far."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def free_port() -> int:
    """A port nobody listens on; for a server that must come back where it was."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def app_server(folder: Path, *options: str, port: int | None = None, warm: bool = True) -> Iterator[Server]:
    """A server that keeps its results in `folder`/home and its log beside it, until the block ends; not `warm`,
    it leaves the demo alone until somebody asks for it.

    `options` go to `python -m app`. AssertionError, with the log, where it ends before it answers.
    """
    flag = "--port" if "--serve" in options else "--server.port"
    env = {**os.environ, "QBERT_HOME": str(folder / "home"), "QBERT_WARM": "yes" if warm else "no"}
    with serving(("app", *options, flag), folder / "server.log", env, port) as server:
        yield server


@contextmanager
def serving(
    command: tuple[str, ...], log: Path, env: dict[str, str], port: int | None = None
) -> Iterator[Server]:
    """What `python -m` this command and a port serves."""
    port = free_port() if port is None else port
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, str(port)], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env=env
        )
    server = Server(port, process, log)
    try:
        _await(server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _await(server: Server) -> None:
    deadline = time.monotonic() + START
    while True:
        try:
            with urllib.request.urlopen(f"{server.address}/_stcore/health", timeout=1):
                return
        except OSError:
            assert server.process.poll() is None, server.log.read_text()
            assert time.monotonic() < deadline, f"no answer in {START} s: {server.log.read_text()}"
            time.sleep(0.2)
