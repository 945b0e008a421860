"""Exports: packed as compressed-tensors packs, opened by transformers and by our own loader, exactly."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import CompressedTensorsConfig

from qbert_core.bert import forward
from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.errors import Cancelled, InputError
from qbert_core.export import Export, export_checkpoint, load_exported
from qbert_core.export.card import AUTO, opening_code
from qbert_core.export.layout import LAYOUTS, Layout
from qbert_core.export.packing import pack, unpack, words
from qbert_core.export.sidecar import FILE
from qbert_core.quantization import ActivationRanges, Plan, Quantizer, SitePlan, preset_named, sites_of
from qbert_core.quantization.plan import uniform_plan
from qbert_core.runtime.events import Flag, Silent
from tests.tiny import make_tiny

NO_RANGES = ActivationRanges(MappingProxyType({}), "none", 1)
HEADS = ("sequence", "token", "question")
IDS = torch.tensor([[2, 10, 20, 30, 3, 40, 3], [2, 11, 21, 3, 0, 0, 0]])
LENGTHS = torch.tensor([7, 4])


@pytest.fixture(scope="module", params=HEADS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny model of each head; widths that no word's 32 bits divide."""
    folder = tmp_path_factory.mktemp("models") / request.param
    return load_checkpoint(make_tiny(folder, request.param, hidden=20, intermediate=36, seed=5))


def all_bits(checkpoint: Checkpoint, start: int = 0, **changes: Any) -> Plan:
    """Bits 1..8 and 32 in turn over the sites, tables too, with all kinds of group counts."""
    bits, groups = (*range(1, 9), 32), (1, 3, 7, 1000)
    entries = tuple(
        (site.name, SitePlan(bits[(i + start) % 9], groups[i % 4]))
        for i, site in enumerate(sites_of(checkpoint.config))
    )
    return replace(Plan("all bits", 32, entries), **changes)


def simulated(checkpoint: Checkpoint, plan: Plan, ranges: ActivationRanges = NO_RANGES) -> torch.Tensor:
    made = Quantizer(checkpoint, ranges, integers=False).model(plan)
    return forward(
        made.weights, checkpoint.config, IDS, torch.zeros_like(IDS), LENGTHS, linear=made.linear
    ).detach()


def transformers_logits(model: torch.nn.Module) -> torch.Tensor:
    mask = (torch.arange(IDS.shape[1]) < LENGTHS[:, None]).long()
    with torch.no_grad():
        out = model(input_ids=IDS, attention_mask=mask, token_type_ids=torch.zeros_like(IDS))
    return out.logits if "logits" in out else torch.stack([out.start_logits, out.end_logits], -1)


def compare(logits: torch.Tensor, expected: torch.Tensor, head: str) -> None:
    if head != "sequence":  # nobody reads what stands at padding
        real = torch.arange(IDS.shape[1]) < LENGTHS[:, None]
        logits, expected = logits[real], expected[real]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def opened(folder: Path, head: str) -> torch.nn.Module:
    auto = getattr(transformers, AUTO[head])
    config = CompressedTensorsConfig(dequantize=True)
    return auto.from_pretrained(folder, quantization_config=config).eval()


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")
@pytest.mark.parametrize("start", [0, 4])
def test_transformers_opens_it_and_computes_the_simulations_logits(
    model: Checkpoint, start: int, tmp_path: Path
) -> None:
    plan = all_bits(model, start)
    export_checkpoint(model, plan, tmp_path / "out")
    theirs = opened(tmp_path / "out", model.config.head)
    made = Quantizer(model, NO_RANGES).model(plan)
    for name, tensor in made.weights.items():
        assert torch.equal(theirs.state_dict()[name], tensor), name
    compare(transformers_logits(theirs), simulated(model, plan), model.config.head)
    assert not torch.equal(simulated(model, plan), simulated(model, preset_named_plan(model, "baseline")))


def preset_named_plan(checkpoint: Checkpoint, name: str) -> Plan:
    return preset_named(checkpoint.config, checkpoint.task, name)


