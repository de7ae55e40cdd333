"""Random access to a dataset version's rows through bounded caches of verified shards."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import numpy as np
from pyarrow import Table

from datalake.errors import CorruptShardError, ManifestError
from datalake.reading.blocks import BlockReader
from datalake.reading.node_cache import NodeCache
from datalake.reading.row_reader import RowReader
from datalake.reading.single_flight import SingleFlight
from datalake.shards.manifest import Manifest
from datalake.shards.roles import has_roles, packed_of, unpacked
from datalake.shards.shard_format import decode_shard, tokens_of
from datalake.shards.shards import ShardRef, read_shard
from datalake.shards.source import Source
from datalake.store.interface import Store

ShardRepair = Callable[[Store, Source, ShardRef, CorruptShardError], bytes]
"""``repair(store, source, ref, error)``: the right bytes of a shard whose reading failed with ``error``, or raises."""

CACHE_SHARDS = 64
_MAPS = 256  # mapped files kept open: each holds a file descriptor


class DatasetReader(RowReader):
    """Rows of one manifest by index.

    Each shard is verified against its SHA-256 when fetched and kept among the ``cache_shards`` most recently used;
    threads that need the same shard wait for one fetch. A plan's window spans about 32 shards at the default sizes,
    so fewer cached shards mean reading shards again. Of shards that name blocks, where there are more than are kept,
    blocks alone are fetched, verified and kept instead. With a ``node_cache``, tokens are fetched once per node and
    mapped from its disk. With ``repair``, such as ``Healer.heal``, a lost or corrupt shard is what that returns.
    Picklable if ``repair`` is, without what is cached in memory. Raises ManifestError for a computed dataset.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        cache_shards: int = CACHE_SHARDS,
        *,
        node_cache: NodeCache | None = None,
        repair: ShardRepair | None = None,
    ) -> None:
        if manifest.is_computed:
            raise ManifestError("this dataset is computed and has no shards to read: read it with a ComputedReader")
        self.store = store
        self.manifest = manifest
        self.cache_shards = max(1, cache_shards)
        self.node_cache = node_cache
        self.repair = repair
        self._has_roles = has_roles(manifest)
        self._starts = [ref.first for ref in manifest.shards]
        self._firsts = np.array(self._starts, dtype=np.int64)
        self._tables: SingleFlight[int, Table] = SingleFlight(self._load, self.cache_shards)
        self._blocks = BlockReader(store, manifest, self._whole_shard) if self._reads_blocks() else None
        kept = max(self.cache_shards, _MAPS) if node_cache and not self._has_roles else self.cache_shards
        self._tokens: SingleFlight[int, np.ndarray] = SingleFlight(self._load_tokens, kept)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.store, self.manifest, self.cache_shards, self.node_cache, self.repair)

    def rows(self, indices: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Tokens of rows ``indices`` (int64 [N], any order, repeats allowed): ``dtype`` [N, seq_len].

        ``out``, if given, is filled and returned: [N, seq_len] of any integer type that holds a token.
        Raises MissingShardError or CorruptShardError naming the shard.
        """
        if out is None:
            out = np.empty((len(indices), self.manifest.seq_len), dtype=self.manifest.token_dtype)
        if self._blocks is not None:
            indices = np.asarray(indices, dtype=np.int64)
            if indices.size:
                self.check_rows(int(indices.min()), int(indices.max()))
            return self._blocks.rows(indices, out)
        return self._gather(indices, self._tokens, lambda tokens: tokens, out)

    def column(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Values of another column at rows ``indices``: [N] of the column's own dtype. Raises ManifestError."""
        sample = self._tables.get(0)
        if name not in sample.column_names or name == "tokens":
            others = ", ".join(column for column in sample.column_names if column != "tokens")
            raise ManifestError(
                f"no column {name!r} of plain values in shard {self.manifest.shards[0].key}: it has {others}"
            )
        out = np.empty(len(indices), dtype=sample.column(name).to_numpy().dtype)
        return self._gather(indices, self._tables, lambda table: table.column(name).to_numpy(), out)

    def roles(self, indices: np.ndarray) -> np.ndarray:
        """What each token of rows ``indices`` is for (``datalake.shards.roles``): uint8 [N, seq_len]. Raises
        ManifestError for a dataset that does not say."""
        if not self._has_roles:
            return super().roles(indices)
        packed = np.empty((len(indices), -(-self.manifest.seq_len // 4)), dtype=np.uint8)
        return unpacked(self._gather(indices, self._tables, packed_of, packed), self.manifest.seq_len)

    def prefetch(self, indices: np.ndarray) -> None:
        """Fetch the blocks or shards of these rows now, several at a time, so that ``rows`` finds them at hand."""
        if self._blocks is not None:
            self._blocks.prefetch(np.asarray(indices, dtype=np.int64))
            return
        shards = np.unique(np.searchsorted(self._firsts, np.asarray(indices, dtype=np.int64), side="right") - 1)
        self._tokens.get_all(shards[: self._tokens.capacity].tolist())

    @property
    def held_bytes(self) -> int:
        """Bytes of the blocks that are kept, if blocks are what is read."""
        return self._blocks.held_bytes if self._blocks is not None else 0

    def _reads_blocks(self) -> bool:
        """Whether to fetch blocks: where they are named, and neither memory nor the node's disk keeps all shards. Roles
        are in no block: rows that have them are read by whole shards, once for both."""
        if self._has_roles or self.manifest.source.format == 1 or len(self.manifest.shards) <= self.cache_shards:
            return False
        return self.node_cache is None or not self.node_cache.holds(sum(ref.bytes for ref in self.manifest.shards))

    def _whole_shard(self, shard: int) -> np.ndarray:
        return tokens_of(self._load(shard), self.manifest.token_dtype)

    def _gather(
        self, indices: np.ndarray, cache: SingleFlight[int, Any], values: Callable[[Any], np.ndarray], out: np.ndarray
    ) -> np.ndarray:
        """Fill ``out`` with the values of rows ``indices``."""
        indices = np.asarray(indices, dtype=np.int64)
        if not indices.size:
            return out
        first, last = int(indices[0]), int(indices[-1])
        if last - first == len(indices) - 1 and bool((indices[1:] > indices[:-1]).all()):
            self.check_rows(first, last)
            return self._run(first, cache, values, out)
        return self._scattered(indices, cache, values, out)

    def _run(
        self, first: int, cache: SingleFlight[int, Any], values: Callable[[Any], np.ndarray], out: np.ndarray
    ) -> np.ndarray:
        """Consecutive rows from ``first``: one slice of each shard."""
        shard, done = bisect_right(self._starts, first) - 1, 0
        while done < len(out):
            array = values(cache.get(shard))
            start = first + done - self._starts[shard]
            part = array[start : start + len(out) - done]
            out[done : done + len(part)] = part
            done, shard = done + len(part), shard + 1
        return out

    def _scattered(
        self, indices: np.ndarray, cache: SingleFlight[int, Any], values: Callable[[Any], np.ndarray], out: np.ndarray
    ) -> np.ndarray:
        """Rows in any order: gathered shard by shard, then put in place at once, one pass instead of one per shard."""
        order = indices.argsort()
        ordered = indices[order]
        self.check_rows(int(ordered[0]), int(ordered[-1]))
        shard_of = self._firsts.searchsorted(ordered, side="right") - 1
        local = ordered - self._firsts[shard_of]
        cuts = [0, *((shard_of[1:] != shard_of[:-1]).nonzero()[0] + 1).tolist(), len(shard_of)]
        needed = shard_of[cuts[:-1]].tolist()
        gathered = None
        at_once = cache.capacity
        for part in range(0, len(needed), at_once):
            for at, loaded in enumerate(cache.get_all(needed[part : part + at_once]), start=part):
                array, start, stop = values(loaded), cuts[at], cuts[at + 1]
                if gathered is None:
                    gathered = np.empty(out.shape, dtype=array.dtype)
                # The indices are known to be good; without mode="clip" take would gather into a copy first.
                array.take(local[start:stop], axis=0, out=gathered[start:stop], mode="clip")
        out[order] = gathered
        return out

    def _load(self, shard: int) -> Table:
        ref = self.manifest.shards[shard]
        try:
            return read_shard(self.store, ref)
        except CorruptShardError as error:
            if self.repair is None:
                raise
            return decode_shard(self.repair(self.store, self.manifest.source, ref, error))

    def _load_tokens(self, shard: int) -> np.ndarray:
        """The manifest's ``token_dtype`` [rows, seq_len], read-only."""
        dtype = self.manifest.token_dtype
        if self.node_cache is None or self._has_roles:
            return tokens_of(self._tables.get(shard), dtype)
        ref = self.manifest.shards[shard]
        rows = self.node_cache.rows(ref, self.manifest.seq_len, lambda: tokens_of(self._load(shard), dtype), dtype)
        if not self.node_cache.fills:  # rows that are not mapped take memory: keep as few as without a cache
            self._tokens.resize(self.cache_shards)
        return rows


def _rebuild(
    store: Store, manifest: Manifest, cache_shards: int, node_cache: NodeCache | None, repair: ShardRepair | None
) -> DatasetReader:
    return DatasetReader(store, manifest, cache_shards, node_cache=node_cache, repair=repair)
