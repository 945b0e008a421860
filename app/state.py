"""What belongs to one browser session: its source, its plan, how it got there."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field

import streamlit as st

from app import history, selection
from app.going import leaving
from app.link import plan_from_text, plan_to_text
from app.plain import plain
from app.registries import workspaces
from app.serving import upload_megabytes
from app.uploads import Uploads, is_upload, new_key, shown
from app.words import WORDS
from app.workspace import MAX_ROWS, Opening, Source, Workspace
from qbert_core.access import access
from qbert_core.errors import InputError
from qbert_core.quantization import Plan, sites_of

MAX_UNDO = 200
MAX_LOCKS = 1000
TOKEN = "_streamlit_xsrf"  # a cookie of the server's own: "2|mask|masked token|time"


@dataclass
class Tuning:
    """The plan a session works on, for one workspace."""

    workspace: str
    plan: Plan
    undo: list[Plan] = field(default_factory=list)
    redo: list[Plan] = field(default_factory=list)
    tried: dict[str, Plan] = field(default_factory=dict)  # digest -> plan, in the order of trying
    allocated: set[str] = field(default_factory=set)  # digests of plans a ranking made
    locked: frozenset[int] = frozenset()  # layers that nothing but the table's own cells changes
    seen: int = 0  # number of the last edit taken from the table
    refused: list[str] = field(default_factory=list)  # what is wrong with edits, to be said
    version: int = 0  # changes when something else than a cell of the table changed the plan
    # a run of the page that was asked to stop may still be in its callback when the next one is in its own
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)


def session() -> str:
    """A name for this browser session."""
    if "session" not in st.session_state:
        st.session_state["session"] = uuid.uuid4().hex
    return str(st.session_state["session"])


def uploads() -> Uploads:
    """What this browser session has uploaded."""
    if "uploads" not in st.session_state:
        st.session_state["uploads"] = new_key()
    return Uploads(str(st.session_state["uploads"]), upload_megabytes())


def owner() -> str:
    """Who this session's jobs belong to: the browser, by the token the server gives to each, so that a
    reload finds them again; the session itself where there is no token."""
    parts = str(st.context.cookies.get(TOKEN)).split("|")
    if parts[0] != "2" or len(parts) != 4:
        return session()
    try:
        mask, masked = bytes.fromhex(parts[1]), bytes.fromhex(parts[2])
    except ValueError:
        return session()
    if len(mask) != 4:
        return session()
    # the token is masked anew in every answer; its digest is kept, and nobody can use that as the token
    token = bytes(byte ^ mask[index % 4] for index, byte in enumerate(masked))
    return hashlib.sha256(token).hexdigest()[:32]


def mine(owners: Collection[str]) -> bool:
    """Whether a job of these owners is shown and can be cancelled here. On one's own machine every
    job is; a server for others keeps sessions apart."""
    return access().roots is None or owner() in owners or session() in owners


def dark() -> bool:
    """Whether the page is shown dark."""
    return st.context.theme.type == "dark"


def source() -> Source:
    """What this session asked for last; at first what the link says, else the demo."""
    if "source" not in st.session_state:
        query = st.query_params
        rows = query.get("rows", "")
        limit = int(rows) if rows.isdecimal() and len(rows) <= len(str(MAX_ROWS)) else 0
        st.session_state["source"] = Source(
            _linked(query.get("model", "demo")),
            _linked(query.get("data", "demo")),
            limit if 0 < limit <= MAX_ROWS else Source.limit,
            task if (task := query.get("task", "")) in WORDS else "",
        )
    asked: Source = st.session_state["source"]
    return asked


def _linked(name: str) -> str:
    """A model or data in the address: never an upload, which is its session's alone."""
    return "demo" if is_upload(name) else name


def opening(timeout: float = 0.0) -> Opening:
    """How far the session's source is. After an error the last good source comes back."""
    asked = source()
    result = workspaces().open(asked, timeout)
    if result.workspace:
        st.session_state["good_source"] = asked
    elif result.error:
        back = st.session_state.get("good_source", Source())
        if back != asked or st.session_state.get("source_error") != named(result.error, asked):
            st.session_state["source"] = back
            st.session_state["source_error"] = named(result.error, asked)  # until the next try
            st.rerun()  # the sidebar, which says it, may have been drawn already
    return result


