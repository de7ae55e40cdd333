"""Text as people have it: whatever the files are, their documents are the same; what is none is named or counted."""

import bz2
import gzip
import hashlib
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datalake import DatasetReader, DatasetVersion, Lake, Source, read_shard, write_shard
from datalake.shards.shard_format import token_bytes
from orchestration.corpus import parquet, records
from orchestration.corpus.add import CorpusResult, add_corpus
from orchestration.corpus.options import ReadOptions
from orchestration.corpus.records import piece_end, pieces_of
from orchestration.errors import CorpusError

TEXTS = [f"Eintrag {number}: " + "wächst und wächst, " * (number % 7 + 1) for number in range(40)]
LINES = [json.dumps({"text": text, "id": number}) for number, text in enumerate(TEXTS)]
JSONL = ("\n".join(LINES) + "\n").encode()
SIZES = {"seq_len": 16, "heldout_fraction": 0.3}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(str(tmp_path / "lake"))


def zstd(data: bytes) -> bytes:
    with pa.BufferOutputStream() as sink:
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)
        return sink.getvalue().to_pybytes()


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def contents(lake: Lake, result: CorpusResult) -> list[str]:
    return [lake.datasets.manifest(version).content_digest for version in result.both()]


def table(column: pa.Array) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.table({"text": column}), path, row_group_size=7)


STRINGS = pa.array(TEXTS)
CONVERSION = "text\n" + "".join(f'"{text}"\n' for text in TEXTS)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.jsonl", JSONL),
        ("x.JSONL", JSONL),
        ("x.ndjson", JSONL),
        ("x.jsonl.gz", gzip.compress(JSONL[:900]) + gzip.compress(JSONL[900:])),
        ("x.jsonl.bz2", bz2.compress(JSONL)),
        ("x.jsonl.xz", lzma.compress(JSONL)),
        ("x.jsonl.zst", zstd(JSONL)),
        ("x.json.gz", gzip.compress(JSONL)),
        ("x.jsonl", b"\xef\xbb\xbf" + JSONL),
        ("x.jsonl", JSONL.replace(b"\n", b"\r\n")),
        ("x.jsonl", JSONL.replace(b"\n", b"\r")),
        ("x.json", json.dumps([json.loads(line) for line in LINES])),
        ("x.json", json.dumps([json.loads(line) for line in LINES], indent=2)),
        ("x.json", "".join(json.dumps(json.loads(line), indent=1) for line in LINES)),
        ("x.csv", CONVERSION),
        ("x.tsv", CONVERSION),
        ("x.csv", b"\xef\xbb\xbf" + CONVERSION.replace("\n", "\r\n").encode()),
        ("x.parquet", table(STRINGS)),
        ("x.parquet", table(STRINGS.dictionary_encode())),
        ("x.parquet", table(STRINGS.cast(pa.large_string()))),
        ("x.parquet", table(STRINGS.cast(pa.string_view()))),
        ("x.parquet", table(STRINGS.cast(pa.binary()))),
    ],
)
def test_every_kind_of_file_gives_the_same_rows(lake, tmp_path, name, data):
    same = add_corpus(lake, "same", write(tmp_path / "plain" / "x.jsonl", JSONL), split_by="content", **SIZES)
    path = tmp_path / "in" / name
    path.parent.mkdir()
    if callable(data):
        data(path)
    else:
        write(path, data)
    result = add_corpus(lake, "other", path, split_by="content", **SIZES)
    assert (result.documents, result.left_out) == (40, {})
    assert contents(lake, result) == contents(lake, same)
    assert (result.train.digest, result.heldout.digest) == (same.train.digest, same.heldout.digest)


