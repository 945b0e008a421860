"""The paper's experiments on real data, and a verdict on each of its claims.

    python -m benchmarks.fidelity MODEL --task sst2 [--finetune]

Everything that is finished lies in the store ($QBERT_HOME): the same command after a kill goes on. The
result, benchmarks/results/fidelity_TASK.json, is written after every stage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from app.reported import METHODS as REPORTED
from benchmarks.fidelity.claims import Verdict, of_attention, of_curvature, of_plans
from benchmarks.fidelity.contrast import Measured
from benchmarks.machine import facts
from benchmarks.realdata import FILES, training_data, validation_data
from benchmarks.record import RESULTS, begin, commit, rounded
from benchmarks.table import render
from qbert_core.allocation.experiments import Variant, group_counts, methods, modules
from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.curvature import Sensitivity
from qbert_core.evaluation import calibration
from qbert_core.quantization import plan_size
from qbert_core.runtime.sensitivity import stored_sensitivity
from qbert_core.runtime.store import Store
from qbert_core.runtime.sweep import Finetuning, Row, sweep
from qbert_core.tasks import Examples, Task, difference, grades, task_named
from qbert_core.tasks.data import read_table
from qbert_core.training import recipe_for

CLAIM = "The paper's claims, judged on this model and data"
GROUPS = ("1", "heads", "128", "rows")
# what is finetuned, the most telling first; a name that ends in * stands for all that begin so
TRAINED = (
    "baseline", "qbert-2", "qbert-mp-2-3-high*", "directq-4", "qbert-4", "directq-2", "reverse-2-3*",
    "directq-3", "qbert-3", "qbert-mp-2-3-paper", "qbert-mp-2-4-high*", "reverse-2-4*", "attention-1-2-mp",
    "ffn-1-2-mp", "hawq-2-3*", "embedding-4", "word-4", "position-4",
)  # fmt: skip
LEAST = ("baseline", "qbert-mp-2-3-high*", "qbert-2", "directq-4", "qbert-4")


class Printed:
    """Progress on stderr, a line a row."""

    def __init__(self) -> None:
        self._done = -1

    def progress(self, done: int, total: int, partial: Any = None) -> None:
        if done != self._done:
            self._done = done
            print(f"{done} of {total}", file=sys.stderr, flush=True)

    def check(self) -> None:
        """Ctrl-C arrives as KeyboardInterrupt."""


class Study:
    """One model on one task's data."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.task: Task = task_named(options.task)
        self.model: Checkpoint = load_checkpoint(options.model)
        train, data = training_data(options.task), validation_data(options.task)
        self.train = self._examples(train, None)
        self.data = self._examples(data, options.limit)
        self.store = Store()
        self.ranges = calibration(self.model, self.task, self.data, str(train))

    def _examples(self, path: Path, limit: int | None) -> Examples:
        return self.task.examples(read_table(path, limit=limit), self.model, path.name)

    def curvature(self) -> Sensitivity:
        options = self.options
        return stored_sensitivity(
            self.model, self.task, self.train, self.store, runs=options.runs,
            fraction=options.rows / len(self.train), granularity="layer", tolerance=0.01, seed=options.seed,
            events=Printed(), warn=_warn,
        )  # fmt: skip

    def variants(self, found: Sensitivity) -> list[Variant]:
        config = self.model.config
        every = [
            *methods(config, self.task.name, found),
            *group_counts(config, self.task.name, GROUPS, None),
            *modules(config, self.task.name),
        ]
        return list({variant.name: variant for variant in every}.values())

    def rows(self, variants: Sequence[Variant], finetuning: Finetuning | None) -> list[Row]:
        return sweep(
            self.model, self.task, self.data, self.ranges, "fidelity", variants, self.store,
            seed=self.options.seed, attention=True, finetuning=finetuning, events=Printed(), warn=_warn,
        )  # fmt: skip

    def grades(self, row: Row) -> np.ndarray:
        return grades(self.task, row.measured.predictions, self.data)

    def difference(self, row: Row) -> str:
        """To the fp32 model, points of the main metric."""
        value, (low, high) = difference(
            self.task, grades(self.task, row.baseline.predictions, self.data), self.grades(row)
        )
        return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"

    def finetuning(self) -> Finetuning:
        options = self.options
        recipe = recipe_for(self.task.name, True)
        for name in ("epochs", "lr"):
            if getattr(options, name) is not None:
                recipe = replace(recipe, **{name: getattr(options, name)})
        chosen = np.random.default_rng(options.seed).permutation(len(self.train))[: options.train_rows]
        return Finetuning(self.train.take(np.sort(chosen)), recipe, tuple(range(options.seeds)))


def verdicts(study: Study, found: Sensitivity, rows: Iterable[Row]) -> list[Verdict]:
    """All that can be judged by these rows."""
    by_key: dict[tuple[str, bool], list[Row]] = {}
    for row in rows:
        by_key.setdefault((row.variant.name, row.trained is not None), []).append(row)
    measured = Measured(
        study.task, {key: np.stack([study.grades(row) for row in own]) for key, own in by_key.items()}
    )
    kl = {key: np.mean([row.measured.attention_kl for row in own], axis=0) for key, own in by_key.items()}
    sizes = {
        name: plan_size(study.model.config, own[0].variant.plan).size_mb for (name, _), own in by_key.items()
    }
    made = of_curvature(found)
    for finetuned in (False, True):
        if any(key[1] == finetuned for key in by_key):
            made += of_plans(measured, sizes, finetuned) + of_attention(kl, finetuned)
    return made


