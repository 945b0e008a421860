"""How well predicted harm ranks measured plans, and what refining by measurement is worth.

For every kind of block: a sensitivity of five runs, with traces, on training rows (or, with `--known`, five runs
of whole layers from `results/curvature_data.json`, which have no traces); then 60 random plans and the plans of
least predicted harm, all measured on rows that trained nothing (`sweep --frontier`); then, from
the best predicted plan of several sizes, `allocate --refine`, with several seeds of the halves, because one
split of some hundred examples says little.

Everything finished is kept in the store ($QBERT_HOME), so that the study can be interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import facts
from benchmarks.realdata import FILES, training_data, validation_data
from benchmarks.record import RESULTS, commit, rounded
from benchmarks.table import render
from qbert_core.checkpoints import load_checkpoint
from qbert_core.cli import main as command_line
from qbert_core.curvature import BlockSensitivity, Sensitivity, blocks_of

CLAIM = "Predicted harm orders plans as measuring them does, also among plans of one size"
SHARES = (0.15, 0.3, 0.5)  # of the way from the smallest to the largest plan: budgets to refine at
NAMES = {
    "omega": "Omega",
    "mean": "mean of lambda",
    "trace": "trace a parameter",
    "perturbation": "change of the weights alone (control)",
    "size": "size alone (control)",
}


def main() -> None:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--model", default="demo")
    made.add_argument("--task", default="sst2", choices=tuple(FILES))
    made.add_argument("--runs", type=int, default=5)
    made.add_argument("--fraction", type=float, default=0.01, help="of the training rows, a run")
    made.add_argument("--plans", type=int, default=60, help="random ones")
    made.add_argument("--tries", type=int, default=30, help="plans a refinement measures at most")
    made.add_argument("--blocks", default="layer,module")
    made.add_argument("--known", type=int, metavar="ROWS", help="take the runs of so many rows of that study")
    made.add_argument("--seeds", type=int, default=3, help="of the halves, for every size")
    made.add_argument("--keep", type=Path, help="a folder for what the commands write")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", type=Path)
    arguments = made.parse_args()
    began = datetime.now(UTC)
    samples: list[dict[str, Any]] = []
    studies: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="qbert-frontier-") as folder:
        for block in ("layer",) if arguments.known else arguments.blocks.split(","):
            place = arguments.keep or Path(folder)
            studies[block] = study(arguments, block, place)
            samples += refinements(arguments, block, studies[block], place)
    name = f"frontier_{arguments.task}"
    document = {
        "name": name,
        "claim": CLAIM,
        "command": f"python -m benchmarks.frontier {' '.join(sys.argv[1:])}".strip(),
        "date": began.isoformat(timespec="seconds"),
        "minutes": round((datetime.now(UTC) - began).total_seconds() / 60, 1),
        "commit": commit(),
        "machine": facts(),
        "settings": {key: str(value) for key, value in vars(arguments).items() if key not in ("out", "keep")},
        "studies": [kept(block, found) for block, found in studies.items()],
        "goals": [],
        "tables": [
            *(ranks_table(b, s) for b, s in studies.items()),
            halves_table(studies),
            gains_table(samples),
        ],
        "samples": samples,
    }
    path = arguments.out or RESULTS / f"{name}.json"
    path.write_text(json.dumps(rounded(document), indent=1) + "\n", encoding="utf-8")
    print(render(document))


def run(folder: Path, name: str, *command: str) -> dict[str, Any]:
    """What a command writes; this script ends where it does not end well."""
    out = folder / f"{name}.json"
    if command_line([*command, "--out", str(out)]):
        raise SystemExit(f"python -m qbert_core {' '.join(command)}: failed")
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def study(arguments: argparse.Namespace, block: str, folder: Path) -> dict[str, Any]:
    """The analysis of these blocks, and the plans it ranks."""
    data = ["--task", arguments.task, "--seed", str(arguments.seed)]
    if arguments.known:
        found = known_sensitivity(arguments)
        (folder / f"{block}-sensitivity.json").write_text(json.dumps(found.to_json()))
    else:
        run(
            folder, f"{block}-sensitivity", "sensitivity", arguments.model, *data,
            "--train", str(training_data(arguments.task)), "--runs", str(arguments.runs),
            "--fraction", str(arguments.fraction), "--block", block, "--trace", "10",
        )  # fmt: skip
    return run(
        folder, f"{block}-sweep", "sweep", arguments.model, *data, "--data", str(validation_data(arguments.task)),
        "--frontier", str(arguments.plans), "--sensitivity", str(folder / f"{block}-sensitivity.json"),
    )  # fmt: skip


def known_sensitivity(arguments: argparse.Namespace) -> Sensitivity:
    """The first runs of the study of how much data a ranking needs, which kept every run's eigenvalues."""
    checkpoint = load_checkpoint(arguments.model)
    written = json.loads((RESULTS / "curvature_data.json").read_text())["samples"]
    found = [
        one for one in written if (one["rows"], one["model"]) == (arguments.known, checkpoint.fingerprint)
    ]
    found = sorted(found, key=lambda one: one["round"])[: arguments.runs]
    if len(found) < arguments.runs:
        raise SystemExit(f"that study has {len(found)} runs of {arguments.known} rows of {arguments.model}")
    blocks = tuple(
        BlockSensitivity(
            block.name,
            block.layer,
            block.kind,
            tuple(one["lambdas"][place] for one in found),
            tuple(one["residual"] for one in found),  # of the layer where it is largest
        )
        for place, block in enumerate(blocks_of(checkpoint.config))
    )
    seconds, products = (sum(one[key] for one in found) for key in ("seconds", "products"))
    return Sensitivity(
        blocks, len(found), arguments.known, seconds, products, seed=0, model=checkpoint.fingerprint,
        data=found[0]["data"],
    )  # fmt: skip