def test_text_files_and_a_bucket_give_the_same_rows(lake, tmp_path, s3_lake_uri):
    same = add_corpus(lake, "same", write(tmp_path / "plain" / "x.jsonl", JSONL), split_by="content", **SIZES)
    for number, text in enumerate(TEXTS):
        write(tmp_path / "texts" / f"{number:02}.txt", b"\xef\xbb\xbf" * (number % 2) + text.encode())
    texts = add_corpus(lake, "texts", tmp_path / "texts", split_by="content", **SIZES)
    assert texts.train.digest == same.train.digest
    with fsspec.open(f"{s3_lake_uri}/in/a/x.jsonl.zst", "wb") as file:
        file.write(zstd(JSONL))
    pq.write_table(pa.table({"text": STRINGS}), tmp_path / "x.parquet")
    with fsspec.open(f"{s3_lake_uri}/in/b/x.parquet", "wb") as file:
        file.write((tmp_path / "x.parquet").read_bytes())
    for place in (f"{s3_lake_uri}/in/a", f"{s3_lake_uri}/in/*/x.jsonl.zst", f"{s3_lake_uri}/in/b/x.parquet"):
        there = add_corpus(lake, "there", place, split_by="content", **SIZES)
        assert there.train.digest == same.train.digest
    # By name, too, since a name says no more than where a document lies in its folder.
    here = add_corpus(lake, "here", tmp_path / "plain", **SIZES)
    assert add_corpus(lake, "named", f"{s3_lake_uri}/in/a", **SIZES).split == here.split
    with pytest.raises(CorpusError, match=r"none\.jsonl cannot be read|no file matches"):
        add_corpus(lake, "there", f"{s3_lake_uri}/none.jsonl", **SIZES)


def test_compressing_a_file_changes_nothing(lake, tmp_path):
    for number, text in enumerate(TEXTS):
        write(tmp_path / "plain" / f"{number}.txt", text)
        write(tmp_path / "packed" / f"{number}.txt.gz", gzip.compress(text.encode()))
    plain, packed = (add_corpus(lake, name, tmp_path / name, **SIZES) for name in ("plain", "packed"))
    assert contents(lake, plain) == contents(lake, packed)
    assert any("40 .gz" in note for note in packed.notes())


def test_files_that_look_like_records_and_are_not_stay_text(lake, tmp_path):
    for number, text in enumerate(TEXTS):
        write(tmp_path / "in" / f"{number}.txt", text)
    settings = '{"name": "a package", "list": [1, 2]}'
    write(tmp_path / "in" / "package.json", settings)
    write(tmp_path / "in" / "numbers.csv", "a,b\n1,2\n")
    result = add_corpus(lake, "code", tmp_path / "in", **SIZES)
    assert result.documents == 42
    assert sorted(result.records_as_text) == ["numbers.csv", "package.json"]
    assert any("2 JSON or CSV files without the text column are read as text" in note for note in result.notes())


NESTED = [{"data": {"text": text}} for text in TEXTS]


def test_a_field_may_lie_within_another(lake, tmp_path):
    write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, NESTED)))
    pq.write_table(pa.Table.from_pylist(NESTED), tmp_path / "a.parquet", row_group_size=9)
    found = [
        add_corpus(lake, "nested", tmp_path / name, text_column="data.text", split_by="content", **SIZES).train.digest
        for name in ("a.jsonl", "a.parquet")
    ]
    assert found[0] == found[1]
    with pytest.raises(CorpusError, match=r"has no 'data\.body', it has data"):
        add_corpus(lake, "nested", tmp_path / "a.parquet", text_column="data.body", **SIZES)


def test_records_without_a_text_end_the_work_or_are_counted(lake, tmp_path):
    bad = ["{oops", '{"body": 1}', '{"text": 7}', "[" * 100_000, '{"text": "fine", "n": ' + "1" * 5000 + "}"]
    path = write(tmp_path / "in.jsonl", "\n".join([*LINES[:20], *bad, *LINES[20:], LINES[0][:20]]))
    with pytest.raises(CorpusError, match=r"in\.jsonl line 21 is not JSON"):
        add_corpus(lake, "records", path, **SIZES)
    result = add_corpus(lake, "records", path, options=ReadOptions(on_bad_record="skip"), **SIZES)
    reason = "records skipped, unusable"
    assert (result.documents, result.left_out) == (40, {reason: 6})
    assert [int(name.split()[2].rstrip(":")) for name in result.first_left_out[reason]] == [21, 22, 23, 24, 25, 46]
    assert lake.datasets.manifest(result.train).left_out == {reason: 6}


def test_a_download_that_broke_off_is_named(lake, tmp_path):
    for suffix, pack in ((".gz", gzip.compress), (".zst", zstd), (".xz", lzma.compress), (".bz2", bz2.compress)):
        path = write(tmp_path / f"in.jsonl{suffix}", pack(JSONL)[:-9])
        with pytest.raises(CorpusError, match=rf"in\.jsonl\{suffix} cannot be read"):
            add_corpus(lake, "records", path, **SIZES)
    write(tmp_path / "in.txt.gz", b"no gzip at all")
    with pytest.raises(CorpusError, match=r"in\.txt\.gz cannot be read"):
        add_corpus(lake, "records", tmp_path / "in.txt.gz", **SIZES)


