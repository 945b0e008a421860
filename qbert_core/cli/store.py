"""`store ls|gc|export|import`: what is kept of finished work, tidied up, taken elsewhere and brought back."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qbert_core.cli.parser import Commands
from qbert_core.errors import InputError

LISTED = 100
DAY = 86400.0


def ls_command(args: argparse.Namespace) -> dict[str, Any]:
    """What the store holds: units by kind, the last used ones, and trainings that were stopped."""
    from qbert_core.runtime.states import leftovers
    from qbert_core.runtime.store import Store
    from qbert_core.runtime.store.upkeep import training_home

    if args.limit < 0:
        raise InputError(f"--limit is {args.limit}; expected at least 0")
    store = Store()
    entries = [e for e in store.entries() if args.kind is None or e.kind == args.kind]
    kinds: dict[str | None, dict[str, Any]] = {}
    for entry in entries:
        total = kinds.setdefault(
            entry.kind, {"kind": entry.kind, "units": 0, "bytes": 0, "seconds": 0.0, "kept": 0}
        )
        total["units"] += 1
        total["bytes"] += entry.bytes
        total["seconds"] += entry.seconds or 0.0
        total["kept"] += entry.kept
    return {
        "path": str(store.path),
        "file_bytes": store.file_bytes(),
        "limit_bytes": store.limit,
        "kinds": sorted(kinds.values(), key=lambda total: -total["bytes"]),
        "units": [asdict(entry) | {"settings": _settings(entry.settings)} for entry in entries[: args.limit]],
        "trainings": [
            {"folder": str(s.folder), "bytes": s.bytes, "idle_seconds": s.idle, "in_use": s.in_use}
            for s in leftovers(training_home(store))
        ],
    }


def gc_command(args: argparse.Namespace) -> dict[str, Any]:
    """Remove what can be computed again: what was not used for long, then what is worth least.

    Saved plans, finetuned models, units marked as kept and trainings under way stay.
    """
    from qbert_core.runtime.store import Store
    from qbert_core.runtime.store.limit import MB
    from qbert_core.runtime.store.upkeep import collect

    store = Store()
    before = store.file_bytes()
    limit = store.limit if args.max_mb is None else int(args.max_mb * MB)
    removed = collect(
        store,
        limit=limit,
        older_than=None if args.older_than is None else args.older_than * DAY,
        dry_run=args.dry_run,
    )
    return {
        "path": str(store.path),
        "dry_run": args.dry_run,
        "limit_bytes": limit,
        "removed": {
            "units": removed.units,
            "unit_bytes": removed.unit_bytes,
            "trainings": [str(folder) for folder in removed.states],
            "training_bytes": removed.state_bytes,
        },
        "left_bytes": removed.used_bytes,
        "file_bytes": {"before": before, "after": store.file_bytes()},
    }


def export_command(args: argparse.Namespace) -> dict[str, Any]:
    """Write every unit to one file, to be imported elsewhere."""
    from qbert_core.runtime.store import Store
    from qbert_core.runtime.store.transfer import export_units

    store, path = Store(), Path(args.file)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"{path}: not a file that can be written; give one in a folder that is there")
    written = export_units(store, path)
    return {
        "path": str(store.path),
        "file": str(path),
        "file_bytes": path.stat().st_size,
        "units": written.units,
        "unit_bytes": written.bytes,
        "left_out": written.left_out,
    }


def import_command(args: argparse.Namespace) -> dict[str, Any]:
    """Add the units of an exported file that the store does not have.

    The file is checked, but nothing can tell whether its numbers are right: import from people you trust.
    """
    from qbert_core.runtime.store import Store
    from qbert_core.runtime.store.transfer import import_units

    store, path = Store(), Path(args.file)
    if path.is_dir():
        raise InputError(f"{path}: a folder; expected a file that `store export` wrote")
    added = import_units(store, path)
    return {
        "path": str(store.path),
        "file": str(path),
        "added": added.units,
        "added_bytes": added.bytes,
        "known_before": added.left_out,
    }


def _settings(text: str | None) -> Any:
    """The JSON object; numbers that are not finite, of which strict JSON knows none, by name."""
    return None if text is None else json.loads(text, parse_constant=str)


def amount(text: str) -> float:
    """A number of at least 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return value


def add(commands: Commands) -> None:
    """This file's commands and their options."""
    store = commands.group("store", "what is kept of finished work: ls, gc, export, import")
    c = store.add("ls", ls_command, model=None)
    c.add_argument("--kind", metavar="KIND", help="only units of this kind")
    c.add_argument("--limit", type=int, default=LISTED, metavar="N", help=f"units listed (default: {LISTED})")
    c = store.add("gc", gc_command, model=None)
    c.add_argument(
        "--max-mb", type=amount, metavar="MB", help="what may be left (default: $QBERT_STORE_MB, else 2048)"
    )
    c.add_argument(
        "--older-than",
        type=amount,
        metavar="DAYS",
        help="remove what was not used for so long (default: trainings 30 days, units never)",
    )
    c.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    c = store.add("export", export_command, model=None)
    c.add_argument("file", metavar="FILE", help="where the units go, for example units.jsonl.gz")
    c = store.add("import", import_command, model=None)
    c.add_argument("file", metavar="FILE", help="what `store export` wrote")
