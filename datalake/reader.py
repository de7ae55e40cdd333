"""Random access to a dataset version's rows through a bounded cache of verified shards."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from pyarrow import Table

from datalake.errors import ManifestError
from datalake.manifest import Manifest
from datalake.shard_format import tokens_of
from datalake.shards import read_shard
from datalake.store import Store

_FETCHERS = 4


class DatasetReader:
    """Rows of one manifest by index.

    Each shard is verified against its SHA-256 when fetched and kept among the ``cache_shards`` most recently used;
    threads that need the same shard wait for one fetch. A plan's window spans about 32 shards at the default sizes,
    so fewer cached shards mean reading shards again. Picklable, without the cache.
    """

    def __init__(self, store: Store, manifest: Manifest, cache_shards: int = 64) -> None:
        self.store = store
        self.manifest = manifest
        self.cache_shards = max(1, cache_shards)
        self._firsts = np.array([ref.first for ref in manifest.shards], dtype=np.int64)
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, Future[Table]] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return DatasetReader, (self.store, self.manifest, self.cache_shards)

    def __len__(self) -> int:
        return self.manifest.sequences

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Tokens of rows ``indices`` (int64 [N], any order, repeats allowed): uint16 [N, seq_len].

        Raises MissingShardError or CorruptShardError naming the shard.
        """
        return self._gather(indices, tokens_of, np.empty((len(indices), self.manifest.seq_len), dtype=np.uint16))

    def column(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Values of another column at rows ``indices``: [N] of the column's own dtype. Raises ManifestError."""
        sample = self._shard(0)
        if name not in sample.column_names or name == "tokens":
            others = ", ".join(column for column in sample.column_names if column != "tokens")
            raise ManifestError(
                f"no column {name!r} of plain values in shard {self.manifest.shards[0].key}: it has {others}"
            )
        out = np.empty(len(indices), dtype=sample.column(name).to_numpy().dtype)
        return self._gather(indices, lambda table: table.column(name).to_numpy(), out)

    def _gather(self, indices: np.ndarray, values: Any, out: np.ndarray) -> np.ndarray:
        indices = np.asarray(indices, dtype=np.int64)
        if indices.size and not (indices.min() >= 0 and indices.max() < len(self)):
            raise IndexError(f"rows {indices.min()} to {indices.max()} of a dataset of {len(self)}")
        shard_of = np.searchsorted(self._firsts, indices, side="right") - 1
        needed = [int(shard) for shard in np.unique(shard_of)]
        for start in range(0, len(needed), self.cache_shards):
            part = needed[start : start + self.cache_shards]
            for shard, table in zip(part, self._shards(part), strict=True):
                places = np.flatnonzero(shard_of == shard)
                out[places] = values(table)[indices[places] - self._firsts[shard]]
        return out

    def _shards(self, needed: list[int]) -> list[Table]:
        with self._lock:
            absent = [shard for shard in needed if shard not in self._cache]
        if len(absent) > 1:  # a fetch is mostly waiting and hashing, both outside the interpreter's lock
            with ThreadPoolExecutor(_FETCHERS) as pool:
                list(pool.map(self._shard, absent))
        return [self._shard(shard) for shard in needed]

    def _shard(self, shard: int) -> Table:
        with self._lock:
            future = self._cache.get(shard)
            mine = future is None
            if future is None:
                future = self._cache[shard] = Future()
                while len(self._cache) > self.cache_shards:
                    self._cache.popitem(last=False)
            else:
                self._cache.move_to_end(shard)
        if mine:
            try:
                future.set_result(read_shard(self.store, self.manifest.shards[shard]))
            except BaseException as error:
                with self._lock:  # the next caller tries afresh: the object may have been repaired
                    if self._cache.get(shard) is future:
                        del self._cache[shard]
                future.set_exception(error)
                raise
        return future.result()
