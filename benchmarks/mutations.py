"""Hostile inputs, each from a sound one and a seed, and what is done with them.

A mutation knows the structure it breaks: fields of a header, offsets, the numbers of a config, entries of
a zip, a parquet footer; one in four only overwrites bytes. The same kind and seed give the same bytes.
"""

from __future__ import annotations

import copy
import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qbert_core.checkpoints import Checkpoint, load_checkpoint
from qbert_core.checkpoints.archive import unpack
from qbert_core.quantization import plan_size, sites_of
from qbert_core.quantization.plan import parse_plan, uniform_plan
from qbert_core.quantization.trained import load_trained
from qbert_core.tasks import task_named
from qbert_core.tasks.data import read_table

NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    255,
    256,
    2**15,
    2**31 - 1,
    2**31,
    2**32,
    2**48,
    2**63 - 1,
    2**63,
    2**64,
    10**40,
)
ODD: tuple[Any, ...] = (
    None, True, False, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "\0", "\ud800", "../../etc/passwd",
    "/etc/passwd", "=cmd|' /C calc'!A0", "<img src=x onerror=alert(1)>", "a" * 5000, "a\nb", [], {}, [[]], [0] * 50,
    {"__class__": "os.system"}, "cos\nsystem\n(S'x'\ntR.", "http://127.0.0.1:9/", "\u202e", "💥",
)  # fmt: skip
UPLOAD = 64 * 2**20  # bytes one archive may unpack to here
LONGEST = 2_000_000  # bytes of a mutated file


def mutated(kind: str, sound: Path, seed: int) -> dict[str, bytes]:
    """The files of a case: name -> bytes. `sound` holds the originals."""
    draw = random.Random(f"{kind}/{seed}")
    return MAKERS[kind](sound, draw)


def tried(kind: str, folder: Path, sound: Path) -> str:
    """Do what the product does with the files in `folder`. Returns what came of it; raises `InputError`
    for what it refuses, and something else where it is wrong."""
    return TARGETS[kind](folder, sound)


# --- pieces of mutation


def value(draw: random.Random, depth: int = 0) -> Any:
    """Any JSON value, odd ones often."""
    pick = draw.random()
    if pick < 0.45:
        return draw.choice(NUMBERS)
    if pick < 0.9 or depth > 2:
        return copy.deepcopy(draw.choice(ODD))  # what is put into it later must not be in the next case
    if pick < 0.93:
        made: Any = 0
        for _ in range(draw.choice((3, 70, 900))):
            made = [made]
        return made
    return {str(value(draw, 3)): value(draw, depth + 1) for _ in range(draw.randint(0, 3))}


