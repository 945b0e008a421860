"""Files that a person gives through the browser, in a folder that belongs to their session alone.

A model is its few files or a .zip of them; anything else is a data file. Each is written in pieces,
opened once in a process with limits of its own, and only then offered to the engine, which everybody
shares. On pages and in fields it is called `upload:NAME`; where it lies is never shown.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.serving import UPLOAD_MB
from qbert_core.checkpoints.archive import FILES, unpack, write_file
from qbert_core.errors import InputError
from qbert_core.jsonfile import printable
from qbert_core.runtime.home import cache_home
from qbert_core.tasks.files import SUFFIXES

PREFIX = "upload:"
MB = 2**20
MAX_ITEMS = 8  # models and data files of a session
SESSION_BYTES = 2 * 2**30
ALL_BYTES = 8 * 2**30
RESERVE = 2**30  # bytes of the disk that uploads leave free
UNSEEN = 24 * 3600.0  # seconds after which a session's uploads go
SPARED = 3600.0  # seconds a session was seen within: its uploads are not for another's to take the place of
PATIENCE = 120.0  # seconds that opening an upload may take
ROOT = Path(__file__).resolve().parents[1]
_LOCK = threading.Lock()  # one upload at a time is written, so that two do not pass a limit together


def home() -> Path:
    """Below which every session's uploads lie."""
    return cache_home() / "uploads"


def is_upload(path: str) -> bool:
    """Whether this path lies below where uploads do: it must not get into links."""
    return "\0" not in path and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(home()))


def shown(path: str) -> str:
    """What a person calls it: an upload by its name, anything else as it is."""
    return PREFIX + Path(path).name if is_upload(path) else path


@dataclass(frozen=True)
class Given:
    """A file as the browser sent it."""

    name: str
    content: BinaryIO


