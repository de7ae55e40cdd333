"""Tokens of four bytes: shards, cache, reading, export and import of a vocabulary over 65,536; two bytes as ever."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datalake import DatasetReader, Lake, Manifest, Plan, PlanSource, Source, content_digest, write_shard
from datalake.canonical import digest_of
from datalake.errors import ImportRefusedError, ObjectTooLargeError
from datalake.maintenance.export import export_dataset
from datalake.maintenance.import_options import ImportOptions
from datalake.maintenance.importing import import_files
from datalake.maintenance.verify import verify_dataset
from datalake.reading.node_cache import NodeCache
from datalake.shards.shard_format import token_column
from datalake.shards.shards import check_shard_size, find_shard
from datalake.shards.tokens import NARROW, WIDE, token_dtype, widest

LENGTH = 8


def tokens_of_size(vocab: int, rows: int = 40) -> np.ndarray:
    """[rows, LENGTH] of the vocabulary's width, its last token among them."""
    tokens = np.random.default_rng(vocab).integers(0, vocab, (rows, LENGTH)).astype(token_dtype(vocab))
    tokens[-1, -1] = vocab - 1
    return tokens


def committed(lake: Lake, name: str, vocab: int) -> Manifest:
    spec = {"family": "given", "seq_len": LENGTH, "vocab": vocab}
    source = Source(kind="text", spec=spec, spec_digest=digest_of(spec), shard_sequences=16)
    tokens = tokens_of_size(vocab)
    shards = []
    for first in range(0, len(tokens), 16):
        part = tokens[first : first + 16]
        table = pa.table({"sequence_id": np.arange(first, first + len(part)), "tokens": token_column(part)})
        shards.append(write_shard(lake.store, source, table, first))
        found = find_shard(lake.store, source, first, len(part))
        assert found is not None
        assert found[0] == shards[-1]
    manifest = Manifest.build(
        source, shards, seq_len=LENGTH, vocab_size=vocab, content_digest=content_digest(lake.store, shards)
    )
    lake.datasets.commit(name, manifest)
    return manifest


@pytest.mark.parametrize("vocab", [300, 65_536, 65_537, 151_936, 2**31])
def test_the_vocabulary_chooses_the_width_and_all_that_reads_follows_it(tmp_path: Path, vocab: int) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    manifest = committed(lake, "wide", vocab)
    expected, width = tokens_of_size(vocab), 2 if vocab <= 65_536 else 4
    assert manifest.token_dtype == expected.dtype == np.dtype(f"<u{width}")
    footer = pq.read_metadata(tmp_path / "lake" / manifest.shards[0].key).metadata
    assert footer.get(b"morphogen.token_bits") == (None if width == 2 else b"32")

    order = np.random.default_rng(0).permutation(len(expected))
    cache = NodeCache(tmp_path / "cache", 10_000_000)
    for reader in (
        DatasetReader(lake.store, manifest),
        DatasetReader(lake.store, manifest, node_cache=cache),
        DatasetReader(lake.store, manifest, node_cache=cache),  # what the one before put there
    ):
        found = reader.rows(order)
        assert found.dtype == expected.dtype
        assert (found == expected[order]).all()
        assert (reader.rows(np.arange(40), np.empty((40, LENGTH), dtype=np.int64)) == expected).all()
    assert {path.suffix for path in (tmp_path / "cache").glob("*.u*")} == {f".u{8 * width}"}
    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.u*")) > expected.nbytes
    assert verify_dataset(lake.store, manifest).ok

    for format in ("parquet", "jsonl", "bin"):
        export_dataset(lake.store, manifest, tmp_path / format, format)
    assert (np.fromfile(tmp_path / "bin" / "tokens.bin", manifest.token_dtype).reshape(-1, LENGTH) == expected).all()
    lines = (tmp_path / "jsonl" / "sequences.jsonl").read_text().splitlines()
    assert [json.loads(line)["tokens"] for line in lines] == expected.tolist()

    back = import_files(lake, "back", sorted((tmp_path / "parquet").glob("*.parquet")), ImportOptions())
    again = lake.datasets.manifest(back)
    assert (again.vocab_size, again.content_digest) == (vocab, manifest.content_digest)
    assert (DatasetReader(lake.store, again).rows(np.arange(40)) == expected).all()


def test_the_same_tokens_make_the_same_dataset_whatever_holds_them(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    wide = tokens_of_size(151_936)
    raw = [row.tobytes() for row in wide]
    columns = {
        "lists": (pa.array(wide.tolist(), pa.list_(pa.int64())), ImportOptions(vocab_size=151_936)),
        "fixed": (token_column(wide), ImportOptions(binary_bits=32, vocab_size=151_936)),
        "vocabulary": (pa.array(raw, pa.binary()), ImportOptions(vocab_size=151_936)),
        "largest": (pa.array(raw, pa.large_binary()), ImportOptions(binary_bits=32)),
    }
    digests = set()
    for name, (column, options) in columns.items():
        pq.write_table(pa.table({"tokens": column}), tmp_path / "in.parquet")
        digests.add(import_files(lake, name, [tmp_path / "in.parquet"], options).digest)
    assert len(digests) == 1
    low = np.arange(3 * LENGTH, dtype="<u4").reshape(3, LENGTH)  # few tokens in four bytes are two bytes here
    pq.write_table(pa.table({"tokens": token_column(low)}), tmp_path / "low.parquet")
    manifest = lake.datasets.manifest(
        import_files(lake, "low", [tmp_path / "low.parquet"], ImportOptions(binary_bits=32))
    )
    assert (manifest.vocab_size, manifest.token_dtype) == (24, NARROW)
    pq.write_table(pa.table({"tokens": pa.array([b"\xff" * 8])}), tmp_path / "negative.parquet")
    with pytest.raises(ImportRefusedError, match=r"has values up to 4294967295.*0 to 2147483647.*read as 32 bits"):
        import_files(lake, "no", [tmp_path / "negative.parquet"], ImportOptions(binary_bits=32))


def test_a_mixture_holds_the_widest_and_the_plan_does_not_care() -> None:
    assert widest([NARROW, NARROW]) == NARROW
    assert widest(iter([NARROW, WIDE, NARROW])) == WIDE
    assert Plan([PlanSource(10), PlanSource(10)], 0, 4).rows(3).shape == (4, 2)


def test_a_shard_of_wide_tokens_is_twice_as_large() -> None:
    check_shard_size(1 << 21, 1 << 20, 2048, 65_536)
    with pytest.raises(ObjectTooLargeError, match="give at most 524288"):
        check_shard_size(1 << 21, 1 << 20, 2048, 65_537)
