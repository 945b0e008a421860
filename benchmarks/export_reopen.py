"""Exports opened where nothing of this project is installed: only torch, transformers and compressed-tensors.

Makes a virtual environment with those three (or takes the one given), exports the demo and tiny models of
all three heads in both layouts, runs the code of each export's README there, and compares the logits with
the simulation's here.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from benchmarks.machine import facts
from benchmarks.record import RESULTS, commit, goal, rounded
from benchmarks.table import render
from qbert_core.bert import forward
from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.export import export_checkpoint
from qbert_core.export.card import opening_code
from qbert_core.export.layout import LAYOUTS
from qbert_core.quantization import ActivationRanges, Plan, Quantizer, SitePlan, sites_of
from tests.tiny import make_tiny

CLAIM = (
    "An export opens with only transformers and compressed-tensors installed, and computes what we simulate"
)
PACKAGES = ("torch==2.13.0", "transformers", "compressed-tensors")
LIMIT = 1e-5  # largest difference of a logit
ASK = """
import json, sys, torch
asked = json.load(open(sys.argv[1]))
ids, lengths = torch.tensor(asked["ids"]), torch.tensor(asked["lengths"])
mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
with torch.no_grad():
    out = model(input_ids=ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids))
logits = out.logits if "logits" in out else torch.stack([out.start_logits, out.end_logits], -1)
json.dump(logits.tolist(), open(sys.argv[2], "w"))
"""


def clean_python(folder: Path) -> Path:
    """The interpreter of an environment in `folder` with `PACKAGES` and what they need; made if missing."""
    python = folder / ("Scripts" if platform.system() == "Windows" else "bin") / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PACKAGES], check=True)
    return python


def installed(python: Path) -> dict[str, str]:
    """Name -> version of every package there."""
    command = [str(python), "-m", "pip", "list", "--format", "json"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {package["name"]: package["version"] for package in listed}


def all_bits(checkpoint: Checkpoint, bits: tuple[int, ...], groups: int) -> Plan:
    """The given bits in turn over the sites, tables included."""
    sites = sites_of(checkpoint.config)
    entries = tuple((site.name, SitePlan(bits[i % len(bits)], groups)) for i, site in enumerate(sites))
    return Plan("-".join(map(str, bits)), 32, entries)


def cases(folder: Path) -> Iterator[tuple[str, Checkpoint, Plan]]:
    """Models and plans; the tiny ones have widths that fill no 32-bit word."""
    for head in ("sequence", "token", "question"):
        model = load_checkpoint(make_tiny(folder / head, head, hidden=20, intermediate=36))
        yield f"tiny, {head}", model, all_bits(model, (8, 1, 2, 3, 4, 5, 6, 7, 32), 7)
    demo = load_checkpoint("demo")
    yield "demo", demo, all_bits(demo, (8, 2, 3, 4), 128)


def compared(python: Path, name: str, model: Checkpoint, plan: Plan, work: Path) -> Iterator[dict[str, Any]]:
    """Both layouts of one model: the largest difference of a logit, seconds to open, size of the file."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.config.vocabulary, (4, 16), generator=generator)
    lengths = torch.tensor([16, 9, 4, 12])
    asked = work / "asked.json"
    asked.write_text(json.dumps({"ids": ids.tolist(), "lengths": lengths.tolist()}))
    made = Quantizer(model, ActivationRanges(MappingProxyType({}), "none", 0)).model(plan)
    with torch.no_grad():
        expected = forward(made.weights, model.config, ids, torch.zeros_like(ids), lengths)
    for layout in LAYOUTS:
        folder = work / f"{name}-{layout}".replace(", ", "-")
        written = export_checkpoint(model, plan, folder, layout=layout)
        script, out = work / "open.py", work / "logits.json"
        script.write_text(opening_code(model.config.head, layout, str(folder)) + ASK)
        started = time.perf_counter()
        # -I: neither this folder nor PYTHONPATH is seen, so that nothing of this project can be imported
        subprocess.run([str(python), "-I", str(script), str(asked), str(out)], check=True, cwd=work)
        seconds = time.perf_counter() - started
        logits = torch.tensor(json.loads(out.read_text()))
        if model.config.head != "sequence":  # nobody reads what stands at padding
            real = torch.arange(ids.shape[1]) < lengths[:, None]
            difference = (logits - expected)[real].abs().max()
        else:
            difference = (logits - expected).abs().max()
        yield {
            "model": name,
            "layout": layout,
            "bits": plan.name,
            "difference": float(difference),
            "largest_logit": float(expected.abs().max()),
            "file_mb": written.size["file"],
            "promised_mb": written.size["promised"],
            "seconds": round(seconds, 1),
        }


def main() -> None:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--venv", type=Path, help="an environment to take, or where to make it")
    made.add_argument("--out", type=Path, default=RESULTS / "export_reopen.json")
    arguments = made.parse_args()
    began = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="qbert-reopen-") as folder:
        work = Path(folder)
        python = clean_python((arguments.venv or work / "venv").absolute())
        packages = installed(python)
        samples = [row for case in cases(work) for row in compared(python, *case, work)]
    columns = ["model", "layout", "bits", "difference", "largest_logit", "file_mb", "promised_mb"]
    document = {
        "name": "export_reopen",
        "claim": CLAIM,
        "command": "python -m benchmarks.export_reopen",
        "date": began.isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": facts(),
        "packages": packages,
        "goals": [goal("largest difference of a logit", max(s["difference"] for s in samples), LIMIT)],
        "tables": [
            {
                "title": "Logits of an export, opened without this project, against the simulation's",
                "columns": columns,
                "rows": [[sample[column] for column in columns] for sample in samples],
            }
        ],
        "samples": samples,
    }
    arguments.out.write_text(json.dumps(rounded(document), indent=1) + "\n", encoding="utf-8")
    print(render(document))


if __name__ == "__main__":
    main()
