"""What every command's JSON document holds, and examples: the part of the reference that no parser knows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """`keys`: the top level of the JSON that is always there. `examples`: arguments that run on the demo."""

    keys: dict[str, str]
    examples: tuple[str, ...]


INTRODUCTION = """\
# The command line

Made from the code by `python -m qbert_core.cli.reference`; do not edit it by hand.

Every command writes one JSON document to `--out FILE`, or to stdout with `-`, and nothing else there. Progress goes to
stderr. Exit code 0: done. 2: wrong input; one line on stderr says what was wrong and what would be right. 130:
interrupted. After `make run` the interpreter is `.venv/bin/python`.

- **MODEL** is a folder with `config.json`, `model.safetensors` and a tokenizer, a hub id (`owner/name`), or `demo`.
- **Data** (`--data`, `--train`) is a file (`.parquet .csv .tsv .json .jsonl`) with the task's columns, a hub data set
  (`hub:NAME[/CONFIG]:SPLIT`), or `demo`. `--limit N` takes the first N rows.
- **A plan** is a preset's name (see `presets`), a JSON file, or a document with a plan under `plan`, as `allocate` and
  `evaluate` write it. `trained` is the plan that a quantization-aware checkpoint was trained for. As JSON:
  `{"schema": 1, "name": "mine", "activation_bits": 8, "sites": {SITE: {"bits": 4, "groups": 128}, ..}}`,
  with an entry for every site that `info` lists; bits are 1 to 8, or 32 for fp32.
- A size in MB counts 2^20 bytes. Layers count from 0 here and from 1 on the pages.
  What every number means: [definitions.md](definitions.md).
- The same seed, data and machine give the same numbers.

