"""Rows of a dataset by the blocks that they lie in: ranges of shards, each verified alone, a bounded number kept."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import numpy as np
from cachetools import LRUCache

from datalake.errors import CorruptShardError, NotFoundError
from datalake.events import log_event
from datalake.shards.blocks import BlockMap, block_rows
from datalake.shards.manifest import Manifest
from datalake.shards.shards import fetch_footer
from datalake.store.interface import Store

CACHE_BYTES = 160_000_000
_FOOTERS_KEPT = 8192
_AT_ONCE = 16  # requests: blocks are small, and an object store takes long to answer one

_Block = tuple[int, int]  # shard, block in it


class BlockReader:
    """Rows of a dataset whose shards name blocks, by index.

    Of the blocks fetched, the most recently used are kept, CACHE_BYTES of them. A block that does not verify comes from
    ``whole_shard``, which has the shard's tokens or raises what is wrong with it. Threads take turns.
    """

    def __init__(self, store: Store, manifest: Manifest, whole_shard: Callable[[int], np.ndarray]) -> None:
        self._store, self._manifest, self._whole_shard = store, manifest, whole_shard
        self._rows = block_rows(manifest.row_bytes)
        self._firsts = np.array([ref.first for ref in manifest.shards], dtype=np.int64)
        self._capacity = max(1, CACHE_BYTES // (self._rows * manifest.row_bytes))
        self._kept: LRUCache[_Block, np.ndarray] = LRUCache(self._capacity)
        self._maps: LRUCache[int, BlockMap] = LRUCache(_FOOTERS_KEPT)
        self._lock = threading.Lock()
        self._maps_lock = threading.Lock()

    def rows(self, indices_N: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Fill ``out`` [N, seq_len] with the tokens of rows ``indices_N`` (int64 [N], of the dataset)."""
        order = indices_N.argsort(kind="stable")
        ordered_N = indices_N[order]
        blocks = self._blocks_of(ordered_N)
        with self._lock:
            at = 0
            for part in self._in_parts(blocks):
                found = self._get(part)
                ends = np.searchsorted(ordered_N, [self._end(block) for block in part])
                for block, end in zip(part, ends.tolist(), strict=True):
                    out[order[at:end]] = found[block][ordered_N[at:end] - self._start(block)]
                    at = end
        return out

    @property
    def held_bytes(self) -> int:
        """Bytes of the blocks that are kept."""
        return len(self._kept) * self._rows * self._manifest.row_bytes

    def prefetch(self, indices_N: np.ndarray) -> None:
        """Fetch the blocks of these rows now, as many as are kept."""
        with self._lock:
            self._get(self._blocks_of(np.sort(indices_N))[: self._capacity])

    def _blocks_of(self, ordered_N: np.ndarray) -> list[_Block]:
        """The blocks of rising rows, each once, in order."""
        shard_N = self._firsts.searchsorted(ordered_N, side="right") - 1
        block_N = (ordered_N - self._firsts[shard_N]) // self._rows
        return list(dict.fromkeys(zip(shard_N.tolist(), block_N.tolist(), strict=True)))

    def _in_parts(self, blocks: list[_Block]) -> Iterable[list[_Block]]:
        for start in range(0, len(blocks), self._capacity):
            yield blocks[start : start + self._capacity]

    def _start(self, block: _Block) -> int:
        return int(self._firsts[block[0]]) + block[1] * self._rows

    def _end(self, block: _Block) -> int:
        ref = self._manifest.shards[block[0]]
        return min(self._start(block) + self._rows, ref.first + ref.rows)

    def _get(self, blocks: list[_Block]) -> dict[_Block, np.ndarray]:
        """The tokens of these blocks: kept, or fetched now, several ranges at once."""
        found = {block: self._kept[block] for block in blocks if block in self._kept}
        missing = [block for block in blocks if block not in found]
        if missing:
            shards = [(shard, [block[1] for block in some]) for shard, some in groupby(missing, lambda each: each[0])]
            with ThreadPoolExecutor(min(_AT_ONCE, len(shards))) as pool:
                fetched = list(pool.map(lambda each: self._fetch(*each), shards))
            for (shard, numbers), tokens in zip(shards, fetched, strict=True):
                for number, tokens_NT in zip(numbers, tokens, strict=True):
                    found[shard, number] = self._kept[shard, number] = tokens_NT
        return found

    def _fetch(self, shard: int, numbers: list[int]) -> list[np.ndarray]:
        """Blocks of one shard; those that lie side by side come in one range."""
        ref = self._manifest.shards[shard]
        try:
            where = self._map(shard)
            runs: list[list[int]] = []
            for number in numbers:
                if runs and where.span(runs[-1][-1])[1] == where.span(number)[0]:
                    runs[-1].append(number)
                else:
                    runs.append([number])
            return [block for run in runs for block in self._read(ref.key, where, run)]
        except (CorruptShardError, NotFoundError, ValueError) as error:
            log_event("block_damaged", level=logging.WARNING, shard=ref.key, problem=str(error))
            tokens_NT = self._whole_shard(shard)  # or its error, which says what to do
            return [tokens_NT[number * self._rows : (number + 1) * self._rows].copy() for number in numbers]

    def _read(self, key: str, where: BlockMap, run: list[int]) -> list[np.ndarray]:
        start, stop = where.span(run[0])[0], where.span(run[-1])[1]
        data = memoryview(self._store.get_range(key, start, stop - start))
        blocks = []
        for number in run:
            low, high = where.span(number)
            part = data[low - start : high - start]
            if not where.is_right(number, part):
                raise ValueError(f"block {number} is not what the footer names")
            tokens_NT = np.frombuffer(part, dtype=self._manifest.token_dtype).reshape(-1, self._manifest.seq_len)
            # A block of a longer range must not keep all of it in memory.
            blocks.append(tokens_NT if len(run) == 1 else tokens_NT.copy())
        return blocks

    def _map(self, shard: int) -> BlockMap:
        with self._maps_lock:
            found = self._maps.get(shard)
        if found is None:
            footer = fetch_footer(self._store, self._manifest.shards[shard])
            found = BlockMap.of_footer(footer, self._manifest.row_bytes)
            with self._maps_lock:
                self._maps[shard] = found
        return found