def named(message: str, source: Source) -> str:
    """A message with an upload called by its name instead of where it lies."""
    for path in (source.model, source.data):
        message = message.replace(path, shown(path)) if is_upload(path) else message
    return message


def tuning(workspace: Workspace) -> Tuning:
    """The session's plan for this workspace: restored from the link on arrival, and by Back and Forward."""
    current: Tuning | None = st.session_state.get("tuning")
    linked = st.query_params.get("plan")
    if current is None or current.workspace != workspace.key:
        kept = st.session_state.setdefault("tunings", {})
        current = kept.get(workspace.key) or Tuning(workspace.key, workspace.start)
        coming = st.session_state.pop("coming_plan", None)
        if coming and coming[0] == workspace.source:
            change(current, coming[1])
        kept[workspace.key] = current
        st.session_state["tuning"] = current
        if "linked" not in st.session_state:
            current.locked = _locks(st.query_params.get("locks", ""), workspace)
        if linked and "linked" not in st.session_state:
            _restore(workspace, current, linked, remember=False)
        current.version += 1
    elif linked and linked != st.session_state.get("linked") and history.went_back():
        _restore(workspace, current, linked, remember=True)
    current.tried.setdefault(current.plan.digest, current.plan)
    return current


def _locks(text: str, workspace: Workspace) -> frozenset[int]:
    """The layers of a link, 1-based there; what is none of the model's is left out."""
    numbers = {int(part) - 1 for part in text.split(",")[:MAX_LOCKS] if part.isdecimal() and len(part) < 4}
    return frozenset(numbers & set(range(workspace.checkpoint.config.layers)))


def _restore(workspace: Workspace, current: Tuning, linked: str, *, remember: bool) -> None:
    try:
        plan = plan_from_text(linked, sites_of(workspace.checkpoint.config))
    except InputError as error:
        st.toast(f"{plain(str(error))}. The plan on screen stays.", icon=":material/link_off:")
        st.session_state["linked"] = linked
        return
    if remember:
        change(current, plan)
    else:
        current.plan = plan
    st.session_state["linked"] = linked


def work_with(source: Source, plan: Plan | None) -> None:
    """Open `source` as the session's model, with `plan`, which must have its sites; None: as a new session."""
    st.session_state["source"] = source
    if plan is not None:
        st.session_state["coming_plan"] = (source, plan)


def change(current: Tuning, plan: Plan, *, by_cell: bool = False) -> None:
    """Make `plan` the current one; what was there can be undone."""
    with current.lock:
        if plan == current.plan:
            return
        current.undo = [*current.undo[-MAX_UNDO:], current.plan]
        current.redo = []
        current.plan = plan
        current.tried.setdefault(plan.digest, plan)
        if not by_cell:
            current.version += 1


def step_back(current: Tuning) -> None:
    """Undo."""
    with current.lock:
        if current.undo:
            current.redo.append(current.plan)
            current.plan = current.undo.pop()
            current.version += 1


def step_forward(current: Tuning) -> None:
    """Redo."""
    with current.lock:
        if current.redo:
            current.undo.append(current.plan)
            current.plan = current.redo.pop()
            current.version += 1


def write_link(current: Tuning, **more: str) -> None:
    """Put model, data and plan into the address, where they differ from what is there, and what else
    a page wants to find there again; not of a page that is being left, where Back finds it as it was."""
    if leaving():
        return
    asked = source()
    text = plan_to_text(current.plan)
    wanted = {"plan": text}
    if asked.model != "demo" and not is_upload(asked.model):
        wanted["model"] = asked.model
    if asked.data != "demo" and not is_upload(asked.data):
        wanted["data"] = asked.data
    if asked.limit != Source.limit:
        wanted["rows"] = str(asked.limit)
    if asked.task:
        wanted["task"] = asked.task
    if current.locked:
        wanted["locks"] = ",".join(str(layer + 1) for layer in sorted(current.locked))
    layer = selection.chosen()
    if layer is not None:
        wanted[selection.QUERY] = str(layer + 1)
    wanted |= more
    selection.written(wanted.get(selection.QUERY))
    st.session_state["linked"] = text
    if st.query_params.to_dict() != wanted:
        st.query_params.from_dict(wanted)
