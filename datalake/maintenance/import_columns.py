"""Token files that are tables: a column of lists of integers, or of little-endian binary, in Parquet or Arrow."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datalake.errors import ImportRefusedError
from datalake.maintenance.import_options import ImportOptions, Piece
from datalake.shards.parquet_pages import MAX_PAGE, largest_page, too_many_rows
from datalake.shards.tokens import MAX_VOCABULARY, NARROW, WIDE, token_dtype

_BATCH = 1024  # rows read at once
_FILE_MAGIC, _FILE_START = b"ARROW1", 8
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3  # types of messages
_USUAL_COLUMNS = ("tokens", "input_ids")  # ours, and that of Hugging Face's datasets


def parquet_pieces(path: Path, options: ImportOptions) -> Iterator[Piece]:
    """The rows of a Parquet file, batch after batch."""
    # What is said of the size is looked at before it is decoded: 2 kB can stand for gigabytes.
    with path.open("rb") as source, pq.ParquetFile(source, pre_buffer=False) as file:
        binary = _binary_dtype(file.metadata.metadata, options)
        column = _column(path, file.schema_arrow, options)
        for group in range(file.num_row_groups):
            rows = _rows_at_once(path, source, file, group, column)
            for batch in file.iter_batches(rows, [group], [column], use_threads=False):
                yield _flattened(path, column, batch.column(0), binary)


def arrow_pieces(path: Path, options: ImportOptions) -> Iterator[Piece]:
    """The rows of an Arrow file or stream, as Hugging Face's `save_to_disk` writes them; mapped, not read whole."""
    size = path.stat().st_size
    with pa.memory_map(str(path)) as source:
        start = _FILE_START if source.read(len(_FILE_MAGIC)) == _FILE_MAGIC else 0  # a file holds a stream
        source.seek(start)
        for message in pa.ipc.MessageReader.open_stream(source):
            if is_compressed(bytes(message.metadata)):
                raise ImportRefusedError(f"{path} is compressed, to who knows what size: save it plain, or as Parquet")
        source.seek(start)
        reader = pa.ipc.open_stream(source)
        binary = _binary_dtype(reader.schema.metadata, options)
        column = _column(path, reader.schema, options)
        for batch in reader:
            if too_many_rows(batch.num_rows, size):
                raise _too_many(path, batch.num_rows)
            rows = batch.column(column)
            rows.validate(full=True)  # nobody has looked yet whether its offsets stay within it
            for first in range(0, len(rows), _BATCH):
                yield _flattened(path, column, rows.slice(first, _BATCH), binary)


def is_compressed(metadata: bytes) -> bool:
    """Whether an Arrow message of this metadata (a flatbuffer of Arrow's `Message.fbs`) has compressed buffers.

    Raises struct.error or IndexError for what is no such message.
    """

    def number(kind: str, at: int) -> int:
        return struct.unpack_from(kind, metadata, at)[0]

    def field(table: int, index: int) -> int | None:
        fields = table - number("<i", table)
        place = 4 + 2 * index
        offset = number("<H", fields + place) if place < number("<H", fields) else 0
        return table + offset if offset else None

    def child(table: int, index: int) -> int | None:
        at = field(table, index)
        return None if at is None else at + number("<I", at)

    message = number("<I", 0)
    kind, body = field(message, 1), child(message, 2)
    if kind is None or body is None:
        return False
    header_type = metadata[kind]
    batch = body if header_type == _RECORD_BATCH else child(body, 1) if header_type == _DICTIONARY_BATCH else None
    return batch is not None and field(batch, 3) is not None


def _column(path: Path, schema: pa.Schema, options: ImportOptions) -> str:
    named = (options.column,) if options.column is not None else _USUAL_COLUMNS
    for column in named:
        if column in schema.names:
            return column
    raise ImportRefusedError(
        f"{path} has no column {' or '.join(map(repr, named))}: it has {', '.join(schema.names)}; name the one that "
        "holds the tokens"
    )


def _binary_dtype(said: dict[bytes, bytes] | None, options: ImportOptions) -> np.dtype:
    """What a binary column of a file with this metadata holds a token as."""
    if options.binary_bits is not None:
        return WIDE if options.binary_bits == 32 else NARROW
    bits = (said or {}).get(b"morphogen.token_bits")
    return WIDE if bits == b"32" else NARROW if bits is not None else token_dtype(options.vocab_size or 1)


def _rows_at_once(path: Path, source: BinaryIO, file: pq.ParquetFile, group: int, column: str) -> int:
    """How many rows may be decoded at once. Raises ImportRefusedError for a file that claims more than it can hold."""
    size = path.stat().st_size
    row_group = file.metadata.row_group(group)
    chunks = [row_group.column(index) for index in range(row_group.num_columns)]
    chunks = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] == column]
    claimed = max([file.metadata.num_rows, *(chunk.num_values for chunk in chunks)])
    if too_many_rows(claimed, size):
        raise _too_many(path, claimed)
    pages = [largest_page(source, chunk) for chunk in chunks]
    largest = max(pages, default=1) or 1
    if largest > MAX_PAGE:
        raise ImportRefusedError(
            f"{path} holds a page of {largest >> 20} MiB, {MAX_PAGE >> 20} are the limit: write it with smaller pages"
        )
    return max(1, min(_BATCH, MAX_PAGE // largest))


def _too_many(path: Path, claimed: int) -> ImportRefusedError:
    size = path.stat().st_size
    return ImportRefusedError(
        f"{path} claims {claimed:,} values in {size:,} bytes, which cannot hold as many: leave it out"
    )


def _flattened(path: Path, column: str, rows: pa.Array, binary: np.dtype) -> Piece:
    def refuse(problem: str) -> ImportRefusedError:
        return ImportRefusedError(
            f"{path}: column {column!r} {problem}: give lists of integers from 0 to {MAX_VOCABULARY - 1}, or "
            f"little-endian uint16 or uint32 as binary (binary_bits says which; read as {8 * binary.itemsize} bits)"
        )

    if rows.null_count:
        raise refuse("has nulls")
    kind = rows.type
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        pieces = rows.to_pylist()
        sizes = np.array([len(piece) for piece in pieces], dtype=np.int64)
        if np.any(uneven := sizes % binary.itemsize != 0):
            raise refuse(f"has a row of {int(sizes[uneven][0])} bytes")
        tokens = np.frombuffer(b"".join(pieces), dtype=binary)
        if len(tokens) and int(tokens.max()) >= MAX_VOCABULARY:
            raise refuse(f"has values up to {tokens.max()}")
        return tokens.astype(WIDE), np.cumsum(sizes // binary.itemsize)
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not lists or not pa.types.is_integer(kind.value_type):
        raise refuse(f"is {kind}")
    values = rows.flatten()
    if values.null_count:
        raise refuse("has nulls within a row")
    numbers = values.to_numpy(zero_copy_only=False)
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < MAX_VOCABULARY:
        raise refuse(f"has values from {numbers.min()} to {numbers.max()}")
    if pa.types.is_fixed_size_list(kind):
        return numbers.astype(WIDE), np.arange(1, len(rows) + 1) * kind.list_size
    return numbers.astype(WIDE), np.cumsum(rows.value_lengths().to_numpy(zero_copy_only=False), dtype=np.int64)
