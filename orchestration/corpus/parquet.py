"""Texts in Parquet files, as pandas, polars, Spark and others write them, read a few rows at a time.

What a file says of itself is checked before it is decoded: a few hundred bytes can stand for gigabytes, by repeating
one value, by rows that hold nothing, or by a page that compresses well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from datalake.shards.parquet_pages import MAX_PAGE, largest_page, too_many_rows
from orchestration.console.foreign import shown
from orchestration.corpus.options import ReadOptions
from orchestration.corpus.places import Place, named, opened
from orchestration.errors import CorpusError

_BATCH_ROWS = 1024


def parquet_records(place: Place, options: ReadOptions, start: int) -> Iterator[tuple[int, Any]]:
    """(row number, value), of pairs (row number, both columns' values), from row ``start`` on. Raises CorpusError."""
    if len(options.columns) == 1:
        yield from parquet_values(place, options, start)
        return
    alone = [replace(options, column=column, chat=None, pairs=None) for column in options.columns]
    for both in zip(*(parquet_values(place, each, start) for each in alone), strict=True):
        yield both[0][0], [value for _, value in both]


def parquet_values(place: Place, options: ReadOptions, start: int) -> Iterator[tuple[int, Any]]:
    """(row number, value) from row ``start`` on; texts as bytes. Raises CorpusError."""
    with opened(place) as source:
        try:
            file = pq.ParquetFile(source, pre_buffer=False)
            _check_claim(place, source, file.metadata.num_rows, "rows")
            kind = _leaf_type(place, file, options)
            first = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if rows and first + rows > start:
                    batch = _batch_rows(place, source, file, group, options.column)
                    yield from _group(file, group, batch, first, start, kind, options)
                first += rows
        except CorpusError:
            raise
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            said = next(iter(str(error).splitlines()), "")
            raise CorpusError(
                f"paths: {named(place)} cannot be read as Parquet ({shown(said)}); mend or leave out the file"
            ) from error


def _check_claim(place: Place, source: BinaryIO, count: int, what: str) -> None:
    size = source.seek(0, 2)
    if too_many_rows(count, size):
        raise CorpusError(
            f"paths: {named(place)} claims {count:,} {what} in {size:,} bytes, which cannot hold as many texts; "
            "leave out the file"
        )


def _leaf_type(place: Place, file: pq.ParquetFile, options: ReadOptions) -> pa.DataType:
    """The type of the column, which may be a path into structs. Raises CorpusError for one that holds no text."""
    schema = file.schema_arrow
    parts = [options.column] if options.column in schema.names else options.column.split(".")
    kind: Any = pa.struct(list(schema))
    for part in parts:
        twice = pa.types.is_struct(kind) and sum(field.name == part for field in kind) > 1
        if twice:
            raise CorpusError(f"text_column: {named(place)} has two columns {part!r}; name each column once")
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            raise CorpusError(
                f"text_column: {named(place)} has no {options.column!r}, it has {', '.join(map(shown, schema.names))}; "
                "name the column that holds the text"
            )
        kind = kind.field(part).type
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    if options.chat is not None:
        fits = _is_text(plain) or _is_list(kind)
    elif options.ids:
        fits = _is_list(kind) and pa.types.is_integer(kind.value_type)
    else:
        fits = _is_text(plain)
    if not fits:
        what = "messages" if options.chat is not None else "a list of token ids" if options.ids else "text"
        raise CorpusError(
            f"text_column: {named(place)}: {options.column!r} is of type {kind}, not {what}; "
            "name the column that holds the text"
        )
    return kind


def _is_text(kind: pa.DataType) -> bool:
    tests = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return any(getattr(pa.types, f"is_{test}")(kind) for test in tests)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _batch_rows(place: Place, source: BinaryIO, file: pq.ParquetFile, group: int, column: str) -> int:
    """How many rows may be decoded at once: each may be as large as the largest page, or the dictionary, says."""
    largest = 1
    row_group = file.metadata.row_group(group)
    for index in range(row_group.num_columns):
        chunk = row_group.column(index)
        if chunk.path_in_schema == column or chunk.path_in_schema.startswith(f"{column}."):
            _check_claim(place, source, chunk.num_values, "values")
            largest = max(largest, largest_page(source, chunk))
    if largest > MAX_PAGE:
        raise CorpusError(
            f"paths: {named(place)} holds a page of {largest >> 20} MiB, {MAX_PAGE >> 20} are the limit; "
            "write it with smaller pages, or leave out the file"
        )
    return max(1, min(_BATCH_ROWS, MAX_PAGE // largest))


def _group(
    file: pq.ParquetFile, group: int, batch_rows: int, first: int, start: int, kind: pa.DataType, options: ReadOptions
) -> Iterator[tuple[int, Any]]:
    top, *parts = [options.column] if options.column in file.schema_arrow.names else options.column.split(".")
    for batch in file.iter_batches(batch_rows, [group], [options.column], use_threads=False):
        if first + len(batch) > start:
            column = batch.column(top)  # where a struct `a` has a field `b`, asking for a column "a.b" brings both
            for part in parts:
                column = pa.compute.struct_field(column, part)  # null where a struct above it is
            values = column.to_pylist() if _is_list(kind) else _bytes(column)
            skipped = max(0, start - first)
            yield from enumerate(values[skipped:], first + skipped)
        first += len(batch)


def _bytes(column: pa.Array) -> list[bytes | None]:
    """Texts as their bytes: decoding them here would raise at the first that is not UTF-8, and not say which."""
    if not pa.types.is_dictionary(column.type):
        return column.cast(pa.large_binary()).to_pylist()
    values = column.dictionary.cast(pa.large_binary()).to_pylist()
    return [None if index is None else values[index] for index in column.indices.to_pylist()]