def tables(
    study: Study, found: Sensitivity, rows: Sequence[Row], made: Sequence[Verdict]
) -> list[dict[str, Any]]:
    """Verdicts; every plan; the layers."""
    metric = study.task.metric
    reported = {(row.method, row.setting): row.numbers[-1].value for row in REPORTED[study.task.name]}
    plans = []
    for row in rows:
        size, low, high = plan_size(study.model.config, row.variant.plan), *row.measured.interval
        kl = row.measured.attention_kl
        plans.append([
            row.variant.name,
            f"seed {row.seed}" if row.trained else "no",
            f"{100 * row.measured.metrics[metric]:.1f} ({100 * low:.1f} to {100 * high:.1f})",
                study.difference(row),
                f"{size.size_mb:.1f}",
            f"{size.compression:.1f}",
            f"{float(np.mean(kl)):.3g}" if kl else "",
            _reported(row, reported),
        ])  # fmt: skip
    return [
        {
            "title": "Verdicts",
            "columns": ["claim", "setting", "verdict", "what must be above the limit", "value", "limit", "over"],
            "rows": [
                [v.claim, v.setting, v.verdict, v.what,
                 _with_interval(v), f"{v.limit:.3g}", v.n]
                for v in made
            ],
        },
        {
            "title": f"Every plan, n = {len(study.data)}",
            "columns": ["plan", "finetuned", f"{metric}, %", "to fp32, points", "MB", "times smaller",
                        "attention KL, nats", "paper's BERT-base, reported, %"],
            "rows": plans,
        },
        {
            "title": f"Layers, {found.runs} runs of {found.examples} training examples",
            "columns": ["layer", "lambda of each run", "mean", "std", "Omega"],
            "rows": [
                [f"L{b.layer + 1}", " ".join(f"{value:+.3g}" for value in b.lambdas), f"{b.mean:+.3g}",
                 f"{b.std:.3g}", f"{b.omega:.3g}"]
                for b in found.blocks
            ],
        },
    ]  # fmt: skip


def _with_interval(verdict: Verdict) -> str:
    low, high = verdict.interval
    return f"{verdict.value:.3f}" + (f" ({low:.3f} to {high:.3f})" if low < high else "")


def _reported(row: Row, reported: dict[tuple[str, str], float]) -> str:
    """The paper's number for the same method and bits; it finetuned, so beside finetuned rows only."""
    name = row.variant.name
    if not row.trained and name != "baseline":
        return ""
    method, _, bits = name.partition("-")
    key = (
        ("baseline", "fp32")
        if name == "baseline"
        else ({"qbert": "Q-BERT", "directq": "DirectQ"}.get(method, ""), bits)
    )
    if name.startswith("qbert-mp-"):
        key = ("Q-BERT mixed", "/".join(name.split("-")[2:4]))
    return f"{reported[key]:.2f}" if key in reported else ""


def write(study: Study, began: Any, found: Sensitivity, rows: Sequence[Row]) -> None:
    """The result so far."""
    options = study.options
    made = verdicts(study, found, rows)
    finetuning = study.finetuning() if options.finetune else None
    document = {
        "name": f"fidelity_{study.task.name}",
        "claim": CLAIM,
        "command": "python -m benchmarks.fidelity " + " ".join(sys.argv[1:]),
        "date": began[0].isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": facts(),
        "settings": {key: str(value) for key, value in vars(options).items() if key != "out"},
        "measured": {
            "model": study.model.name,
            "fingerprint": study.model.fingerprint,
            "data": {
                "source": study.data.source,
                "examples": len(study.data),
                "fingerprint": study.data.fingerprint,
            },
            "train": {"source": study.train.source, "examples": len(study.train)},
            "finetuning": finetuning
            and {
                "examples": len(finetuning.train),
                "recipe": vars(finetuning.recipe),
                "seeds": finetuning.seeds,
            },
        },
        "verdicts": [verdict.to_json() for verdict in made],
        "sensitivity": found.to_json(),
        "goals": [],
        "tables": tables(study, found, rows, made),
    }
    path = options.out or RESULTS / f"{document['name']}.json"
    path.write_text(json.dumps(rounded(document), indent=1) + "\n", encoding="utf-8")
    print(render(document))


def chosen(variants: Sequence[Variant], wanted: Sequence[str]) -> list[Variant]:
    """In the order wanted."""
    found = []
    for name in wanted:
        exact, start = name.rstrip("*"), name.endswith("*")
        found += [v for v in variants if v.name == exact or (start and v.name.startswith(exact))]
    return found


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("model", help="a folder or demo: finetuned on the task")
    options.add_argument("--task", required=True, choices=tuple(FILES))
    options.add_argument("--runs", type=int, default=10, help="draws for the eigenvalues")
    options.add_argument("--rows", type=int, default=64, help="training examples a draw")
    options.add_argument("--limit", type=int, help="measure on the first rows only")
    options.add_argument("--finetune", action="store_true", help="finetune the plans, too")
    options.add_argument("--least", action="store_true", help="finetune the fewest plans")
    options.add_argument("--few", action="store_true", help="measure those alone without finetuning, too")
    options.add_argument("--train-rows", type=int, default=8000, help="training examples to finetune on")
    options.add_argument("--epochs", type=int, help="default: the paper's")
    options.add_argument("--lr", type=float, help="default: the paper's")
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path)
    arguments = options.parse_args()
    began = begin()
    study = Study(arguments)
    found = study.curvature()
    variants = study.variants(found)
    if arguments.few:
        variants = chosen(variants, LEAST)
    rows = study.rows(variants, None)
    write(study, began, found, rows)
    if not arguments.finetune:
        return
    wanted = chosen(variants, LEAST if arguments.least else TRAINED)
    for count in range(2, len(wanted) + 1):  # one plan more each time: what is finished comes from the store
        trained = study.rows(wanted[:count], study.finetuning())
        write(study, began, found, [*rows, *(row for row in trained if row.trained)])


if __name__ == "__main__":
    main()