def places(document: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON document."""
    found, open_ = [], [document]
    while open_:
        node = open_.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            found.append((node, key))
            open_.append(node[key])
    return found


def json_mutated(document: Any, draw: random.Random) -> bytes:
    """The document with some of its values, keys or its text changed."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        spots = places(document)
        if not spots:
            break
        node, key = draw.choice(spots[:60] if draw.random() < 0.6 else spots)
        how = draw.random()
        if how < 0.55:
            node[key] = value(draw)
        elif how < 0.65 and isinstance(node[key], int):
            node[key] += draw.choice((-1, 1, 2**31, -(2**40)))
        elif how < 0.75:
            del node[key]
        elif how < 0.85 and isinstance(node, dict):
            node[str(value(draw, 3))] = node[key]
        elif isinstance(node, list):
            node.extend(node[:200] * draw.choice((1, 3)))
        else:
            node[key] = json.loads(json.dumps(draw.choice(spots)[0]))
    text = json.dumps(document)
    how = draw.random()
    if how < 0.03:
        text = text.replace("{", '{"schema": 7, "schema": 8, ', 1)
    elif how < 0.05:
        text = "[" * 100_000 + text
    elif how < 0.07:
        text = text + "x"
    elif how < 0.09:
        text = " " * 1_500_000 + text
    return text.encode("utf-8", "surrogatepass")[:LONGEST]


def bytes_mutated(raw: bytes, draw: random.Random, within: int | None = None) -> bytes:
    """Bytes overwritten, cut, doubled or put in, below `within`."""
    end = min(len(raw), within or len(raw))
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        at = draw.randrange(max(1, end))
        how = draw.random()
        if how < 0.6:
            new = draw.choice(
                (b"\0", b"\xff", b"\x7f", b'"', b",", b"\n", draw.randbytes(4), draw.randbytes(1))
            )
            raw = raw[:at] + new + raw[at + len(new) :]
        elif how < 0.75:
            raw = raw[:at] + raw[at + draw.choice((1, 8, 100)) :]
        elif how < 0.9:
            raw = raw[:at] + raw[at : at + draw.choice((1, 16, 400))] * 2 + raw[at:]
        else:
            raw = raw[:at] if draw.random() < 0.3 else raw + draw.randbytes(32)
    return raw[:LONGEST]


def one_in_four(draw: random.Random) -> bool:
    return draw.random() < 0.25


# --- makers: a kind's files


def _config(sound: Path, draw: random.Random) -> dict[str, bytes]:
    return {"config.json": _json_file(sound / "model" / "config.json", draw)}


def _tokenizer(sound: Path, draw: random.Random) -> dict[str, bytes]:
    raw = (sound / "model" / "tokenizer.json").read_bytes()
    if draw.random() < 0.4:
        document = json.loads(raw)
        document[draw.choice(("normalizer", "pre_tokenizer", "post_processor", "decoder", "model"))] = (
            draw.choice(PARTS)
        )
        return {"tokenizer.json": json.dumps(document).encode()}
    return {"tokenizer.json": _json_file(sound / "model" / "tokenizer.json", draw)}


# parts of the tokenizers library that no BERT has, or that take what they are given to extremes
PARTS: tuple[dict[str, Any], ...] = (
    {"type": "Split", "pattern": {"Regex": "(a|a)*b(a+)+$"}, "behavior": "Isolated", "invert": False},
    {"type": "Replace", "pattern": {"String": ""}, "content": "a" * 100_000},
    {"type": "Replace", "pattern": {"Regex": "(.*)*"}, "content": "x"},
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    {"type": "Prepend", "prepend": "a" * 10_000},
    {"type": "BPE", "vocab": {"a": 0}, "merges": ["a a"] * 1000},
    {"type": "Unigram", "unk_id": 10**9, "vocab": [["a", -1.0]]},
    {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"},
    {"type": "WordPiece", "vocab": {}, "unk_token": "[UNK]", "continuing_subword_prefix": "", "max_input_chars_per_word": 0},
    {"type": "Sequence", "normalizers": [{"type": "NFKD"}] * 10_000},
    {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}] * 3},
    {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}},
    {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 4_000_000_000}}], "pair": [], "special_tokens": {}},
    {"type": "BertProcessing", "sep": ["[SEP]", 4_000_000_000], "cls": ["[CLS]", 0]},
    {"type": "BertNormalizer", "clean_text": "yes"},
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "Fuse"},
)  # fmt: skip


def _vocab(sound: Path, draw: random.Random) -> dict[str, bytes]:
    document = json.loads((sound / "model" / "tokenizer.json").read_text())
    raw = "\n".join(document["model"]["vocab"]).encode()
    how = draw.random()
    if how < 0.1:
        raw += b"\nword" * draw.choice((1, 1000, 300_000))
    elif how < 0.2:
        raw += b"\n" + b"a" * draw.choice((999, 1003, 1_000_000))
    elif how < 0.3:
        raw = raw.replace(b"\n", draw.choice((b"\r\n", b"\r", b"\n\n", b"\0")))
    else:
        raw = bytes_mutated(raw, draw)
    config = draw.choice(
        (b'{"do_lower_case": false}', b'{"do_lower_case": "no"}', b"[1]", b"{", b"[" * 90_000)
    )
    return {"vocab.txt": raw[:LONGEST], "tokenizer_config.json": config, "tokenizer.json": b""}