@pytest.mark.parametrize("start", [0, 4])
def test_the_documented_code_opens_the_mixed_layout(model: Checkpoint, start: int, tmp_path: Path) -> None:
    plan = all_bits(model, start)
    export_checkpoint(model, plan, tmp_path / "out", layout="mixed")
    scope: dict[str, Any] = {}
    exec(opening_code(model.config.head, "mixed", str(tmp_path / "out")), scope)
    compare(transformers_logits(scope["model"]), simulated(model, plan), model.config.head)


def test_transformers_refuses_the_mixed_layout_rather_than_misread_it(
    tiny: Checkpoint, tmp_path: Path
) -> None:
    # why `one-width` is the default; when this fails, transformers has learned to read groups a module
    export_checkpoint(tiny, all_bits(tiny), tmp_path / "out", layout="mixed")
    with pytest.warns(UserWarning, match="quantization_config"), pytest.raises(RuntimeError):
        opened(tmp_path / "out", "sequence")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_our_loader_gives_the_simulation_to_the_last_digit(
    model: Checkpoint, layout: Layout, tmp_path: Path
) -> None:
    ends = {
        s.name: (-1.0 - i / 7, 2.0 + i / 3)
        for i, s in enumerate(sites_of(model.config))
        if s.layer is not None
    }
    ranges = ActivationRanges(MappingProxyType(ends), "made up", 3)
    plan = all_bits(model, 2, activation_bits=8)
    export_checkpoint(model, plan, tmp_path / "out", layout=layout, ranges=ranges)
    again = load_exported(tmp_path / "out")
    assert again.plan == plan
    assert again.ranges == ranges
    made = again.model()
    logits = forward(made.weights, again.config, IDS, torch.zeros_like(IDS), LENGTHS, linear=made.linear)
    assert torch.equal(logits, simulated(model, plan, ranges))
    assert not torch.equal(logits, simulated(model, replace(plan, activation_bits=32)))
    assert again.tokenizer.to_str() == model.tokenizer.to_str()


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_every_plan_survives(
    tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    entry = st.builds(SitePlan, st.sampled_from([*range(1, 9), 32]), st.integers(1, 100))
    names = [site.name for site in sites_of(tiny.config)]
    entries = data.draw(st.lists(entry, min_size=len(names), max_size=len(names)))
    plan = Plan(
        "drawn", 32, tuple(zip(names, entries, strict=True)), data.draw(st.sampled_from([100.0, 99.0]))
    )
    if not any(e.quantized for e in entries):
        return
    folder = tmp_path_factory.mktemp("drawn") / "out"
    layout: Layout = data.draw(st.sampled_from(LAYOUTS))
    written = export_checkpoint(tiny, plan, folder, layout=layout)
    again = load_exported(folder)
    made = Quantizer(tiny, NO_RANGES).model(plan)
    assert again.plan == plan
    assert again.layout == layout
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in made.weights.items())
    parts = {name: value for name, value in written.size.items() if name != "file"}
    assert sum(parts.values()) == pytest.approx(
        (folder / "model.safetensors").stat().st_size / 2**20, rel=1e-12
    )
    assert 0 <= parts["header"] * 2**20 < 40_000
    assert parts["wider_codes"] >= 0 if layout == "one-width" else parts["wider_codes"] == 0


@given(
    bits=st.integers(1, 8), rows=st.integers(1, 9), count=st.integers(1, 131), seed=st.integers(0, 2**32 - 1)
)
def test_packing_is_that_of_compressed_tensors(bits: int, rows: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, count)).astype(np.uint8)
    q = torch.from_numpy(codes)
    signed = (q.int() - 2 ** (bits - 1)).to(torch.int8)
    packed = pack(q, bits)
    assert packed.shape == (rows, words(count, bits))
    assert torch.equal(packed, pack_to_int32(signed, bits))
    assert torch.equal(unpack(packed, bits, count), q)
    assert torch.equal(unpack_from_int32(packed, bits, torch.Size((rows, count))), signed)


