"""Shards of format 2: parts of them are fetched, verified alone and joined; what is damaged is told; and old ones are
read as they are."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datalake.canonical import digest_of
from datalake.errors import CorruptShardError, ManifestError, MissingShardError
from datalake.lake import Lake
from datalake.maintenance.verify import verify_dataset
from datalake.plan.plan import Plan, PlanSource
from datalake.reading import blocks as reading_blocks
from datalake.reading.node_cache import NodeCache
from datalake.reading.reader import DatasetReader
from datalake.shards.blocks import BLOCK_BYTES, ROW_GROUP, BlockMap, block_rows
from datalake.shards.manifest import Manifest, content_digest
from datalake.shards.shard_format import token_column
from datalake.shards.shards import fetch_footer, write_shard
from datalake.shards.source import Source, shard_layout
from datalake.store.local import LocalStore

ROWS, SHARD, LENGTH = 4000, 1500, 4096  # 8 KiB a row: blocks of 16, row groups of 1,024, a short one, a short shard
SPEC = {"family": "blocks", "seq_len": LENGTH}


class NotingStore(LocalStore):
    """What is read of which object: (key, start, bytes)."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reads: list[tuple[str, int, int]] = []

    def get(self, key: str) -> bytes:
        data = super().get(key)
        self.reads.append((key, 0, len(data)))
        return data

    def get_range(self, key: str, start: int, length: int) -> bytes:
        data = super().get_range(key, start, length)
        self.reads.append((key, start, len(data)))
        return data


def source_of(format: int, shard: int = SHARD) -> Source:
    return Source.model_validate(
        {
            "kind": "synthetic",
            "spec": SPEC,
            "spec_digest": digest_of(SPEC),
            "seed": 1,
            "generator": "1",
            "shard_sequences": shard,
            "format": format,
        }
    )


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 1000, (ROWS, LENGTH), dtype=np.uint16)


def manifest_in(lake: Lake, tokens: np.ndarray, format: int = 2, shard: int = SHARD) -> Manifest:
    source = source_of(format, shard)
    refs = [
        write_shard(
            lake.store,
            source,
            pa.table(
                {
                    "sequence_id": np.arange(first, first + rows),
                    "tokens": token_column(tokens[first : first + rows]),
                    "score": np.arange(first, first + rows) / 7,
                }
            ),
            first,
        )
        for first, rows in shard_layout(len(tokens), shard)
    ]
    digest = content_digest(lake.store, refs)
    return Manifest.build(source, refs, seq_len=LENGTH, vocab_size=1000, content_digest=digest)


@pytest.fixture(scope="module")
def stored(tokens: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, Manifest]:
    lake = Lake.open(str(tmp_path_factory.mktemp("blocks")))
    return lake, manifest_in(lake, tokens)


def reader_of(stored: tuple[Lake, Manifest], **settings: object) -> tuple[NotingStore, DatasetReader]:
    store = NotingStore(Path(stored[0].uri))
    return store, DatasetReader(store, stored[1], **{"cache_shards": 1, **settings})  # type: ignore[arg-type]


