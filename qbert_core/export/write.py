"""Write a plan's model as a packed checkpoint, and read it back before saying so."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from qbert_core.checkpoints import Checkpoint
from qbert_core.checkpoints.load import WEIGHTS_FILE
from qbert_core.checkpoints.save import config_json, save_tokenizer
from qbert_core.errors import InputError
from qbert_core.export.card import card
from qbert_core.export.layout import Layout, quantization_config, size_account, stored_widths
from qbert_core.export.load import load_exported
from qbert_core.export.packing import pack
from qbert_core.export.sidecar import FILE, Sidecar
from qbert_core.quantization import ActivationRanges, Plan, fake_quantize, sites_of
from qbert_core.quantization.quantizer import centred_codes
from qbert_core.quantization.sites import Site
from qbert_core.runtime.events import Events, Silent


@dataclass(frozen=True)
class Export:
    """What was written. `size` adds up from the plan's promise to the weight file, MB of 2^20 bytes."""

    folder: Path
    files: tuple[str, ...]
    layout: Layout
    size: dict[str, Any]
    widths: dict[str, int]
    checked: int  # tensors that were read back and compared
    seconds: float


def export_checkpoint(
    checkpoint: Checkpoint,
    plan: Plan,
    folder: Path,
    *,
    layout: Layout = "one-width",
    ranges: ActivationRanges | None = None,
    replace: bool = False,
    events: Events | None = None,
) -> Export:
    """Write config.json, model.safetensors, export.json, README.md and the tokenizer's files to `folder`.

    All is written beside `folder` first, read back by `load_exported`, every weight compared with what
    the plan makes of the checkpoint, and only then moved into place: a full disk, a cancel or a kill
    leaves nothing under the final name. `ranges` are the frozen input ranges, kept in export.json.

    An empty folder is taken; one that holds an earlier export only with `replace`, anything else never.
    Raises `InputError` for those, for a plan of another model or one that quantizes nothing, and where
    the disk has too little room; OSError where it cannot be written; `Cancelled` when `events` says so.
    """
    events, started = events or Silent(), time.perf_counter()
    _check_plan(checkpoint, plan)
    folder = folder.absolute()
    _check_place(folder, replace)
    widths = stored_widths(checkpoint.config, plan, layout)
    units = len(sites_of(checkpoint.config))
    events.progress(0, 2 * units)
    parts = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    _sweep(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        parts.mkdir()
        tensors = _packed(checkpoint, plan, widths, events, 2 * units)
        _check_room(parts, tensors)
        try:
            save_file(tensors, parts / WEIGHTS_FILE, metadata={"format": "pt"})
        except SafetensorError as error:  # its name for a full disk, too
            raise OSError(f"{folder}: the weights could not be written: {error}") from None
        (parts / WEIGHTS_FILE).chmod(0o644)  # the library makes it readable for its owner only
        described = config_json(checkpoint, torch.float32)
        described["quantization_config"] = quantization_config(checkpoint.config, widths)
        _write(parts / "config.json", json.dumps(described, indent=2))
        sidecar = Sidecar(plan, layout, ranges, checkpoint.name, checkpoint.fingerprint)
        _write(parts / FILE, json.dumps(sidecar.to_json(), indent=1, allow_nan=False))
        _write(parts / "README.md", card(checkpoint, plan, layout))
        save_tokenizer(checkpoint, parts)
        checked = _verify(checkpoint, plan, parts, events, 2 * units)
        size = size_account(checkpoint.config, plan, layout, (parts / WEIGHTS_FILE).stat().st_size)
        files = tuple(sorted(path.name for path in parts.iterdir()))
        _move(parts, folder)
    finally:
        shutil.rmtree(parts, ignore_errors=True)
    return Export(folder, files, layout, size, widths, checked, time.perf_counter() - started)


def _check_plan(checkpoint: Checkpoint, plan: Plan) -> None:
    if {site.name for site in sites_of(checkpoint.config)} != set(plan.sites):
        raise InputError(f"plan {plan.name} is for another model; it needs an entry for each of its sites")
    if not any(entry.quantized for entry in plan.sites.values()):
        raise InputError(
            f"plan {plan.name} quantizes nothing, so there is nothing to pack; give one with sites of 1..8 "
            f"bits, or copy the checkpoint as it is"
        )


def _check_place(folder: Path, replace: bool) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / FILE).is_file():
            raise InputError(f"{folder}: is there and holds other things; give a new or empty folder")
        if not replace:
            raise InputError(
                f"{folder}: holds an earlier export; give another folder, or --replace to overwrite it"
            )
    elif folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a new or empty folder")


