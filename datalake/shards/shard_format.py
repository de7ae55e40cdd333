"""Shard bytes: a table to deterministic Parquet and back, self-describing through footer key-values.

Tokens are a fixed-size binary column of little-endian uint16, or uint32 where the vocabulary needs it, plain and
uncompressed, so that reading is a copy (Parquet would store uint16 values as INT32). Neither time nor nonce goes in:
the same rows give the same bytes.

Format 2 is format 1 and, in the footer, a digest of each block of rows, which is a range of the file's bytes.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datalake.canonical import canonical_json
from datalake.errors import ShardConflictError
from datalake.shards.blocks import ROW_GROUP, block_digests, block_rows
from datalake.shards.source import Source

_ONE_PAGE = 1 << 30  # bytes: more than a row group's tokens, whose page is then one range
_PREFIX = b"morphogen."


def check_table(source: Source, table: pa.Table, first: int) -> None:
    """Raise ShardConflictError unless ``table`` is a whole shard of ``source`` that starts at sequence ``first``."""
    rows = table.num_rows

    def refuse(problem: str) -> ShardConflictError:
        return ShardConflictError(f"shard at sequence {first}: {problem}: pass the rows of one shard_layout() entry")

    if first % source.shard_sequences or not 1 <= rows <= source.shard_sequences:
        raise refuse(f"{rows} rows do not fit shards of {source.shard_sequences}")
    if not {"sequence_id", "tokens"} <= set(table.column_names):
        raise refuse(f"columns are {table.column_names}, sequence_id and tokens are needed")
    if not pa.types.is_fixed_size_binary(table.schema.field("tokens").type):
        raise refuse(f"tokens are {table.schema.field('tokens').type}, not fixed-size binary")
    if any(column.null_count for column in table.columns):
        raise refuse("a column has nulls")
    ids = table.column("sequence_id").to_numpy()
    if not np.array_equal(ids, np.arange(first, first + rows)):
        raise refuse(f"sequence_id runs from {ids[0]} to {ids[-1]}, not from {first} to {first + rows - 1} in order")


def encode_shard(source: Source, table: pa.Table, first: int) -> bytes:
    """Parquet bytes of a shard; equal input gives equal bytes (with one version of pyarrow)."""
    check_table(source, table, first)
    schema = pa.schema([pa.field(field.name, field.type, nullable=False) for field in table.schema])
    table = table.combine_chunks().cast(schema)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        schema,
        compression="NONE",
        use_dictionary=False,
        # Bounds of the small columns let readers skip; those of tokens would put whole sequences into the footer.
        write_statistics=[name for name in schema.names if name != "tokens"],
        store_schema=False,
        data_page_size=_ONE_PAGE if source.format == 2 else None,
    ) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP)
        writer.add_key_value_metadata(footer_of(source, first, table))
    return sink.getvalue().to_pybytes()


def decode_shard(data: bytes) -> pa.Table:
    """The table in ``data``, footer as schema metadata, one chunk per column. Raises pa.ArrowException or OSError."""
    table = pq.read_table(pa.BufferReader(data), use_threads=False).combine_chunks()
    table.validate(full=False)
    return table


def footer_of(source: Source, first: int, table: pa.Table) -> dict[bytes, bytes]:
    """The footer's key-values: what these rows are, and a digest of them."""
    values: dict[str, Any] = {
        "format": source.format,
        "kind": source.kind,
        "spec": canonical_json(source.spec).decode(),
        "spec_digest": source.spec_digest,
        "data_digest": source.data_digest,
        "seed": "" if source.seed is None else source.seed,
        "generator": source.generator or "",
        "shard_sequences": source.shard_sequences,
        "first": first,
        "rows": table.num_rows,
        "rows_sha256": rows_digest(table),
    }
    if _token_bytes(source, table) == 4:  # said only where it is not as it always was: those shards keep their bytes
        values["token_bits"] = 32
    if source.format == 2:
        width = table.schema.field("tokens").type.byte_width
        values |= {"block_rows": block_rows(width), "blocks": block_digests(token_bytes(table), width)}
    return {_PREFIX + name.encode(): str(value).encode() for name, value in values.items()}


def footer_matches(source: Source, first: int, table: pa.Table) -> bool:
    """Whether a decoded table is the shard of ``source`` at ``first``, its rows intact by the footer's own digest."""
    found = table.schema.metadata or {}
    return all(found.get(name) == value for name, value in footer_of(source, first, table).items())


def rows_digest(table: pa.Table) -> str:
    """SHA-256 over names, types and value bytes of all columns, in order."""
    digest = hashlib.sha256()
    for field in table.schema:
        digest.update(f"{field.name}:{field.type};".encode())
        digest.update(_value_bytes(table.column(field.name)))
    return digest.hexdigest()


def tokens_of(table: pa.Table, dtype: np.dtype) -> np.ndarray:
    """The token column as ``dtype`` (``token_dtype`` of the vocabulary) [rows, seq_len], without a copy; read-only."""
    raw = _value_bytes(table.column("tokens"))
    return np.frombuffer(raw, dtype=dtype).reshape(table.num_rows, -1)


def _token_bytes(source: Source, table: pa.Table) -> int | None:
    """Bytes of one token, by the row length that the source's spec names; None if it names none."""
    seq_len = source.spec.get("seq_len")
    return table.schema.field("tokens").type.byte_width // seq_len if isinstance(seq_len, int) and seq_len else None


def token_column(tokens_NT: np.ndarray) -> pa.Array:
    """Tokens [N, seq_len] of a ``token_dtype`` as a shard's column ``tokens``."""
    data = np.ascontiguousarray(tokens_NT)
    width = data.dtype.itemsize * data.shape[1]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(data), [None, pa.py_buffer(data.tobytes())])


def token_bytes(table: pa.Table) -> memoryview:
    """The token column's bytes, sequence after sequence."""
    return _value_bytes(table.column("tokens"))


def _value_bytes(column: pa.ChunkedArray) -> memoryview:
    """The value buffer of a column of fixed-width values without nulls."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    width = array.type.bit_width // 8
    start = array.offset * width
    return memoryview(array.buffers()[1])[start : start + len(array) * width]
