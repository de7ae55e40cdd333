"""Rows of a dataset by the blocks that they lie in: ranges of shards, each verified alone, a bounded number kept."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
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


class BlockReader:
    """Rows of a dataset whose shards name blocks, by index.

    Of the blocks fetched, the most recently used are kept, CACHE_BYTES of them, in one array from which rows are
    gathered at once. A block that does not verify comes from ``whole_shard``, which has the shard's tokens or raises
    what is wrong with it. Threads take turns.
    """

    def __init__(self, store: Store, manifest: Manifest, whole_shard: Callable[[int], np.ndarray]) -> None:
        self._store, self._manifest, self._whole_shard = store, manifest, whole_shard
        self._rows = block_rows(manifest.row_bytes)
        self._firsts = np.array([ref.first for ref in manifest.shards], dtype=np.int64)
        self._of_shard = -(-manifest.source.shard_sequences // self._rows)
        self._capacity = max(1, CACHE_BYTES // (self._rows * manifest.row_bytes))
        # Pages of it are taken from the system as they are filled.
        self._kept = np.empty((self._capacity * self._rows, manifest.seq_len), dtype=manifest.token_dtype)
        self._slots: OrderedDict[int, int] = OrderedDict()  # where each block is kept, the least recently used first
        self._maps: LRUCache[int, BlockMap] = LRUCache(_FOOTERS_KEPT)
        self._lock = threading.Lock()
        self._maps_lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """Bytes of the blocks that are kept."""
        return len(self._slots) * self._rows * self._manifest.row_bytes

    def rows(self, indices_N: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Fill ``out`` [N, seq_len] with the tokens of rows ``indices_N`` (int64 [N], of the dataset)."""
        block_N, offset_N = self._places(indices_N)
        blocks, which_N = np.unique(block_N, return_inverse=True)
        with self._lock:
            if len(blocks) <= self._capacity:
                out[:] = self._kept[self._get(blocks)[which_N] * self._rows + offset_N]
                return out
            for start in range(0, len(blocks), self._capacity):
                slots = self._get(blocks[start : start + self._capacity])
                here = np.flatnonzero((which_N >= start) & (which_N < start + self._capacity))
                out[here] = self._kept[slots[which_N[here] - start] * self._rows + offset_N[here]]
        return out

    def prefetch(self, indices_N: np.ndarray) -> None:
        """Fetch the blocks of these rows now, as many as are kept."""
        with self._lock:
            self._get(np.unique(self._places(indices_N)[0])[: self._capacity])

    def _places(self, indices_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The block of each row, counted through the shards, and its place there: two int64 [N]."""
        shard_N = self._firsts.searchsorted(indices_N, side="right") - 1
        block_N, offset_N = np.divmod(indices_N - self._firsts[shard_N], self._rows)
        return shard_N * self._of_shard + block_N, offset_N

    def _get(self, blocks: np.ndarray) -> np.ndarray:
        """The slots of distinct blocks, no more than are kept, in rising order: those not kept are fetched now, several
        ranges at once. int64 [len(blocks)]."""
        wanted = blocks.tolist()
        for block in wanted:  # so that none of these makes room for another
            if block in self._slots:
                self._slots.move_to_end(block)
        missing = [divmod(block, self._of_shard) for block in wanted if block not in self._slots]
        if missing:
            shards = [(shard, [block[1] for block in some]) for shard, some in groupby(missing, lambda each: each[0])]
            with ThreadPoolExecutor(min(_AT_ONCE, len(shards))) as pool:
                fetched = list(pool.map(lambda each: self._fetch(*each), shards))
            for (shard, numbers), tokens in zip(shards, fetched, strict=True):
                for number, tokens_NT in zip(numbers, tokens, strict=True):
                    self._keep(shard * self._of_shard + number, tokens_NT)
        return np.array([self._slots[block] for block in wanted], dtype=np.int64)

    def _keep(self, block: int, tokens_NT: np.ndarray) -> None:
        slot = len(self._slots)
        if slot == self._capacity:
            _, slot = self._slots.popitem(last=False)
        self._kept[slot * self._rows : slot * self._rows + len(tokens_NT)] = tokens_NT
        self._slots[block] = slot

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
            return [tokens_NT[number * self._rows : (number + 1) * self._rows] for number in numbers]

    def _read(self, key: str, where: BlockMap, run: list[int]) -> list[np.ndarray]:
        start, stop = where.span(run[0])[0], where.span(run[-1])[1]
        data = memoryview(self._store.get_range(key, start, stop - start))
        blocks = []
        for number in run:
            low, high = where.span(number)
            part = data[low - start : high - start]
            if not where.is_right(number, part):
                raise ValueError(f"block {number} is not what the footer names")
            blocks.append(np.frombuffer(part, dtype=self._manifest.token_dtype).reshape(-1, self._manifest.seq_len))
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
