"""Where tables come from: a file, a hub data set, the demo."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from qbert_core.access import access
from qbert_core.checkpoints import demo_folder
from qbert_core.errors import InputError
from qbert_core.jsonfile import cause, printable
from qbert_core.tasks.files import SUFFIXES, read_file


def read_table(data: str | Path, *, split: str = "eval", limit: int | None = None) -> pd.DataFrame:
    """Read `data` into a table: a file, `hub:NAME[/CONFIG]:SPLIT`, or `demo` (its train or eval `split`).

    `limit` keeps the first rows; of a file no more than these are looked at. Raises `InputError` for a
    path that is not there, an unknown ending, a file that cannot be parsed or is too large, an empty
    one, or a hub that cannot be reached.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; expected at least 1 row")
    if str(data) == "demo":
        table = read_file(demo_folder() / "reviews.csv", None)
        table = table[table["split"] == split].reset_index(drop=True)
    elif str(data).startswith("hub:"):
        access().check_hub(printable(str(data)))
        table = _read_hub(str(data))
    else:
        table = read_file(_there(data), limit)
    if table.empty:
        raise InputError(f"{data}: no rows in it")
    return table if limit is None else table.head(limit).reset_index(drop=True)


def _there(data: str | Path) -> Path:
    path = access().path(data)
    try:
        if path.is_file():
            return path
    except OSError as error:
        raise InputError(f"{printable(str(path))}: cannot be opened: {cause(error)}") from None
    raise InputError(f"{printable(str(path))}: no such file; give one that ends in {' '.join(SUFFIXES)}")


def _read_hub(spec: str) -> pd.DataFrame:
    name, _, split = spec.removeprefix("hub:").rpartition(":")
    if not name or not split:
        raise InputError(f"{spec}: expected hub:NAME[/CONFIG]:SPLIT, like hub:nyu-mll/glue/sst2:validation")
    from datasets import load_dataset

    rule = access()
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*){0,2}", name) or (
        rule.roots is not None and Path(name.split("/")[0]).exists()  # the library would take a folder
    ):
        raise InputError(f"{printable(spec)}: not the name of a hub data set; expected OWNER/NAME[/CONFIG]")
    # "a/b" is a repository owner/name or, for the oldest data sets, name/configuration
    parts = name.split("/")
    candidates: list[tuple[str, str | None]] = [(name, None)] if len(parts) < 3 else []
    if len(parts) > 1:
        candidates.append(("/".join(parts[:-1]), parts[-1]))
    causes = []
    for repository, config in candidates:
        try:
            table = load_dataset(repository, config, split=split).to_pandas()
            break
        except Exception as error:  # offline, unknown id, unknown split: many unrelated types
            causes.append(cause(error))
    else:
        raise InputError(
            f"{spec}: could not be read from the hub ({causes[0]}); check name and network, "
            f"or give a local file"
        )
    assert isinstance(table, pd.DataFrame)
    return table
