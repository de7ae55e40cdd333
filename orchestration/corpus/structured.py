"""Records that lie in a file otherwise than by lines: JSON values, and the rows of tables with a delimiter.

Both come from pieces of the file's bytes, and no more than a record (at most `MAX_RECORD` bytes) and a buffer is held.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from orchestration.console.foreign import shown
from orchestration.corpus.options import ReadOptions
from orchestration.corpus.places import MAX_RECORD, BadRecord

DELIMITERS: dict[str, str] = {"csv": ",", "tsv": "\t"}

TOO_LONG = BadRecord(
    f"is larger than {MAX_RECORD >> 20} MiB", "a document of that size belongs into a text file of its own"
)

_SPACE = " \t\r\n"


def pairs_hook(text: bytes | str, columns: Sequence[str]) -> Callable[[list[tuple[str, Any]]], Any] | None:
    """What makes an object of a JSON text's pairs, where a part of one of the paths ``columns`` may be the name of two
    of them: JSON leaves open which one is meant, and Python would drop the first. It raises BadRecord. None where that
    cannot be."""
    parts = {part for column in columns for part in (column, *column.split("."))}
    named: list[Any] = [f'"{part}"' for part in parts]
    if isinstance(text, bytes):
        named = [name.encode(errors="replace") for name in named]
    if all(text.count(name) < 2 for name in named):
        return None

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            for part in sorted(parts & found.keys()):
                if names.count(part) > 1:
                    raise BadRecord(f"has two fields {part!r}", "name each field once", "text_column")
        return found

    return distinct


def values(source: Iterator[bytes], options: ReadOptions) -> Iterator[Any]:
    """The elements of a JSON array, or values one after the other."""
    decoder, text = (
        json.JSONDecoder(),
        io.TextIOWrapper(io.BufferedReader(_Chunks(source)), encoding="utf-8", errors="surrogateescape"),
    )
    buffer, wanted, ended, array, more = "", 1 << 16, False, False, False
    while True:
        buffer = buffer.lstrip(_SPACE)
        if not buffer and not ended:
            buffer = text.read(wanted)
            ended = not buffer
            continue
        if not buffer and not array:
            return
        if buffer[:1] == "[" and not array and not more:
            array, buffer = True, buffer[1:]
            continue
        if array and buffer[:1] in "],":
            if buffer[:1] == "]" and not (buffer[1:] + text.read(wanted)).strip(_SPACE):
                return
            if buffer[:1] == "]" or not more:
                raise BadRecord(
                    "is no JSON array (something stands where a value should)", "mend or leave out the file"
                )
            buffer, more = buffer[1:], False
            continue
        try:
            if array and more:
                raise BadRecord("is no JSON array (a comma is missing)", "mend or leave out the file")
            value, end = decoder.raw_decode(buffer)
            if end == len(buffer) and not ended:  # a number may go on
                raise ValueError("incomplete")
        except (ValueError, RecursionError) as error:
            if isinstance(error, RecursionError) or ended or len(buffer) > MAX_RECORD:
                problem = "it is nested too deeply" if isinstance(error, RecursionError) else shown(error)
                large = TOO_LONG.problem if len(buffer) > MAX_RECORD else f"is not JSON ({problem})"
                raise BadRecord(f"has a record that {large}", "mend or leave out the file") from error
            wanted = max(wanted, len(buffer))  # twice as much each time, so that no part is parsed often
            added = text.read(wanted)
            ended = not added
            buffer += added
            continue
        if hook := pairs_hook(buffer[:end], options.columns):
            try:
                json.loads(buffer[:end], object_pairs_hook=hook)
            except BadRecord as error:
                value = error
        buffer, more, wanted = buffer[end:], True, 1 << 16
        yield value


class _Chunks(io.RawIOBase):
    """An iterator of bytes as a file."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self._source, self._rest = source, b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._rest:
            chunk = next(self._source, None)
            if chunk is None:
                return 0
            self._rest = chunk
        count = min(len(target), len(self._rest))
        target[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def table(source: Iterator[bytes], options: ReadOptions, delimiter: str) -> Iterator[Any]:
    rows: Any = rows_of(source, delimiter)
    try:
        names: list[str] = next(rows, [])
        for row in rows:
            if twice := next((column for column in options.columns if names.count(column) > 1), None):
                yield BadRecord(f"has two columns {twice!r}", "name each column once", "text_column")
            elif len(row) > len(names):
                yield BadRecord(
                    f"has {len(row)} fields, the first line has {len(names)}",
                    "put quotes around a field that holds the delimiter, or skip such records",
                )
            elif row:
                yield {
                    name: value.encode("utf-8", errors="surrogateescape")
                    for name, value in zip(names, row, strict=False)
                }
    except csv.Error as error:
        raise BadRecord(f"line {rows.line_num} is no row ({error})", "mend or leave out the file") from error


def rows_of(source: Iterator[bytes], delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_RECORD)
    text = io.TextIOWrapper(io.BufferedReader(_Chunks(source)), encoding="utf-8", errors="surrogateescape", newline="")
    return csv.reader(_bounded_lines(text), delimiter=delimiter, strict=True)


def _bounded_lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_RECORD):
        if len(line) >= MAX_RECORD:
            raise csv.Error(f"it {TOO_LONG.problem}")
        yield line
