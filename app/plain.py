"""Text from outside in a page's markdown."""

from __future__ import annotations


def plain(text: str) -> str:
    """The text without markdown's powers: no link, picture, emphasis, formula or colour comes of it."""
    return "".join("\\" + c if c in "\\`*_{}[]()#+-.!|~$<>:&@" else c for c in " ".join(text.split()))
