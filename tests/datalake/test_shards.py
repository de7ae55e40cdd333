"""Shards: deterministic, self-describing, never silently wrong."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake.clock import System
from datalake.errors import CorruptShardError, ManifestError, MissingShardError, ShardConflictError
from datalake.lake import Lake
from datalake.shards.manifest import Manifest, content_digest
from datalake.shards.shard_format import tokens_of
from datalake.shards.shards import find_shard, read_shard, repair_shard, write_shard
from datalake.shards.source import Source, shard_key, shard_layout
from tests.datalake.helpers import SEQ_LEN, VOCAB, make_manifest, make_source, make_table, make_tokens


def test_write_twice_read_back(lake_uri: str) -> None:
    lake, source = Lake.open(lake_uri), make_source()
    table = make_table(7, 32, 32)
    ref = write_shard(lake.store, source, table, 32)
    assert write_shard(lake.store, source, table, 32) == ref
    found = find_shard(lake.store, source, 32, 32)
    assert found is not None
    assert (found[0], found[1]["tokens"].to_pylist()) == (ref, table["tokens"].to_pylist())
    assert find_shard(lake.store, source, 0, 32) is None
    back = read_shard(lake.store, ref)
    assert back.column_names == table.column_names
    assert [c.to_pylist() for c in back.columns] == [c.to_pylist() for c in table.columns]
    assert np.array_equal(tokens_of(back, np.dtype("<u2")), make_tokens(7, 32, 32))


def test_any_parquet_reader_opens_it_and_the_footer_explains_it(tmp_path) -> None:
    lake, source = Lake.open(str(tmp_path)), make_source()
    ref = write_shard(lake.store, source, make_table(7, 0, 32), 0)
    frame = pd.read_parquet(tmp_path / ref.key)
    assert list(frame["sequence_id"]) == list(range(32))
    assert np.array_equal(np.frombuffer(frame["tokens"][3], "<u2"), make_tokens(7, 3, 1)[0])
    footer = pq.ParquetFile(tmp_path / ref.key).metadata.metadata
    assert footer[b"morphogen.spec"].startswith(b'{"family":"nca"')
    assert footer[b"morphogen.spec_digest"].decode() == source.spec_digest
    assert (footer[b"morphogen.first"], footer[b"morphogen.rows"]) == (b"0", b"32")


def test_tokens_lie_plain_in_the_file(tmp_path) -> None:
    lake, source = Lake.open(str(tmp_path)), make_source()
    data = lake.store.get(write_shard(lake.store, source, make_table(7, 0, 32), 0).key)
    assert make_tokens(7, 0, 32).tobytes() in data
    column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(1)
    assert (column.compression, column.has_dictionary_page) == ("UNCOMPRESSED", False)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10**6), st.integers(1, 5000))
def test_layout_covers_every_sequence_once(sequences: int, shard_sequences: int) -> None:
    layout = shard_layout(sequences, shard_sequences)
    assert [first for first, _ in layout] == list(range(0, sequences, shard_sequences))
    assert sum(rows for _, rows in layout) == sequences
    assert all(rows == shard_sequences for _, rows in layout[:-1])


def test_growth_keeps_full_shards_and_writes_beside_the_short_tail(tmp_path) -> None:
    lake = Lake.open(str(tmp_path))
    small = make_manifest(lake, 80)
    before = {key: lake.store.get(key) for key in lake.store.list("data/")}
    large = make_manifest(lake, 120)
    assert small.shards[:2] == large.shards[:2]
    assert small.shards[2].key.endswith("/000000000064-r16.parquet")
    assert large.shards[2].key.endswith("/000000000064.parquet")
    assert {key: lake.store.get(key) for key in before} == before


def test_content_digest_ignores_sharding(tmp_path) -> None:
    lake = Lake.open(str(tmp_path))
    one, two = make_manifest(lake, 100, shard_sequences=32), make_manifest(lake, 100, shard_sequences=100)
    assert one.content_digest == two.content_digest
    assert one.digest != two.digest


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_shard_is_refused_named_and_repaired(tmp_path, damage: str) -> None:
    lake, source, table = Lake.open(str(tmp_path)), make_source(), make_table(7, 0, 32)
    ref = write_shard(lake.store, source, table, 0)
    good = lake.store.get(ref.key)
    middle = good.index(make_tokens(7, 5, 1).tobytes())
    bad = {"flip": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :], "cut": good[:500], "empty": b""}[
        damage
    ]
    (tmp_path / ref.key).write_bytes(bad)

    with pytest.raises(CorruptShardError, match=ref.key) as caught:
        read_shard(lake.store, ref)
    assert caught.value.key == ref.key
    assert "\n" not in str(caught.value)
    assert find_shard(lake.store, source, 0, 32) is None
    with pytest.raises(ShardConflictError, match=ref.key):
        write_shard(lake.store, source, table, 0)

    assert repair_shard(lake.store, source, table, 0, System()) == ref
    assert lake.store.get(ref.key) == good
    assert [lake.store.get(key) for key in lake.store.list("quarantine/")] == [bad]


def test_a_missing_shard_is_named(tmp_path) -> None:
    lake = Lake.open(str(tmp_path))
    manifest = make_manifest(lake)
    (tmp_path / manifest.shards[1].key).unlink()
    with pytest.raises(MissingShardError, match=manifest.shards[1].key):
        content_digest(lake.store, manifest.shards)


def test_equal_rows_laid_out_otherwise_are_accepted_as_they_are(tmp_path) -> None:
    lake, source, table = Lake.open(str(tmp_path)), make_source(), make_table(7, 0, 32)
    ref = write_shard(lake.store, source, table, 0)
    decoded = pq.read_table(tmp_path / ref.key)
    with pq.ParquetWriter(tmp_path / "other", decoded.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(decoded)
        writer.add_key_value_metadata(decoded.schema.metadata)
    (tmp_path / ref.key).write_bytes((tmp_path / "other").read_bytes())
    again = write_shard(lake.store, source, table, 0)
    assert again.sha256 != ref.sha256
    assert read_shard(lake.store, again).column("tokens").to_pylist() == table.column("tokens").to_pylist()


def test_tables_that_are_not_the_shard_are_refused(tmp_path) -> None:
    lake, source = Lake.open(str(tmp_path)), make_source()
    for table, first in (
        (make_table(7, 1, 32), 1),
        (make_table(7, 0, 33), 0),
        (make_table(7, 32, 32), 0),
        (make_table(7, 0, 32).take([1, 0]), 0),
        (make_table(7, 0, 32).drop_columns(["tokens"]), 0),
    ):
        with pytest.raises(ShardConflictError):
            write_shard(lake.store, source, table, first)
    assert list(tmp_path.iterdir()) == []


def test_source_and_manifest_must_add_up(tmp_path) -> None:
    with pytest.raises(ValueError, match="spec_digest"):
        Source.model_validate({**make_source().model_dump(), "spec_digest": "0" * 64})
    assert shard_key(make_source(seed=1), 0, 32) != shard_key(make_source(seed=2), 0, 32)
    manifest = make_manifest(Lake.open(str(tmp_path)))
    with pytest.raises(ManifestError, match="starts at sequence 32, expected 0"):
        Manifest.build(
            manifest.source,
            manifest.shards[1:],
            seq_len=SEQ_LEN,
            vocab_size=VOCAB,
            content_digest=manifest.content_digest,
        )
