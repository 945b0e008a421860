"""The tables of benchmarks/README.md, and that of the verdicts in README.md, made from the JSON:
`python -m benchmarks.table [--check]`."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
READMES = (FOLDER / "README.md", FOLDER.parent / "README.md")
PART = re.compile(r"(<!-- results of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
SETTINGS = {
    "curvature": "Curvature",
    "no finetuning": "Plans without finetuning",
    "finetuned": "Plans finetuned quantization-aware",
}
TASKS = {"sst2": "SST-2", "conll03": "CoNLL-03", "mnli": "MNLI", "squad": "SQuAD"}


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
    """README with every part between its marks made anew from results/NAME.json."""

    def part(match: re.Match[str]) -> str:
        if match[2] == "verdicts":
            return match[1] + verdicts() + match[3]
        path = FOLDER / "results" / f"{match[2]}.json"
        if not path.is_file():
            return f"{match[1]}Not measured yet.\n{match[3]}"
        return match[1] + render(json.loads(path.read_text(encoding="utf-8"))) + match[3]

    return PART.sub(part, text)


def verdicts() -> str:
    """Every claim of the fidelity benchmark: its verdict and number in each task, a table a setting."""
    found: dict[str, dict[str, dict[str, str]]] = {title: {} for title in SETTINGS.values()}
    columns: dict[str, list[str]] = {title: [] for title in SETTINGS.values()}
    for task, name in TASKS.items():
        path = FOLDER / "results" / f"fidelity_{task}.json"
        if not path.is_file():
            continue
        document = json.loads(path.read_text(encoding="utf-8"))
        for verdict in document["verdicts"]:
            title = SETTINGS[verdict["setting"]]
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="say whether README and JSON agree; change nothing"
    )
    check = parser.parse_args().check
    differ = False
    for readme in READMES:
        text = readme.read_text(encoding="utf-8")
        filled = fill(text)
        differ = differ or text != filled
        if not check:
            readme.write_text(filled, encoding="utf-8")
    if check:
        print(
            "The READMEs and results/*.json", "differ: run python -m benchmarks.table" if differ else "agree"
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


if __name__ == "__main__":
    sys.exit(main())
