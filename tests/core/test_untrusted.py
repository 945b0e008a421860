"""Files from outside: what is hostile is refused in one line, before it costs memory or reaches a file."""

from __future__ import annotations

import io
import json
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbert_core.access import VARIABLE, Access
from qbert_core.checkpoints import load_checkpoint
from qbert_core.checkpoints.archive import FILES, MAX_ENTRIES, MAX_RATIO, unpack
from qbert_core.errors import InputError
from qbert_core.jsonfile import MAX_DEPTH, parse_json, read_json
from qbert_core.quantization import sites_of
from qbert_core.quantization.plan import parse_plan, uniform_plan
from qbert_core.tasks import files as files_module
from qbert_core.tasks import task_named
from qbert_core.tasks.data import read_table
from tests.tiny import make_tiny

LIMIT = 10 * 2**20


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    assert len(message) < 1200
    return message


# --- archives


def packed(*entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> io.BytesIO:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content, method)
    return made


def link(name: str, kind: int = stat.S_IFLNK) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o777) << 16
    return info


def unpacked(archive: io.BytesIO, folder: Path, limit: int = LIMIT) -> list[str]:
    folder.mkdir(exist_ok=True)
    return sorted(path.name for path in unpack(archive, "some.zip", folder, limit))


@pytest.mark.parametrize("top", ["", "my-model/", "a b é/"])
def test_a_packed_checkpoint_comes_out_as_it_was(tmp_path: Path, top: str) -> None:
    model = make_tiny(tmp_path / "model")
    entries = [(top + path.name, path.read_bytes()) for path in model.iterdir()]
    more = [
        (top + "README.md", b"# read me"),
        (top + "pytorch_model.bin", b"cos\nsystem\n"),
        (top + "more/x", b""),
    ]
    names = unpacked(packed(*entries, *more), tmp_path / "out")
    assert names == sorted(path.name for path in model.iterdir() if path.name in FILES)
    assert load_checkpoint(tmp_path / "out").fingerprint == load_checkpoint(model).fingerprint
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