def test_other_encodings_are_read_if_named_and_otherwise_named(lake, tmp_path):
    for number, text in enumerate(TEXTS):
        write(tmp_path / "wide" / f"{number}.txt", text.encode("utf-16"))
        write(tmp_path / "plain" / f"{number}.txt", text)
    with pytest.raises(CorpusError, match=r"40 files are not UTF-8 \(first: 0\.txt, utf-16 by its byte order mark\)"):
        add_corpus(lake, "wide", tmp_path / "wide", **SIZES)
    wide = add_corpus(lake, "wide", tmp_path / "wide", options=ReadOptions(encoding="utf-16"), **SIZES)
    assert wide.train.digest == add_corpus(lake, "plain", tmp_path / "plain", **SIZES).train.digest
    with pytest.raises(CorpusError, match="encoding: 'latin-99' is unknown"):
        add_corpus(lake, "wide", tmp_path / "wide", options=ReadOptions(encoding="latin-99"), **SIZES)


def test_parquet_that_is_damaged_or_no_text_is_named(lake, tmp_path):
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": [text + str(n) for n, text in enumerate(TEXTS * 40)]}), path)
    data = bytearray(path.read_bytes())
    data[4:900] = b"\xff" * 896
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=r"in\.parquet cannot be read as Parquet"):
        add_corpus(lake, "records", path, **SIZES)
    pq.write_table(pa.table({"text": pa.array([*map(str.encode, TEXTS), b"\xff\xfe"]).view(pa.string())}), path)
    with pytest.raises(CorpusError, match=r"in\.parquet record 41 is not UTF-8 at byte 0"):
        add_corpus(lake, "records", path, **SIZES)
    result = add_corpus(lake, "records", path, options=ReadOptions(on_bad_record="skip"), **SIZES)
    assert (result.documents, result.left_out) == (40, {"records skipped, unusable": 1})


