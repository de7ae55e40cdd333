"""Tokens from other programs' files: our exports, real `datasets` folders, llm.c's and Megatron's, and hostile ones."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from pathlib import Path

import datasets
import litdata
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from litdata.streaming.writer import BinaryWriter

from datalake import DatasetReader, Lake
from datalake.errors import ImportRefusedError
from datalake.maintenance.export import export_dataset
from datalake.maintenance.import_columns import is_compressed
from datalake.maintenance.import_options import ImportOptions
from datalake.maintenance.importing import import_files
from tests.datalake.helpers import SEQ_LEN, make_manifest, make_tokens

ROWS = make_tokens(7, 0, 100)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


def imported(lake: Lake, paths: list[Path], **options) -> np.ndarray:
    manifest = lake.datasets.manifest(import_files(lake, "d", paths, ImportOptions(**options)))
    assert manifest.source.format == 2
    assert all(ref.footer_sha256 for ref in manifest.shards), "imported shards name their blocks, too"
    return DatasetReader(lake.store, manifest).rows(np.arange(manifest.sequences))


def megatron(path: Path, documents: list[list[list[int]]], kind: str = "<i4", code: int = 4, order=None) -> Path:
    """Index and tokens of documents of sequences, the sequences in the file in ``order``."""
    sequences = [sequence for document in documents for sequence in document]
    places, stored = [0] * len(sequences), b""
    for number in order or range(len(sequences)):
        places[number] = len(stored)
        stored += np.array(sequences[number], dtype=kind).tobytes()
    path.with_suffix(".bin").write_bytes(stored)
    bounds = np.cumsum([0, *map(len, documents)])
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, len(sequences), len(bounds))
    index = [np.array([*map(len, sequences)], "<i4"), np.array(places, "<i8"), np.array(bounds, "<i8")]
    path.with_suffix(".idx").write_bytes(head + b"".join(part.tobytes() for part in index))
    return path


@pytest.mark.parametrize("format", ["parquet", "huggingface", "megatron", "llmc", "bin", "litdata"])
def test_our_own_exports_come_back(lake, tmp_path, format):
    export_dataset(lake.store, make_manifest(lake, 100), tmp_path / "out", format)
    told = {"seq_len": SEQ_LEN} if format in ("llmc", "bin") else {}
    told |= {"format": "bin"} if format == "bin" else {}
    assert np.array_equal(imported(lake, [tmp_path / "out"], **told), ROWS)


@pytest.mark.parametrize("column", ["tokens", "input_ids", "ids"])
def test_a_folder_that_datasets_saved_is_read_in_its_order(lake, tmp_path, column):
    saved = datasets.Dataset.from_dict({"text": ["x"] * 100, column: ROWS.tolist()})
    saved.save_to_disk(tmp_path / "saved", num_shards=12)  # sorted by name, 10 would come before 2
    told = {"column": "ids"} if column == "ids" else {}
    assert np.array_equal(imported(lake, [tmp_path / "saved"], **told), ROWS)
    both = datasets.DatasetDict({"train": saved})
    both.save_to_disk(tmp_path / "both")
    with pytest.raises(ImportRefusedError, match=r"holds splits: give one, such as .*/both/train"):
        imported(lake, [tmp_path / "both"], **told)
    assert np.array_equal(imported(lake, [tmp_path / "both" / "train"], **told), ROWS)


def test_documents_of_many_lengths_and_the_arrow_file_format(lake, tmp_path):
    documents = [[1, 2, 3], [], [4], [5, 6, 7, 8]]
    table = pa.table({"tokens": pa.array(documents, pa.list_(pa.int64()))})
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    rows = imported(lake, [tmp_path / "x.arrow"], seq_len=3, end_of_text=9)
    assert rows.tolist() == [[1, 2, 3], [9, 9, 4], [9, 5, 6], [7, 8, 9]]


SEQUENCE = st.lists(st.integers(0, 99), max_size=6)


@settings(max_examples=25, deadline=None)
@given(
    documents=st.lists(
        st.lists(st.lists(st.integers(0, 99), max_size=6), min_size=1, max_size=3), min_size=1, max_size=8
    ),
    shuffled=st.randoms(use_true_random=False) | st.none(),
    kind=st.sampled_from([("<u2", 8), ("<i4", 4), ("<i8", 5), ("<u1", 1)]),
)
def test_megatron_s_documents_end_where_its_index_says(tmp_path_factory, documents, shuffled, kind):
    folder = tmp_path_factory.mktemp("m")
    order = list(range(sum(map(len, documents))))
    if shuffled is not None:
        shuffled.shuffle(order)
    path = megatron(folder / "tokens", documents, *kind, order=order)
    stream = [token for document in documents for sequence in [*document, [100]] for token in sequence]
    lake = Lake.open(str(folder / "lake"))
    options = {"seq_len": 2, "end_of_text": 100, "vocab_size": 101}
    if len(stream) < 2:
        with pytest.raises(ImportRefusedError, match="even one row"):
            imported(lake, [path], **options)
        return
    expected = np.reshape(stream[: len(stream) // 2 * 2], (-1, 2))
    for name in (path, path.with_suffix(".bin"), path.with_suffix(".idx"), folder):
        assert np.array_equal(imported(lake, [name], **options), expected)


def chunks(folder: Path, items: list[list[int]], dtype="<u2", code="no_header_numpy:5", dim=None, **config) -> Path:
    """One chunk of litdata's, of items of any lengths, and its index."""
    lengths = [np.dtype(dtype).itemsize * len(item) for item in items]
    offsets = 4 * (len(items) + 2) + np.cumsum([0, *lengths])
    tokens = np.array([token for item in items for token in item], dtype)
    head = np.array([len(items), *offsets], "<u4")
    (folder / "chunk-0-0.bin").write_bytes(head.tobytes() + tokens.tobytes())
    chunk = {"filename": "chunk-0-0.bin", "dim": len(tokens) if dim is None else dim}
    (folder / "index.json").write_text(
        json.dumps({"chunks": [chunk], "config": {"data_format": [code], "compression": None, **config}})
    )
    return folder