CONFIG = ("config.json", b"{}")
HOSTILE: dict[str, tuple[Callable[[], io.BytesIO], str]] = {
    "absolute": (lambda: packed(CONFIG, ("/etc/cron.d/vocab.txt", b"x")), "leads out of the archive"),
    "parent": (lambda: packed(CONFIG, ("../vocab.txt", b"x")), "leads out of the archive"),
    "parent inside": (lambda: packed(CONFIG, ("a/../../vocab.txt", b"x")), "leads out of the archive"),
    "backslash": (lambda: packed(CONFIG, ("..\\vocab.txt", b"x")), "leads out of the archive"),
    "drive": (lambda: packed(CONFIG, ("C:vocab.txt", b"x")), "leads out of the archive"),
    "link": (lambda: packed(CONFIG, (link("vocab.txt"), b"/etc/passwd")), "is a link or a device"),
    "pipe": (lambda: packed(CONFIG, (link("vocab.txt", stat.S_IFIFO), b"")), "is a link or a device"),
    "twice": (lambda: packed(CONFIG, CONFIG), "is there twice"),
    "in another case": (lambda: packed(CONFIG, ("Config.JSON", b"{}")), "is there twice"),
    "in two folders": (lambda: packed(("a/config.json", b"{}"), ("b/vocab.txt", b"x")), "in several folders"),
    "no config": (lambda: packed(("vocab.txt", b"x")), "no config.json in it"),
    "too many": (
        lambda: packed(CONFIG, *((f"{i}.txt", b"") for i in range(MAX_ENTRIES))),
        f"{MAX_ENTRIES + 1} entries",
    ),
    "another method": (lambda: packed(CONFIG, method=zipfile.ZIP_LZMA), "packed in a way not read here"),
    "not a zip": (lambda: io.BytesIO(b"GIF89a" * 100), "not a .zip, or cut off"),
    "empty": (lambda: io.BytesIO(b""), "not a .zip, or cut off"),
    "huge config": (lambda: packed(("config.json", b" " * (2**20 + 1))), "1,048,576 are allowed"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_writes_nothing_outside_and_is_named(tmp_path: Path, name: str) -> None:
    make, expected = HOSTILE[name]
    before = set(tmp_path.rglob("*"))
    assert expected in refusal(lambda: unpacked(make(), tmp_path / "out"))
    assert set(tmp_path.rglob("*")) - before <= {tmp_path / "out"}


def test_a_bomb_is_stopped_by_what_comes_out_not_by_what_the_archive_says(tmp_path: Path) -> None:
    honest = packed(CONFIG, ("model.safetensors", bytes(50 * 2**20)))
    assert "model.safetensors: more than the" in refusal(lambda: unpacked(honest, tmp_path / "out", 2**40))
    raw = honest.getvalue()
    lying = raw.replace((50 * 2**20).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    assert lying != raw
    refusal(lambda: unpacked(io.BytesIO(lying), tmp_path / "two", 2**40))
    most = MAX_RATIO * len(raw)
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert written < most
    weights = os.urandom(3 * 2**20)
    assert "more than the" in refusal(
        lambda: unpacked(packed(CONFIG, ("model.safetensors", weights)), tmp_path / "three", 2 * 2**20)
    )


def test_an_encrypted_entry_is_named(tmp_path: Path) -> None:
    raw = bytearray(packed(CONFIG).getvalue())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.find(signature) + offset] |= 1
    assert "is encrypted" in refusal(lambda: unpacked(io.BytesIO(bytes(raw)), tmp_path / "out"))


def test_a_long_list_of_entries_is_refused_before_it_is_read(tmp_path: Path) -> None:
    made = packed(*((f"{i}.txt", b"") for i in range(30_000)))

    class Counting(io.BytesIO):
        largest = 0

        def read(self, size: int | None = -1) -> bytes:
            got = super().read(size)
            Counting.largest = max(Counting.largest, len(got))
            return got

    assert "30,000 entries" in refusal(lambda: unpacked(Counting(made.getvalue()), tmp_path / "out"))
    assert Counting.largest <= 2**16 + 22


# --- JSON


@settings(deadline=None)
@given(st.integers(0, 3 * MAX_DEPTH))
def test_depth_is_counted(depth: int) -> None:
    text = ("[" * depth + "]" * depth).encode() if depth else b"1"
    if depth <= MAX_DEPTH + 1:
        assert parse_json(text) == json.loads(text)
    else:
        with pytest.raises(ValueError, match="nested deeper"):
            parse_json(text)


def test_a_json_file_is_not_read_beyond_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "big.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # a terabyte of holes
    assert "1,099,511,627,776 bytes, more than the 1,000 allowed" in refusal(lambda: read_json(path, 1000))
    assert "no such file" in refusal(lambda: read_json(tmp_path / "none.json", 10))
    assert "cannot be read" in refusal(lambda: read_json(tmp_path, 10))
    (tmp_path / "twice.json").write_text('{"a": {"b": 1, "b": 2}}')
    assert "the key 'b' is there twice" in refusal(lambda: read_json(tmp_path / "twice.json", 100))


# --- data files


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", ",".join(f"c{i}" for i in range(10**6)) + "\n1", "1,000,000 columns, 1,000 are allowed"),
        ("a.csv", "sentence,label\n" + "," * 10**6, "columns, 1,000 are allowed"),
        ("a.csv", "sentence,label\na,1,2\n", "row 1 has 3 columns, the first line names 2; put texts"),
        ("a.tsv", "sentence\tlabel\na\t1\t2\n", "hold a tab in quotes"),
        ("a.csv", "sentence,label\na\0b,1\n", "line 2 holds a zero byte"),
        ("a.csv", b"sentence,label\n\xff\xfe,1\n", "not readable as csv: 'utf-8' codec can't decode"),
        ("a.csv", "sentence,label\n" + "a" * (9 * 2**20) + ",1\n", "line 2 has more than 8,388,608 characters"),
        ("a.csv", 'sentence,label\n"' + "a\n" * (5 * 2**20), "not readable as csv: field larger than"),
        ("a.json", "[" * 100_000, "not readable as json"),
        ("a.json", json.dumps([{f"c{i}": 1 for i in range(1001)}]), "1,001 columns"),
        ("a.jsonl", "[" * 100_000 + "\n", "not readable as jsonl"),
        ("a.jsonl", '{"sentence": "\0"}\n', "line 1 holds a zero byte"),
        ("a.parquet", b"PAR1" + b"\0" * 100 + (2**31 - 1).to_bytes(4, "little") + b"PAR1", "as parquet"),
    ],
)  # fmt: skip
def test_a_hostile_data_file_is_refused(
    tmp_path: Path, name: str, content: str | bytes, expected: str
) -> None:
    path = write(tmp_path / name, content)
    assert expected in refusal(lambda: read_table(path))


