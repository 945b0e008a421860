"""The house rules: who may import whom, and that what is imported is required."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
OURS = {"qbert_core", "app"}


def requirements() -> dict[str, Requirement]:
    """Canonical name -> line of requirements.txt, or of requirements-cluster.txt, which is optional."""
    files = [ROOT / "requirements.txt", ROOT / "requirements-cluster.txt"]
    lines = [line.split("#")[0].strip() for file in files for line in file.read_text().splitlines()]
    named = [line for line in lines if line and not line.startswith("-r")]
    return {canonicalize_name(r.name): r for r in map(Requirement, named)}


def imported_modules(file: Path) -> set[str]:
    """Top-level names of everything `file` imports, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module))
    return {name.partition(".")[0] for name in names}


def test_rooms_import_one_way_only() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_torch_is_pinned_exactly() -> None:
    assert str(requirements()["torch"]) == "torch==2.13.0"


@pytest.mark.parametrize("package", sorted(OURS))
def test_every_third_party_import_is_in_requirements(package: str) -> None:
    distributions = packages_distributions()
    missing = {
        f"{file.relative_to(ROOT)} imports {module}"
        for file in (ROOT / package).rglob("*.py")
        for module in imported_modules(file) - OURS - sys.stdlib_module_names
        if not {canonicalize_name(d) for d in distributions.get(module, ())} & requirements().keys()
    }
    assert not missing