@pytest.mark.parametrize(
    "make", [lambda row: row, lambda row: torch.from_numpy(row.astype(np.int64))], ids=["arrays", "tensors"]
)
def test_what_litdata_wrote_is_read_item_by_item(lake, tmp_path, make):
    writer = BinaryWriter(str(tmp_path / "lit"), chunk_size=1000, item_loader=litdata.TokensLoader())
    documents = [[1, 2, 3], [4], [5, 6, 7, 8]]
    for number, document in enumerate(documents):
        writer.add_item(number, make(np.array(document, np.uint16)))
    writer.done()
    writer.merge(1)
    rows = imported(lake, [tmp_path / "lit"], seq_len=3, end_of_text=9)
    assert rows.tolist() == [[1, 2, 3], [9, 4, 9], [5, 6, 7]]


def test_items_of_a_chunk_are_documents_of_any_length(lake, tmp_path, monkeypatch):
    monkeypatch.setattr("datalake.maintenance.import_litdata._AT_ONCE", 3)
    rows = imported(lake, [chunks(tmp_path, [[1, 2, 3, 4], [], [5], [6, 7]])], seq_len=3, end_of_text=9)
    assert rows.tolist() == [[1, 2, 3], [4, 9, 9], [5, 9, 6]]


def test_llama_s_files_have_wide_tokens(lake, tmp_path):
    header = np.zeros(256, "<i4")
    header[:3] = 20240801, 7, 8
    wide = np.array([0, 128_000, 5, 6, 7, 8, 9, 10], dtype="<u4")
    (tmp_path / "t.bin").write_bytes(header.tobytes() + wide.tobytes())
    assert imported(lake, [tmp_path / "t.bin"], seq_len=4).tolist() == wide.reshape(2, 4).tolist()


def arrow(path: Path, rows: pa.Array, **options) -> Path:
    batch = pa.record_batch({"tokens": rows})
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_stream(out, batch.schema, **options) as writer:
        writer.write_batch(batch)
    return path


def bad_offsets(folder: Path) -> Path:
    """A list whose offsets go far beyond its values, which Arrow does not look at by itself."""
    path = arrow(folder / "a.arrow", pa.array([[7] * 77_777], pa.list_(pa.int32())))
    message, offsets, values = path.read_bytes().rpartition(struct.pack("<2i", 0, 77_777))
    assert offsets
    path.write_bytes(message + struct.pack("<2i", 0, 1 << 30) + values)
    return path


def empty_rows(folder: Path) -> Path:
    """More rows than anybody could look at, in the few bytes that rows of nothing take."""
    kind, nothing = pa.list_(pa.int32(), 0), pa.array([], pa.int32())
    return arrow(folder / "a.arrow", pa.Array.from_buffers(kind, 1 << 30, [None], children=[nothing]))


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def damaged(path: Path, at: int, value: int, kind: str = "<q") -> Path:
    index = path.with_suffix(".idx")
    data = bytearray(index.read_bytes())
    struct.pack_into(kind, data, at, value)
    index.write_bytes(bytes(data))
    return path


def cut(folder: Path, by: int = 1) -> Path:
    chunk = folder / "chunk-0-0.bin"
    chunk.write_bytes(chunk.read_bytes()[:-by])
    return folder


def many(folder: Path) -> Path:
    chunk = folder / "chunk-0-0.bin"
    chunk.write_bytes(b"\xff" * 4 + chunk.read_bytes()[4:])
    return folder


def without(folder: Path) -> Path:
    (folder / "chunk-0-0.bin").unlink()
    return folder


