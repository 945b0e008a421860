"""Folders for trainings under way: each one process's at a time, swept when it was left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no such locks, so there age alone says what is left behind
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Leftover:
    """The folder of a training that was stopped, or is under way."""

    folder: Path
    bytes: int
    idle: float  # seconds since something was written
    in_use: bool


@contextmanager
def state_folder(home: Path, name: str) -> Iterator[Path | None]:
    """`home`/`name`, made, and this process's own until the end; None while it is another's.

    The lock is the kernel's, so a killed process leaves none behind. Raises OSError where no folder can
    be made.
    """
    folder = home / name
    lock = _claim(folder)
    try:
        yield None if lock is None else folder
    finally:
        if lock is not None:
            with contextlib.suppress(OSError):
                folder.rmdir()  # when nothing was written to it
            os.close(lock)


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Whether `folder`, which must be there, is this process's own until the end; not while it is another's.
    Always where there are no locks."""
    if fcntl is None:  # nor can a folder be opened there
        yield True
        return
    lock = _lock(folder)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def leftovers(home: Path) -> list[Leftover]:
    """What lies in `home`, the longest idle first."""
    found = []
    for folder in home.iterdir() if home.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            if folder.is_dir() and not folder.is_symlink():
                files = [file.lstat() for file in (folder, *folder.rglob("*"))]
                size = sum(file.st_size for file in files[1:])
                idle = time.time() - max(file.st_mtime for file in files)
                found.append(Leftover(folder, size, idle, _in_use(folder)))
    return sorted(found, key=lambda leftover: (-leftover.idle, leftover.folder))


def discard(leftover: Leftover) -> bool:
    """Remove the folder unless a training has it; whether it is gone."""
    lock = _lock(leftover.folder)
    if lock is None:
        return False
    try:
        shutil.rmtree(leftover.folder)
    finally:
        os.close(lock)
    return True


def _claim(folder: Path) -> int | None:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
        if lock is None:
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(lock).st_ino == folder.stat().st_ino:
                return lock
        os.close(lock)  # of a folder that was removed between the two calls


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock, or None while another one does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        pass  # a file system without locks, as some in networks: like Windows
    return descriptor


def _in_use(folder: Path) -> bool:
    lock = _lock(folder)
    if lock is None:
        return True
    os.close(lock)
    return False
