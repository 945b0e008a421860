"""The registries every session shares: one of each in a server process.

Plain module state and not `st.cache_resource`, so that the server can begin to load the demo while it
starts, before there is a session. Imports are inside, so that the engine's process can be on its way
before this one imports torch.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.engine import Engine
    from app.inspections import Inspections
    from app.jobs import Jobs
    from app.live import Live
    from app.weights import Weights
    from app.workspace import Workspaces


@cache
def engine() -> Engine:
    from app.engine import Engine

    return Engine()


@cache
def live() -> Live:
    from app.live import Live

    return Live()


@cache
def inspections() -> Inspections:
    from app.inspections import Inspections

    return Inspections()


@cache
def weights() -> Weights:
    from app.weights import Weights

    return Weights()


@cache
def workspaces() -> Workspaces:
    from app.workspace import Workspaces

    return Workspaces(engine().open)


@cache
def jobs() -> Jobs:
    from app import planfiles
    from app.jobs import Jobs

    started = Jobs()
    planfiles.sweep({part for job in started.all() for part in job.arguments})
    return started