| environment variable | what it sets |
| --- | --- |
| `QBERT_HOME` | where everything is kept (default `~/.cache/qbert-studio`, models `~/.local/share/qbert-studio`) |
| `QBERT_STORE_MB` | the largest size of the store, in MB (default 2048): [store.md](store.md) |
| `QBERT_PROGRESS` | `json`: progress as one JSON object a line, for programs |
"""

_MODEL = "fingerprint of the model: a digest of its tensors, shape, labels and vocabulary"
_DATA = "fingerprint of the examples"
_PLAN = "the plan measured"
_SIZES = {
    "size_mb": "MB that must be stored: packed weights, a scale and a zero point a group, the rest in fp32",
    "weights_mb": "MB by the paper's count: parameters times bits",
    "effective_bits": "stored bits a counted parameter",
}
_SAVED = {
    "metrics": "the task's metrics, by name, of what was saved, read back",
    "interval": "95 % interval of the main metric",
    "n": "examples measured on",
    "fingerprint": "of the saved model",
    "task": "the task",
    "data": "`source` and number of `examples` measured on",
    "command": "the command that made it",
    "environment": "Python, torch, threads, machine",
}

DOCUMENTS = {
    "info": Document(
        {
            "fingerprint": _MODEL,
            "task": "the task that the model's head fits",
            "head": "`sequence`, `token` or `question`",
            "labels": "the model's labels, by id",
            "layers": "encoder layers",
            "heads": "attention heads a layer",
            "sites": "every weight that can be quantized: `name`, `kind` (attention, ffn, embedding), `layer`, "
            "`rows`, `columns`, `params`",
            "size_mb": "MB in fp32: `total` = `embedding` + `encoder`; `unquantized` is the rest",
        },
        ("info demo",),
    ),
    "presets": Document({"plans": "every preset as a plan"}, ("presets demo",)),
    "sensitivity": Document(
        {
            "blocks": "a block: `name`, `layer`, `kind`, the `lambdas` and `residuals` of every run, `mean`, `std`, "
            "`omega`, and `risks`, bounds on the probability that a larger eigenvalue was missed",
            "runs": "runs computed",
            "examples": "examples a run",
            "seconds": "of computing, over all runs",
            "hvp_count": "Hessian-vector products; `hvp_rounded` of them in bfloat16",
            "stopped": "`runs`: as many as asked for; `stable`: the ranking was stable before",
            "stability": "how sure the set of high blocks is (bootstrap over the runs), from the third run on",
            "model": _MODEL,
            "data": _DATA,
            "seed": "the seed",
        },
        (
            "sensitivity demo --task sst2 --train demo --out sensitivity.json",
            "sensitivity demo --task sst2 --train demo --runs 30 --until-stable --high 3 --workers 2 "
            "--out sensitivity.json",
        ),
    ),
    "density": Document(
        {
            "block": "`name`, `layer`, `kind`, number of `parameters`",
            "nodes": "nodes of each probe's quadrature; `weights` beside them",
            "x": "points of the smeared density; `density` beside them, `sigma` of the Gaussian",
            "lowest": "lowest node, at least the lowest eigenvalue; `highest` likewise",
            "moments": "tr(H)/n and tr(H^2)/n by the quadratures",
            "trace": "XTrace's estimate with its standard error",
            "model": _MODEL,
            "data": _DATA,
            "seed": "the seed",
        },
        ("density demo --task sst2 --train demo --layer 2 --out density.json",),
    ),
    "landscape": Document(
        {
            "x": "points along the first eigenvector; `y` along the second",
            "loss": "mean loss in nats, a row for each y",
            "loss_at_zero": "the loss of the model as it is",
            "eigenvalues": "the two, largest magnitude first; `residuals` beside them",
            "quantized": "where quantizing this layer takes it: `x`, `y`, `loss`, `distance`, and `explained`, the "
            "share of the squared step that lies in the plane",
            "model": _MODEL,
            "data": _DATA,
            "seed": "the seed",
        },
        ("landscape demo --task sst2 --train demo --layer 2 --plan qbert-4 --out landscape.json",),
    ),
    "allocate": Document(
        {
            "plan": "the plan, ready for `--plan`",
            **_SIZES,
            "why": "a layer or block: `layer`, `omega`, `bits`, and its score or predicted harm",
        },
        (
            "allocate demo --sensitivity sensitivity.json --bits 2,4 --high 3 --out plan.json",
            "allocate demo --sensitivity sensitivity.json --bits 2,3,4,8 --budget-mb 15 --out plan.json",
        ),
    ),
    "evaluate": Document(
        {
            "metrics": "the task's metrics by name",
            "baseline": "those of the fp32 model on the same examples, with intervals",
            "n": "examples measured on",
            "interval": "95 % interval of the main metric; `intervals` of all",
            **_SIZES,
            "compression": "fp32 size over this one",
            "attention_kl": "KL in nats, layers x heads; null without `--attention`",
            "flips": "examples whose answer the plan changes",
            "predictions": "the answer to every example",
            "plan": _PLAN,
            "plan_digest": "its digest: equal plans have equal ones",
            "model": _MODEL,
            "data": _DATA,
            "calibration": "what the ranges of activations were found on",
            "seed": "the seed",
            "seconds": "of measuring",
        },
        (
            "evaluate demo --task sst2 --data demo --plan qbert-4 --attention",
            "evaluate demo --task sst2 --data demo --plan plan.json",
        ),
    ),
    "sweep": Document(
        {
            "experiment": "`methods`, `groups`, `modules` or `one-at-a-time`",
            "metric": "the task's main metric",
            "rows": "a plan each: `name`, `method`, `plan`, `applied`, `metrics`, `interval`, the paired `difference` "
            "from fp32, sizes, `finetuned`, `seed`",
            "sensitivity": "what ranked the layers, with `--methods`",
            "finetuning": "recipe and seeds, with `--finetune`",
            "model": _MODEL,
            "data": "`source`, number of `examples`, `fingerprint`",
            "calibration": "what the ranges of activations were found on",
            "seed": "the seed",
            "seconds": "in all",
        },
        (
            "sweep demo --task sst2 --data demo --train demo --methods",
            "sweep demo --task sst2 --data demo --groups 1,heads,128,rows",
            "sweep demo --task sst2 --data demo --train demo --one-at-a-time --plan qbert-2 --finetune --seeds 0,1",
        ),
    ),
    "finetune": Document(
        {
            **_SAVED,
            "epochs": "epochs trained",
            "seconds": "of training",
            "train": "`source` and number of `examples` trained on",
            "recipe": "every setting, the seed too",
            "curve": "loss and metric along the training",
        },
        (
            "finetune BASE --task sst2 --train train.parquet --data dev.parquet --save DIR",
            "finetune DIR --task sst2 --train train.parquet --data dev.parquet --plan plan.json --save QDIR",
        ),
    ),
    "average": Document(
        {**_SAVED, "models": "what was averaged", "parents": "their reports, where they have one"},
        ("average DIR DIR2 --task sst2 --data dev.parquet --save DIR3",),
    ),
    "export": Document(
        {
            "model": _MODEL,
            "task": "the task",
            "plan": "the plan exported",
            "plan_digest": "its digest",
            "activations": "where the ranges of activations come from; null where the plan needs none",
        },
        (
            "export demo --plan qbert-mp-2-3 --save packed --layout mixed",
            "export demo --plan plan.json --save PACKED --report report.html --task sst2 --data demo",
        ),
    ),
    "store ls": Document(
        {
            "path": "the store's file",
            "file_bytes": "its size",
            "limit_bytes": "the largest it may have",
            "kinds": "units, bytes, seconds of each kind",
            "units": "the last used ones",
            "trainings": "states of trainings that were stopped",
        },
        ("store ls --limit 5",),
    ),
    "store gc": Document(
        {
            "path": "the store's file",
            "dry_run": "whether nothing was changed",
            "limit_bytes": "what may be left",
            "removed": "units and trainings removed, and their bytes",
            "left_bytes": "what is left",
            "file_bytes": "the file's size `before` and `after`",
        },
        ("store gc --dry-run", "store gc --max-mb 500 --older-than 90"),
    ),
    "store export": Document(
        {
            "path": "the store's file",
            "file": "the file written",
            "file_bytes": "its size",
            "units": "units written",
            "unit_bytes": "their bytes",
            "left_out": "units that do not say what they answer, left out",
        },
        ("store export units.jsonl.gz",),
    ),
    "store import": Document(
        {
            "path": "the store's file",
            "file": "the file read",
            "added": "units added",
            "added_bytes": "their bytes",
            "known_before": "units that were there before",
        },
        ("store import units.jsonl.gz",),
    ),
}
