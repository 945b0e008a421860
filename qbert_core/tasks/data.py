"""Where tables come from: a file, a hub data set, the demo."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from qbert_core.checkpoints import demo_folder
from qbert_core.errors import InputError

SUFFIXES = (".parquet", ".csv", ".tsv", ".json", ".jsonl")
MAX_BYTES = 2 * 2**30


def read_table(data: str | Path, *, split: str = "eval", limit: int | None = None) -> pd.DataFrame:
    """Read `data` into a table: a file, `hub:NAME[/CONFIG]:SPLIT`, or `demo` (its train or eval `split`).

    `limit` keeps the first rows. Raises `InputError` for a path that is not there, an unknown
    ending, a file that cannot be parsed, an empty one, or a hub that cannot be reached.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; expected at least 1 row")
    if str(data) == "demo":
        table = _read_file(demo_folder() / "reviews.csv")
        table = table[table["split"] == split].reset_index(drop=True)
    elif str(data).startswith("hub:"):
        table = _read_hub(str(data))
    else:
        table = _read_file(Path(data).expanduser())
    if table.empty:
        raise InputError(f"{data}: no rows in it")
    return table if limit is None else table.head(limit).reset_index(drop=True)


def _read_file(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give one that ends in {' '.join(SUFFIXES)}")
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: cannot tell its format; the name must end in {' '.join(SUFFIXES)}")
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{path}: the file is empty")
    if size > MAX_BYTES:
        raise InputError(f"{path}: {size:,} bytes, more than the {MAX_BYTES:,} allowed")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix in (".csv", ".tsv"):
            return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", keep_default_na=False)
        return pd.read_json(path, lines=path.suffix == ".jsonl", dtype=False)
    except Exception as error:  # pandas and pyarrow raise many unrelated types for a broken file
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not readable as {path.suffix[1:]}: {cause}") from None


def _read_hub(spec: str) -> pd.DataFrame:
    name, _, split = spec.removeprefix("hub:").rpartition(":")
    if not name or not split:
        raise InputError(f"{spec}: expected hub:NAME[/CONFIG]:SPLIT, like hub:nyu-mll/glue/sst2:validation")
    from datasets import load_dataset

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
            causes.append((str(error).strip() or type(error).__name__).splitlines()[0])
    else:
        raise InputError(
            f"{spec}: could not be read from the hub ({causes[0]}); check name and network, "
            f"or give a local file"
        )
    assert isinstance(table, pd.DataFrame)
    return table
