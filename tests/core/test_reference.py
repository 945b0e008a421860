"""docs/commands.md is what the parsers say, every option is explained, and the documents hold what it says."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from qbert_core.cli import main, parser
from qbert_core.cli.documents import DOCUMENTS
from qbert_core.cli.reference import FILE, commands, reference
from tests.tiny import make_tiny

NAMES = [name for name, _ in commands(parser())]


def test_the_reference_is_what_the_parsers_give() -> None:
    assert FILE.read_text(encoding="utf-8") == reference(), "run python -m qbert_core.cli.reference"


@pytest.mark.parametrize("columns", ["40", "200"])
def test_it_does_not_depend_on_the_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = reference()
    monkeypatch.setenv("COLUMNS", columns)
    assert reference() == before


def test_every_command_and_every_option_is_explained() -> None:
    assert set(DOCUMENTS) == set(NAMES)
    for name, command in commands(parser()):
        assert command.description, name
        for action in command._actions:
            assert action.help, (name, action.dest)


@pytest.mark.parametrize("name", NAMES)
def test_every_example_is_one_the_parser_takes(name: str) -> None:
    assert DOCUMENTS[name].examples
    for example in DOCUMENTS[name].examples:
        assert example.startswith(f"{name} ")
        parser().parse_args(shlex.split(example))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Command -> the JSON it writes for a tiny model, each fed by those before it."""
    folder = tmp_path_factory.mktemp("reference")
    model = str(make_tiny(folder / "model", layers=2, hidden=4, intermediate=6))
    data = folder / "data.csv"
    sentences = ["a great film", "dull and slow", "i love this", "an awful movie", "warm", "boring too"] * 2
    data.write_text("sentence,label\n" + "".join(f"{s},{i % 2}\n" for i, s in enumerate(sentences)))
    trained, also, packed = folder / "trained", folder / "also", folder / "packed"
    measured = f"{model} --task sst2 --data {data}"
    learned = f"{model} --task sst2 --train {data}"
    training = f"{learned} --data {data} --epochs 1"
    lines = {
        "info": f"info {model}",
        "presets": f"presets {model}",
        "sensitivity": f"sensitivity {learned} --runs 2 --fraction 0.5",
        "density": f"density {learned} --layer 1 --steps 4 --probes 1",
        "landscape": f"landscape {learned} --layer 1 --steps 3",
        "allocate": f"allocate {model} --sensitivity {folder / 'sensitivity.json'} --bits 2,4 --high 1",
        "evaluate": f"evaluate {measured} --plan qbert-4",
        "sweep": f"sweep {measured} --groups 1,rows",
        "finetune": f"finetune {training} --save {trained}",
        "average": f"average {trained} {also} --task sst2 --data {data} --save {folder / 'mean'}",
        "export": f"export {model} --plan qbert-4 --save {packed} --data {data}",
        "store ls": "store ls",
        "store gc": "store gc --dry-run",
        "store export": f"store export {folder / 'units.jsonl.gz'}",
        "store import": f"store import {folder / 'units.jsonl.gz'}",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QBERT_HOME", str(folder / "home"))
        assert (
            main(shlex.split(f"finetune {training} --seed 1 --save {also} --out {folder / 'also.json'}")) == 0
        )
        for name, line in lines.items():
            out = folder / f"{name}.json"
            assert main([*shlex.split(line), "--out", str(out)]) == 0, line
    return {name: json.loads(Path(folder / f"{name}.json").read_text()) for name in lines}


@pytest.mark.parametrize("name", NAMES)
def test_the_document_holds_the_keys_it_is_said_to(name: str, written: dict[str, dict[str, Any]]) -> None:
    missing = set(DOCUMENTS[name].keys) - set(written[name])
    assert not missing
