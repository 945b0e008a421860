"""`python -m app.engine FD`: the process that holds the models and measures plans.

The server starts it, talks to it over the socket FD, and starts it again if it dies; it ends when the
server does, however that ended. It never imports streamlit. What pages need beyond these requests
becomes a method here, and its counterpart in `process.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from dataclasses import replace
from multiprocessing.connection import Connection

from app.engine.channel import serve
from app.workspace import Source, Workspace, open_workspace
from qbert_core.evaluation import Evaluation, Inspection
from qbert_core.quantization import GroupAnatomy, Plan, SiteAnatomy
from qbert_core.runtime.events import Events


class Opened:
    """The workspaces open here, by the numbers the server gave them."""

    def __init__(self) -> None:
        self._workspaces: dict[int, Workspace] = {}

    def open(self, number: int, source: Source, events: Events) -> Generator[Workspace, None, None]:
        """Load a source; the reply is its workspace without the evaluator, which stays here."""
        workspace = self._workspaces[number] = open_workspace(source)
        yield replace(workspace, evaluator=None)  # type: ignore[arg-type]  # the server puts its own there

    def close(self, number: int, events: Events) -> Generator[None, None, None]:
        """Let a workspace go."""
        self._workspaces.pop(number, None)
        yield from ()

    def measure(self, number: int, plan: Plan, events: Events) -> Generator[Evaluation, None, None]:
        """A plan's evaluations, one after every batch."""
        yield from self._workspaces[number].evaluator.stream(plan, events=events)

    def inspect(
        self, number: int, plan: Plan, example: int | dict[str, str], layers: tuple[int, ...], events: Events
    ) -> Generator[Inspection, None, None]:
        """Both models on one example, with the attention of these layers."""
        yield self._workspaces[number].evaluator.inspect(plan, example, layers=layers, events=events)

    def group_anatomy(
        self, number: int, site: str, bits: int, groups: int, group: int, events: Events
    ) -> Generator[GroupAnatomy, None, None]:
        """One group of a site's weights under the quantizer."""
        yield self._workspaces[number].evaluator.group_anatomy(site, bits, groups, group)

    def errors_by_count(
        self, number: int, site: str, bits: int, counts: tuple[int, ...], events: Events
    ) -> Generator[tuple[float, ...], None, None]:
        """The error of a site's weights split into each of `counts` groups."""
        yield self._workspaces[number].evaluator.errors_by_count(site, bits, counts)

    def errors_by_width(
        self, number: int, site: str, groups: int, widths: tuple[int, ...], events: Events
    ) -> Generator[tuple[float, ...], None, None]:
        """The error of a site's weights at each of `widths` bits."""
        yield self._workspaces[number].evaluator.errors_by_width(site, groups, widths)

    def site_anatomy(
        self, number: int, site: str, bits: int, groups: int, clip: float, events: Events
    ) -> Generator[SiteAnatomy, None, None]:
        """A whole site's weights under the quantizer."""
        yield self._workspaces[number].evaluator.site_anatomy(site, bits, groups, clip)


def main() -> None:
    """Answer until the server has ended."""
    opened = Opened()
    serve(
        Connection(int(sys.argv[1])),
        {
            "open": opened.open,
            "close": opened.close,
            "measure": opened.measure,
            "inspect": opened.inspect,
            "group_anatomy": opened.group_anatomy,
            "errors_by_count": opened.errors_by_count,
            "errors_by_width": opened.errors_by_width,
            "site_anatomy": opened.site_anatomy,
        },
    )
    os._exit(0)  # at once: nobody is left to read what is still being computed


if __name__ == "__main__":
    main()
