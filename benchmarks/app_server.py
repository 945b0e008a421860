"""The app as a process of its own, and a browser that looks at it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.record import ROOT
from tests.chromium import find_chromium

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@dataclass(frozen=True)
class Server:
    """A running app: its address, the moment its process was started (seconds since 1970), and its number."""

    address: str
    started: float
    process: int

    def answers(self, timeout: float = 120) -> float:
        """Wait for the first answer to a request; returns the moment it came."""
        end = time.time() + timeout
        while time.time() < end:
            try:
                with urllib.request.urlopen(f"{self.address}/_stcore/health", timeout=5) as answer:
                    if answer.status == 200:
                        return time.time()
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.01)
        raise SystemExit(f"the app did not answer within {timeout:g} s")


@contextmanager
def running_app(home: Path | None = None) -> Iterator[Server]:
    """Start the app on a free port, with what `home` holds, else an empty store; stop it in the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as empty:
        environment = {**os.environ, "QBERT_HOME": str(home or empty), "HF_HUB_OFFLINE": "1"}
        started = time.time()
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "--server.port", str(port)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield Server(f"http://127.0.0.1:{port}", started, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def browser(*more: str) -> Iterator[Browser]:
    """A Chromium without a window; `more` are options of its command line."""
    path = find_chromium()
    if path is None:
        raise SystemExit("no Chromium here; `python -m tests.chromium` installs one")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS, *more])
        try:
            yield running
        finally:
            running.close()


def new_page(running: Browser) -> Page:
    return running.new_context(viewport={"width": 1280, "height": 800}).new_page()