def test_a_json_beyond_its_size_is_not_parsed(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(300 * 2**20)
    assert "314,572,800 bytes, more than the 268,435,456" in refusal(lambda: read_table(tmp_path / "a.json"))


def test_a_long_text_in_a_parquet_dictionary_is_counted_for_every_row(tmp_path: Path) -> None:
    rows = 1_000_000
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["a" * 90_000]))
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"sentence": texts, "label": pa.array([0] * rows, pa.int8())}), path)
    assert path.stat().st_size < 2**20  # of the 90 GB that it stands for
    pa.default_memory_pool().release_unused()
    before = pa.total_allocated_bytes()
    assert "bytes when unpacked" in refusal(lambda: read_table(path))
    assert pa.total_allocated_bytes() - before < 64 * 2**20


def test_what_a_parquet_footer_announces_is_checked_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"sentence": ["a" * 100] * 5000, "label": list(range(5000))}), path)
    monkeypatch.setattr(files_module, "MAX_DECODED", 20_000)
    assert "when unpacked, 20,000 are allowed" in refusal(lambda: read_table(path))
    monkeypatch.setattr(files_module, "MAX_ROWS", 4999)
    assert "5,000 rows, 4,999 are allowed" in refusal(lambda: read_table(path))
    pq.write_table(pa.table({f"c{i}": [1] for i in range(1001)}), path)
    assert "1,001 columns" in refusal(lambda: read_table(path))


TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=30)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(TEXT, st.integers(0, 1)), min_size=1, max_size=30), st.integers(1, 40))
def test_every_parquet_of_texts_is_read_as_pandas_does(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int]], limit: int
) -> None:
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    table = pd.DataFrame(rows, columns=["sentence", "label"])
    table["words"] = [text.split() for text in table["sentence"]]
    table.to_parquet(path, index=False)
    read, theirs = read_table(path, limit=limit), pd.read_parquet(path).head(limit)
    assert list(read.columns) == list(theirs.columns)
    for column in ("sentence", "label"):
        assert read[column].tolist() == theirs[column].tolist()
    assert [list(words) for words in read["words"]] == [list(words) for words in theirs["words"]]


def test_only_the_rows_asked_for_are_looked_at(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "sentence,label\na,1\nb,0\nc,1,2,3\n")
    assert read_table(path, limit=2)["sentence"].tolist() == ["a", "b"]
    refusal(lambda: read_table(path, limit=3))
    path = write(tmp_path / "a.jsonl", '{"sentence": "a"}\n{"sentence": "b"}\n{{{\n')
    assert read_table(path, limit=2)["sentence"].tolist() == ["a", "b"]
    refusal(lambda: read_table(path, limit=3))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a" * 100_001, "row 2: sentence has 100,001 characters"),
        ("\ud800", "row 2: sentence holds half a character"),
        (5, "row 2: sentence is 5, expected text"),
        ({"a": "b\n" * 1000}, "row 2: sentence is {'a': 'b"),
    ],
)
def test_a_text_that_is_none_is_named_by_its_row(tmp_path: Path, text: object, expected: str) -> None:
    checkpoint = load_checkpoint(make_tiny(tmp_path / "model"))
    table = pd.DataFrame({"sentence": pd.Series(["fine", text], dtype=object), "label": [0, 1]})
    assert expected in refusal(lambda: task_named("sst2").examples(table, checkpoint, "data"))


