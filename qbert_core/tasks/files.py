"""A data file from outside as a table, with every size bounded before or while it is read.

A few kilobytes can ask for gigabytes: a column repeated a million times in a header, a text of a
megabyte that a parquet dictionary refers to a million times. What is counted here is what comes out.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qbert_core.errors import InputError
from qbert_core.jsonfile import cause

SUFFIXES = (".parquet", ".csv", ".tsv", ".json", ".jsonl")
MAX_BYTES = 2 * 2**30  # of a file
MAX_JSON = 256 * 2**20  # of a .json, which is parsed as a whole: SQuAD's training questions have 90 MB
MAX_DECODED = 2 * 2**30  # of a parquet file's columns
MAX_EXPANSION = 50  # times the file's own size, beyond the first SMALL bytes; SQuAD's is 6
SMALL = 16 * 2**20
MAX_ROWS = 20_000_000
MAX_COLUMNS = 1000
MAX_RECORD = 8 * 2**20  # characters of one row of a text file
BATCH = 1024  # rows of a parquet file decoded at a time


def read_file(path: Path, limit: int | None) -> pd.DataFrame:
    """The table in `path`, by its ending; at most the first `limit` rows are looked at.

    Raises `InputError` for another ending, an empty file, one that cannot be parsed, and one beyond the
    limits above.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: cannot tell its format; the name must end in {' '.join(SUFFIXES)}")
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{path}: the file is empty")
    allowed = MAX_JSON if path.suffix == ".json" else MAX_BYTES
    if size > allowed:
        raise InputError(f"{path}: {size:,} bytes, more than the {allowed:,} allowed")
    try:
        return _READERS[path.suffix](path, limit)
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: more than this machine's memory; give fewer or shorter rows") from None
    except Exception as error:  # pandas and pyarrow raise many unrelated types for a broken file
        raise InputError(f"{path}: not readable as {path.suffix[1:]}: {cause(error)}") from None


def _csv(path: Path, limit: int | None) -> pd.DataFrame:
    return _delimited(path, limit, ",")


def _tsv(path: Path, limit: int | None) -> pd.DataFrame:
    return _delimited(path, limit, "\t")


def _delimited(path: Path, limit: int | None, separator: str) -> pd.DataFrame:
    _scan(path, limit, separator)
    return pd.read_csv(path, sep=separator, keep_default_na=False, nrows=limit)


def _scan(path: Path, limit: int | None, separator: str) -> None:
    """Read the rows once without keeping any: pandas takes minutes and gigabytes for a million columns,
    and makes an index of what a row has more than the header."""
    csv.field_size_limit(MAX_RECORD)  # the library's own is 131,072, less than a long paragraph
    with path.open(encoding="utf-8-sig", newline="") as file:
        width = None
        for number, row in enumerate(csv.reader(_lines(file, path), delimiter=separator)):
            if width is None:
                width = len(row)
            if len(row) > MAX_COLUMNS:
                raise InputError(f"{path}: {len(row):,} columns, {MAX_COLUMNS:,} are allowed")
            if len(row) > width:
                raise InputError(
                    f"{path}: not readable as {path.suffix[1:]}: row {number} has {len(row)} columns, the first "
                    f"line names {width}; "
                    f"put texts that hold a {'comma' if separator == ',' else 'tab'} in quotes"
                )
            if number > MAX_ROWS:
                raise InputError(f"{path}: more than {MAX_ROWS:,} rows")
            if limit is not None and number >= limit:
                return


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    """The file's lines; `InputError` for a line too long to be one and for a zero byte."""
    number = 0
    while line := file.readline(MAX_RECORD):
        number += 1
        if len(line) == MAX_RECORD:
            raise InputError(f"{path}: line {number} has more than {MAX_RECORD:,} characters")
        if "\0" in line:
            raise InputError(f"{path}: line {number} holds a zero byte; is it text in UTF-8?")
        yield line


def _json(path: Path, _limit: int | None) -> pd.DataFrame:
    return _checked_width(pd.read_json(path, dtype=False), path)


def _jsonl(path: Path, limit: int | None) -> pd.DataFrame:
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, _ in enumerate(_lines(file, path)):
            if number > MAX_ROWS:
                raise InputError(f"{path}: more than {MAX_ROWS:,} rows")
            if limit is not None and number >= limit:
                break
    return _checked_width(pd.read_json(path, lines=True, dtype=False, nrows=limit), path)


def _checked_width(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    if len(table.columns) > MAX_COLUMNS:
        raise InputError(f"{path}: {len(table.columns):,} columns, {MAX_COLUMNS:,} are allowed")
    return table


def _parquet(path: Path, limit: int | None) -> pd.DataFrame:
    facts = pq.read_metadata(path)
    if facts.num_columns > MAX_COLUMNS:
        raise InputError(f"{path}: {facts.num_columns:,} columns, {MAX_COLUMNS:,} are allowed")
    if not 0 <= facts.num_rows <= MAX_ROWS:
        raise InputError(f"{path}: {facts.num_rows:,} rows, {MAX_ROWS:,} are allowed")
    wanted = facts.num_rows if limit is None else min(limit, facts.num_rows)
    groups: list[int] = []
    rows = announced = 0
    for number in range(facts.num_row_groups):
        if rows >= wanted and groups:
            break
        group = facts.row_group(number)
        groups.append(number)
        rows += group.num_rows
        announced += group.total_byte_size
        if announced > MAX_DECODED or group.total_byte_size < 0 or group.num_rows < 0:
            raise InputError(
                f"{path}: {announced:,} bytes when unpacked, {MAX_DECODED:,} are allowed; give fewer rows"
            )
    allowed = min(MAX_DECODED, SMALL + MAX_EXPANSION * path.stat().st_size)
    schema = facts.schema.to_arrow_schema()
    texts = [field.name for field in schema if _is_text(field.type)]
    batches: list[pa.RecordBatch] = []
    rows = decoded = 0
    # as dictionaries: a text that is there a million times is in memory once, until it has been counted
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        for batch in file.iter_batches(
            batch_size=min(BATCH, max(wanted, 1)), row_groups=groups, use_threads=False
        ):
            batch = batch.slice(0, wanted - rows)
            rows += len(batch)
            decoded += sum(_decoded_bytes(column) for column in batch.columns)
            if decoded > allowed:
                raise InputError(
                    f"{path}: more than {allowed:,} bytes when unpacked; give fewer or shorter rows"
                )
            batch.validate(full=True)  # offsets, and that texts are UTF-8: pandas looks when it is too late
            columns = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in batch.columns]
            batches.append(pa.RecordBatch.from_arrays(columns, names=batch.schema.names))
            if rows >= wanted:
                break
    if not batches:
        return pd.DataFrame(columns=schema.names)
    # without pandas' own notes in the file, which are one more thing to parse
    table: pd.DataFrame = pa.Table.from_batches(batches).to_pandas(ignore_metadata=True)
    return table[[name for name in table.columns if not str(name).startswith("__index_level_")]]


def _is_text(kind: Any) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_large_binary(kind)
    )


def _decoded_bytes(column: Any) -> int:
    """Bytes of a column once every reference into its dictionary is a text of its own."""
    if not pa.types.is_dictionary(column.type) or not _is_text(column.type.value_type):
        return int(column.nbytes)
    lengths = pc.binary_length(column.dictionary).take(column.indices)
    return int(pc.sum(pc.cast(lengths, pa.int64())).as_py() or 0) + 8 * len(column)


_READERS = {".csv": _csv, ".tsv": _tsv, ".json": _json, ".jsonl": _jsonl, ".parquet": _parquet}
