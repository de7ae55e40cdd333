"""The reader: right rows in any order, each shard verified, fetched once while cached."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from datalake.errors import CorruptShardError, ManifestError, MissingShardError
from datalake.lake import Lake
from datalake.reading.reader import DatasetReader
from tests.datalake.helpers import SEQ_LEN, make_manifest, make_tokens


class CountingStore:
    """A store that counts reads of each key; everything else is the store's own."""

    def __init__(self, inner) -> None:
        self.inner = inner
        self.reads: list[str] = []

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def get(self, key: str) -> bytes:
        self.reads.append(key)
        return self.inner.get(key)


@pytest.mark.parametrize("format", [1, 2])
@pytest.mark.parametrize("cache_shards", [1, 2, 64])
def test_rows_in_any_order(lake_uri: str, cache_shards: int, format: Literal[1, 2]) -> None:
    lake = Lake.open(lake_uri)
    manifest = make_manifest(lake, format=format)
    reader = DatasetReader(lake.store, manifest, cache_shards=cache_shards)
    everything = make_tokens(7, 0, 100)
    for seed in range(3):
        indices = np.random.default_rng(seed).integers(0, 100, 70)
        rows = reader.rows(indices)
        assert rows.dtype == np.uint16
        assert np.array_equal(rows, everything[indices])
        assert reader.column("score", indices).tolist() == (indices / 1000.0).tolist()
        assert reader.column("sequence_id", indices).tolist() == indices.tolist()
    assert reader.rows(np.array([], dtype=np.int64)).shape == (0, SEQ_LEN)
    copy = pickle.loads(pickle.dumps(reader))  # noqa: S301 - our own bytes
    assert np.array_equal(copy.rows(np.array([99, 0])), everything[[99, 0]])


def test_each_shard_is_fetched_once_by_many_threads(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    manifest = make_manifest(lake)
    store = CountingStore(lake.store)
    reader = DatasetReader(store, manifest)  # type: ignore[arg-type]
    everything = make_tokens(7, 0, 100)
    orders = [np.random.default_rng(seed).permutation(100) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(reader.rows, orders))
    assert all(np.array_equal(rows, everything[order]) for rows, order in zip(results, orders, strict=True))
    assert sorted(store.reads) == sorted(ref.key for ref in manifest.shards)


def test_a_flipped_byte_is_refused_and_a_repaired_shard_is_read(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    manifest = make_manifest(lake)
    reader = DatasetReader(lake.store, manifest)
    path = tmp_path / manifest.shards[2].key
    good = path.read_bytes()
    path.write_bytes(good[:-20] + bytes([good[-20] ^ 4]) + good[-19:])
    for _ in range(2):
        with pytest.raises(CorruptShardError, match=manifest.shards[2].key):
            reader.rows(np.arange(60, 70))
    path.unlink()
    with pytest.raises(MissingShardError, match=manifest.shards[2].key):
        reader.rows(np.array([64]))
    assert np.array_equal(reader.rows(np.array([5])), make_tokens(7, 5, 1))
    path.write_bytes(good)
    assert np.array_equal(reader.rows(np.arange(60, 70)), make_tokens(7, 60, 10))


def test_rows_and_columns_that_are_not_there(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    reader = DatasetReader(lake.store, make_manifest(lake))
    for bad in ([100], [-1]):
        with pytest.raises(IndexError, match="dataset of 100"):
            reader.rows(np.array(bad))
    with pytest.raises(ManifestError, match="no column 'target_bytes'"):
        reader.column("target_bytes", np.array([0]))
