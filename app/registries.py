"""The registries every session shares: one of each in a server process.

Plain module state and not `st.cache_resource`, so that the server can begin to load the demo while it
starts, before there is a session.
"""

from __future__ import annotations

from functools import cache

from app.jobs import Jobs
from app.live import Live
from app.workspace import Workspaces


@cache
def live() -> Live:
    return Live()


@cache
def workspaces() -> Workspaces:
    return Workspaces()


@cache
def jobs() -> Jobs:
    return Jobs()
