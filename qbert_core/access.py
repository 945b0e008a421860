"""Which files on this machine a name given by somebody else may lead to.

On one's own machine: all. A server for others sets `QBERT_ACCESS`, which its engine and its jobs inherit,
so that the rule holds in the process that opens a file, whichever page or link the name came through.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from qbert_core.errors import InputError

VARIABLE = "QBERT_ACCESS"
DEMO = Path(__file__).resolve().parents[1] / "assets" / "demo"  # open to everybody


@dataclass(frozen=True)
class Access:
    """`roots`: folders below which files may be opened (None: anywhere). `hub`: whether names on the hub
    may be fetched."""

    roots: tuple[Path, ...] | None = None
    hub: bool = True

    def to_text(self) -> str:
        """For the environment."""
        roots = None if self.roots is None else [str(root) for root in self.roots]
        return json.dumps({"roots": roots, "hub": self.hub})

    def path(self, name: str | Path) -> Path:
        """The path `name` stands for, with `~`; where there are roots, free of symbolic links and below one.

        Raises `InputError` for a path elsewhere, in the same words whether something is there or not.
        """
        text = os.path.expanduser(name)  # noqa: PTH111 -- Path.expanduser raises for an unknown ~user
        if "\0" in text or len(text) > 4096:
            raise InputError(f"{text[:60]!r}: not a path")
        if self.roots is None:
            return Path(text)
        try:
            real = Path(os.path.realpath(text))  # a missing file has one too
        except OSError:
            raise self._refused(name) from None
        if not any(real.is_relative_to(os.path.realpath(root)) for root in (DEMO, *self.roots)):
            raise self._refused(name)
        return real

    def check_hub(self, name: str) -> None:
        """Raise `InputError` where names on the hub may not be fetched."""
        if not self.hub:
            raise InputError(
                f"{name}: this server fetches nothing from the hub; give demo, an upload, or ask its "
                f"operator for --hub"
            )

    def _refused(self, name: str | Path) -> InputError:
        return InputError(
            f"{name}: not in a folder that this server opens to its users; give demo, an upload, or ask its "
            f"operator for --root"
        )


def access() -> Access:
    """The rule of this process, from its environment."""
    text = os.environ.get(VARIABLE)
    if not text:
        return Access()
    raw = json.loads(text)
    roots = None if raw["roots"] is None else tuple(Path(root) for root in raw["roots"])
    return Access(roots, bool(raw["hub"]))