def test_a_hub_name_is_not_a_folder_nor_an_address() -> None:
    for spec in (
        "hub:../../etc:train",
        "hub:/etc:train",
        "hub:./x:train",
        "hub:http://x/y:train",
        "hub:a/b/c/d:x",
    ):
        assert "expected OWNER/NAME" in refusal(lambda spec=spec: read_table(spec))


# --- which files may be opened


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is open to others, beside one that is not."""
    (tmp_path / "open").mkdir()
    make_tiny(tmp_path / "open" / "model")
    make_tiny(tmp_path / "closed" / "model")
    write(tmp_path / "open" / "a.csv", "sentence,label\na,1\n")
    write(tmp_path / "closed" / "a.csv", "sentence,label\na,1\n")
    monkeypatch.setenv(VARIABLE, Access((tmp_path / "open",), hub=False).to_text())
    return tmp_path / "open"


def test_files_below_a_root_are_opened(root: Path) -> None:
    assert load_checkpoint(root / "model").task == "sst2"
    assert load_checkpoint("demo").name == "demo"
    assert len(read_table(root / "a.csv")) == 1
    assert len(read_table("demo")) > 100


@pytest.mark.parametrize(
    "path", ["../closed/{}", "../nowhere/{}", "/etc/passwd", "/nowhere", "~/x", "{}/../../closed/{}"]
)
def test_files_elsewhere_are_refused_whether_they_are_there_or_not(root: Path, path: str) -> None:
    for name, call in (("model", load_checkpoint), ("a.csv", read_table)):
        given_ = path.replace("{}", name)
        text = given_ if given_[0] in "/~" else f"{root}/{given_}"
        said = refusal(lambda call=call, text=text: call(text))
        assert said == (
            f"{text}: not in a folder that this server opens to its users; give demo, an upload, or ask its "
            f"operator for --root"
        )


def test_a_link_out_of_a_root_is_not_followed(root: Path) -> None:
    (root / "way-out").symlink_to(root.parent / "closed")
    (root / "out.csv").symlink_to(root.parent / "closed" / "a.csv")
    assert "not in a folder" in refusal(lambda: load_checkpoint(root / "way-out" / "model"))
    assert "not in a folder" in refusal(lambda: read_table(root / "out.csv"))
    for name in ("config.json", "model.safetensors", "tokenizer.json"):  # a link inside an open folder
        real = root / "model" / name
        kept = real.rename(real.with_suffix(".kept"))
        real.symlink_to(root.parent / "closed" / "model" / name)
        assert "not in a folder" in refusal(lambda: load_checkpoint(root / "model"))
        real.unlink()
        kept.rename(real)
    (root / "way-in").symlink_to(root / "model")
    assert load_checkpoint(root / "way-in").task == "sst2"


def test_the_hub_is_closed_unless_opened(root: Path) -> None:
    assert "fetches nothing from the hub" in refusal(lambda: load_checkpoint("owner/name"))
    assert "fetches nothing from the hub" in refusal(lambda: read_table("hub:owner/name:train"))


@pytest.mark.parametrize("name", ["a\0b", "a" * 5000, "~nobody-of-this-name/x", "a" * 300])
def test_a_path_that_is_none_is_refused(name: str) -> None:
    refusal(lambda: load_checkpoint(name))
    refusal(lambda: read_table(name))


def test_a_parquet_text_that_is_not_utf8_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"sentence": pa.array([b"\xff\xfe", b"a"]).view(pa.string()), "label": [0, 1]}), path
    )
    assert "not readable as parquet" in refusal(lambda: read_table(path))


def test_a_plan_is_refused_in_a_short_line_whatever_it_holds(tmp_path: Path) -> None:
    sites = sites_of(load_checkpoint(make_tiny(tmp_path / "model")).config)
    sound = uniform_plan(sites, "four", bits=4, groups=4, embedding_bits=8, activation_bits=8).to_json()
    for change in ({"bits": 4, "groups": "a" * 5000}, {"bits": 10**40, "groups": 1}, "a" * 5000):
        broken = {**sound, "sites": {**sound["sites"], sites[0].name: change}}
        refusal(lambda broken=broken: parse_plan(broken, sites, "plan.json"))
    named = parse_plan({**sound, "name": "a\nb\ud800"}, sites, "plan.json").name
    assert named == "a\nb?"
