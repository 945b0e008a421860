"""A checkpoint that came as files or as a .zip, written into a folder of its own.

Only names on a list are ever written, so nothing in an archive says where a file goes. What is counted
is what comes out of the decompressor, not what the archive says of itself.
"""

from __future__ import annotations

import errno
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from qbert_core.errors import InputError
from qbert_core.jsonfile import cause, printable

# a checkpoint's files and the most bytes each may have
FILES: Mapping[str, int] = {
    "config.json": 2**20,
    "model.safetensors": 2 * 2**30,
    "tokenizer.json": 64 * 2**20,
    "tokenizer_config.json": 2**20,
    "special_tokens_map.json": 2**20,
    "vocab.txt": 64 * 2**20,
    "quantization.json": 4 * 2**20,
}
MAX_ENTRIES = 200
MAX_DIRECTORY = 2**20  # bytes of the list of entries at the archive's end
MAX_RATIO = 200  # unpacked to packed, of one file; deflate's best is 1032, weights reach 2
SMALL = 2**20  # bytes below which the ratio does not matter
CHUNK = 2**20
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    OverflowError,
)
_END, _END64 = b"PK\x05\x06", b"PK\x06\x07"


def unpack(archive: BinaryIO, name: str, folder: Path, limit: int) -> list[Path]:
    """Write the checkpoint files in the .zip `archive`, called `name` in messages, into `folder`.

    They lie at its top or in one folder; files that no checkpoint needs are left out, unopened, and so
    archives in it. `folder` must exist; `limit` bounds what is written, in bytes. Raises `InputError` for
    an archive that is broken, encrypted, beyond the limits, holds a name twice, a link, or a path that
    leads out of it, and for one without config.json.
    """
    _check_end(archive, name)
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _chosen(opened.infolist(), name)
            written, total = [], 0
            for entry, target in entries.items():
                with opened.open(entry) as source:
                    most = min(FILES[target], limit - total, max(SMALL, MAX_RATIO * entry.compress_size))
                    total += write_file(source, folder / target, most, f"{name}: {target}")
                written.append(folder / target)
            return written
    except InputError:
        raise
    except (*_BROKEN, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that: a place before the beginning
            raise
        raise InputError(f"{name}: not a .zip that can be read: {cause(error)}") from None


def write_file(source: IO[bytes], path: Path, limit: int, name: str) -> int:
    """Copy `source` to the new file `path` in pieces; returns its bytes.

    Raises `InputError`, and leaves no file, when there are more than `limit`.
    """
    total = 0
    try:
        with path.open("xb") as target:
            path.chmod(0o600)
            while piece := source.read(CHUNK):
                total += len(piece)
                if total > limit:
                    raise InputError(f"{name}: more than the {limit:,} bytes allowed")
                target.write(piece)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return total


def _check_end(archive: BinaryIO, name: str) -> None:
    """Look at the end record before the library reads the list of entries it points to."""
    archive.seek(0, 2)
    size = archive.tell()
    start = max(0, size - 2**16 - 22)
    archive.seek(start)
    tail = archive.read(size - start)
    archive.seek(0)
    place = tail.rfind(_END)
    if place < 0 or len(tail) - place < 22:
        raise InputError(f"{name}: not a .zip, or cut off")
    if _END64 in tail[max(0, place - 20) : place]:
        raise InputError(f"{name}: a zip64 archive, which only files above 4 GB need; pack it without")
    entries = int.from_bytes(tail[place + 10 : place + 12], "little")
    directory = int.from_bytes(tail[place + 12 : place + 16], "little")
    if entries > MAX_ENTRIES or directory > MAX_DIRECTORY:
        raise InputError(
            f"{name}: {entries:,} entries in a list of {directory:,} bytes; {MAX_ENTRIES} in "
            f"{MAX_DIRECTORY:,} are allowed"
        )


def _chosen(entries: list[zipfile.ZipInfo], name: str) -> dict[zipfile.ZipInfo, str]:
    """The entries to write and their names, after every entry has been looked at."""
    if len(entries) > MAX_ENTRIES:
        raise InputError(f"{name}: {len(entries):,} entries, {MAX_ENTRIES} are allowed")
    seen: set[str] = set()
    chosen: dict[zipfile.ZipInfo, str] = {}
    tops: set[str] = set()
    for entry in entries:
        shown = printable(entry.orig_filename, 80)
        path = PurePosixPath(entry.orig_filename)
        odd = any(c in entry.orig_filename for c in "\\\0:") or not entry.orig_filename
        if odd or path.is_absolute() or ".." in path.parts:
            raise InputError(f"{name}: the entry {shown} leads out of the archive; pack plain files")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InputError(f"{name}: the entry {shown} is a link or a device; pack plain files")
        key = str(path).casefold()
        if key in seen:
            raise InputError(f"{name}: the entry {shown} is there twice")
        seen.add(key)
        if entry.is_dir() or path.name not in FILES:
            continue
        if len(path.parts) > 2:
            continue
        if entry.flag_bits & 0x1:
            raise InputError(f"{name}: the entry {shown} is encrypted; pack it without a password")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{name}: the entry {shown} is packed in a way not read here; use deflate")
        if entry.file_size > FILES[path.name]:
            raise InputError(
                f"{name}: the entry {shown} has {entry.file_size:,} bytes, {FILES[path.name]:,} are allowed"
            )
        tops.add(str(path.parent))
        chosen[entry] = path.name
    if len(tops) > 1:
        where = printable(", ".join(sorted(tops)))
        raise InputError(f"{name}: checkpoint files in several folders ({where}); pack one checkpoint")
    if "config.json" not in chosen.values():
        raise InputError(f"{name}: no config.json in it; pack {', '.join(FILES)} as far as there are such")
    return chosen
