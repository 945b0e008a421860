"""What the page *Export* hands out: a plan as a file and back in, a table of its sites, packed models as jobs."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from pathlib import Path

from app.csvs import csv_text
from app.planfiles import plan_path
from app.workspace import Workspace
from qbert_core.errors import InputError
from qbert_core.export.layout import Layout
from qbert_core.export.sidecar import FILE
from qbert_core.jsonfile import parse_json
from qbert_core.quantization import Plan, site_bytes, sites_of
from qbert_core.quantization.plan import parse_plan
from qbert_core.runtime.home import data_home

MAX_PLAN = 2**20  # bytes of a plan's file; a 24-layer model's has 12 KB
MAX_ZIP = 128 * 2**20  # bytes of a folder that is handed out as one file, made in memory


def plan_from_file(content: bytes, workspace: Workspace) -> Plan:
    """A plan's JSON, or a document that holds one under `plan`, as `allocate` and `evaluate` write.

    Raises `InputError` that says what is wrong with it.
    """
    if len(content) > MAX_PLAN:
        raise InputError(f"The file has {len(content):,} bytes; a plan has at most {MAX_PLAN:,}")
    try:
        document = parse_json(content)
    except ValueError:
        raise InputError(
            "The file is not JSON; expected a plan as this page or `allocate` writes it"
        ) from None
    if isinstance(document, dict) and "plan" in document:
        document = document["plan"]
    return parse_plan(document, sites_of(workspace.checkpoint.config), "The file")


def plan_text(plan: Plan) -> str:
    """The plan's file."""
    return json.dumps(plan.to_json(), indent=1) + "\n"


def file_name(plan: Plan, ending: str) -> str:
    """A plan's name, which may come from a link, as the name of a file."""
    kept = re.sub(r"[^A-Za-z0-9_-]+", "-", plan.name).strip("-")[:60]
    return f"{kept or 'plan'}.{ending}"


def sites_csv(workspace: Workspace, plan: Plan) -> str:
    """A row a site: its shape, its bits and groups, and what it takes. Layers count from 1 as on the pages."""
    rows = []
    for site in sites_of(workspace.checkpoint.config):
        entry = plan.sites[site.name]
        codes, ranges = site_bytes(site, entry)
        rows.append(
            (
                site.name, site.kind, "" if site.layer is None else site.layer + 1, site.rows, site.columns,
                site.params, entry.bits, entry.groups, entry.applied(site.rows), codes, ranges,
            )
        )  # fmt: skip
    header = (
        "site", "kind", "layer", "rows", "columns", "params", "bits", "groups", "groups_applied", "code_bytes",
        "range_bytes",
    )  # fmt: skip
    return csv_text(header, rows)


def exports_home() -> Path:
    """Where packed models are kept."""
    return data_home() / "exports"


def export_folder(workspace: Workspace, plan: Plan, layout: Layout) -> Path:
    """The folder of this model, plan, layout and data to calibrate on: the same ones find it again."""
    source = workspace.source
    asked = [workspace.checkpoint.fingerprint, plan.digest, layout, source.data, source.limit]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    return exports_home() / f"{plan.digest[:8]}-{layout}-{digest[:8]}"


def arguments(workspace: Workspace, plan: Plan, layout: Layout) -> list[str]:
    """The command. Equal settings give equal arguments, so they find their job again."""
    preset = next((p.name for p in workspace.presets if p.digest == plan.digest), None)
    return [
        "export", workspace.source.model, "--plan", preset or str(plan_path(plan)),
        "--save", str(export_folder(workspace, plan, layout)), "--layout", layout, "--replace",
        "--task", workspace.task.name, "--data", workspace.source.data, "--limit", str(workspace.source.limit),
    ]  # fmt: skip


def is_export(folder: Path) -> bool:
    """Whether an export lies there."""
    return (folder / FILE).is_file()


def zipped(folder: Path) -> bytes:
    """The folder's files as one; codes that are stored wider than they are become small again here."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{folder.name}/{path.name}")
    return out.getvalue()
