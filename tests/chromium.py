"""The browser for the tests: `python -m tests.chromium` prints its path, after installing one if need be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """$QBERT_CHROMIUM, else the first installed Chromium that runs, else the one Playwright downloaded."""
    given = os.environ.get("QBERT_CHROMIUM")
    if given:
        return given
    for name in NAMES:
        path = shutil.which(name)
        # Ubuntu's chromium-browser is a script that asks for a snap
        if path and subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0:
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def install_chromium() -> None:
    """Debian's package where that is possible, else Playwright's download. Output goes to stderr."""
    commands = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        install = "apt-get install -qy --no-install-recommends chromium fonts-liberation"
        commands = ["apt-get update -q".split(), install.split(), *commands]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in commands:
        subprocess.run(command, stdout=sys.stderr, env=environment, check=False)
        if find_chromium():
            return


if __name__ == "__main__":
    if not find_chromium():
        install_chromium()
    found = find_chromium()
    if found:
        print(found)
    else:
        print("no Chromium found and none could be installed: the browser tests are skipped", file=sys.stderr)
