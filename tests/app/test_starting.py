"""`python -m app` until it hands over to Streamlit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.server import ROOT

# Streamlit's command is the last step: in its place, wait for the thread that warms and say what it imported.
SCRIPT = """
import runpy, sys, threading
foreign = set()

def note(event, arguments):
    if event == "import" and threading.current_thread() is not threading.main_thread():
        foreign.add(arguments[0].split(".")[0])

def ends(*_):
    for thread in threading.enumerate():
        if thread.name == "warm":
            thread.join()
            print("warmed")
    print(*sorted(foreign & {"app", "numpy", "pandas", "plotly", "pyarrow", "qbert_core", "streamlit", "torch"}))

import streamlit.web
sys.modules["streamlit.web.cli"] = streamlit.web.cli = type(sys)("cli")
streamlit.web.cli.main = ends
sys.addaudithook(note)
sys.argv = ["app"]
runpy.run_module("app", run_name="__main__")
"""


def test_no_two_threads_import_at_once(tmp_path: Path) -> None:
    """A server once ended before it began: pandas was half imported by the one when the other asked for it."""
    started = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT, env={**os.environ, "QBERT_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert started.stdout.splitlines() == ["warmed", ""], started.stderr