def refinements(
    arguments: argparse.Namespace, block: str, ranked: dict[str, Any], folder: Path
) -> list[dict[str, Any]]:
    """From the best predicted plan of every size, with every seed of the halves."""
    sizes = [row["size_mb"] for row in ranked["rows"] if row["predicted"]]
    found = []
    for share in SHARES:
        budget = min(sizes) + share * (max(sizes) - min(sizes))
        for seed in range(arguments.seeds):
            document = run(
                folder, f"{block}-refined-{share:g}-{seed}", "allocate", arguments.model, "--bits", "2,3,4,8",
                "--sensitivity", str(folder / f"{block}-sensitivity.json"), "--budget-mb", repr(budget),
                "--refine", str(arguments.tries), "--task", arguments.task, "--seed", str(seed),
                "--data", str(validation_data(arguments.task)),
            )  # fmt: skip
            found.append({"block": block, "budget_mb": budget, **short(document["refine"])})
    return found


def short(refined: dict[str, Any]) -> dict[str, Any]:
    """A refinement without its plans."""
    made = {
        key: refined[key]
        for key in ("seed", "n_select", "n_report", "stopped", "difference", "loss_difference")
    }
    for side in ("start", "end"):
        made[side] = {
            key: refined[side][key] for key in ("size_mb", "harm", "select", "report", "plan_digest")
        }
    return {
        **made,
        "tried": len(refined["tried"]),
        "accepted": sum(one["accepted"] for one in refined["tried"]),
    }


def kept(block: str, found: dict[str, Any]) -> dict[str, Any]:
    """A study without what can be computed again from it: rows as a table or a figure needs them."""
    fields = ("name", "method", "plan_digest", "metrics", "interval", "loss", "size_mb", "predicted")
    return {
        "block": block,
        "model": found["model"],
        "data": {**found["data"], "source": Path(found["data"]["source"]).name},
        "sensitivity": {key: found["sensitivity"][key] for key in ("runs", "examples", "seed", "blocks")},
        "ranks": found["ranks"],
        "rows": [{key: row[key] for key in fields} for row in found["rows"]],
    }


def ranks_table(block: str, found: dict[str, Any]) -> dict[str, Any]:
    """Every predictor against the metric and against the loss."""
    ranks = found["ranks"]
    rows = [
        [
            NAMES[row["predictor"]], row["target"],
            *(_spread(row[name]) for name in ("spearman", "kendall", "near", "near_right")),
        ]
        for row in ranks["rows"]
    ]  # fmt: skip
    return {
        "title": f"How well predicted harm ranks {ranks['plans']} plans on {ranks['examples']} examples, "
        f"a {block} a block ({ranks['near_pairs']} pairs of nearly equal size; 95 % over plans and examples)",
        "columns": [
            "predicted by",
            "measured",
            "Spearman",
            "Kendall",
            "Kendall at equal size",
            "right at equal size",
        ],
        "rows": rows,
    }


def halves_table(studies: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How well the examples themselves can tell: one half against the other."""
    rows = []
    for block, found in studies.items():
        for half in found["ranks"]["halves"]:
            numbers = (half[name] for name in ("spearman", "kendall", "near", "near_right"))
            rows.append([block, half["target"], *("" if n is None else f"{n:.2f}" for n in numbers)])
    return {
        "title": "How well one half of the examples ranks the plans as the other half does",
        "columns": [
            "blocks",
            "measured",
            "Spearman",
            "Kendall",
            "Kendall at equal size",
            "right at equal size",
        ],
        "rows": rows,
    }


def gains_table(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """What refining gained where it was chosen, and on the examples that did not choose."""
    rows = []
    for sample in samples:
        metric = next(iter(sample["start"]["select"]["metrics"]))
        chosen = sample["end"]["select"]["metrics"][metric] - sample["start"]["select"]["metrics"][metric]
        told, loss = sample["difference"], sample["loss_difference"]
        rows.append([
            sample["block"], f"{sample['start']['size_mb']:.2f}", f"{sample['seed']}",
            f"{sample['accepted']} of {sample['tried']}", f"{100 * sample['start']['report']['metrics'][metric]:.1f}",
            f"{100 * chosen:+.1f}",
            f"{100 * told['mean']:+.1f} ({100 * told['interval'][0]:+.1f} to {100 * told['interval'][1]:+.1f})",
            "" if loss is None
            else f"{loss['mean']:+.3f} ({loss['interval'][0]:+.3f} to {loss['interval'][1]:+.3f})",
        ])  # fmt: skip
    for block in dict.fromkeys(sample["block"] for sample in samples):
        own = [sample for sample in samples if sample["block"] == block]
        mean = float(np.mean([sample["difference"]["mean"] for sample in own]))
        rows.append([f"{block}, mean", "", "", "", "", "", f"{100 * mean:+.1f}", ""])
    return {
        "title": "Refined by measurement: change on the half that chose, and on the other (points of the metric)",
        "columns": [
            "blocks", "MB", "seed", "steps", "start, other half, %", "where it chose", "on the other half (95 %)",
            "loss there (95 %)",
        ],
        "rows": rows,
    }  # fmt: skip


def _spread(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return ""
    if found["interval"] is None:
        return f"{found['value']:.2f}"
    low, high = found["interval"]
    return f"{found['value']:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