def test_packing_in_pieces_is_packing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 8, (50, 33)).astype(np.uint8))
    whole = pack(codes, 3)
    monkeypatch.setattr("qbert_core.export.packing.CHUNK", 100)
    assert torch.equal(pack(codes, 3), whole)
    assert torch.equal(unpack(whole, 3, 33), codes)


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")
@pytest.mark.parametrize("name", ["qbert-mp-2-4", "qbert-3"])
def test_the_demo_opens_with_the_simulations_logits(name: str, tmp_path: Path) -> None:
    demo = load_checkpoint("demo")
    plan = replace(preset_named_plan(demo, name), activation_bits=32)
    started = time.process_time()  # other work on the machine does not count
    written = export_checkpoint(demo, plan, tmp_path / "out")
    assert time.process_time() - started < 10
    theirs = opened(tmp_path / "out", "sequence")
    torch.testing.assert_close(transformers_logits(theirs), simulated(demo, plan), rtol=0, atol=1e-5)
    mixed = export_checkpoint(demo, plan, tmp_path / "mixed", layout="mixed")
    assert mixed.size["file"] - mixed.size["promised"] < 0.9  # pooler, head, a scale a row, the header
    assert mixed.size["file"] < 0.8 * written.size["file"]


# bad input


def test_another_models_plan_is_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    plan = preset_named_plan(load_checkpoint("demo"), "qbert-4")
    with pytest.raises(InputError, match="for another model"):
        export_checkpoint(tiny, plan, tmp_path / "out")


