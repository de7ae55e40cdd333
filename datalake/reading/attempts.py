"""The attempt index: which attempt at each sequence of a computed dataset its spec's band accepted, kept in objects.

Finding that out means simulating and scoring every attempt before it, which is most of what a row costs where a band
accepts few; knowing it, one simulation makes the row. The index is a cache like the node's: a part that is absent or
damaged costs time and changes no row, for attempts are a pure function of the spec, the seed and the sequence.

A part covers SPAN sequences and is a Parquet file of one column, ``attempt``, packed to a few bits each.
"""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datalake.canonical import digest_of, sha256_hex
from datalake.errors import NotFoundError
from datalake.events import log_event
from datalake.reading.single_flight import SingleFlight
from datalake.shards.manifest import Manifest
from datalake.shards.source import Source, shard_layout
from datalake.store.interface import Store

SPAN = 16_384
_PARTS_KEPT = 256  # 16 MiB of attempts
_PREFIX = b"morphogen."


def attempts_folder(source: Source) -> str:
    """Where the parts for ``source`` lie, however its shards are cut: ``attempts/<digest>/``."""
    fixed = {"spec_digest": source.spec_digest, "seed": source.seed, "generator": source.generator}
    return f"attempts/{digest_of(fixed)}/"


def attempts_key(source: Source, first: int, rows: int) -> str:
    """The key of the part for sequences ``first`` … ``first + rows - 1``; a short one has its own, as shards do."""
    return f"{attempts_folder(source)}{first:012d}{'' if rows == SPAN else f'-r{rows}'}.parquet"


def attempts_layout(manifest: Manifest) -> list[tuple[int, int]]:
    """``(first, rows)`` of every part of a dataset's index."""
    return shard_layout(manifest.sequences, SPAN)


def write_attempts(store: Store, source: Source, first: int, attempts_N: np.ndarray) -> int:
    """Write the part that starts at ``first``, over one that is damaged. Returns its size in bytes."""
    data = _encode(source, first, attempts_N)
    key = attempts_key(source, first, len(attempts_N))
    if not store.put_if_absent(key, data) and read_attempts(store, source, first, len(attempts_N)) is None:
        store.replace(key, data)  # what belongs here is a pure function of the key
    return len(data)


def read_attempts(store: Store, source: Source, first: int, rows: int) -> np.ndarray | None:
    """The part's attempts, int32 [rows]; None if it is not there or not whole."""
    key = attempts_key(source, first, rows)
    try:
        data = store.get(key)
    except NotFoundError:
        return None
    try:
        table = pq.read_table(pa.BufferReader(data), use_threads=False, page_checksum_verification=True)
        attempts_N: np.ndarray = table.column("attempt").to_numpy().astype(np.int32, copy=False)
        if (table.schema.metadata or {}).items() >= _footer(source, first, attempts_N).items():
            return attempts_N
        problem = "its footer does not fit"
    except (pa.ArrowException, OSError, KeyError) as error:
        problem = str(error)
    log_event("attempts_damaged", level=logging.WARNING, part=key, problem=problem)
    return None


class AttemptIndex:
    """Attempts by sequence id, from the parts that there are. Picklable, without what it has read."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store, self._manifest = store, manifest
        self._parts: SingleFlight[int, np.ndarray | None] = SingleFlight(self._load, _PARTS_KEPT)

    def __reduce__(self) -> tuple[type[AttemptIndex], tuple[Store, Manifest]]:
        return AttemptIndex, (self._store, self._manifest)

    def attempts(self, ids_N: np.ndarray) -> np.ndarray:
        """The accepted attempt of sequences ``ids_N`` (int64 [N], of the dataset): int64 [N], -1 where unknown."""
        out_N = np.full(len(ids_N), -1, dtype=np.int64)
        part_N = ids_N // SPAN
        wanted = np.unique(part_N).tolist()
        for start in range(0, len(wanted), self._parts.capacity):
            some = wanted[start : start + self._parts.capacity]
            for part, found in zip(some, self._parts.get_all(some), strict=True):
                if found is not None:
                    mine_N = part_N == part
                    out_N[mine_N] = found[ids_N[mine_N] - part * SPAN]
        return out_N

    def _load(self, part: int) -> np.ndarray | None:
        first = part * SPAN
        return read_attempts(self._store, self._manifest.source, first, min(SPAN, self._manifest.sequences - first))


def index_of(store: Store, manifest: Manifest) -> AttemptIndex | None:
    """The index of a computed dataset; None if the store has no part of it now."""
    there = next(iter(store.list(attempts_folder(manifest.source))), None)
    return AttemptIndex(store, manifest) if there is not None else None


def _encode(source: Source, first: int, attempts_N: np.ndarray) -> bytes:
    schema = pa.schema([pa.field("attempt", pa.int32(), nullable=False)])
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink, schema, compression="zstd", write_statistics=False, write_page_checksum=True, store_schema=False
    ) as writer:
        writer.write_table(pa.Table.from_arrays([pa.array(attempts_N.astype(np.int32))], schema=schema))
        writer.add_key_value_metadata(_footer(source, first, attempts_N))
    return sink.getvalue().to_pybytes()


def _footer(source: Source, first: int, attempts_N: np.ndarray) -> dict[bytes, bytes]:
    """What the part is, and a digest of its attempts."""
    values = {
        "format": "attempts-1",
        "spec_digest": source.spec_digest,
        "seed": source.seed,
        "generator": source.generator,
        "first": first,
        "attempts_sha256": sha256_hex(attempts_N.astype("<i4").tobytes()),
    }
    return {_PREFIX + name.encode(): str(value).encode() for name, value in values.items()}
