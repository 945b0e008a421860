"""The tables of benchmarks/README.md, README.md and docs/fidelity.md, made from the JSON:
`python -m benchmarks.table [--check]`."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
FILES = (FOLDER / "README.md", ROOT / "README.md", ROOT / "docs" / "fidelity.md")
PART = re.compile(r"(<!-- results of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
SETTINGS = {
    "curvature": "Curvature",
    "no finetuning": "Plans without finetuning",
    "finetuned": "Plans finetuned quantization-aware",
}
TASKS = {"sst2": "SST-2", "conll03": "CoNLL-03", "mnli": "MNLI", "squad": "SQuAD"}
WORDS = ("confirmed", "not confirmed", "undecided")
# what README.md says of the speed: in words, the result it is in, and its row there or its goal
PERFORMANCE = (
    ("an edit to its first numbers on screen, seconds", "live", "first numbers, on screen"),
    ("an edit to its final numbers on screen, seconds", "live", "final numbers, on screen"),
    ("start of the process to the first live numbers, seconds", "startup", "first live numbers"),
    (
        "a one-layer edit, to a full evaluation by transformers with attention KL",
        "incremental",
        "A one-layer edit, attention measured, mean over layers, to the naive evaluation with attention KL",
    ),
    (
        "all layers' eigenvalues, to the authors' power iteration",
        "curvature_authors",
        "All layers' eigenvalues, ours to authors",
    ),
    (
        "all layers' eigenvalues, to the faster of two libraries",
        "curvature_libraries",
        "All layers' eigenvalues, ours to the best of the libraries",
    ),
)


def render(document: dict[str, Any]) -> str:
    """One result as Markdown: goals, tables, and where and how it was measured."""
    lines: list[str] = []
    for goal in document["goals"]:
        verdict = "met" if goal["met"] else "**missed**"
        lines.append(f"- {goal['what']}: {_cell(goal['value'])}; goal at most {goal['limit']:g}: {verdict}.")
    for table in document["tables"]:
        lines += [
            "",
            f"**{table['title']}**",
            "",
            _row(table["columns"]),
            _row(["---"] * len(table["columns"])),
        ]
        lines += [_row([_cell(cell) for cell in row]) for row in table["rows"]]
    machine, others = document["machine"], document.get("cores_taken_by_others")
    if others is None:  # no times were measured
        lines += [
            "",
            f"`{document['command']}` on {document['date'][:10]}: {machine['cpu']}, torch {machine['torch']}.",
        ]
        return "\n".join(lines).strip() + "\n"
    lines += [
        "",
        f"`{document['command']}` on {document['date'][:10]}, {document['minutes']:g} min: {machine['cpu']}, "
        f"{machine['cores']} cores, torch {machine['torch']} with {machine['torch_threads']} threads. "
        f"Load average before {document['load_average']['before'][0]:g}; other processes took "
        f"{others['median']:.2f} cores (median of the samples; worst {others['max']:.2f}), "
        f"{document['repeated_because_disturbed']} disturbed samples were repeated.",
    ]
    return "\n".join(lines).strip() + "\n"


def fill(text: str) -> str:
    """A document with every part between its marks made anew from results/NAME.json."""

    def part(match: re.Match[str]) -> str:
        if match[2] in SUMMARIES:
            return match[1] + SUMMARIES[match[2]]() + match[3]
        path = FOLDER / "results" / f"{match[2]}.json"
        if not path.is_file():
            return f"{match[1]}Not measured yet.\n{match[3]}"
        return match[1] + render(json.loads(path.read_text(encoding="utf-8"))) + match[3]

    return PART.sub(part, text)


def verdicts() -> str:
    """Every claim of the fidelity benchmark: its verdict and number in each task, a table a setting."""
    found: dict[str, dict[str, dict[str, str]]] = {title: {} for title in SETTINGS.values()}
    columns: dict[str, list[str]] = {title: [] for title in SETTINGS.values()}
    for title, name, verdict in _verdicts():
        low, high = verdict["interval"]
        number = f"{verdict['value']:.2f}" + (f" ({low:.2f} to {high:.2f})" if low < high else "")
        limit = f", limit {verdict['limit']:.3g}" if verdict["limit"] else ""
        found[title].setdefault(verdict["claim"], {})[name] = f"{verdict['verdict']}: {number}{limit}"
        columns[title] += [name] if name not in columns[title] else []
    lines = []
    for title, claims in found.items():
        own = columns[title]
        lines += ["", f"**{title}**", "", _row(["claim", *own]), _row(["---"] * (1 + len(own)))]
        lines += [_row([claim, *(cells.get(name, "") for name in own)]) for claim, cells in claims.items()]
    return "\n".join(lines) + "\n"


def verdict_counts() -> str:
    """How many claims have which verdict, a row a setting and task."""
    counts = Counter((title, name, verdict["verdict"]) for title, name, verdict in _verdicts())
    rows = dict.fromkeys((title, name) for title, name, _ in counts)
    lines = ["", _row(["claims about", "data", *WORDS]), _row(["---"] * (2 + len(WORDS)))]
    for title, name in rows:
        lines.append(_row([title.lower(), name, *(str(counts[title, name, word]) for word in WORDS)]))
    return "\n".join(lines) + "\n"


def performance() -> str:
    """The few numbers of `PERFORMANCE`, each with its goal where its benchmark has one."""
    lines = ["", _row(["what", "measured", "goal"]), _row(["---"] * 3)]
    for words, name, wanted in PERFORMANCE:
        document = json.loads((FOLDER / "results" / f"{name}.json").read_text(encoding="utf-8"))
        lines.append(_row([words, *_measured(document, wanted)]))
    return "\n".join(lines) + "\n"


def _measured(document: dict[str, Any], wanted: str) -> tuple[str, str]:
    """What a goal, or else a row of a table, says; `KeyError` where there is neither."""
    for goal in document["goals"]:
        if goal["what"] == wanted:
            return _cell(goal["value"]), f"at most {goal['limit']:g}"
    for table in document["tables"]:
        for first, *cells in table["rows"]:
            if first == wanted:
                named = zip(table["columns"][1:], cells, strict=True)
                return ", ".join(
                    _cell(cell) if len(cells) == 1 else f"{column} {_cell(cell)}" for column, cell in named
                ), ""
    raise KeyError(wanted)


def _verdicts() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(title of the setting, name of the task, verdict) of every claim that was judged."""
    for task, name in TASKS.items():
        path = FOLDER / "results" / f"fidelity_{task}.json"
        if path.is_file():
            for verdict in json.loads(path.read_text(encoding="utf-8"))["verdicts"]:
                yield SETTINGS[verdict["setting"]], name, verdict


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="say whether README and JSON agree; change nothing"
    )
    check = parser.parse_args().check
    differ = False
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        filled = fill(text)
        differ = differ or text != filled
        if not check:
            file.write_text(filled, encoding="utf-8")
    if check:
        print(
            "The documents and results/*.json",
            "differ: run python -m benchmarks.table" if differ else "agree",
        )
    return int(check and differ)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: str | float | dict[str, float]) -> str:
    """A text, a number, or a spread as `median (min to max)`."""
    if isinstance(cell, dict):
        return f"{_number(cell['median'])} ({_number(cell['min'])} to {_number(cell['max'])})"
    return cell if isinstance(cell, str) else _number(cell)


def _number(value: float) -> str:
    """Three digits that count, no exponent."""
    if isinstance(value, int) or value == 0:
        return f"{value:,}"
    digits = max(0, 2 - int(f"{value:e}".partition("e")[2]))
    return f"{value:.{digits}f}"


SUMMARIES = {"verdicts": verdicts, "verdict_counts": verdict_counts, "performance": performance}

if __name__ == "__main__":
    sys.exit(main())
