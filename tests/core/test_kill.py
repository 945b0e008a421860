"""Kills at random moments lose nothing that was finished, and change no number.

A few moments of each; `python -m benchmarks.kills` takes 50 of each command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOMENTS = {"sensitivity": 5, "sweep": 3, "density": 2, "landscape": 2}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts by fork")
@pytest.mark.parametrize("command", MOMENTS)
def test_a_command_killed_again_and_again_ends_in_the_undisturbed_result(
    command: str, tmp_path: Path
) -> None:
    moments = int(os.environ.get("QBERT_KILLS", MOMENTS[command]))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.killing",
            command,
            "--moments",
            str(moments),
            "--folder",
            str(tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["moments"]) >= moments
    assert max(found["units"]) > 0, "no kill came after something was finished"
    assert found["rounds"] >= 1
    assert (found["lost"], found["unsound"], found["unequal"]) == (0, 0, 0)
