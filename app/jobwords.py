"""How far a job is, in words for the sidebar and for the pages that start jobs."""

from __future__ import annotations

from typing import Any

from app.figures import fmt_percent
from app.job import Job
from app.registries import jobs

STARTING = "Loading …"
# what a command counts; others: a share
UNITS = {"sensitivity": "run", "sweep": "row", "finetune": "step", "allocate": "plan"}
# command -> the page that shows its result
PAGES = {"sensitivity": "sensitivity", "density": "sensitivity", "sweep": "compare", "landscape": "landscape",
         "finetune": "finetune", "export": "export", "allocate": "bits"}  # fmt: skip


def page_of(job: Job) -> str:
    """The path of the page that shows its result; empty where none does."""
    if job.arguments[0] == "sweep" and "--frontier" in job.arguments:
        return "sensitivity"
    return PAGES.get(job.arguments[0], "")


def progress_words(job: Job) -> str:
    """For example "run 3 of 10, 2 min to go", or "waits, 2 before it"."""
    if job.state == "waiting":
        return queue_words(job)
    if job.state != "running":
        return {"done": "done", "failed": "failed", "cancelled": "cancelled"}[job.state]
    if job.silent_since is not None:
        return f"no sign of life since {job.silent_since:%H:%M}"
    if not job.total:
        return STARTING
    left = time_left(job)
    return _counted(job) + (f", {left} to go" if left else "")


def queue_words(job: Job) -> str:
    """Where a waiting job stands."""
    before = jobs().before(job)
    return f"waits, {before} before it" if before else "waits, next in turn"


def start_words(job: Job) -> str:
    """For a job that has not begun to count, on the page that started it."""
    if job.state == "running":
        return "Loading model and data …"
    before = jobs().before(job)
    return f"Waits its turn: {before} before it." if before else "Waits its turn: it is the next."


def time_left(job: Job) -> str:
    """For example "40 s"; empty while it cannot be judged."""
    # trainings measure in between, and know better
    known = job.partial.get("eta_seconds") if isinstance(job.partial, dict) else None
    seconds = known if isinstance(known, int | float) and known > 0 else job.remaining
    return "" if seconds is None else fmt_seconds(seconds)


def fmt_seconds(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`: as exact as an estimate is."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def share_done(job: Job) -> float:
    """0 to 1."""
    return min(max(job.done / job.total, 0.0), 1.0) if job.total else 0.0


def under_way(job: Job) -> dict[str, Any]:
    """What a sweep measures or finetunes at the moment; empty between two rows."""
    return (job.partial or {}).get("running") or {}


def sensitivity_first(job: Job) -> tuple[int, int] | None:
    """Eigenvalues done and all, while a sweep ranks the layers before its first row."""
    running = under_way(job) if job.arguments[0] == "sweep" else None
    if not running or "finetuned" in running:  # that is a row
        return None
    return int(running["done"]), int(running["total"])


def _counted(job: Job) -> str:
    command = job.arguments[0]
    done, total = job.done, job.total
    if command == "sensitivity":  # counts eigenvalues: of every run, one a block
        runs = int(job.option("--runs"))
        done, total = done * runs // total, runs
    first = sensitivity_first(job)
    if first:
        return f"sensitivity {fmt_percent(first[0] / max(first[1], 1), 0)}"
    if command not in UNITS:
        return fmt_percent(share_done(job), 0)
    return f"{UNITS[command]} {min(done + 1, total)} of {total}"
