"""Random access to a dataset version's rows through bounded caches of verified shards."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from pyarrow import Table

from datalake.errors import CorruptShardError, ManifestError
from datalake.healing import Healer
from datalake.manifest import Manifest
from datalake.node_cache import NodeCache
from datalake.shard_format import decode_shard, tokens_of
from datalake.shards import read_shard
from datalake.single_flight import SingleFlight
from datalake.store import Store

_FETCHERS = 4
_MAPS = 256  # mapped files kept open: each holds a file descriptor


class DatasetReader:
    """Rows of one manifest by index.

    Each shard is verified against its SHA-256 when fetched and kept among the ``cache_shards`` most recently used;
    threads that need the same shard wait for one fetch. A plan's window spans about 32 shards at the default sizes,
    so fewer cached shards mean reading shards again. With a ``node_cache``, tokens are fetched once per node and
    mapped from its disk. With a ``healer``, a lost or corrupt shard is computed again instead of raised, within the
    healer's budget. Picklable, without what is cached in memory.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        cache_shards: int = 64,
        *,
        node_cache: NodeCache | None = None,
        healer: Healer | None = None,
    ) -> None:
        self.store = store
        self.manifest = manifest
        self.cache_shards = max(1, cache_shards)
        self.node_cache = node_cache
        self.healer = healer
        self._firsts = np.array([ref.first for ref in manifest.shards], dtype=np.int64)
        self._tables: SingleFlight[int, Table] = SingleFlight(self._load, self.cache_shards)
        at_once = max(self.cache_shards, _MAPS) if node_cache else self.cache_shards
        self._tokens: SingleFlight[int, np.ndarray] = SingleFlight(self._load_tokens, at_once)
        self._at_once = at_once

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.store, self.manifest, self.cache_shards, self.node_cache, self.healer)

    def __len__(self) -> int:
        return self.manifest.sequences

    def rows(self, indices: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Tokens of rows ``indices`` (int64 [N], any order, repeats allowed): uint16 [N, seq_len].

        ``out``, if given, is filled and returned: [N, seq_len] of any integer type that holds a token.
        Raises MissingShardError or CorruptShardError naming the shard.
        """
        if out is None:
            out = np.empty((len(indices), self.manifest.seq_len), dtype=np.uint16)
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

    def prefetch(self, indices: np.ndarray) -> None:
        """Fetch the shards of these rows now, several at a time, so that ``rows`` finds them at hand."""
        shards = np.unique(np.searchsorted(self._firsts, np.asarray(indices, dtype=np.int64), side="right") - 1)
        self._fetch(self._tokens, [int(shard) for shard in shards[: self._at_once]])

    def _gather(
        self, indices: np.ndarray, cache: SingleFlight[int, Any], values: Callable[[Any], np.ndarray], out: np.ndarray
    ) -> np.ndarray:
        """Fill ``out`` shard by shard, so that each is looked up once however the indices jump about."""
        indices = np.asarray(indices, dtype=np.int64)
        if not indices.size:
            return out
        if not (indices.min() >= 0 and indices.max() < len(self)):
            raise IndexError(f"rows {indices.min()} to {indices.max()} of a dataset of {len(self)}")
        shard_of = np.searchsorted(self._firsts, indices, side="right") - 1
        in_order = bool((shard_of[1:] >= shard_of[:-1]).all())
        order = np.arange(len(indices)) if in_order else np.argsort(shard_of, kind="stable")
        shards = shard_of[order]
        local = (indices - self._firsts[shard_of])[order]
        cuts = [0, *(np.flatnonzero(shards[1:] != shards[:-1]) + 1).tolist(), len(shards)]
        needed = shards[cuts[:-1]].tolist()
        # Gathered in shard order first and put in place at once: scattering shard by shard costs a copy each.
        buffer = None
        for part in range(0, len(needed), self._at_once):
            self._fetch(cache, needed[part : part + self._at_once])
            for at, shard in enumerate(needed[part : part + self._at_once], start=part):
                array = values(cache.get(shard))
                if buffer is None:
                    same = in_order and out.dtype == array.dtype
                    buffer = out if same else np.empty(out.shape, dtype=array.dtype)
                rows, target = local[cuts[at] : cuts[at + 1]], buffer[cuts[at] : cuts[at + 1]]
                if rows[-1] - rows[0] == len(rows) - 1 and bool((rows[1:] > rows[:-1]).all()):
                    target[...] = array[rows[0] : rows[-1] + 1]
                else:  # mode "clip": the indices are known to be good, and "raise" would gather twice
                    np.take(array, rows, axis=0, out=target, mode="clip")
        assert buffer is not None
        if buffer is not out:
            if in_order:
                out[...] = buffer
            else:
                out[order] = buffer
        return out

    def _fetch(self, cache: SingleFlight[int, Any], needed: list[int]) -> None:
        absent = [shard for shard in needed if shard not in cache]
        if len(absent) > 1:  # a fetch is mostly waiting and hashing, both outside the interpreter's lock
            with ThreadPoolExecutor(_FETCHERS) as pool:
                list(pool.map(cache.get, absent))

    def _load(self, shard: int) -> Table:
        ref = self.manifest.shards[shard]
        try:
            return read_shard(self.store, ref)
        except CorruptShardError as error:
            if self.healer is None:
                raise
            return decode_shard(self.healer.heal(self.store, self.manifest.source, ref, error))

    def _load_tokens(self, shard: int) -> np.ndarray:
        """uint16 [rows, seq_len], read-only."""
        if self.node_cache is None:
            return tokens_of(self._tables.get(shard))
        ref = self.manifest.shards[shard]
        return self.node_cache.rows(ref, self.manifest.seq_len, lambda: tokens_of(self._load(shard)))


def _rebuild(
    store: Store, manifest: Manifest, cache_shards: int, node_cache: NodeCache | None, healer: Healer | None
) -> DatasetReader:
    return DatasetReader(store, manifest, cache_shards, node_cache=node_cache, healer=healer)