ELSEWHERE = json.dumps({"chunks": [{"filename": "../x"}], "config": {"data_format": ["no_header_numpy:5"]}}).encode()
TWO = [[[1, 2], [3]], [[4, 5, 6]]]
HOSTILE = {
    "compressed": (
        lambda f: arrow(f / "a.arrow", pa.array([[0] * 4096]), options=pa.ipc.IpcWriteOptions(compression="zstd")),
        {},
        "is compressed",
    ),
    "offsets": (bad_offsets, {}, "cannot be read as Arrow"),
    "many empty rows": (empty_rows, {}, "claims 1,073,741,824 values"),
    "no arrow": (lambda f: written(f / "a.arrow", b"\xff" * 64), {}, "cannot be read as Arrow"),
    "no seq_len": (lambda f: written(f / "a.bin", b"ab"), {"format": "bin"}, "give seq_len"),
    "unsaid": (lambda f: written(f / "a.bin", b"abcdefgh"), {"seq_len": 2}, "say format = bin"),
    "odd": (lambda f: written(f / "a.bin", b"abc"), {"format": "bin", "seq_len": 2}, "binary_bits"),
    "no documents": (
        lambda f: written(f / "a.bin", b"abcd"),
        {"format": "bin", "seq_len": 2, "end_of_text": 1},
        "does not say where documents end",
    ),
    "cut header": (lambda f: written(f / "a.bin", b"a"), {"format": "llmc", "seq_len": 2}, "magic"),
    "cut tokens": (
        lambda f: written(f / "a.bin", struct.pack("<3i", 20240520, 1, 9) + bytes(1028)),
        {"seq_len": 2},
        "it is not whole",
    ),
    "beyond its tokens": (lambda f: damaged(megatron(f / "t", TWO), 34 + 12, 1 << 40), {"seq_len": 2}, "does not have"),
    "negative length": (lambda f: damaged(megatron(f / "t", TWO), 34, -1, "<i"), {"seq_len": 2}, "does not have"),
    "bounds": (lambda f: damaged(megatron(f / "t", TWO), 34 + 36 + 16, 2), {"seq_len": 2}, "do not go from the first"),
    "count": (lambda f: damaged(megatron(f / "t", TWO), 18, 1 << 60), {"seq_len": 2}, "it is not whole"),
    "type": (lambda f: damaged(megatron(f / "t", TWO), 17, 6, "<B"), {"seq_len": 2}, "tokens of type 6"),
    "lengths": (lambda f: megatron(f / "t", [[[1, 2]], [[3]]]), {}, "give seq_len"),
    "negative token": (lambda f: megatron(f / "t", [[[-1, 2]]]), {"seq_len": 2}, "values from -1 to 2"),
    "empty folder": (lambda f: f, {}, "holds no"),
    "compressed chunks": (lambda f: chunks(f, [[1, 2]], compression="zstd"), {}, "have compression = 'zstd'"),
    "chunks of trees": (lambda f: chunks(f, [[1, 2]], code="int"), {}, r"its items are \['int'\]"),
    "chunks of floats": (lambda f: chunks(f, [[1, 2]], code="no_header_numpy:9"), {}, "give chunks of integers"),
    "sizes before tokens": (lambda f: chunks(f, [[2, 0, 7]], dim="none"), {}, "its index says 'none'"),
    "chunk cut": (lambda f: cut(chunks(f, [[1, 2], [3, 4]])), {}, "do not lie end to end"),
    "chunk of nothing": (lambda f: cut(chunks(f, [[1, 2]]), 99), {}, "cannot hold 0 items"),
    "chunk of many": (lambda f: many(chunks(f, [[1, 2]])), {}, "cannot hold 4,294,967,295 items"),
    "chunk missing": (lambda f: without(chunks(f, [[1, 2]])), {}, "is missing"),
    "negative items": (lambda f: chunks(f, [[-1, 2]], "<i4", "no_header_numpy:2"), {}, "values from -1 to 2"),
    "chunk elsewhere": (lambda f: written(f / "index.json", ELSEWHERE), {}, "lie beside it"),
    "no chunks": (lambda f: written(f / "index.json", b"[]"), {}, "lists no chunks"),
    "deep index": (lambda f: written(f / "index.json", b"[" * 100_000), {}, "nested too deep"),
    "no index": (lambda f: written(f / "index.json", b"\xff"), {}, "cannot be read as litdata's"),
}


@pytest.mark.parametrize(("make", "options", "says"), HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_damaged_or_hostile_is_refused_in_one_line(lake, tmp_path, make, options, says):
    folder = tmp_path / "files"
    folder.mkdir()
    with pytest.raises(ImportRefusedError, match=says) as caught:
        imported(lake, [make(folder)], **options)
    assert "\n" not in str(caught.value)
    assert list(lake.store.list()) == []


@pytest.mark.parametrize("named", ["../secret.arrow", "/etc/passwd", 7, None])
def test_files_of_a_saved_folder_stay_in_it(lake, tmp_path, named):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text(json.dumps({"_data_files": [{"filename": named}]}))
    with pytest.raises(ImportRefusedError, match="lie beside it"):
        imported(lake, [tmp_path / "saved"])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_no_metadata_is_more_than_refused(metadata):
    with suppress(struct.error, IndexError):
        assert is_compressed(metadata) in (True, False)
