"""The training data of a job: the field that asks for it, and whether it can be what the job needs, as far as
that is cheap to say before the job starts."""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app import state
from app.plain import plain
from app.uploads import shown
from app.workspace import DEMO, Workspace
from qbert_core.access import access
from qbert_core.errors import InputError
from qbert_core.tasks import Task
from qbert_core.tasks.columns import require_columns
from qbert_core.tasks.data import read_table

LARGEST = 30 * 2**20  # bytes of a file that is opened while a person waits


def training_data_input(place: DeltaGenerator, workspace: Workspace, purpose: str = "") -> str:
    """The field "Training data" of a page, at first what was given on another one; `purpose` begins its help."""
    default = DEMO if workspace.source.data == DEMO else ""
    text = place.text_input(
        "Training data", shown(st.session_state.get("train", default)), placeholder="a .parquet .csv .json file",
        help=f"{purpose}demo (600 reviews), a file with the task's columns, upload:NAME, or hub:NAME[/CONFIG]:SPLIT",
    ).strip()  # fmt: skip
    try:
        return state.uploads().path_of(text)
    except InputError:
        return text  # `check_training_data` says what is wrong with it


def accepted(task: Task, data: str) -> bool:
    """Whether a job can start with this training data, which other pages then offer too; else it is said why."""
    try:
        check_training_data(task, data)
    except InputError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return False
    st.session_state["train"] = data
    return True


def check_training_data(task: Task, data: str) -> None:
    """Raise `InputError` for training data that is missing or has not the task's columns.

    A hub data set and a large file are left to the job.
    """
    columns = ", ".join(task.columns)
    if not data:
        raise InputError(f"Give the training data: a file with the columns {columns}, or demo.")
    data = state.uploads().path_of(data)
    if data.startswith("hub:"):
        access().check_hub(data)
        return
    if data != DEMO:
        path = access().path(data)
        if path.is_file() and path.stat().st_size > LARGEST:
            return
    try:
        table = read_table(data, split="train")
    except InputError as error:
        raise InputError(str(error).replace(data, shown(data))) from None
    require_columns(table, task.columns, shown(data))
