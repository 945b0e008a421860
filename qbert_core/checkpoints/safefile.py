"""Look at a safetensors file before anything is allocated for it.

The format is 8 bytes of little-endian header length, a JSON header, then the raw tensors. A
checkpoint is untrusted: every number in the header is checked against the file's true size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from qbert_core.errors import InputError
from qbert_core.jsonfile import cause, parse_json, printable

MAX_HEADER = 4 * 2**20  # a BERT-large header is 50 KB; parsed, JSON takes up to thirty times its length
MAX_FILE = 8 * 2**30
FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
OTHER_BYTES = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class TensorEntry:
    """One tensor as the header announces it."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Name -> entry of every tensor in `path`, after checking that the file can hold them.

    Raises `InputError` for a file that is cut off, padded, oversized or not safetensors at all.
    """
    size = path.stat().st_size
    if size > MAX_FILE:
        raise InputError(f"{path}: {size:,} bytes, more than the {MAX_FILE:,} allowed")
    if size < 8:
        raise InputError(f"{path}: {size} bytes, too short to be a safetensors file")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER, size - 8):
            raise InputError(
                f"{path}: not a safetensors file, or cut off: its header claims {length:,} bytes, "
                f"the file has {size - 8:,} after the length (a header may have {MAX_HEADER:,})"
            )
        raw = file.read(length)
    try:
        header = parse_json(raw)
        if not isinstance(header, dict):
            raise ValueError("the header is not a JSON object")
        header.pop("__metadata__", None)
        entries = {str(name): _entry(name, value) for name, value in header.items()}
        spans = sorted((_span(value), name) for name, value in header.items())
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: broken safetensors header: {cause(error)}") from None

    end = 0
    for (start, stop), name in spans:
        entry = entries[name]
        width = (FLOAT_BYTES | OTHER_BYTES)[entry.dtype]
        if start != end or stop - start != math.prod(entry.shape) * width:
            raise InputError(
                f"{path}: tensor {printable(name)} of {entry.dtype}{list(entry.shape)} does not fit its place "
                f"in the file (bytes {start}..{stop})"
            )
        end = stop
    if end != size - 8 - length:
        raise InputError(
            f"{path}: truncated or padded: its tensors need {end:,} bytes, "
            f"the file holds {size - 8 - length:,}"
        )
    return entries


def _entry(name: str, value: dict[str, object]) -> TensorEntry:
    if set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name:.80} has the fields {sorted(value)!r:.80}")
    dtype, shape = value["dtype"], value["shape"]
    if dtype not in FLOAT_BYTES and dtype not in OTHER_BYTES:
        raise ValueError(f"tensor {name:.80} has the unknown type {dtype!r:.40}")
    if not isinstance(shape, list) or len(shape) > 8 or not all(_is_count(n) for n in shape):
        raise ValueError(f"tensor {name:.80} has the shape {shape!r:.80}")
    return TensorEntry(str(dtype), tuple(shape))


def _span(value: dict[str, object]) -> tuple[int, int]:
    offsets = value["data_offsets"]
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(n) for n in offsets):
        raise ValueError(f"data_offsets {offsets!r:.80} are not two positions")
    return offsets[0], offsets[1]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48