def test_a_block_is_one_range_of_the_file_and_any_reader_opens_it(
    stored: tuple[Lake, Manifest], tokens: np.ndarray
) -> None:
    lake, manifest = stored
    assert [block_rows(size) for size in (1, 64, 2048, 8192, 3 * 2048, BLOCK_BYTES, 9 * BLOCK_BYTES)] == [
        *(ROW_GROUP, ROW_GROUP, 64, 16, 16, 1, 1)
    ]
    for ref in manifest.shards:
        data = lake.store.get(ref.key)
        where = BlockMap.of_footer(fetch_footer(lake.store, ref), manifest.row_bytes)
        assert len(where.digests) == 32 * -(-ref.rows // 16)
        for block in range(-(-ref.rows // 16)):
            low, high = where.span(block)
            rows = tokens[ref.first + 16 * block : min(ref.first + 16 * block + 16, ref.first + ref.rows)]
            assert data[low:high] == rows.tobytes()
            assert where.is_right(block, data[low:high])
        assert pq.read_table(Path(lake.uri) / ref.key)["score"].to_pylist()[3] == (ref.first + 3) / 7


def test_rows_in_any_order_and_ranges_that_touch_are_joined(stored: tuple[Lake, Manifest], tokens: np.ndarray) -> None:
    store, reader = reader_of(stored)
    assert np.array_equal(reader.rows(np.arange(100, 164)), tokens[100:164])
    footer, blocks = store.reads
    assert footer[2] == stored[1].shards[0].footer_bytes
    assert blocks[2] == 5 * 16 * 2 * LENGTH, "rows 100 to 163 lie in blocks 6 to 10: one range"
    for seed in range(4):
        indices = np.random.default_rng(seed).integers(0, ROWS, 200)
        out = np.empty((200, LENGTH), dtype=np.int64)
        assert np.array_equal(reader.rows(indices, out), tokens[indices])
    copy = pickle.loads(pickle.dumps(reader))  # noqa: S301 - our own bytes
    assert np.array_equal(copy.rows(np.array([ROWS - 1, 0, 0, 1499, 1500])), tokens[[ROWS - 1, 0, 0, 1499, 1500]])
    assert reader.rows(np.array([], dtype=np.int64)).shape == (0, LENGTH)
    assert reader.column("score", np.array([3])).tolist() == [3 / 7]
    with pytest.raises(IndexError):
        reader.rows(np.array([0, ROWS]))
    with ThreadPoolExecutor(4) as pool:
        orders = [np.random.default_rng(seed).permutation(ROWS)[:300] for seed in range(6)]
        for order, rows in zip(orders, pool.map(reader.rows, orders), strict=True):
            assert np.array_equal(rows, tokens[order])


def test_what_was_fetched_ahead_is_at_hand_and_little_is_kept(
    stored: tuple[Lake, Manifest], tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_blocks, "CACHE_BYTES", 4 * BLOCK_BYTES)
    store, reader = reader_of(stored)
    reader.prefetch(np.array([0, 40, 2000, 3999]))
    before = len(store.reads)
    assert np.array_equal(reader.rows(np.array([3999, 41, 2001, 7])), tokens[[3999, 41, 2001, 7]])
    assert len(store.reads) == before
    order = np.random.default_rng(0).permutation(ROWS)[:500]  # many more blocks than are kept
    assert np.array_equal(reader.rows(order), tokens[order])


def test_whole_shards_are_read_where_they_all_fit(
    stored: tuple[Lake, Manifest], tokens: np.ndarray, tmp_path: Path
) -> None:
    for settings in ({"cache_shards": 3}, {"node_cache": NodeCache(tmp_path / "cache", 1 << 30)}):
        store, reader = reader_of(stored, **settings)
        assert np.array_equal(reader.rows(np.array([5, 1600, 3999])), tokens[[5, 1600, 3999]])
        assert sorted(store.reads) == sorted((ref.key, 0, ref.bytes) for ref in stored[1].shards)
    store, reader = reader_of(stored, node_cache=NodeCache(tmp_path / "small", 1 << 20))
    assert np.array_equal(reader.rows(np.array([5])), tokens[[5]])
    assert sum(size for _, _, size in store.reads) < 200_000


@pytest.mark.parametrize("damage", ["block", "footer", "short", "missing"])
def test_damage_is_told_as_ever_and_repaired(tokens: np.ndarray, tmp_path: Path, damage: str) -> None:
    lake = Lake.open(str(tmp_path))
    manifest = manifest_in(lake, tokens[:64], shard=32)
    ref = manifest.shards[1]
    path, good = tmp_path / ref.key, lake.store.get(ref.key)
    place = good.index(tokens[40].tobytes()) if damage == "block" else len(good) - 30
    if damage == "missing":
        path.unlink()
    else:
        bad = good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
        path.write_bytes(good[:-500] if damage == "short" else bad)
    reader = DatasetReader(lake.store, manifest, 1)
    assert np.array_equal(reader.rows(np.arange(32)), tokens[:32])
    with pytest.raises(MissingShardError if damage == "missing" else CorruptShardError, match=ref.key) as told:
        reader.rows(np.array([41]))
    assert told.value.expected == ref.sha256
    repaired = DatasetReader(lake.store, manifest, 1, repair=lambda *_: good)
    assert np.array_equal(repaired.rows(np.array([41, 33, 3])), tokens[[41, 33, 3]])
    assert not verify_dataset(lake.store, manifest).ok
    path.write_bytes(good)
    assert np.array_equal(reader.rows(np.array([41])), tokens[[41]]), "put right meanwhile"


def test_the_format_is_part_of_a_key_and_of_no_identity(tokens: np.ndarray, tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    old, new = (manifest_in(lake, tokens[:64], format, 32) for format in (1, 2))
    assert (old.identity, old.content_digest) == (new.identity, new.content_digest)
    assert not {ref.key for ref in old.shards} & {ref.key for ref in new.shards}
    said = json.loads(old.canonical)
    assert "format" not in said["source"]
    assert set(said["shards"][0]) == {"key", "first", "rows", "bytes", "sha256"}, "as releases before wrote it"
    assert np.array_equal(DatasetReader(lake.store, old, 1).rows(np.arange(64)), tokens[:64])
    assert lake.datasets.commit("d", old).ref == "d@1"
    assert lake.datasets.commit("d", new).same_rows_as == 1
    assert lake.datasets.manifest("d@2") == new
    with pytest.raises(ManifestError, match="names a footer, its source has format 1"):
        Manifest.build(source_of(1, 32), new.shards, seq_len=LENGTH, vocab_size=1000, content_digest="0" * 64)
    with pytest.raises(ManifestError, match="names no footer, its source has format 2"):
        Manifest.build(source_of(2, 32), old.shards, seq_len=LENGTH, vocab_size=1000, content_digest="0" * 64)


@pytest.mark.parametrize("world", [1, 4])
def test_an_epoch_by_lanes_fetches_each_byte_once(
    stored: tuple[Lake, Manifest], tokens: np.ndarray, world: int
) -> None:
    batch, rows = 32, 16 * 16
    plan = Plan([PlanSource(ROWS)], 1, batch, block_rows=16, window_blocks=1, lanes=8)
    fetched = 0
    for rank in range(world):
        store, reader = reader_of(stored)
        for step in range(ROWS // batch):
            wanted = plan.rank_rows(step, world, rank)[:, 1]
            assert np.array_equal(reader.rows(wanted), tokens[wanted])
        fetched += sum(size for _, start, size in store.reads if start + size != stored[1].shards[0].bytes)
    assert fetched < 1.1 * tokens.nbytes + 16 * rows * 2 * LENGTH
