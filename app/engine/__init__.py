"""Loading and measuring in a process beside the server: same numbers, and pages never wait for it."""

from app.engine.channel import Failed
from app.engine.process import Engine, EngineDied

__all__ = ["Engine", "EngineDied", "Failed"]
