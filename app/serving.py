"""What `python -m app --serve` means: Streamlit's options, and the rule which files its users may open."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from qbert_core.access import VARIABLE, Access
from qbert_core.errors import InputError
from qbert_core.runtime.home import cache_home, data_home

UPLOADS = "QBERT_UPLOADS"  # MB that one upload may have; 0: none
UPLOAD_MB = 600  # BERT-base in fp32 has 440, and its zip a little more
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class _Parser(argparse.ArgumentParser):
    """One that raises `InputError` instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see docs/security.md")


@dataclass(frozen=True)
class Serving:
    """`streamlit`: options for its command line. `environment`: for this process, its engine and its jobs."""

    streamlit: tuple[str, ...]
    environment: dict[str, str]


def serving(arguments: Sequence[str]) -> Serving:
    """Read the command line; without `--serve` every option goes to Streamlit, and paths are free.

    Raises `InputError` for a root that is no folder, uploads that are no size, and an address for others
    without the names it is known by.
    """
    if "--serve" not in arguments:
        return Serving(tuple(arguments), {})
    parser = _Parser(prog="python -m app", allow_abbrev=False)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument("--allow-host", action="append", default=[])
    parser.add_argument("--root", action="append", default=[])
    parser.add_argument("--uploads", default="on")
    parser.add_argument("--base-path", default="")
    parser.add_argument("--hub", action="store_true")
    given, more = parser.parse_known_args(arguments)
    if more:
        raise InputError(f"--serve does not know {more[0]}; it sets Streamlit's options itself")
    hosts = tuple(given.allow_host)
    if not hosts:
        if given.address not in LOOPBACK:
            raise InputError(
                f"--address {given.address}: say by which names browsers may call the server, for example "
                f"--allow-host studio.example.org"
            )
        hosts = LOOPBACK[:2]
    if "*" in hosts:
        raise InputError("--allow-host *: any name lets other sites' pages in; give the server's own names")
    megabytes = _megabytes(given.uploads)
    options = [
        f"--server.address={given.address}", f"--server.port={given.port}",
        *(f"--server.allowedHosts={host}" for host in hosts),
        # behind a proxy that ends TLS the page's origin has the public name
        *(f"--server.corsAllowedOrigins={scheme}://{host}" for host in hosts for scheme in ("https", "http")),
        f"--browser.serverAddress={hosts[0]}", f"--server.baseUrlPath={given.base_path.strip('/')}",
        f"--server.maxUploadSize={max(1, megabytes)}", "--server.enableXsrfProtection=true",
        "--server.enableCORS=true", "--server.enableAgentApi=false", "--server.enableStaticServing=false",
        "--server.headless=true", "--client.showErrorDetails=none", "--client.toolbarMode=minimal",
        "--browser.gatherUsageStats=false",
    ]  # fmt: skip
    # the environment is inherited, so the rule holds in every process that opens a file
    rule = Access((*map(_root, given.root), *_own(), *_hub_cache(given.hub)), hub=given.hub)
    return Serving(tuple(options), {VARIABLE: rule.to_text(), UPLOADS: str(megabytes)})


def upload_megabytes() -> int:
    """The most MB that one upload may have in this server; 0 where there are none."""
    return int(os.environ.get(UPLOADS, UPLOAD_MB))


def _own() -> tuple[Path, ...]:
    """What the app itself writes for its users: uploads, whose folders nobody can guess, models and exports,
    and the plans that jobs read."""
    return cache_home() / "uploads", cache_home() / "plans", data_home() / "models", data_home() / "exports"


def _hub_cache(hub: bool) -> tuple[Path, ...]:
    if not hub:
        return ()
    from huggingface_hub.constants import HF_HUB_CACHE

    return (Path(HF_HUB_CACHE),)


def _root(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_dir():
        raise InputError(f"--root {text}: no such folder; give one that holds models or data")
    return path.resolve()


def _megabytes(text: str) -> int:
    if text in ("on", "off"):
        return UPLOAD_MB if text == "on" else 0
    if not text.isdecimal() or not 1 <= int(text) <= 4000:
        raise InputError(f"--uploads {text}; expected on, off, or a size in MB up to 4000")
    return int(text)