def test_empty_parquet_files_and_groups_shift_nothing(lake, tmp_path):
    kind = pa.schema([("text", pa.string())])
    for folder in ("lang=en/day=1", "lang=de/day=1"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    pq.ParquetWriter(tmp_path / "in/lang=en/day=1/none.parquet", kind).close()
    with pq.ParquetWriter(tmp_path / "in/lang=en/day=1/gaps.parquet", kind) as writer:
        for part in ([], TEXTS[:10], [], [None, None], TEXTS[10:25], []):
            writer.write_table(pa.table({"text": pa.array(part, pa.string())}), row_group_size=max(1, len(part)))
    pq.write_table(pa.table({"text": [*TEXTS[25:], ""]}), tmp_path / "in/lang=de/day=1/rest.parquet")
    result = add_corpus(lake, "parts", tmp_path / "in", **SIZES)
    assert (result.documents, result.empty) == (40, 3)
    german = add_corpus(lake, "german", tmp_path / "in", where=("lang=de",), **SIZES)
    assert german.documents == 15
    with pytest.raises(CorpusError, match=r"no file matches \*, lang=fr"):
        add_corpus(lake, "french", tmp_path / "in", where=("lang=fr",), **SIZES)


def test_what_a_small_parquet_file_claims_is_bounded(lake, tmp_path, monkeypatch):
    path = tmp_path / "in.parquet"
    nothing = pa.nulls(1_500_000, pa.string())
    pq.write_table(pa.table({"text": nothing}), path, row_group_size=1_500_000, data_page_size=1 << 30)
    assert path.stat().st_size < 1 << 14
    with pytest.raises(CorpusError, match=r"claims 1,500,000 rows"):
        add_corpus(lake, "records", path, **SIZES)
    monkeypatch.setattr(parquet, "MAX_PAGE", 8 << 20)
    one = "a" * (16 << 20)
    pq.write_table(pa.table({"text": [one]}), path, compression="zstd", use_dictionary=False, data_page_size=1 << 30)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(CorpusError, match=r"holds a page of 16 MiB, 8 are the limit"):
        add_corpus(lake, "records", path, **SIZES)


def test_a_record_that_is_too_large_is_named(lake, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MAX_RECORD", 1 << 20)
    long = json.dumps({"text": "b" * (3 << 20)})
    path = write(tmp_path / "in.jsonl", "\n".join([*LINES[:20], long, *LINES[20:]]))
    with pytest.raises(CorpusError, match=r"line 21 is larger than"):
        add_corpus(lake, "records", path, **SIZES)
    result = add_corpus(lake, "records", path, options=ReadOptions(on_bad_record="skip"), **SIZES)
    assert (result.documents, sum(result.left_out.values())) == (40, 1)


def test_a_long_text_is_cut_where_words_begin(lake, tmp_path):
    lines = "".join(f"Zeile {number} über den Fluß, (\n\nund weiter\n" for number in range(60_000))
    text = ("日" * 900_000 + "x" * 1_500_000 + "\n" + lines).encode()
    pieces = pieces_of(text)
    assert b"".join(pieces) == text
    assert all(0 < len(piece) <= records.PIECE for piece in pieces)
    assert all(piece.decode() for piece in pieces)
    assert piece_end(text[: records.PIECE + 1]) == records.PIECE - records.PIECE % 3
    inside = [piece for piece in pieces if piece.startswith((b"Zeile", b"und"))]
    assert len(inside) >= 2
    path = write(tmp_path / "input.txt", text)
    result = add_corpus(lake, "long", path, seq_len=512, heldout_fraction=0.1)
    rows = [
        DatasetReader(lake.store, manifest).rows(np.arange(manifest.sequences)).ravel()
        for manifest in map(lake.datasets.manifest, result.both())
    ]
    assert result.split == "position"
    assert rows[0].astype(np.uint8).tobytes() == text[: len(rows[0])]
    tail = rows[1][rows[1] < 256].astype(np.uint8).tobytes()
    assert tail in text
    assert text.index(tail) >= len(rows[0])
    assert 0.08 < len(tail) / len(text) < 0.12


def test_archives_are_counted_and_not_read(lake, tmp_path):
    for number, text in enumerate(TEXTS):
        write(tmp_path / "in" / f"{number}.txt", text)
    write(tmp_path / "in" / "all.tar.gz", gzip.compress(b"".join(map(str.encode, TEXTS))))
    result = add_corpus(lake, "texts", tmp_path / "in", **SIZES)
    assert (result.documents, result.left_out) == (40, {"archives skipped (unpack them)": 1})


def test_a_path_that_is_nothing_is_named(lake, tmp_path):
    with pytest.raises(CorpusError, match="cannot be opened here"):
        add_corpus(lake, "texts", "nowhere://a/b", **SIZES)
    write(tmp_path / "a.txt", "text")
    with pytest.raises(CorpusError, match="some are URLs and some are not"):
        add_corpus(lake, "texts", [tmp_path / "a.txt", "s3://a/b"], **SIZES)


def test_digests_of_before_stay(lake, tmp_path):
    """Corpora that could be added before there was anything but names, JSON lines and Parquet are the same still."""
    path = write(tmp_path / "in" / "x.jsonl", JSONL + b"\n" + LINES[3].encode() + b"\n")
    result = add_corpus(lake, "old", path, shard_sequences=20, **SIZES)
    assert tuple(as_before(lake, version) for version in result.both()) == GOLDEN


def as_before(lake: Lake, version: DatasetVersion) -> str:
    """The digest of the manifest of the same rows when shards named no blocks and one SHA-256 was over all tokens."""
    manifest = lake.datasets.manifest(version)
    source = Source.model_validate({**manifest.source.model_dump(), "format": 1})
    tables = [read_shard(lake.store, ref).replace_schema_metadata(None) for ref in manifest.shards]
    refs = [
        write_shard(lake.store, source, table, ref.first) for ref, table in zip(manifest.shards, tables, strict=True)
    ]
    tokens = hashlib.sha256(b"".join(bytes(token_bytes(table)) for table in tables)).hexdigest()
    changes = {"source": source, "shards": tuple(refs), "content_digest": tokens}
    return manifest.model_copy(update=changes).digest


GOLDEN = (
    "494d4414af299f875a7ac84ea9828c966ce891f1eb7c9d18154584788a2932aa",
    "08c78cc82286c57978b621b378c81bee5576f16828f72720c813866d1375f1e0",
)
