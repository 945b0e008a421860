"""The jobs of one browser session: started, cancelled, and told from those of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from app import state
from app.job import Job
from app.polling import draw_until
from app.presses import pressed
from app.registries import jobs
from qbert_core.errors import InputError

LOOK = 1.0  # seconds: each look costs the browser a tenth of a second, and a job takes minutes


def own_jobs() -> list[Job]:
    """Those that this session may see in full, newest first."""
    return [job for job in jobs().all() if state.mine(job.owners)]


def follow(jobs_shown: Sequence[Job | None], draw: Callable[[], None], every: float = LOOK) -> None:
    """Draw what these jobs came to so far, again and again while all that are under way now still are; the
    controls of one that ended are the page's."""
    active = [job for job in jobs_shown if job and job.active]
    draw_until(lambda: not active or any(not job.active for job in active), draw, every)


def start_job(name: str, arguments: Sequence[str]) -> None:
    """Queue a command for this session and draw the page anew; where it has too many, say so and draw on."""
    try:
        jobs().start(name, state.owner(), arguments)
    except InputError as error:
        st.error(str(error), icon=":material/hourglass_top:")
        return
    st.rerun()


def start_button(place: Any, key: str, label: str = "Start") -> bool:
    """Whether the button that starts a page's job was pressed. `place`: `st` or a container."""
    return pressed(
        place.button, label, icon=":material/play_arrow:", type="primary", width="stretch", key=f"start-{key}"
    )


def cancel_button(place: Any, job: Job, key: str) -> None:
    """The button in its place while the job is under way."""
    if pressed(place.button, "Cancel", icon=":material/close:", width="stretch", key=f"cancel-{key}"):
        cancel_job(job)


def cancel_job(job: Job) -> None:
    """Cancel a job, as far as it is this session's to cancel, and draw the page anew."""
    if not state.mine(job.owners):
        st.toast("Another session started this; only it can cancel it.", icon=":material/lock:")
        return
    if not jobs().leave(job, state.owner()):
        st.toast("Another session waits for the same result, so it goes on.", icon=":material/group:")
        return
    st.rerun()
