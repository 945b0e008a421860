"""Hostile checkpoints, plans, data files and archives: each is used or refused in one line.

Every case runs in a worker process under limits of memory and time, whose audit hook notes a program
that is started, a connection that is opened, a pickle, and a file that is written elsewhere. A worker
that dies or hangs is a finding too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.mutations import KINDS

MEMORY = 768 * 2**20  # bytes a case may take on top of what the worker had: resident, at its peak
ADDRESSES = 4 * 2**30  # bytes of address space a worker may add
SECONDS = 5.0  # of processor time a case may take: what other processes do must not count
HANGS = 60.0  # seconds by the clock after which the worker is killed
LONGEST = 1200  # characters of a refusal
FORBIDDEN = (
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.spawn",
    "pty.spawn", "pickle.find_class", "marshal.loads", "socket.connect", "socket.bind", "ctypes.dlopen",
    "code.__new__",
)  # fmt: skip
BYTECODE = ("marshal.loads", "code.__new__", "open", "os.rename", "os.mkdir")
WRITES = (
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.truncate",
)


def main() -> None:
    from benchmarks.mutations import make_sound
    from benchmarks.record import RESULTS, begin, commit, goal, rounded
    from benchmarks.table import render

    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--cases", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--kinds", default=",".join(KINDS))
    options.add_argument("--out", type=Path, help="where the JSON goes instead of benchmarks/results")
    arguments = options.parse_args()
    kinds = arguments.kinds.split(",")
    began, before = begin()
    with tempfile.TemporaryDirectory(prefix="qbert-fuzz-") as folder:
        sound = make_sound(Path(folder))
        cases = [(kinds[i % len(kinds)], arguments.seed + i // len(kinds)) for i in range(arguments.cases)]
        reports = run(cases, sound, arguments.workers)
    findings = [report for report in reports if report["wrong"]]
    for report in findings[:40]:
        print(
            f"{report['kind']} {report['seed']}: {report['wrong']}\n{report.get('trace', '')[:2000]}",
            file=sys.stderr,
        )
    goals = [
        goal("cases that were neither used nor refused in one line", float(len(findings)), 0.0),
        goal("slowest case, processor seconds", max(r["seconds"] for r in reports), SECONDS),
        goal("most memory a case took, MB", max(r["mb"] for r in reports), MEMORY / 2**20),
    ]
    document = {
        "name": "fuzz",
        "claim": "A hostile file is used or refused in one line; nothing else happens",
        "command": f"python -m benchmarks.fuzz {' '.join(sys.argv[1:])}".strip(),
        "date": began.isoformat(timespec="seconds"),
        "minutes": round((time.time() - began.timestamp()) / 60, 1),
        "commit": commit(),
        "machine": _facts(),
        "load_average": {"before": before},
        "settings": {key: str(value) for key, value in vars(arguments).items() if key != "out"},
        "limits": {"seconds": SECONDS, "mb": MEMORY / 2**20, "address_space_mb": ADDRESSES / 2**20},
        "goals": goals,
        "tables": [table(reports)],
        "findings": findings,
        "samples": [],
    }
    path = arguments.out or RESULTS / "fuzz.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded(document), indent=1) + "\n", encoding="utf-8")
    print(render(document))
    sys.exit(1 if findings else 0)


def _facts() -> dict[str, Any]:
    from benchmarks.machine import facts

    return facts()


def table(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A row a kind."""
    rows: list[list[Any]] = []
    for kind in dict.fromkeys(report["kind"] for report in reports):
        own = [report for report in reports if report["kind"] == kind]
        count = Counter(report["outcome"] for report in own)
        rows.append(
            [
                kind, len(own), count["used"], count["refused"], len({r["message"] for r in own}),
                sum(bool(r["wrong"]) for r in own), max(r["seconds"] for r in own), max(r["mb"] for r in own),
            ]
        )  # fmt: skip
    columns = ["Kind", "Cases", "Used", "Refused", "Different refusals", "Wrong", "Slowest CPU s", "Most MB"]
    return {"title": "Hostile files", "columns": columns, "rows": rows}


def run(cases: Sequence[tuple[str, int]], sound: Path, workers: int) -> list[dict[str, Any]]:
    """A report for each (kind, seed), in their order."""
    parts = [cases[i::workers] for i in range(workers)]
    with ThreadPoolExecutor(workers) as threads:
        done = list(threads.map(lambda part: _drive(part, sound), parts))
    by_case = {(r["kind"], r["seed"]): r for reports in done for r in reports}
    return [by_case[case] for case in cases]