def _sweep(folder: Path) -> None:
    """Remove what exports that were killed left beside `folder`."""
    if not folder.parent.is_dir():
        return
    for path in folder.parent.glob(f".{folder.name}.*.partial"):
        owner = re.fullmatch(r".*\.(\d+)\.partial", path.name)
        if owner and not _alive(int(owner[1])):
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True


def _check_room(folder: Path, tensors: dict[str, Tensor]) -> None:
    needed, free = sum(tensor.nbytes for tensor in tensors.values()), shutil.disk_usage(folder).free
    if needed + (2 << 20) > free:  # the rest is a tokenizer and a few documents
        raise InputError(
            f"{folder.parent}: {free / 2**20:.0f} MB free, the export needs {needed / 2**20 + 2:.0f}; "
            f"make room or give a folder on another disk"
        )


def _packed(
    checkpoint: Checkpoint, plan: Plan, widths: dict[str, int], events: Events, units: int
) -> dict[str, Tensor]:
    """Every tensor of the file."""
    tensors = dict(checkpoint.weights)
    for done, site in enumerate(sites_of(checkpoint.config)):
        events.check()
        if site.name in widths:
            tensors |= _packed_site(tensors.pop(site.parameter), plan, site, widths[site.name])
        events.progress(done + 1, units)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _packed_site(weight: Tensor, plan: Plan, site: Site, width: int) -> dict[str, Tensor]:
    entry = plan.sites[site.name]
    codes, scale, zero = centred_codes(weight, entry.bits, entry.groups, plan.clip)
    q = codes.add_(zero[:, None]).to(torch.uint8)
    return {
        f"{site.name}.weight_packed": pack(q, width),
        f"{site.name}.weight_scale": scale[:, None],
        f"{site.name}.weight_zero_point": pack(zero.to(torch.uint8)[None], width).t(),
        f"{site.name}.weight_shape": torch.tensor([site.rows, site.columns]),
    }


def _verify(checkpoint: Checkpoint, plan: Plan, folder: Path, events: Events, units: int) -> int:
    """Read the folder back and compare every tensor with the simulation's; returns how many."""
    written = load_exported(folder, _Checks(events)).weights
    sites = sites_of(checkpoint.config)
    expected = dict(checkpoint.weights)
    for done, site in enumerate(sites):
        events.check()
        entry = plan.sites[site.name]
        if entry.quantized:
            made = fake_quantize(expected.pop(site.parameter), entry.bits, entry.groups, plan.clip)
            _check_equal(site.parameter, written[site.parameter], made, folder)
        events.progress(len(sites) + done + 1, units)
    for name, tensor in expected.items():
        _check_equal(name, written[name], tensor, folder)
    return len(written)


def _check_equal(name: str, written: Tensor, made: Tensor, folder: Path) -> None:
    if not torch.equal(written, made):
        raise OSError(
            f"{folder.parent}: {name} reads back differently than it was written; is the disk sound?"
        )


def _move(parts: Path, folder: Path) -> None:
    """Put the finished folder in place of an empty one or an earlier export."""
    if not folder.exists():
        parts.replace(folder)
        return
    old = parts.with_name(parts.name.replace(".partial", ".old.partial"))
    folder.rename(old)
    try:
        parts.replace(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


class _Checks(Silent):
    """Passes on cancel, not progress: reading back is a small part of an export."""

    def __init__(self, events: Events) -> None:
        self.check = events.check  # type: ignore[method-assign]
