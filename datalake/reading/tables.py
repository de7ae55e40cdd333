"""Whole tables of a dataset version, shard by shard, read or computed: for who wants every column, not only tokens."""

from __future__ import annotations

from collections.abc import Iterator

from pyarrow import Table

from datalake.shards.computed import RowGenerator, compute_table
from datalake.shards.manifest import Manifest, read_shards
from datalake.shards.shards import read_shard
from datalake.store.interface import Store


def layout_of(manifest: Manifest, start: int = 0, stop: int | None = None) -> list[tuple[int, int]]:
    """``(first, rows)`` of every shard that a dataset has, or would have if it were stored, or of those at places
    ``start`` … ``stop - 1``, without a look at the others."""
    if manifest.is_computed:
        size, sequences = manifest.source.shard_sequences, manifest.sequences
        numbers = range(-(-sequences // size))[start:stop]
        return [(number * size, min(size, sequences - number * size)) for number in numbers]
    return [(ref.first, ref.rows) for ref in manifest.shards[start:stop]]


def all_tables(
    store: Store, manifest: Manifest, generator: RowGenerator | None, start: int = 0, stop: int | None = None
) -> Iterator[Table]:
    """The table of every shard, in order, or of those at places ``start`` … ``stop - 1``.

    Raises MissingShardError or CorruptShardError; for a computed dataset, whose tables ``generator`` makes,
    ManifestError without one, and GeneratorVersionError.
    """
    if manifest.is_computed:
        for first, rows in layout_of(manifest, start, stop):
            yield compute_table(manifest.source, generator, first, rows)
    else:
        for _, table in read_shards(store, manifest.shards[start:stop]):
            yield table


def tables_of_rows(
    store: Store, manifest: Manifest, first: int, count: int, generator: RowGenerator | None
) -> Iterator[Table]:
    """Rows ``first`` … ``first + count - 1``, as far as there are so many; raises as ``all_tables``."""
    end = min(first + count, manifest.sequences)
    if manifest.is_computed:
        if first < end:
            yield compute_table(manifest.source, generator, first, end - first)
        return
    for ref in manifest.shards:
        if ref.first < end and ref.first + ref.rows > first:
            low = max(first, ref.first)
            yield read_shard(store, ref).slice(low - ref.first, min(end, ref.first + ref.rows) - low)