def _drive(cases: Sequence[tuple[str, int]], sound: Path) -> list[dict[str, Any]]:
    """Send the cases to one worker after another; a new one where it dies or hangs."""
    spawn = multiprocessing.get_context("spawn")
    reports: list[dict[str, Any]] = []
    worker, pipe = None, None
    for kind, seed in cases:
        if worker is None or pipe is None:
            pipe, theirs = spawn.Pipe()
            worker = spawn.Process(target=work, args=(theirs, str(sound)), daemon=True)
            worker.start()
            theirs.close()
            pipe.recv()  # ready
        began = time.monotonic()
        pipe.send((kind, seed))
        try:
            report = pipe.recv() if pipe.poll(HANGS) else None
            wrong = f"no answer for {HANGS:.0f} s"
        except EOFError:
            worker.join(10)
            report, wrong = None, f"the process died with code {worker.exitcode}"
        if report is None:
            worker.kill()
            worker.join()
            worker = None
            report = {
                "outcome": "none",
                "message": "",
                "mb": 0.0,
                "seconds": time.monotonic() - began,
                "wrong": wrong,
            }
        reports.append({"kind": kind, "seed": seed, **report})
        if len(reports) % 500 == 0:
            print(f"{len(reports)} of {len(cases)}", file=sys.stderr, flush=True)
    if worker is not None and pipe is not None:
        pipe.send(None)
        worker.join(20)
    return reports


# --- in the worker


def work(pipe: Connection, sound: str) -> None:
    """Answer cases until None comes."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="qbert-case-") as scratch:
        os.environ["QBERT_HOME"] = str(Path(scratch) / "home")
        tempfile.tempdir = scratch
        sys.stderr = sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 -- until the process ends
        for kind in KINDS:  # every import is done, and with it the files it writes, before the hook looks
            for seed in range(-3, 0):
                one(kind, seed, Path(sound), Path(scratch), [])
        seen: list[str] = []
        sys.addaudithook(lambda event, details: _note(event, details, scratch, seen))
        _limit_addresses()
        pipe.send("ready")
        while (case := pipe.recv()) is not None:
            seen.clear()
            pipe.send(one(*case, Path(sound), Path(scratch), seen))


def one(kind: str, seed: int, sound: Path, scratch: Path, seen: list[str]) -> dict[str, Any]:
    """Run a case in a folder of its own, which goes with it."""
    from benchmarks.mutations import mutated, tried
    from qbert_core.errors import InputError

    folder = scratch / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in mutated(kind, sound, seed).items():
        (folder / name).write_bytes(content)
    resident = _reset_peak()
    began, wrong, message, trace = time.process_time(), "", "", ""
    seen.clear()
    try:
        tried(kind, folder, sound)
        outcome = "used"
    except InputError as error:
        outcome, message = "refused", str(error)
        if len(message.splitlines()) != 1 or not message.isprintable() or len(message) > LONGEST:
            wrong = f"refused in other than one short line: {message[:300]!r}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        outcome, wrong = "none", f"{type(error).__name__}: {error!s:.300}"
        trace = "".join(traceback.format_exception(error)[-6:])
    seconds, mb = time.process_time() - began, max(0.0, (_status("VmHWM") - resident) / 2**20)
    if seen:
        wrong = f"{wrong} {outcome}, and did {', '.join(sorted(set(seen)))[:400]}".strip()
    if seconds > SECONDS or mb > MEMORY / 2**20:
        wrong = f"{wrong} {outcome} after {seconds:.1f} s with {mb:.0f} MB".strip()
    shown = message.replace(str(folder), "").replace(str(sound), "")[:160]
    report = {"outcome": outcome, "message": shown, "seconds": seconds, "mb": mb, "wrong": wrong}
    return report | ({"trace": trace.replace(str(scratch), "")} if trace else {})


def _note(event: str, details: tuple[Any, ...], scratch: str, seen: list[str]) -> None:
    if event in BYTECODE and _imports(scratch):
        return
    if event.startswith(FORBIDDEN):
        seen.append(f"{event} {details!r:.120}")
    elif event == "open" and isinstance(details[0], str | bytes) and _writes(details[1], details[2]):
        if not _inside(details[0], scratch):
            seen.append(f"open for writing {details[0]!r:.120}")
    elif event in WRITES and isinstance(details[0], str | bytes) and not _inside(details[0], scratch):
        seen.append(f"{event} {details[0]!r:.120}")


def _imports(scratch: str) -> bool:
    """Whether Python reads or keeps the bytecode of a module that a case is the first to import, none of the case's."""
    caller = sys._getframe(3)  # of the hook, who asked for what is noted
    if caller.f_code.co_filename != "<frozen importlib._bootstrap_external>":
        return False
    paths = [caller.f_locals.get(name) for name in ("bytecode_path", "path", "parent")]
    known = [path for path in paths if isinstance(path, str)]
    return bool(known) and not any(_inside(path, scratch) for path in known)


def _writes(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return any(c in mode for c in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _inside(path: str | bytes, scratch: str) -> bool:
    real = os.path.realpath(os.fsdecode(path))
    return real == "/dev/null" or real.startswith(os.path.realpath(scratch) + "/") or real == scratch


def _limit_addresses() -> None:
    limit = _status("VmSize") + ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _reset_peak() -> int:
    """Begin to count the peak of resident memory anew; returns what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> int:
    """A number of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


if __name__ == "__main__":
    main()