def test_a_plan_that_quantizes_nothing_is_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="quantizes nothing"):
        export_checkpoint(tiny, preset_named_plan(tiny, "baseline"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_foreign_folders_and_files_stay_as_they_are(tiny: Checkpoint, tmp_path: Path) -> None:
    plan = all_bits(tiny)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("picture")
    (tmp_path / "file").write_text("text")
    for replace_it in (False, True):
        with pytest.raises(InputError, match="holds other things"):
            export_checkpoint(tiny, plan, tmp_path / "photos", replace=replace_it)
        with pytest.raises(InputError, match="is a file"):
            export_checkpoint(tiny, plan, tmp_path / "file", replace=replace_it)
    assert (tmp_path / "photos" / "one.jpg").read_text() == "picture"
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "file"}


def test_an_earlier_export_is_replaced_only_when_asked(tiny: Checkpoint, tmp_path: Path) -> None:
    first, second = all_bits(tiny), all_bits(tiny, 3)
    folder = tmp_path / "out"
    folder.mkdir()  # an empty one is taken
    export_checkpoint(tiny, first, folder)
    with pytest.raises(InputError, match="--replace"):
        export_checkpoint(tiny, second, folder)
    assert load_exported(folder).plan == first
    export_checkpoint(tiny, second, folder, replace=True)
    assert load_exported(folder).plan == second
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


class _CancelAfter(Silent):
    def __init__(self, checks: int) -> None:
        self.left = checks

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Cancelled


@pytest.mark.parametrize("checks", [0, 5, 25, 60])
def test_a_cancelled_export_leaves_nothing(tiny: Checkpoint, checks: int, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        export_checkpoint(tiny, all_bits(tiny), tmp_path / "out", events=_CancelAfter(checks))
    assert not list(tmp_path.iterdir())


def test_a_cancelled_replacement_leaves_the_earlier_export(tiny: Checkpoint, tmp_path: Path) -> None:
    export_checkpoint(tiny, all_bits(tiny), tmp_path / "out")
    flag = Flag()
    flag.cancel()
    with pytest.raises(Cancelled):
        export_checkpoint(tiny, all_bits(tiny, 3), tmp_path / "out", replace=True, events=flag)
    assert load_exported(tmp_path / "out").plan == all_bits(tiny)


def test_what_a_killed_export_left_is_swept(tiny: Checkpoint, tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f".out.{ended.pid}.partial").mkdir()
    (tmp_path / f".out.{os.getppid()}.partial").mkdir()  # of a process that lives
    (tmp_path / f".other.{ended.pid}.partial").mkdir()
    export_checkpoint(tiny, all_bits(tiny), tmp_path / "out")
    kept = {"out", f".out.{os.getppid()}.partial", f".other.{ended.pid}.partial"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_too_little_room_is_said_before_writing(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    with pytest.raises(InputError, match="1 MB free"):
        export_checkpoint(tiny, all_bits(tiny), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_while_writing_leaves_nothing(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qbert_core.export.write.save_tokenizer", full)
    with pytest.raises(OSError, match="No space left"):
        export_checkpoint(tiny, all_bits(tiny), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_weight_that_reads_back_differently_is_no_success(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flipping(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        tensors["bert.embeddings.LayerNorm.bias"] = tensors["bert.embeddings.LayerNorm.bias"] + 1e-6
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr("qbert_core.export.write.save_file", flipping)
    with pytest.raises(OSError, match=r"LayerNorm\.bias reads back differently"):
        export_checkpoint(tiny, all_bits(tiny), tmp_path / "out")
    assert not list(tmp_path.iterdir())


# an exported folder from anywhere


@pytest.fixture
def exported(tiny: Checkpoint, tmp_path: Path) -> Export:
    return export_checkpoint(tiny, all_bits(tiny), tmp_path / "out", layout="mixed")


def change_json(path: Path, change: Any) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


SITE = "bert.encoder.layer.1.output.dense"  # 8 bits in `all_bits`


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["plan"]["sites"][SITE].update(bits=9), "bits 9"),
        (lambda d: d["plan"]["sites"][SITE].update(bits=3), "does not fit the plan"),
        (lambda d: d.update(layout="one-width"), "does not fit the plan"),
        (lambda d: d.update(layout="tight"), "layout 'tight'"),
        (lambda d: d.update(schema=2), "schema 2"),
        (lambda d: d.pop("plan"), "expected"),
        (lambda d: d.update(source="me"), "source"),
        (lambda d: d.update(activations={"ranges": {}, "examples": 1, "source": "s"}), "ranges of another"),
    ],
)
def test_a_changed_sidecar_is_refused(exported: Export, change: Any, message: str) -> None:
    change_json(exported.folder / FILE, change)
    with pytest.raises(InputError, match=message):
        load_exported(exported.folder)


def change_tensor(folder: Path, name: str, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    made = change(tensors[name])
    if made is None:
        del tensors[name]
    else:
        tensors[name] = made
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (f"{SITE}.weight_packed", lambda t: None, "is missing"),
        (f"{SITE}.weight_packed", lambda t: t[:, :-1].contiguous(), "expected I32"),
        (f"{SITE}.weight_packed", lambda t: t.float(), "expected I32"),
        (f"{SITE}.weight_scale", lambda t: t * torch.nan, "not positive and finite"),
        (f"{SITE}.weight_scale", lambda t: -t, "not positive and finite"),
        (f"{SITE}.weight_scale", lambda t: t.double(), "expected F32"),
        (f"{SITE}.weight_shape", lambda t: t * 2, "weight_shape is"),
        ("classifier.weight", lambda t: t / 0, "NaN or infinite"),
    ],
)
def test_a_changed_weight_file_is_refused(exported: Export, name: str, change: Any, message: str) -> None:
    change_tensor(exported.folder, name, change)
    with pytest.raises(InputError, match=message):
        load_exported(exported.folder)


def test_codes_above_the_plans_bits_are_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    low = "bert.encoder.layer.0.attention.self.query"  # 4 bits, stored in 8
    folder = export_checkpoint(tiny, all_bits(tiny), tmp_path / "out").folder
    change_tensor(folder, f"{low}.weight_packed", lambda t: t | 0x40)
    with pytest.raises(InputError, match="codes above 15"):
        load_exported(folder)


def test_a_tensor_too_many_is_refused(exported: Export) -> None:
    path = exported.folder / "model.safetensors"
    save_file({**load_file(path), "more": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="belongs to no part"):
        load_exported(exported.folder)


def test_a_file_cut_off_is_refused(exported: Export) -> None:
    path = exported.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="truncated"):
        load_exported(exported.folder)


def test_a_folder_that_is_no_export_is_refused(tiny: Checkpoint) -> None:
    with pytest.raises(InputError, match=r"no export\.json"):
        load_exported(tiny.folder)


def test_eight_bit_inputs_need_their_ranges(tiny: Checkpoint, tmp_path: Path) -> None:
    plan = uniform_plan(sites_of(tiny.config), "p", bits=4, groups=2, embedding_bits=8, activation_bits=8)
    export_checkpoint(tiny, plan, tmp_path / "out")
    again = load_exported(tmp_path / "out")
    assert again.ranges is None
    with pytest.raises(InputError, match="without the activation ranges"):
        again.model()