@dataclass(frozen=True)
class Uploads:
    """One session's uploads. `key` is a secret of the session: who does not know it cannot name them."""

    key: str
    megabytes: int = UPLOAD_MB

    @property
    def folder(self) -> Path:
        return home() / self.key

    def names(self) -> list[str]:
        """What is there, as it can be asked for."""
        return [PREFIX + path.name for path in self._items()]

    def path_of(self, text: str) -> str:
        """The path that `upload:NAME` stands for; other texts as they are.

        Raises `InputError` for a name this session has not, and for a path into another's uploads.
        """
        if text.startswith(PREFIX):
            for path in self._items():
                if path.name == text.removeprefix(PREFIX):
                    return str(path)
            known = ", ".join(self.names()) or "none yet"
            raise InputError(f"{printable(text)}: not among this session's uploads ({known})")
        if (
            "\0" not in text
            and is_upload(text)
            and Path(os.path.realpath(text)) not in map(_real, self._items())
        ):
            raise InputError(f"{printable(text)}: not among this session's uploads; give upload:NAME")
        return text

    def store(self, files: Sequence[Given]) -> tuple[str | None, str | None]:
        """Keep one model, one data file, or both. Returns their names, None for what was not given.

        Raises `InputError` for anything else, for what is beyond a limit, and for what cannot be opened;
        then nothing of it is kept. OSError where it cannot be written.
        """
        model, data = _sorted(files)
        size = sum(_size(file) for file in files)
        if size > self.megabytes * MB:
            raise InputError(f"{size / MB:,.0f} MB, more than the {self.megabytes:,} allowed in one upload")
        kept: list[Path] = []
        try:
            with _LOCK:
                self._make_room(size)
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                if model:
                    kept.append(self._place(_model_name(model)))
                    self._write_model(model, kept[-1])
                if data:
                    kept.append(self._place(data.name))
                    write_file(data.content, kept[-1], self.megabytes * MB, printable(data.name))
            for path in kept:
                examine(path)
        except BaseException:
            for path in kept:
                _remove(path)
            raise
        names = [PREFIX + path.name for path in kept]
        return (names[0] if model else None), (names[-1] if data else None)

    def seen(self) -> None:
        """The session is there: its uploads stay."""
        if self.folder.is_dir():
            os.utime(self.folder)

    def _items(self) -> list[Path]:
        folder = self.folder
        return sorted(path for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []

    def _make_room(self, size: int) -> None:
        sweep()
        if len(self._items()) >= MAX_ITEMS or _bytes_in(self.folder) + size > SESSION_BYTES:
            raise InputError(
                f"this session has {len(self._items())} uploads of {_bytes_in(self.folder) / MB:,.0f} MB; "
                f"{MAX_ITEMS} of {SESSION_BYTES / MB:,.0f} MB are allowed. Reload the page to begin anew"
            )
        home().mkdir(parents=True, exist_ok=True, mode=0o700)
        if _bytes_in(home()) + size > ALL_BYTES or shutil.disk_usage(home()).free < size + RESERVE:
            raise InputError("the server has no room for another upload now; try again later")

    def _place(self, name: str) -> Path:
        """A new path for this name; its letters are of a harmless kind, and it is not taken."""
        suffix = "".join(s for s in SUFFIXES if name.endswith(s))[:8]
        stem = re.sub(r"[^\w-]+", "-", name.removesuffix(suffix), flags=re.ASCII).strip("-_")[:40] or "upload"
        taken = {path.name.lower() for path in self._items()}
        number = 1
        while (made := f"{stem}{f'-{number}' if number > 1 else ''}{suffix}").lower() in taken:
            number += 1
        return self.folder / made

    def _write_model(self, files: Sequence[Given], path: Path) -> None:
        path.mkdir(mode=0o700)
        if files[0].name.endswith(".zip"):
            # weights hardly shrink, so what comes out has about the archive's size
            unpack(files[0].content, printable(files[0].name), path, 2 * self.megabytes * MB)
            return
        for file in files:
            write_file(file.content, path / file.name, FILES[file.name], file.name)


def new_key() -> str:
    """A secret that names a session's folder."""
    return secrets.token_hex(16)


def sweep(now: float | None = None) -> None:
    """Remove the uploads of sessions not seen for a day, and the longest unseen where there are too many."""
    now = time.time() if now is None else now
    folders = sorted((path.stat().st_mtime, path) for path in home().glob("*") if path.is_dir())
    total = _bytes_in(home())
    for seen, path in folders:
        if now - seen > UNSEEN or (total > ALL_BYTES and now - seen > SPARED):
            total -= _bytes_in(path)
            shutil.rmtree(path, ignore_errors=True)


def examine(path: Path) -> None:
    """Open a model or a data file in a process of its own, with limits of memory and time.

    Raises `InputError` with what that process says is wrong, or that it did not come to an end.
    """
    name = PREFIX + path.name
    command = [sys.executable, "-P", "-m", "app.examine", str(path)]
    search = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InputError(f"{name}: takes more than {PATIENCE:.0f} s to open; give a smaller one") from None
    if done.returncode == 0:
        return
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    lines = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    if not lines:
        raise InputError(f"{name}: cannot be opened within the limits of memory and time; is it damaged?")
    raise InputError(lines[-1].replace(str(path), name))


def _sorted(files: Sequence[Given]) -> tuple[list[Given], Given | None]:
    """The model's files (or its .zip) and the data file."""
    names = [file.name for file in files]
    model = [file for file in files if file.name in FILES]
    archives = [file for file in files if file.name.endswith(".zip")]
    rest = [file for file in files if file not in model and file not in archives]
    if not files:
        raise InputError("no files; give a model's files or its .zip, a data file, or both")
    if len(set(names)) < len(names):
        raise InputError("two files have the same name; give one model at a time")
    for file in rest:
        if not file.name.endswith(SUFFIXES):
            raise InputError(
                f"{printable(file.name)}: neither a data file ({' '.join(SUFFIXES)}) nor one of a model: "
                f"{', '.join(FILES)}, or a .zip of them"
            )
    if len(rest) > 1 or len(archives) > 1 or (archives and model):
        raise InputError("more than one model or data file; give one of each at a time")
    if model and not {"config.json", "model.safetensors"} <= set(names):
        raise InputError("a model needs config.json, model.safetensors, and tokenizer.json or vocab.txt")
    return archives or model, rest[0] if rest else None


def _model_name(files: Sequence[Given]) -> str:
    return files[0].name.removesuffix(".zip") if files[0].name.endswith(".zip") else "model"


def _size(file: Given) -> int:
    end = file.content.seek(0, 2)
    file.content.seek(0)
    return end


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _bytes_in(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
