"""`python -m app [streamlit options]`: the server, with the demo loading while it starts."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from app.registries import engine, jobs, live, workspaces


def warm() -> None:
    """Open the demo and measure the plan a new session begins with."""
    from app.workspace import Source

    opening = workspaces().open(Source(), timeout=120)
    if opening.workspace:
        live().want("server start", opening.workspace, opening.workspace.start)


if __name__ == "__main__":
    engine().start()  # before anything else: it takes longest
    threading.Thread(target=warm, daemon=True).start()
    jobs()  # what an earlier server left goes on before the first page is asked for
    from streamlit.web import cli

    sys.argv = ["streamlit", "run", str(Path(__file__).with_name("main.py")), *sys.argv[1:]]
    sys.exit(cli.main())
