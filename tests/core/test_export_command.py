"""The export command, its report and its recipe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import fake_quantize as their_fake_quantize
from compressed_tensors.quantization.utils import calculate_qparams

from qbert_core.bert import BertConfig
from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.cli import main
from qbert_core.cli.progress import Progress
from qbert_core.curvature import BlockSensitivity, Sensitivity
from qbert_core.errors import InputError
from qbert_core.export import load_exported
from qbert_core.export.environment import environment
from qbert_core.export.recipe import recipe
from qbert_core.export.report import POLICY, Source, report
from qbert_core.quantization import Plan, SitePlan, fake_quantize, preset_named, sites_of
from qbert_core.quantization.plan import uniform_plan
from qbert_core.quantization.simulate import ActivationRanges
from qbert_core.quantization.trained import TrainedQuantization, save_trained
from tests.tiny import make_tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QBERT_HOME", str(tmp_path / "home"))


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(make_tiny(tmp_path / "model"))


@pytest.fixture
def ner(tmp_path: Path) -> str:
    return str(make_tiny(tmp_path / "ner", "token"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "data.csv"
    rows = [f'"{s}",{i % 2}' for i, s in enumerate(["a great film", "dull and slow", "warm"] * 4)]
    path.write_text("sentence,label\n" + "\n".join(rows) + "\n")
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code = main(["export", *arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    document: dict[str, Any] = json.loads(captured.out)
    return document


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["export", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in captured.err
    return line


def test_the_command_writes_what_it_says(capsys, model, tmp_path):
    plan = tmp_path / "plan.json"
    made = replace(preset_named(load_checkpoint(model).config, "sst2", "qbert-mp-2-4"), name="mine")
    plan.write_text(json.dumps(made.to_json()))
    document = run(capsys, model, "--plan", str(plan), "--save", str(tmp_path / "out"), "--layout", "mixed")
    folder = tmp_path / "out"
    assert set(document["files"]) == {path.name for path in folder.iterdir()}
    assert document["size_mb"] == (folder / "model.safetensors").stat().st_size / 2**20
    assert document["stored_bits"] == [2, 4, 8]
    assert document["layout"] == "mixed"
    assert document["plan_digest"] == made.digest
    assert str(folder) in document["open_with"]
    opened = load_exported(folder)
    assert opened.plan == made
    assert opened.ranges is not None  # the demo's training sentences: the task is theirs
    assert document["activations"]["digest"] == opened.ranges.digest


def test_a_quantization_aware_model_exports_its_plan_and_ranges(capsys, model, tmp_path):
    checkpoint = load_checkpoint(model)
    sites = sites_of(checkpoint.config)
    plan = uniform_plan(sites, "aware", bits=3, groups=4, embedding_bits=8, activation_bits=8)
    ends = {site.name: (-0.5 - i, 1.5 + i / 9) for i, site in enumerate(sites) if site.layer is not None}
    ranges = ActivationRanges(ends, "its training", 77)
    save_trained(TrainedQuantization(plan, ranges), Path(model))
    run(capsys, model, "--plan", "trained", "--save", str(tmp_path / "out"))
    opened = load_exported(tmp_path / "out")
    assert opened.plan == plan
    assert opened.ranges is not None
    assert dict(opened.ranges.ranges) == ends
    assert (opened.ranges.source, opened.ranges.examples) == ("its training", 77)


def test_without_data_to_calibrate_on_weights_are_exported_with_a_warning(capsys, ner, tmp_path):
    assert main(["export", ner, "--plan", "qbert-4", "--save", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "no data to find their ranges on" in captured.err
    assert json.loads(captured.out)["activations"] is None


def test_wrong_input_is_one_line(capsys, model, data, tmp_path):
    save = str(tmp_path / "out")
    assert "nothing to write" in fails(capsys, model, "--plan", "qbert-4")
    assert "no such preset" in fails(capsys, model, "--plan", "qbert-5", "--save", save)
    assert "not trained for a plan" in fails(capsys, model, "--plan", "trained", "--save", save)
    assert "quantizes nothing" in fails(capsys, model, "--plan", "baseline", "--save", save)
    assert "needs --data" in fails(capsys, model, "--plan", "qbert-4", "--report", str(tmp_path / "r.html"))
    nowhere = str(tmp_path / "no" / "r.html")
    assert "no folder" in fails(capsys, model, "--plan", "qbert-4", "--report", nowhere, "--data", data)
    asked = ["--save", save, "--sensitivity", str(tmp_path / "s.json")]
    assert "give --report" in fails(capsys, model, "--plan", "qbert-4", *asked)
    assert not Path(save).exists()
    run(capsys, model, "--plan", "qbert-4", "--save", save)
    assert "--replace" in fails(capsys, model, "--plan", "qbert-4", "--save", save)
    run(capsys, model, "--plan", "qbert-3", "--save", save, "--replace")
    assert load_exported(Path(save)).plan.name == "qbert-3"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_one_line(capsys, model, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    line = fails(capsys, model, "--plan", "qbert-4", "--save", str(tmp_path / "locked" / "out"))
    assert "Permission denied" in line


def test_a_folder_that_cannot_be_made_is_one_line(capsys, model, tmp_path):
    (tmp_path / "file").write_text("")
    line = fails(capsys, model, "--plan", "qbert-4", "--save", str(tmp_path / "file" / "out"))
    assert "Not a directory" in line or "File exists" in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_ended_export_leaves_nothing(capsys, model, tmp_path, monkeypatch, number):
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def end(progress, done, total, partial=None):
        if done == 3:  # half way through packing
            seen.append(list(tmp_path.glob(".out.*.partial")))
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Progress, "progress", end)
    assert main(["export", model, "--plan", "qbert-4", "--save", str(tmp_path / "out")]) == 130
    captured = capsys.readouterr()
    assert (captured.out, captured.err.splitlines()[-1]) == ("", "interrupted")
    assert [len(found) for found in seen] == [1]
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []
    assert signal.getsignal(signal.SIGTERM) == before


# the report


class _Links(HTMLParser):
    """Whatever a browser could fetch or run, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe", "object", "base", "form"):
            self.found.append(tag)
        self.found += [name for name, _ in attributes if name in ("src", "href") or name.startswith("on")]
        if tag not in ("meta", "rect", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "line"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_holds_the_evaluations_numbers(capsys, model, data, tmp_path):
    sensitivity = tmp_path / "s.json"
    blocks = tuple(
        BlockSensitivity(f"bert.encoder.layer.{i}", i, "layer", (1.0 + i, 2.0 + i), (0.01, 0.02))
        for i in range(3)
    )
    sensitivity.write_text(json.dumps(Sensitivity(blocks, 2, 5, 1.0, 9).to_json()))
    out = tmp_path / "report.html"
    document = run(
        capsys,
        model,
        "--plan",
        "qbert-4",
        "--report",
        str(out),
        "--data",
        data,
        "--sensitivity",
        str(sensitivity),
    )
    assert (
        main(["evaluate", model, "--task", "sst2", "--data", data, "--plan", "qbert-4", "--attention"]) == 0
    )
    measured = json.loads(capsys.readouterr().out)
    assert document["metrics"] == measured["metrics"]
    page = _Links()
    page.feed(out.read_text())
    assert page.found == []
    assert page.open == []
    low, high = measured["interval"]
    kl = [value for heads in measured["attention_kl"] for value in heads]
    for said in (
        f"{100 * measured['metrics']['accuracy']:.2f} %",
        f"{100 * low:.2f} to {100 * high:.2f}",
        f"n = {measured['n']:,}",
        f"{measured['size_mb']:.2f} MB",
        f"largest {max(kl):.3f}" if max(kl) >= 0.01 else f"largest {max(kl):.1e}",
        "python -m qbert_core",
        torch.__version__,
    ):
        assert said in page.text, said
    assert f"{abs(3.5) + 0.5:.4g}" in page.text  # Omega of the last layer
    assert POLICY in out.read_text()


def test_hostile_names_are_text_in_the_report(tiny: Checkpoint):
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>'\"&\x00\u202e"
    plan = replace(preset_named(tiny.config, "sst2", "qbert-4"), name=evil)
    source = Source(evil, evil, evil, evil, 3, evil)
    page = _Links()
    page.feed(report(tiny.config, plan, source, {evil: evil}, [evil]))
    assert page.found == []
    assert page.open == []
    assert "<script>alert(1)</script>" in page.text
    assert "\x00" not in page.text
    assert "\u202e" not in page.text


def test_the_environment_names_versions_and_commit():
    found = environment()
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    if head.returncode == 0:
        assert found["Commit"].removesuffix("-dirty") == head.stdout.strip()


# the recipe


def yaml_groups(text: str) -> list[dict[str, Any]]:
    """The groups of a recipe, by the few rules it is written with."""
    groups: list[dict[str, Any]] = []
    for line in text.splitlines():
        key, _, value = line.strip().partition(": ")
        if key.startswith("group_"):
            groups.append({})
        elif key in ("targets", "weights", "input_activations"):
            groups[-1][key] = json.loads(value)
    return groups


@pytest.mark.parametrize("activation_bits", [8, 32])
def test_a_recipe_says_what_the_plan_does(tiny: Checkpoint, activation_bits: int) -> None:
    sites = sites_of(tiny.config)
    entries = tuple(
        (s.name, SitePlan((2, 3, 4, 8, 32)[i % 5], (1, 10**6)[i % 2])) for i, s in enumerate(sites)
    )
    plan = Plan("rows", activation_bits, entries)
    schemes = [QuantizationScheme.model_validate(group) for group in yaml_groups(recipe(plan, sites))]
    found = {name: scheme for scheme in schemes for name in scheme.targets}
    assert set(found) == {name for name, entry in entries if entry.quantized}
    for site in sites:
        entry = plan.sites[site.name]
        if not entry.quantized:
            continue
        weight = tiny.weights[site.parameter]
        args = found[site.name].weights
        assert isinstance(args, QuantizationArgs)
        assert (found[site.name].input_activations is not None) == (
            activation_bits == 8 and site.layer is not None
        )
        dims = {"keepdim": True} if args.strategy == "tensor" else {"dim": 1, "keepdim": True}
        low, high = (
            (weight.min().reshape(1), weight.max().reshape(1))
            if args.strategy == "tensor"
            else (weight.amin(**dims), weight.amax(**dims))
        )
        scale, zero = calculate_qparams(low, high, args)
        theirs = their_fake_quantize(weight, scale, zero, args)
        ours = fake_quantize(weight, entry.bits, entry.groups)
        steps = ((theirs - ours) / scale).abs()
        assert steps.max() < 1.01  # on the border between two codes
        assert (steps > 0.01).float().mean() < 0.02


def test_a_plan_that_does_not_map_says_why(tiny: Checkpoint) -> None:
    sites = sites_of(tiny.config)
    grouped = uniform_plan(sites, "g", bits=4, groups=8, embedding_bits=8, activation_bits=32)
    with pytest.raises(InputError, match="8 groups of rows"):
        recipe(grouped, sites)
    rows = uniform_plan(sites, "g", bits=4, groups=10**6, embedding_bits=8, activation_bits=32)
    with pytest.raises(InputError, match="percentile"):
        recipe(replace(rows, clip=99.0), sites)
    with pytest.raises(InputError, match="quantizes nothing"):
        recipe(preset_named(tiny.config, "sst2", "baseline"), sites)


def test_a_name_cannot_leave_the_recipes_comment(tiny: Checkpoint) -> None:
    sites = sites_of(tiny.config)
    plan = uniform_plan(
        sites, "x\nevil: 1\r\u2028evil: 2", bits=4, groups=1, embedding_bits=8, activation_bits=32
    )
    assert not any(line.startswith("evil") for line in recipe(plan, sites).splitlines())


def test_every_config_has_its_parts_in_the_report() -> None:
    config = BertConfig(
        head="token", labels=("O",), layers=2, heads=2, hidden=8, intermediate=8, vocabulary=9, positions=5,
        token_types=1,
    )  # fmt: skip
    plan = preset_named(config, "conll03", "qbert-mp-2-3")
    text = report(config, plan, Source("m", "f", "conll03", "d", 1, "none"), {}, [])
    assert text.count("2 x 128") + text.count("3 x 128") == 12
    assert "token type embeddings" in text
