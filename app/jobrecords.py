"""Jobs on disk: a folder each, with what was asked, how far it came, and its result.

A folder's lock is held by the server whose job it is and freed by the system however that server ends. So
the next server finds the jobs nobody runs any more, and two servers with one home never share one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

SCHEMA = 1
RECORD, RESULT, LOCK = "record.json", "result.json", "lock"
STATES = ("waiting", "running", "done", "cancelled", "failed")
NAME = re.compile(r"(\d{8,})-[0-9a-f]{8}")
NEW = ".new-"  # a folder that is being made
MAX_RECORD = 64 * 2**20  # bytes of a record that are read


@dataclass(frozen=True)
class Record:
    """What is written of a job."""

    name: str
    owners: tuple[str, ...]  # sessions that asked for it
    arguments: tuple[str, ...]
    state: str
    done: int = 0
    total: int = 0
    partial: Any = None
    points: tuple[Any, ...] = ()
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, document: Any) -> Record:
        """Raises `ValueError` for what is no record of this version."""
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ValueError("no record of a job of this version")
        values = {field.name: document.get(field.name) for field in fields(cls)}
        texts = (values["owners"], values["arguments"])
        whole = (
            isinstance(values["name"], str)
            and values["state"] in STATES
            and all(isinstance(t, list) and all(isinstance(part, str) for part in t) for t in texts)
            and bool(values["arguments"])
            and all(type(values[count]) is int for count in ("done", "total"))
            and isinstance(values["points"], list)
            and isinstance(values["error"], str | None)
        )
        if not whole:
            raise ValueError("a field is missing or of the wrong kind")
        return cls(
            **{
                name: tuple(v) if isinstance(v, list) and name != "partial" else v
                for name, v in values.items()
            }
        )


class JobFolder:
    """One job's folder. `number` counts the jobs of a home and orders them, whatever the clock says."""

    def __init__(self, path: Path, number: int, lock: int | None) -> None:
        self.path = path
        self.number = number
        self._lock = lock

    @property
    def result(self) -> Path:
        return self.path / RESULT

    def write(self, record: Record, *, sync: bool) -> None:
        """Replace the record, whole or not at all; with `sync` it outlasts a power cut. Raises OSError."""
        partial = self.path / f"{RECORD}.partial"
        with partial.open("w", encoding="utf-8") as file:
            json.dump(record.to_json(), file)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(self.path / RECORD)

    def read(self) -> Record:
        """Raises OSError, `ValueError`."""
        path = self.path / RECORD
        if path.stat().st_size > MAX_RECORD:
            raise ValueError("the record is too large")
        try:
            return Record.from_json(json.loads(path.read_text(encoding="utf-8")))
        except RecursionError:
            raise ValueError("the record is nested too deep") from None

    def read_result(self) -> Any:
        """Raises OSError, `ValueError`."""
        try:
            return json.loads(self.result.read_text(encoding="utf-8"))
        except RecursionError:
            raise ValueError("nested too deep") from None

    def size(self) -> int:
        """Bytes of its files."""
        try:
            return sum(file.stat().st_size for file in self.path.iterdir())
        except OSError:
            return 0

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Let another server have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@dataclass(frozen=True)
class Found:
    """Jobs that are this process's now, newest first, and the folders that another one holds."""

    jobs: list[tuple[JobFolder, Record]]
    held: list[Path]


class JobRecords:
    """The folders below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self, record: Record) -> JobFolder:
        """A folder for a new job, with its record, held by this process. Raises OSError."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        unique = uuid.uuid4().hex[:8]
        new = self.root / f"{NEW}{unique}"
        new.mkdir(mode=0o700)
        lock = None
        try:
            lock = _locked(new)
            JobFolder(new, 0, None).write(record, sync=True)
            number = max((known for known, _ in self._named()), default=0) + 1
            path = self.root / f"{number:08d}-{unique}"
            new.rename(path)
        except OSError:
            if lock is not None:
                os.close(lock)
            shutil.rmtree(new, ignore_errors=True)
            raise
        return JobFolder(path, number, lock)

    def found(self, among: Collection[Path] | None = None) -> Found:
        """The jobs that no other server holds, newest first; now this process does. With `among` only those
        folders are looked at. A folder that cannot be read is passed over with a line."""
        jobs, held = [], []
        for number, path in self._named():
            if among is not None and path not in among:
                continue
            try:
                lock = _locked(path)
            except BlockingIOError:
                held.append(path)
                continue
            except FileNotFoundError:  # removed meanwhile
                continue
            except OSError as error:
                print(f"{path}: this job is left out: {error.strerror}", flush=True)
                continue
            folder = JobFolder(path, number, lock)
            try:
                jobs.append((folder, folder.read()))
            except (OSError, ValueError) as error:
                print(f"{path}: this job is left out, its record cannot be read ({error})", flush=True)
                folder.release()
        return Found(jobs, held)

    def sweep(self, keep: int) -> None:
        """Remove folders that no server holds: all but the newest `keep`, and those begun and never named."""
        for _, path in self._named()[keep:]:
            try:
                lock = _locked(path)
            except OSError:  # held, or gone meanwhile
                continue
            JobFolder(path, 0, lock).remove()
        try:
            begun = [path for path in self.root.iterdir() if path.name.startswith(NEW)]
        except OSError:
            begun = []
        for path in begun:
            try:
                lock = _locked(path)
            except OSError:
                continue
            JobFolder(path, 0, lock).remove()

    def _named(self) -> list[tuple[int, Path]]:
        """Numbers and folders of jobs, newest first."""
        try:
            found = [(NAME.fullmatch(path.name), path) for path in self.root.iterdir()]
        except OSError:
            return []
        return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def _locked(folder: Path) -> int | None:
    """Take the folder's lock: a descriptor to hold it by; None where the file system has no locks. Raises
    `BlockingIOError` where another server has it."""
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if error.errno in (errno.ENOLCK, errno.ENOTSUP):
            return None
        raise
    return lock
