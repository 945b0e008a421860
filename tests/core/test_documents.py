"""README and docs/: links lead somewhere, commands are ones the parser takes, tables are those of the results."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from benchmarks.table import FILES, fill
from qbert_core.cli import parser

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "assets").rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
COMMAND = re.compile(r"^\s*(?:\S+=\S+ )*(?:\S*/)?python3? -m qbert_core (.+)$", re.MULTILINE)
EVERY = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def anchors(path: Path) -> set[str]:
    """GitHub's names of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@EVERY
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for one, other in LINK.findall(path.read_text(encoding="utf-8")):
        link = one or other
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@EVERY
def test_commands_are_ones_the_parser_takes(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")  # a command of several lines
    for line in COMMAND.findall(text):
        if ".." in line.split() or "COMMAND" in line or "[options]" in line:
            continue  # a form, not a command
        arguments = line.split(" > ")[0].split("#")[0]
        try:
            parser().parse_args(shlex.split(arguments))
        except SystemExit:
            pytest.fail(line)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_are_those_of_the_results(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "<!-- results of " in text
    assert fill(text) == text, "run python -m benchmarks.table"
