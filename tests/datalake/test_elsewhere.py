"""The lake beside other programs: shards in DuckDB and pandas, exports as plain files, imports of tokenised Parquet."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake.errors import ImportRefusedError, LakePathError
from datalake.lake import Lake
from datalake.maintenance.export import export_dataset
from datalake.maintenance.import_options import ImportOptions
from datalake.maintenance.importing import import_files
from datalake.maintenance.verify import verify_dataset
from datalake.reading.reader import DatasetReader
from tests.datalake.helpers import SEQ_LEN, make_manifest, make_tokens


def test_a_shard_explains_itself_to_duckdb_and_pandas(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    manifest = make_manifest(lake)
    shards = str(tmp_path / "data" / manifest.source.data_digest / "*.parquet")
    database = duckdb.connect()
    found = database.execute(
        f"select sequence_id, octet_length(tokens), attempt, score from '{shards}' order by score desc limit 3"
    ).fetchall()
    assert [row[:2] for row in found] == [(99, 2 * SEQ_LEN), (98, 2 * SEQ_LEN), (97, 2 * SEQ_LEN)]
    assert database.execute(f"select count(*), avg(score) from '{shards}'").fetchone() == (100, pytest.approx(0.0495))
    (blob,) = database.execute(f"select tokens from '{shards}' where sequence_id = 41").fetchone()
    assert np.frombuffer(blob, dtype="<u2").tolist() == make_tokens(7, 41, 1)[0].tolist()
    footer = dict(
        database.execute(
            "select decode(key), decode(value) from parquet_kv_metadata(?)", [str(tmp_path / manifest.shards[1].key)]
        ).fetchall()
    )
    assert json.loads(footer["morphogen.spec"]) == manifest.source.spec
    assert (footer["morphogen.seed"], footer["morphogen.first"], footer["morphogen.rows"]) == ("7", "32", "32")
    frame = pandas.read_parquet(tmp_path / manifest.shards[3].key)
    assert frame["sequence_id"].tolist() == [96, 97, 98, 99]


def test_keys_sort_as_the_sequences_do(lake_uri: str) -> None:
    lake = Lake.open(lake_uri)
    manifest = make_manifest(lake, sequences=1_000, shard_sequences=8)
    assert [ref.key for ref in manifest.shards] == list(lake.store.list("data/"))
    lake.datasets.commit("d", manifest)
    for key in [*lake.store.list("manifests/"), *lake.store.list("datasets/")]:
        json.loads(lake.store.get(key))


def test_exports(lake_uri: str, tmp_path: Path) -> None:
    lake = Lake.open(lake_uri)
    manifest = make_manifest(lake)
    everything = make_tokens(7, 0, 100)

    report = export_dataset(lake.store, manifest, tmp_path / "bin", "bin")
    assert report.files == ("tokens.bin", "manifest.json")
    mapped = np.memmap(tmp_path / "bin" / "tokens.bin", dtype=np.uint16, mode="r")
    assert np.array_equal(mapped.reshape(-1, SEQ_LEN), everything)

    export_dataset(lake.store, manifest, tmp_path / "jsonl", "jsonl")
    rows = [json.loads(line) for line in (tmp_path / "jsonl" / "sequences.jsonl").read_text().splitlines()]
    assert [row["tokens"] for row in rows] == everything.tolist()
    assert [(row["sequence_id"], row["score"]) for row in rows] == [(n, n / 1000) for n in range(100)]

    export_dataset(lake.store, manifest, tmp_path / "parquet", "parquet")
    table = pq.read_table(tmp_path / "parquet" / "00002.parquet")
    assert table.column("sequence_id").to_pylist() == list(range(64, 96))
    assert json.loads((tmp_path / "parquet" / "manifest.json").read_text()) == json.loads(manifest.canonical)
    with pytest.raises(LakePathError, match="not empty"):
        export_dataset(lake.store, manifest, tmp_path / "bin", "jsonl")


def write(path: Path, column: pa.Array) -> Path:
    pq.write_table(pa.table({"text": pa.array(["x"] * len(column)), "tokens": column}), path)
    return path


ROWS = make_tokens(3, 0, 70)
COLUMNS = {
    "list of int32": pa.array(ROWS.tolist(), pa.list_(pa.int32())),
    "large list of int64": pa.array(ROWS.tolist(), pa.large_list(pa.int64())),
    "fixed-size list of uint16": pa.array(ROWS.tolist(), pa.list_(pa.uint16(), SEQ_LEN)),
    "fixed-size binary": pa.array([row.tobytes() for row in ROWS], pa.binary(2 * SEQ_LEN)),
    "binary": pa.array([row.tobytes() for row in ROWS], pa.binary()),
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS.keys())
def test_rows_of_one_length_stay_rows(tmp_path: Path, column: pa.Array) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    files = [write(tmp_path / "a.parquet", column[:33]), write(tmp_path / "b.parquet", column[33:])]
    lengths = np.arange(1000) % 5
    options = ImportOptions(shard_sequences=32, vocab_size=1000, token_bytes=lengths)
    version = import_files(lake, "d", files, options)
    manifest = lake.datasets.manifest(version)
    assert (manifest.kind, manifest.sequences, manifest.seq_len, manifest.vocab_size) == ("text", 70, SEQ_LEN, 1000)
    reader = DatasetReader(lake.store, manifest)
    assert np.array_equal(reader.rows(np.arange(70)), ROWS)
    expected = lengths[ROWS[:, 1:]].sum(axis=1)
    assert reader.column("target_bytes", np.arange(70)).tolist() == expected.tolist()
    assert manifest.text_bytes == expected.sum()
    assert verify_dataset(lake.store, manifest).ok
    one = write(tmp_path / "one.parquet", COLUMNS["list of int32"])
    assert import_files(lake, "d", [one], options) == version


@settings(max_examples=15, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, 65_534), max_size=30), min_size=1, max_size=20),
    end=st.none() | st.just(65_535),
    seq_len=st.integers(2, 7),
    shard=st.integers(1, 5),
    cut=st.integers(0, 20),
)
def test_documents_are_laid_end_to_end_and_cut(tmp_path_factory, documents, end, seq_len, shard, cut) -> None:
    folder = tmp_path_factory.mktemp("import")
    parts = [part for part in (documents[:cut], documents[cut:]) if part]
    files = [write(folder / f"{n}.parquet", pa.array(part, pa.list_(pa.int64()))) for n, part in enumerate(parts)]
    stream = [token for row in documents for token in (*row, *([] if end is None else [end]))]
    whole = len(stream) // seq_len
    lake = Lake.open(str(folder / "lake"))
    options = ImportOptions(seq_len=seq_len, end_of_text=end, shard_sequences=shard)
    if not whole:
        with pytest.raises(ImportRefusedError, match="even one row"):
            import_files(lake, "d", files, options)
        return
    manifest = lake.datasets.manifest(import_files(lake, "d", files, options))
    rows = DatasetReader(lake.store, manifest).rows(np.arange(whole))
    assert rows.tolist() == np.reshape(stream[: whole * seq_len], (whole, seq_len)).tolist()
    assert manifest.vocab_size == max(stream[: whole * seq_len]) + 1
    assert manifest.text_bytes is None


REFUSED = {
    "nulls": (pa.array([[1, 2], None], pa.list_(pa.int32())), {}, "has nulls"),
    "nulls in a row": (pa.array([[1, None], [1, 2]], pa.list_(pa.int32())), {}, "nulls within a row"),
    "too large": (pa.array([[1, 2**31]], pa.list_(pa.int64())), {}, "has values from 1 to 2147483648"),
    "negative": (pa.array([[-1, 2]], pa.list_(pa.int32())), {}, "has values from -1 to 2"),
    "text": (pa.array(["a b"]), {}, "is string"),
    "odd bytes": (pa.array([b"abc"]), {}, "a row of 3 bytes"),
    "several lengths": (pa.array([[1], [1, 2]], pa.list_(pa.int32())), {}, "give seq_len"),
    "small vocabulary": (pa.array([[1, 9]], pa.list_(pa.int32())), {"vocab_size": 9}, "has token 9"),
    "no such column": (
        pa.array([[1]], pa.list_(pa.int32())),
        {"column": "ids"},
        "no column 'ids': it has text",
    ),
}


@pytest.mark.parametrize(("column", "options", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_imported_is_refused_in_one_line(tmp_path: Path, column, options, says) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    with pytest.raises(ImportRefusedError, match=says) as caught:
        import_files(lake, "d", [write(tmp_path / "a.parquet", column)], ImportOptions(**options))
    assert "\n" not in str(caught.value)
    assert list(lake.store.list()) == []
    (tmp_path / "not.parquet").write_bytes(b"not Parquet")
    with pytest.raises(ImportRefusedError, match="cannot be read as Parquet"):
        import_files(lake, "d", [tmp_path / "not.parquet"], ImportOptions())
