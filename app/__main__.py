"""`python -m app [streamlit options]`: the server, with the demo loading while it starts."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from streamlit.web import cli


def warm() -> None:
    """Import the engine, open the demo and measure the plan a new session begins with."""
    from app.registries import live, workspaces
    from app.workspace import Source

    opening = workspaces().open(Source(), timeout=120)
    if opening.workspace:
        live().want("server start", opening.workspace, opening.workspace.start)


if __name__ == "__main__":
    threading.Thread(target=warm, daemon=True).start()
    sys.argv = ["streamlit", "run", str(Path(__file__).with_name("main.py")), *sys.argv[1:]]
    sys.exit(cli.main())