def _weights(sound: Path, draw: random.Random) -> dict[str, bytes]:
    raw = (sound / "model" / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    if one_in_four(draw):
        return {"model.safetensors": bytes_mutated(raw, draw, 8 + length if draw.random() < 0.7 else None)}
    document, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    how = draw.random()
    if how < 0.2:  # numbers that are none, in a tensor
        at = 4 * draw.randrange(len(data) // 4)
        bad = draw.choice(
            (b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\xff\xff\x7f\x7f", b"\x01\0\0\0")
        )
        data = data[:at] + bad + data[at + 4 :]
    elif how < 0.5:  # offsets and shapes
        names = [n for n in document if n != "__metadata__"]
        entry = document[draw.choice(names)]
        field = draw.choice(("dtype", "shape", "data_offsets", "data_offsets"))
        if field == "dtype":
            entry[field] = draw.choice(("F64", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "F128", value(draw)))
        else:
            entry[field] = [
                draw.choice((*NUMBERS, *entry[field])) for _ in range(draw.choice((1, 2, 2, 2, 9)))
            ]
    header = json_mutated(document, draw) if how >= 0.5 else json.dumps(document).encode()
    size = len(header) if draw.random() < 0.95 else draw.choice((0, 1, 2**20, 2**40, 2**64 - 1))
    return {"model.safetensors": size.to_bytes(8, "little") + header + data}


def _quantization(sound: Path, draw: random.Random) -> dict[str, bytes]:
    return {"quantization.json": _json_file(sound / "quantization.json", draw)}


def _plan(sound: Path, draw: random.Random) -> dict[str, bytes]:
    return {"plan.json": _json_file(sound / "plan.json", draw)}


def _sensitivity(sound: Path, draw: random.Random) -> dict[str, bytes]:
    return {"sensitivity.json": _json_file(sound / "sensitivity.json", draw)}


def _link(sound: Path, draw: random.Random) -> dict[str, bytes]:
    import base64
    import zlib

    document = json.loads((sound / "link.json").read_text())
    if draw.random() < 0.3:
        document[3] = [[draw.randint(0, 9), draw.choice(NUMBERS)] for _ in document[3]]
    text = json_mutated(document, draw) if draw.random() < 0.8 else json.dumps(document).encode()
    packed = zlib.compress(text if draw.random() < 0.9 else bytes(50_000_000), 9)
    if one_in_four(draw):
        packed = bytes_mutated(packed, draw)
    raw = base64.urlsafe_b64encode(packed).rstrip(b"=")
    return {"link.txt": raw if draw.random() < 0.9 else bytes_mutated(raw, draw)}


def _zip(sound: Path, draw: random.Random) -> dict[str, bytes]:
    """An archive with hostile names, links, sizes or flags."""
    made = io.BytesIO()
    method = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    prefix = draw.choice(
        (*("", "my-model/") * 8, "/", "../", "a/b/", "C:\\", "..\\", "\0", "x" * 300 + "/", "é/")
    )
    with zipfile.ZipFile(made, "w", method) as archive:
        for path in sorted((sound / "model").iterdir()):
            if draw.random() < 0.02:
                continue
            name = prefix + path.name
            name = draw.choice(
                (name,) * 80 + (name.upper(), "../" + name, "./" + name, name + "/", "a/../" + name)
            )
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            if draw.random() < 0.02:
                info.external_attr = draw.choice((0o120777, 0o060644, 0o010644, 0o104755)) << 16
            body = path.read_bytes()
            if draw.random() < 0.05:
                body = draw.choice((b"../../../etc/passwd", bytes(30_000_000), b"", b"PK\x03\x04" * 100))
            archive.writestr(info, body)
            if draw.random() < 0.05 and info.filename:
                archive.writestr(info.filename, body)
        for _ in range(draw.choice((0, 0, 0, 1, 30, 250))):
            archive.writestr(f"extra-{draw.random()}.bin", b"x")
        if draw.random() < 0.05:
            archive.writestr(draw.choice(("setup.py", "pytorch_model.bin", "inner.zip")), b"import os")
    raw = made.getvalue()
    how = draw.random()
    if how < 0.2:
        raw = bytes_mutated(raw, draw)
    elif how < 0.35:  # the list of entries and its end record
        at = max(0, len(raw) - draw.randrange(1, 700))
        raw = raw[:at] + draw.randbytes(draw.choice((1, 2, 4))) + raw[at + 4 :]
    elif how < 0.45:
        raw = raw.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")
    return {"upload.zip": raw}


CELLS = (
    "a good film",
    "",
    "=1+1",
    "<b>x</b>",
    '"',
    "a\tb",
    "a,b",
    "\0",
    "é💥",
    "x" * 20_000,
    "1e999",
    "NaN",
    "[[[[",
    "{}",
)


def _cell(draw: random.Random) -> str:
    return draw.choice(CELLS)


def _csv(sound: Path, draw: random.Random, separator: str = ",", name: str = "data.csv") -> dict[str, bytes]:
    lines = [separator.join(("sentence", "label"))]
    labels = draw.choice(((0, 1, "positive"), (0, 1, 2, -1, "", 1e30)))
    lines += [f'"{_cell(draw)}"{separator}{draw.choice(labels)}' for _ in range(20)]
    how = draw.random()
    if how < 0.1:
        lines[0] = separator.join(f"c{i}" for i in range(draw.choice((999, 1001, 200_000))))
    elif how < 0.2:
        lines[draw.randrange(1, 20)] = separator * draw.choice((3, 1001, 500_000))
    elif how < 0.3:
        lines[draw.randrange(1, 20)] = '"' + draw.choice(("a" * 1_500_000, "\n" * 100_000, ""))
    elif how < 0.4:
        lines[0] = draw.choice(
            ("", "sentence", "label,label", "sentence,sentence,label", "=cmd()", "\ufeffsentence,label")
        )
    raw = (
        draw.choice(("\n", "\n", "\r\n", "\r"))
        .join(lines)
        .encode(draw.choice(("utf-8",) * 6 + ("utf-16", "cp1252")), "replace")
    )
    return {name: bytes_mutated(raw, draw) if one_in_four(draw) else raw[:LONGEST]}  # fmt: skip


def _tsv(sound: Path, draw: random.Random) -> dict[str, bytes]:
    return _csv(sound, draw, "\t", "data.tsv")


def _rows(draw: random.Random) -> list[dict[str, Any]]:
    odd = draw.random() < 0.5
    return [
        {
            "sentence": draw.choice((*CELLS, value(draw) if odd else "x")),
            "label": draw.choice((0, 1, "positive", value(draw) if odd else 1)),
        }
        for _ in range(draw.choice((1, 5, 40)))
    ]


def _json_data(sound: Path, draw: random.Random) -> dict[str, bytes]:
    rows: Any = (
        [{"sentence": "a good film", "label": 1} for _ in range(5)] if draw.random() < 0.3 else _rows(draw)
    )
    if draw.random() < 0.2:
        rows = {name: {str(i): row.get(name) for i, row in enumerate(rows)} for name in ("sentence", "label")}
    if draw.random() < 0.1:
        rows = draw.choice(([{f"c{i}": 1 for i in range(5000)}], [[]] * 1000, {}, [], "x", 1, [1, 2]))
    raw = json_mutated(rows, draw) if draw.random() < 0.7 else json.dumps(rows).encode()
    return {"data.json": bytes_mutated(raw, draw) if one_in_four(draw) else raw}


def _jsonl(sound: Path, draw: random.Random) -> dict[str, bytes]:
    lines = [json.dumps(row) for row in _rows(draw)]
    if draw.random() < 0.3:
        lines.insert(0, draw.choice(("[" * 100_000, "{", "", "\0", '{"a": ' * 2000, "[1]", '"x"', "null")))
    raw = "\n".join(lines).encode()
    return {"data.jsonl": bytes_mutated(raw, draw) if one_in_four(draw) else raw[:LONGEST]}


def _parquet(sound: Path, draw: random.Random) -> dict[str, bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    how = draw.random()
    if how < 0.12:  # one long text, referred to again and again
        count = draw.choice((1000, 100_000))
        texts = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array(["a" * 300_000]))
        table = pa.table({"sentence": texts, "label": [0] * count})
    elif how < 0.2:
        table = pa.table({f"c{i}": [1] for i in range(draw.choice((10, 1001, 1500)))})
    elif how < 0.3:
        table = pa.table({"sentence": [["a"] * 10, None], "label": [{"a": 1}, {"a": 2}]})
    elif how < 0.4:
        table = pa.table({"sentence": pa.array([b"\xff\xfe", b"a"]), "label": pa.array([1, None])})
    elif how < 0.45:
        table = pa.table({"sentence": pa.nulls(draw.choice((10, 3_000_000)))})
    else:
        table = pa.table({"sentence": [draw.choice(CELLS) for _ in range(50)], "label": [0, 1] * 25})
    if draw.random() < 0.2:
        table = table.replace_schema_metadata({"pandas": json.dumps(value(draw)), "ARROW:schema": "AAAA"})
    made = io.BytesIO()
    pq.write_table(table, made, compression=draw.choice(("snappy", "zstd", "gzip", "none")))
    raw = made.getvalue()
    if how >= 0.3 and draw.random() < 0.8:
        footer = int.from_bytes(raw[-8:-4], "little")
        if draw.random() < 0.6:
            at = len(raw) - 8 - draw.randrange(1, footer + 1)
            raw = raw[:at] + draw.randbytes(draw.choice((1, 2, 5))) + raw[at + draw.choice((1, 2, 5)) :]
        else:
            raw = bytes_mutated(raw, draw)
    return {"data.parquet": raw}


def _json_file(path: Path, draw: random.Random) -> bytes:
    if one_in_four(draw):
        return bytes_mutated(path.read_bytes(), draw)
    return json_mutated(json.loads(path.read_text()), draw)


# --- targets: what the product does


def _model(folder: Path, sound: Path) -> str:
    """Load the sound model with the mutated files in place of its own, and run it."""
    for path in (sound / "model").iterdir():
        if not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)
    if (folder / "tokenizer.json").stat().st_size == 0:
        (folder / "tokenizer.json").unlink()
    return _used(load_checkpoint(folder))


def _used(checkpoint: Checkpoint) -> str:
    import torch

    from qbert_core.bert import forward

    load_trained(checkpoint.folder, checkpoint.config)
    encoded = checkpoint.tokenizer.encode("a good zyx film " + "a" * 300)
    ids, types = encoded.ids[: checkpoint.max_length], encoded.type_ids[: checkpoint.max_length]
    forward(
        checkpoint.weights,
        checkpoint.config,
        torch.tensor([ids]),
        torch.tensor([types]),
        torch.tensor([len(ids)]),
    )
    return checkpoint.fingerprint


def _archive(folder: Path, sound: Path) -> str:
    target = folder / "unpacked"
    target.mkdir()
    with (folder / "upload.zip").open("rb") as raw:
        unpack(raw, "upload.zip", target, UPLOAD)
    for path in target.iterdir():
        if path.is_symlink() or path.stat().st_size > UPLOAD:
            raise AssertionError(f"{path.name} came out of the archive")
    return _used(load_checkpoint(target))


def _table(folder: Path, sound: Path) -> str:
    checkpoint = load_checkpoint(sound / "model")
    (path,) = folder.glob("data.*")
    examples = task_named("sst2").examples(read_table(path, limit=2000), checkpoint, path.name)
    return examples.fingerprint


def _plan_file(folder: Path, sound: Path) -> str:
    from qbert_core.cli.inputs import read_plan

    checkpoint = load_checkpoint(sound / "model")
    plan = read_plan(str(folder / "plan.json"), checkpoint, task_named("sst2"))
    json.dumps([plan.to_json(), plan_size(checkpoint.config, plan).size_mb]).encode()
    return plan.digest


def _ranges(folder: Path, sound: Path) -> str:
    load_trained(folder, load_checkpoint(sound / "model").config)
    return "read"


def _sensitivity_file(folder: Path, sound: Path) -> str:
    from qbert_core.cli import parser

    args = parser().parse_args(
        ["allocate", str(sound / "model"), "--sensitivity", str(folder / "sensitivity.json"), "--bits", "2,4",
         "--high", "1"]
    )  # fmt: skip
    return json.dumps(args.run(args), allow_nan=False)


def _linked(folder: Path, sound: Path) -> str:
    from app.link import plan_from_text

    text = (folder / "link.txt").read_bytes().decode("latin-1")
    return plan_from_text(text, sites_of(load_checkpoint(sound / "model").config)).digest


MAKERS: dict[str, Callable[[Path, random.Random], dict[str, bytes]]] = {
    "config.json": _config,
    "model.safetensors": _weights,
    "tokenizer.json": _tokenizer,
    "vocab.txt": _vocab,
    "quantization.json": _quantization,
    "zip": _zip,
    "csv": _csv,
    "tsv": _tsv,
    "json": _json_data,
    "jsonl": _jsonl,
    "parquet": _parquet,
    "plan": _plan,
    "sensitivity": _sensitivity,
    "link": _link,
}
KINDS = tuple(MAKERS)
TARGETS: dict[str, Callable[[Path, Path], str]] = {
    **dict.fromkeys(("config.json", "model.safetensors", "tokenizer.json", "vocab.txt"), _model),
    **dict.fromkeys(("csv", "tsv", "json", "jsonl", "parquet"), _table),
    "quantization.json": _ranges,
    "zip": _archive,
    "plan": _plan_file,
    "sensitivity": _sensitivity_file,
    "link": _linked,
}


def make_sound(folder: Path) -> Path:
    """What is mutated: a tiny model, a plan and a sensitivity for it, frozen ranges, a link."""
    from tests.tiny import make_tiny

    make_tiny(folder / "model", layers=2, hidden=8, intermediate=12)
    config = load_checkpoint(folder / "model").config
    sites = sites_of(config)
    plan = uniform_plan(sites, "four", bits=4, groups=4, embedding_bits=8, activation_bits=8)
    (folder / "plan.json").write_text(json.dumps(plan.to_json()))
    parse_plan(plan.to_json(), sites, "sound")
    ranges = {site.name: [-1.0, 2.0] for site in sites if site.layer is not None}
    activations = {"source": "demo", "examples": 5, "ranges": ranges}
    document = {"schema": 1, "plan": plan.to_json(), "activations": activations}
    (folder / "quantization.json").write_text(json.dumps(document))
    blocks = [
        {"name": f"layer {i}", "layer": i, "kind": "layer", "lambdas": [1.0 + i, 2.0 + i], "residuals": [0.01] * 2,
         "mean": 1.5 + i, "std": 0.5, "omega": 2.0 + i}
        for i in range(config.layers)
    ]  # fmt: skip
    measured = {
        "blocks": blocks,
        "runs": 2,
        "examples": 10,
        "seconds": 1.0,
        "hvp_count": 9,
        "stopped": "runs",
    }
    (folder / "sensitivity.json").write_text(json.dumps(measured))
    _sensitivity_file(folder, folder)
    entries = [[entry.bits, entry.groups] for _, entry in plan.entries]
    (folder / "link.json").write_text(json.dumps(["four", 8, 100.0, entries]))
    return folder
