"""The command line: its JSON, its exit codes, its one-line errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from qbert_core.cli import main
from qbert_core.quantization import preset_named
from tests.tiny import make_tiny

ROOT = Path(__file__).resolve().parents[2]
SENTENCES = [
    "a great film",
    "dull and slow",
    "i love this funny story",
    "an awful movie , boring too",
    "warm",
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QBERT_HOME", str(tmp_path / "home"))


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(make_tiny(tmp_path / "model"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "data.csv"
    rows = [f'"{s}",{i % 2}' for i, s in enumerate(SENTENCES * 4)]
    path.write_text("sentence,label\n" + "\n".join(rows) + "\n")
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The JSON of a command that must succeed, with nothing else on stdout."""
    code = main(list(arguments))
    captured = capsys.readouterr()
    assert code == 0, captured.err
    document = json.loads(captured.out)
    assert isinstance(document, dict)
    return document


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The error line of a command that must be refused."""
    try:
        code = main(list(arguments))
    except SystemExit as stop:  # argparse's way
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if "/" not in line.split("  ")[0] or "error" in line]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in captured.err
    return lines[0]


def test_info_lists_sites_and_sizes(capsys, model):
    document = run(capsys, "info", model)
    assert document["task"] == "sst2"
    assert (document["layers"], document["heads"]) == (3, 2)
    assert len(document["sites"]) == 3 + 6 * 3
    assert set(document["sites"][0]) >= {"name", "kind", "layer", "rows", "columns", "params"}
    assert set(document["size_mb"]) == {"total", "embedding", "encoder", "unquantized"}


def test_presets_are_plans_that_evaluate_accepts(capsys, model, data, tmp_path):
    plans = run(capsys, "presets", model)["plans"]
    assert {"baseline", "directq-4", "qbert-2", "qbert-mp-2-3"} <= {plan["name"] for plan in plans}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plans[6]))
    by_file = run(capsys, "evaluate", model, "--task", "sst2", "--data", data, "--plan", str(path))
    by_name = run(capsys, "evaluate", model, "--task", "sst2", "--data", data, "--plan", plans[6]["name"])
    assert by_file["predictions"] == by_name["predictions"]
    assert by_file["plan_digest"] == by_name["plan_digest"]


def test_evaluate_has_the_documented_keys(capsys, model, data):
    document = run(
        capsys, "evaluate", model, "--task", "sst2", "--data", data, "--plan", "qbert-4", "--attention"
    )
    assert set(document) >= {
        "metrics", "baseline", "n", "interval", "size_mb", "compression", "effective_bits", "attention_kl",
        "flips", "seconds",
    }  # fmt: skip
    assert document["n"] == 20
    assert set(document["metrics"]) == {"accuracy"}
    assert len(document["attention_kl"]) == 3
    assert all(len(row) == 2 for row in document["attention_kl"])
    low, high = document["interval"]
    assert 0 <= low <= document["metrics"]["accuracy"] <= high <= 1
    without = run(capsys, "evaluate", model, "--task", "sst2", "--data", data, "--plan", "qbert-4")
    assert without["attention_kl"] is None
    assert without["metrics"] == document["metrics"]


def test_the_baseline_changes_nothing(capsys, model, data):
    document = run(
        capsys, "evaluate", model, "--task", "sst2", "--data", data, "--plan", "baseline", "--attention"
    )
    assert document["flips"] == []
    assert document["compression"] == 1
    assert document["metrics"]["accuracy"] == document["baseline"]["accuracy"]
    assert all(value == 0 for row in document["attention_kl"] for value in row)


def test_sensitivity_to_allocation_to_evaluation(capsys, model, data, tmp_path):
    found, plan = str(tmp_path / "s.json"), str(tmp_path / "p.json")
    arguments = ["sensitivity", model, "--task", "sst2", "--train", data, "--runs", "3", "--fraction", "0.5"]
    assert main([*arguments, "--out", found]) == 0
    assert capsys.readouterr().out == ""
    document = json.loads(Path(found).read_text())
    assert set(document) >= {"blocks", "runs", "examples", "seconds", "hvp_count", "stopped"}
    assert (document["runs"], document["examples"], document["stopped"]) == (3, 10, "runs")
    for block in document["blocks"]:
        assert len(block["lambdas"]) == 3
        assert max(block["residuals"]) <= 0.01
        assert block["omega"] == pytest.approx(abs(block["mean"]) + block["std"])

    run_again = run(capsys, *arguments)  # taken from the store
    assert [b["lambdas"] for b in run_again["blocks"]] == [b["lambdas"] for b in document["blocks"]]

    allocated = run(capsys, "allocate", model, "--sensitivity", found, "--bits", "2,4", "--high", "1")
    assert set(allocated) >= {"plan", "size_mb", "effective_bits", "why"}
    best = max(document["blocks"], key=lambda block: block["omega"])["layer"]
    assert allocated["why"][0] == {
        "layer": best, "omega": allocated["why"][0]["omega"], "score": allocated["why"][0]["omega"], "bits": 4,
    }  # fmt: skip
    for site, entry in allocated["plan"]["sites"].items():
        expected = 8 if "embeddings" in site else 4 if f"layer.{best}." in site else 2
        assert entry["bits"] == expected
    Path(plan).write_text(json.dumps(allocated))
    measured = run(capsys, "evaluate", model, "--task", "sst2", "--data", data, "--plan", plan)
    assert measured["size_mb"] == allocated["size_mb"]


def test_clip_narrows_the_ranges_and_is_part_of_the_plan(capsys, model, data):
    common = ["evaluate", model, "--task", "sst2", "--data", data, "--plan", "directq-4"]
    clipped = run(capsys, *common, "--clip", "95")
    assert clipped["plan"]["clip"] == 95
    assert clipped["plan_digest"] != run(capsys, *common)["plan_digest"]
    assert "clip 20" in fails(capsys, *common, "--clip", "20")


def test_finetune_reports_what_the_saved_model_scores_and_average_takes_several(
    capsys, model, data, tmp_path
):
    common = ["--task", "sst2", "--data", data]
    for seed in ("0", "1"):
        made = run(
            capsys, "finetune", model, *common, "--train", data, "--save", str(tmp_path / seed), "--epochs", "1",
            "--seed", seed, "--dtype", "float16",
        )  # fmt: skip
        assert set(made) >= {"metrics", "epochs", "seconds"}
        baseline = run(capsys, "evaluate", str(tmp_path / seed), *common, "--plan", "baseline")
        assert baseline["metrics"] == made["metrics"]
        assert baseline["model"] == made["fingerprint"]
    mean = run(
        capsys, "average", str(tmp_path / "0"), str(tmp_path / "1"), *common, "--save", str(tmp_path / "m")
    )
    assert len(mean["parents"]) == 2
    assert run(capsys, "info", str(tmp_path / "m"))["fingerprint"] == mean["fingerprint"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"--task": "mrpc"}, "task 'mrpc' is not known; there is sst2"),
        ({"--data": "/nowhere.csv"}, "/nowhere.csv: no such file"),
        ({"--data": "hub:a:b"}, "could not be read from the hub"),
        ({"--plan": "qbert-5"}, "presets are"),
        ({"--limit": "0"}, "expected at least 1 row"),
        ({"--limit": "x"}, "invalid int value"),
        ({"model": "/nowhere"}, "no such folder"),
        ({"model": "owner/name"}, "could not be fetched from the hub"),
        ({"--out": "/nowhere/x.json"}, "there is no folder /nowhere"),
        ({"--frobnicate": "1"}, "unrecognized arguments"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(capsys, model, data, change, says):
    options = {"--task": "sst2", "--data": data, "--plan": "qbert-4"} | change
    model = options.pop("model", model)
    arguments = [part for option in options.items() for part in option]
    assert says in fails(capsys, "evaluate", model, *arguments)


def test_a_head_that_does_not_fit_the_task_is_named(capsys, tmp_path, data):
    folder = str(make_tiny(tmp_path / "ner", head="token"))
    line = fails(capsys, "evaluate", folder, "--task", "sst2", "--data", data, "--plan", "qbert-4")
    assert "needs a sequence classification model with 2 labels" in line


def test_a_plan_of_another_model_is_refused(capsys, model, data, tmp_path, tiny):
    document = preset_named(tiny.config, "sst2", "qbert-4").to_json()
    document["sites"]["bert.encoder.layer.9.output.dense"] = {"bits": 4, "groups": 1}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    line = fails(capsys, "evaluate", model, "--task", "sst2", "--data", data, "--plan", str(path))
    assert "a plan for another model" in line


def test_allocate_refuses_what_does_not_fit(capsys, model, data, tmp_path):
    found = str(tmp_path / "s.json")
    assert main(["sensitivity", model, "--task", "sst2", "--train", data, "--runs", "1", "--out", found]) == 0
    capsys.readouterr()
    common = ["allocate", model, "--sensitivity", found]
    assert "high is 9" in fails(capsys, *common, "--bits", "2,4", "--high", "9")
    assert "two different widths" in fails(capsys, *common, "--bits", "2,2", "--high", "1")
    assert "whole numbers" in fails(capsys, *common, "--bits", "2;4", "--high", "1")
    other = str(make_tiny(tmp_path / "other", layers=2))
    line = fails(capsys, "allocate", other, "--sensitivity", found, "--bits", "2,4", "--high", "1")
    assert "the model has 0..1" in line
    Path(found).write_text("{")
    assert "not readable as JSON" in fails(capsys, *common, "--bits", "2,4", "--high", "1")


def test_a_full_disk_leaves_the_old_result_as_it_was(capsys, model, tmp_path):
    out = tmp_path / "info.json"
    out.write_text("old")
    # a file size limit answers like a full disk, for this process alone
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64));"
        f"from qbert_core.cli import main; sys.exit(main(['info', {model!r}, '--out', {str(out)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {out}: ")
    assert done.stderr.count("\n") == 1
    assert out.read_text() == "old"
    assert list(tmp_path.glob(".*partial")) == []


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
def test_out_writes_into_a_device_instead_of_replacing_it(capsys, model):
    assert "No space left" in fails(capsys, "info", model, "--out", "/dev/full")
    assert Path("/dev/full").is_char_device()


def test_ctrl_c_ends_with_130(model, data, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "qbert_core", "sensitivity", model, "--task", "sst2", "--train", data,
         "--runs", "100000", "--fraction", "1"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "QBERT_HOME": str(tmp_path)},
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline()  # the first progress line: it is at work
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert err.strip().endswith("interrupted")


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qbert_core", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def test_a_process_writes_only_json_on_stdout_and_its_progress_on_stderr(model, data):
    done = process("evaluate", model, "--task", "sst2", "--data", data, "--plan", "qbert-4")
    assert done.returncode == 0
    assert json.loads(done.stdout)["n"] == 20
    assert done.stderr.startswith("1/1 ")


def test_a_program_may_ask_for_every_event_as_json(model, data):
    done = process(
        "sensitivity", model, "--task", "sst2", "--train", data, "--runs", "2", "--fraction", "0.3",
        QBERT_PROGRESS="json",
    )  # fmt: skip
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(event["done"], event["total"]) for event in events] == [(i, 6) for i in range(1, 7)]
    assert [len(event["partial"]["blocks"]) for event in events] == [1, 2, 3, 3, 3, 3]
    final = json.loads(done.stdout)
    assert events[-1]["partial"]["blocks"] == final["blocks"]


def test_a_wrong_model_is_one_line_without_a_traceback_from_a_process_too(tmp_path):
    done = process("info", str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {tmp_path}: no config.json")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command", ["", "info", "evaluate", "sensitivity", "allocate", "finetune", "presets"]
)
def test_every_command_explains_itself(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([*filter(None, [command]), "--help"])
    assert stop.value.code == 0
    assert "usage: python -m qbert_core" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["info"], "the following arguments are required: MODEL"),
        (["sensitivities", "demo"], "invalid choice: 'sensitivities'"),
        (["evaluate", "demo"], "required: --task, --data, --plan"),
        (
            ["sensitivity", "demo", "--task", "sst2", "--train", "demo", "--block", "head"],
            "invalid choice: 'head'",
        ),
        (
            ["sensitivity", "demo", "--task", "sst2", "--train", "demo", "--runs", "1.5"],
            "invalid int value: '1.5'",
        ),
    ],
)
def test_wrong_usage_is_one_line(capsys, arguments, says):
    assert says in fails(capsys, *arguments)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--runs", "0"], "runs is 0"),
        (["--fraction", "0"], "fraction is 0.0"),
        (["--fraction", "nan"], "fraction is nan"),
        (["--tolerance", "1"], "tolerance is 1.0"),
        (["--seed", "-1"], "seed is -1"),
        (["--limit", "0"], "limit is 0"),
        (["--task", "cola"], "task 'cola' is not known"),
    ],
)
def test_sensitivity_out_of_range_is_one_line(capsys, model, data, options, says):
    assert says in fails(capsys, "sensitivity", model, "--task", "sst2", "--train", data, *options)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("text\nno comma\n", "column sentence, label is missing; found: text"),
        ("sentence,label\n", "no rows"),
        ("", "the file is empty"),
        ("sentence,label\ngood,2\n", "row 1: label 2 is not one of the model's: 0 (negative), 1 (positive)"),
        ('sentence,label\n"good,1\n', "not readable as csv"),
    ],
)
def test_broken_data_is_one_line_that_names_the_file(capsys, model, tmp_path, content, says):
    path = tmp_path / "broken.csv"
    path.write_text(content)
    for command in (["evaluate", model, "--plan", "qbert-4", "--data"], ["sensitivity", model, "--train"]):
        line = fails(capsys, *command, str(path), "--task", "sst2")
        assert says in line
        assert str(path) in line


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ("null", "not a plan"),
        ('{"plan": 5}', "not a plan"),
        ('{"schema": 2, "sites": {}}', "plan schema 2; this version reads 1"),
        ('{"schema": 1, "sites": {}}', "no entry for 21 of the model's sites"),
    ],
)
def test_a_broken_plan_file_is_one_line_that_names_it(capsys, model, data, tmp_path, content, says):
    path = tmp_path / "plan.json"
    path.write_text(content)
    line = fails(capsys, "evaluate", model, "--task", "sst2", "--data", data, "--plan", str(path))
    assert says in line
    assert str(path) in line


def test_allocation_out_of_range_is_one_line(capsys, model, data, tmp_path):
    found = str(tmp_path / "s.json")
    assert main(["sensitivity", model, "--task", "sst2", "--train", data, "--runs", "1", "--out", found]) == 0
    capsys.readouterr()
    for option, value, says in (
        ("--groups", "0", "groups 0; expected a whole number from 1"),
        ("--embedding-bits", "9", "bits 9; expected 1..8, or 32"),
        ("--high", "-1", "high is -1; expected 0 to 3"),
        ("--bits", "2,4,8", "expected two different widths"),
        ("--bits", "4,33", "expected two different widths"),
        ("--sensitivity", "/nowhere.json", "/nowhere.json: no such file"),
        ("--sensitivity", "/", "/: cannot be read: Is a directory"),
    ):
        asked = ("--sensitivity", found, "--bits", "2,4", "--high", "1", option, value)
        assert says in fails(capsys, "allocate", model, *asked)


def test_a_failed_command_leaves_the_old_result_as_it_was(capsys, model, data, tmp_path):
    out = tmp_path / "result.json"
    out.write_text("old")
    fails(capsys, "evaluate", model, "--task", "sst2", "--data", data, "--plan", "nope", "--out", str(out))
    assert out.read_text() == "old"
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "Is a directory" in fails(capsys, "info", model, "--out", str(folder))
    assert list(folder.iterdir()) == []
    assert "there is no folder" in fails(capsys, "info", model, "--out", str(out / "x.json"))


def test_a_store_that_cannot_be_written_costs_a_warning_not_the_result(
    capsys, model, data, monkeypatch, tmp_path
):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("QBERT_HOME", str(tmp_path / "a file"))
    assert main(["sensitivity", model, "--task", "sst2", "--train", data, "--runs", "2"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["runs"] == 2
    assert captured.err.count("warning: ") == 1


def test_the_same_question_has_the_same_answer_whatever_was_asked_before(capsys, model, data):
    question = ["evaluate", model, "--task", "sst2", "--data", data, "--plan", "qbert-2", "--attention"]
    first = run(capsys, *question)
    run(capsys, *question[:-3], "--plan", "directq-8")
    again = run(capsys, *question)
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in first.items() if k != "seconds"
    }
    # the seed orders the batches; a complete result does not depend on the order but for rounding of a sum
    other = run(capsys, *question, "--seed", "7")
    assert other["predictions"] == first["predictions"]
    assert other["metrics"] == first["metrics"]


def test_evaluate_takes_the_calibration_data_it_is_given(capsys, model, data):
    question = ["evaluate", model, "--task", "sst2", "--data", data, "--plan", "qbert-4"]
    given = run(capsys, *question, "--train", data)["calibration"]
    assert (given["source"], given["examples"]) == (data, 20)
    assert run(capsys, *question)["calibration"]["source"] == "demo train"


def test_a_limit_takes_the_first_rows(capsys, model, data):
    question = ["evaluate", model, "--task", "sst2", "--data", data, "--plan", "qbert-4"]
    few, all_rows = run(capsys, *question, "--limit", "3"), run(capsys, *question)
    assert few["n"] == 3
    assert few["predictions"] == all_rows["predictions"][:3]
    assert few["data"] != all_rows["data"]


@pytest.mark.parametrize(
    "options",
    [
        ["evaluate", "--seed", "-1"],
        ["finetune", "--seed", "-1"],
        ["finetune", "--batch-size", "0"],
        ["finetune", "--epochs", "0"],
        ["finetune", "--lr", "-1"],
        ["finetune", "--warmup", "nan"],
        ["finetune", "--average", "2"],
    ],
    ids=" ".join,
)
def test_a_number_out_of_range_is_one_line_that_names_it(capsys, model, data, tmp_path, options):
    command, name, value = options
    arguments = {
        "evaluate": ["--plan", "qbert-4"],
        "finetune": ["--train", data, "--save", str(tmp_path / "saved"), "--epochs", "1"],
    }[command]
    line = fails(capsys, command, model, "--task", "sst2", "--data", data, *arguments, name, value)
    assert name.strip("-").replace("-", "_") in line.replace("-", "_")


def test_a_model_without_finite_logits_is_one_line(capsys, model, data):
    path = Path(model) / "model.safetensors"
    weights = load_file(path)
    norm = "bert.encoder.layer.1.output.LayerNorm.weight"
    weights[norm] = weights[norm].sign() * 3e38
    save_file(weights, path)
    line = fails(
        capsys, "evaluate", model, "--task", "sst2", "--data", data, "--plan", "qbert-4", "--attention"
    )
    assert "finite" in line
