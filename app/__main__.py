"""`python -m app [streamlit options]`, or `python -m app --serve ..` for others: the server, with the demo
loading while it starts."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from app.registries import engine, jobs, live, workspaces
from app.serving import serving
from qbert_core.errors import InputError


def warm() -> None:
    """Open the demo and measure the plan a new session begins with. QBERT_WARM=no leaves it out: a server for
    models of one's own need not spend its first seconds on it."""
    from app.workspace import Source

    opening = workspaces().open(Source(), timeout=120)
    if opening.workspace:
        live().want(None, opening.workspace, opening.workspace.start)


def ask_nobody() -> None:
    """Keep Streamlit from asking a service on the internet for this machine's address, which it would do
    whenever a page of another site tries to connect."""
    from streamlit import net_util

    net_util._external_ip = "127.0.0.1"


if __name__ == "__main__":
    try:
        options = serving(sys.argv[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    os.environ.update(options.environment)  # before the engine's process is started with it
    engine().start()  # before anything else: it takes longest
    # Imported before there is a second thread: of two that import pandas, one through streamlit and one through
    # torch, one may see a module that is half made, and the server ends before it has begun.
    from streamlit.web import cli

    if os.environ.get("QBERT_WARM") != "no":
        import app.live
        import app.workspace  # noqa: F401

        threading.Thread(target=warm, daemon=True, name="warm").start()
    jobs()  # what an earlier server left goes on before the first page is asked for
    ask_nobody()
    sys.argv = ["streamlit", "run", str(Path(__file__).with_name("main.py")), *options.streamlit]
    sys.exit(cli.main())
