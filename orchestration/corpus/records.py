"""The records of a file, one after the other: JSON lines, JSON values, CSV, Parquet, or a text in pieces.

Every kind is read forwards, and no more than a record (at most `MAX_RECORD` bytes) and a buffer is held.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np

from orchestration.console.foreign import shown
from orchestration.corpus.encodings import SAMPLE, is_no_text
from orchestration.corpus.options import Kind, ReadOptions
from orchestration.corpus.parquet import parquet_records
from orchestration.corpus.places import (
    COMPRESSIONS,
    MAX_RECORD,
    BadRecord,
    Place,
    expanded,
    in_chunks,
    path_of,
    unreadable,
)
from orchestration.corpus.structured import DELIMITERS, TOO_LONG, pairs_hook, rows_of, table, values

PIECE = 1 << 20  # bytes of text that are tokenised at once: a token in work takes a hundred bytes

_SUFFIXES: dict[str, Kind] = {".jsonl": "lines", ".ndjson": "lines", ".parquet": "parquet"}
_MAYBE = {".json", ".csv", ".tsv"}  # records if they have the field, otherwise text such as a program's settings
_ARCHIVES = {".tar", ".tgz", ".zip", ".7z", ".rar", ".tbz2", ".txz"}
_NAMED: dict[str, Kind] = {"jsonl": "lines", "json": "values", "csv": "csv", "tsv": "tsv", "parquet": "parquet"}
_LOOKED_AT = 100  # records
_SHOWN_FIELDS = 20
_NOTHING = object()


def is_archive(place: Place) -> bool:
    suffixes = [suffix.lower() for suffix in path_of(place).suffixes[-2:]]
    return bool(suffixes) and (suffixes[-1] in _ARCHIVES or (suffixes[-1] in COMPRESSIONS and suffixes[0] == ".tar"))


def kind_of(place: Place, options: ReadOptions) -> tuple[Kind, bool]:
    """The kind of a file, and whether it looks like records but has none with the field, and so counts as text."""
    if options.format != "auto":
        return _NAMED.get(options.format, "text"), False
    suffixes = [suffix.lower() for suffix in path_of(place).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    if suffix not in _MAYBE:
        return _SUFFIXES.get(suffix, "text"), False
    kinds: tuple[Kind, ...] = ("lines", "values") if suffix == ".json" else ("csv",) if suffix == ".csv" else ("tsv",)
    for kind in kinds:
        if _has_field(place, kind, options):
            return kind, False
    return "text", True


def _has_field(place: Place, kind: Kind, options: ReadOptions) -> bool:
    """Whether the first line of a table names the field, one of the first records has it, or there are no records."""
    first: Any = _NOTHING
    try:
        if kind in DELIMITERS:
            with expanded(place) as stream, in_chunks(stream, place) as source:
                return options.column in next(rows_of(_utf8(source, options, kind), DELIMITERS[kind]), [])
        for _, first in islice(records(place, kind, options), _LOOKED_AT):
            if isinstance(first, BadRecord):
                return first is not TOO_LONG  # such a line is no record
            with suppress(LookupError):
                _field(json.loads(first) if kind == "lines" and first.strip() else first, options.column)
                return True
    except OSError as error:
        raise unreadable(place, error) from error
    except (BadRecord, ValueError, RecursionError, csv.Error):
        return False  # as much of it as is JSON, or a table, has it not
    return kind == "values" and first is _NOTHING


def records(place: Place, kind: Kind, options: ReadOptions, start: int = 0) -> Iterator[tuple[int, Any]]:
    """(number, raw record) from ``start`` on, for `text_of`. Raises CorpusError for a file that is damaged."""
    if kind == "parquet":
        yield from parquet_records(place, options, start)
        return
    try:
        with expanded(place) as stream, in_chunks(stream, place) as source:
            yield from islice(enumerate(_READERS[kind](_utf8(source, options, kind), options)), start, None)
    except OSError as error:
        raise unreadable(place, error) from error


def text_of(kind: Kind, number: int, raw: Any, options: ReadOptions) -> bytes:
    """The UTF-8 text of a raw record (token ids: little-endian uint32), empty if it has none. Raises BadRecord."""
    if kind == "text":
        return raw
    where = f"line {number + 1}" if kind == "lines" else f"record {number + 1}"
    if isinstance(raw, BadRecord):
        raise BadRecord(f"{where} {raw.problem}", raw.advice, raw.argument)
    if kind == "parquet":
        return content_of(raw, where, options)
    if kind == "lines":
        if not raw.strip():
            return b""
        raw = _parsed(raw, where, options.columns)
    values = []
    for column in options.columns:
        try:
            values.append(_field(raw, column))
        except LookupError:
            found = ", ".join(map(shown, sorted(raw)[:_SHOWN_FIELDS])) if isinstance(raw, dict) else type(raw).__name__
            raise BadRecord(
                f"{where} has no {column!r}, it has {found or 'nothing'}",
                "name the field that holds the text",
                _argument(column, options),
            ) from None
    return content_of(values if len(values) > 1 else values[0], where, options)


def _argument(column: str, options: ReadOptions) -> str:
    """The argument that names a field."""
    if options.pairs is None or options.pairs.answer is None:
        return "text_column"
    return "answer_field" if column == options.pairs.answer else "prompt_field"


def _parsed(line: bytes, where: str, columns: Sequence[str]) -> Any:
    try:
        return json.loads(line, object_pairs_hook=pairs_hook(line, columns))
    except BadRecord as error:
        raise BadRecord(f"{where} {error.problem}", error.advice, error.argument) from None
    except RecursionError:
        problem = "it is nested too deeply"
    except ValueError as error:
        problem = str(error)
    raise BadRecord(f"{where} is not JSON ({problem})", "mend the line or leave out the file")


def _field(value: Any, path: str) -> Any:
    """The field of a record: one that is called so, or else the path's. Raises LookupError."""
    if isinstance(value, dict) and path in value:
        return value[path]
    for part in path.split("."):
        if not isinstance(value, dict):
            raise LookupError(path)
        value = value[part]
    return value


def content_of(value: Any, where: str, options: ReadOptions) -> bytes:
    """A field's value (of pairs a list of both fields' values) as the document that it stands for. Raises BadRecord."""
    if options.pairs is not None:
        prompt, answer = (value, None) if options.pairs.answer is None else value
        return options.pairs.text(prompt, answer, where, options.columns, options.chat)
    if value is None:
        return b""
    if options.chat is not None:
        return options.chat.render(value, where).encode("utf-8", errors="replace")
    if options.ids:
        return _id_bytes(value, where, options.column)
    if isinstance(value, bytes):
        try:
            value.decode()
        except UnicodeDecodeError as error:
            raise BadRecord(
                f"{where} is not UTF-8 at byte {error.start}", "mend the record, or leave out such with on_bad_record"
            ) from error
        return value
    if not isinstance(value, str):
        raise BadRecord(
            f"{where}: {options.column!r} is of type {type(value).__name__}, not text",
            "name the field that holds the text",
            "text_column",
        )
    # JSON can spell half of a surrogate pair, which is no character and has no UTF-8.
    return value.encode("utf-8", errors="replace")


def _id_bytes(value: Any, where: str, column: str) -> bytes:
    try:
        ids = np.asarray(value)
        whole = ids.ndim == 1 and (ids.dtype.kind in "iu" or not ids.size)
        if whole and (not ids.size or 0 <= int(ids.min()) <= int(ids.max()) < 2**31):
            return ids.astype("<u4").tobytes()
    except (ValueError, OverflowError):
        pass  # lists in lists of unequal length, numbers beyond 64 bits: no token ids either
    raise BadRecord(
        f"{where}: {column!r} is no list of token ids", "name the field that holds whole numbers", "text_column"
    )


def _utf8(source: Iterator[bytes], options: ReadOptions, kind: Kind) -> Iterator[bytes]:
    """The pieces as UTF-8, without a byte order mark. A text's bytes are checked where they are cut into pieces."""
    encoding = options.encoding
    if encoding is not None and codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig"):
        decoder = codecs.getincrementaldecoder(encoding)()
        begun = False
        try:
            for chunk, last in chain(((chunk, False) for chunk in source), [(b"", True)]):
                text = decoder.decode(chunk, last)
                # A mark at the beginning alone is one; within a text it is a character like any other.
                yield (text if begun else text.removeprefix("\ufeff")).encode("utf-8", errors="replace")
                begun = begun or bool(text)
        except UnicodeError as error:
            raise _not_text(encoding) from error
        return
    first = next(source, b"")
    if kind != "text" and first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BadRecord("is UTF-16 by its byte order mark", "give its encoding", "encoding")
    if encoding is None and is_no_text(first[:SAMPLE]):
        raise _not_text("UTF-8")
    yield first.removeprefix(codecs.BOM_UTF8)
    yield from source


def _not_text(encoding: str) -> BadRecord:
    return BadRecord(f"is not {encoding}", "give its encoding, or leave out the file", "encoding")


def _text_pieces(source: Iterator[bytes], _options: ReadOptions) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    buffer = bytearray()
    try:
        for chunk in source:
            decoder.decode(chunk)
            buffer += chunk
            while len(buffer) > PIECE:
                cut = piece_end(bytes(buffer[: PIECE + 1]))
                yield bytes(buffer[:cut])
                del buffer[:cut]
        decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        raise _not_text("UTF-8") from error
    if buffer:
        yield bytes(buffer)


_LINE_START = re.compile(rb"(?<=[!-~]\n)[0-9A-Za-z]")
_ANY_LINE_START = re.compile(r"(?<=[^\s\x1c-\x1f]\n)[^\W_]")


def piece_end(window: bytes) -> int:
    """Where to cut a text that goes on after ``PIECE`` bytes of ``window``: at the last line that begins in its second
    half with a letter or digit, the line before it not being blank, where every published pre-tokeniser begins a new
    word. Without such a line, between two characters."""
    tail = window[PIECE // 2 : PIECE]
    starts = [match.start() for match in _LINE_START.finditer(tail)]
    if starts:
        return PIECE // 2 + starts[-1]
    begin, end = _character(window, PIECE // 2), _character(window, PIECE)
    text = window[begin:end].decode()
    found = [match.start() for match in _ANY_LINE_START.finditer(text)]
    return begin + len(text[: found[-1]].encode()) if found else end


def _character(text: bytes, position: int) -> int:
    """The position, or the first byte of the character that it lies in."""
    while position and position < len(text) and text[position] & 0xC0 == 0x80:
        position -= 1
    return position


def pieces_of(text: bytes) -> list[bytes]:
    """A text in the pieces that it is tokenised in: one, unless it is larger than ``PIECE``."""
    found = []
    begin = 0
    while len(text) - begin > PIECE:
        end = begin + piece_end(text[begin : begin + PIECE + 1])
        found.append(text[begin:end])
        begin = end
    return [*found, text[begin:]]


def _lines(source: Iterator[bytes], _options: ReadOptions) -> Iterator[bytes | BadRecord]:
    first = next(source, b"")
    separator = _separator(first)
    held: list[bytes] = []
    size = 0
    chunk: bytes | None = first
    while chunk is not None:
        head, *rest = chunk.split(separator)
        size += len(head)
        held = [*held, head] if size <= MAX_RECORD else []
        if rest:
            yield b"".join(held) if size <= MAX_RECORD else TOO_LONG
            yield from rest[:-1]
            held, size = [rest[-1]], len(rest[-1])
        chunk = next(source, None)
    if size:
        yield b"".join(held) if size <= MAX_RECORD else TOO_LONG


def _separator(first: bytes) -> bytes:
    """What ends a line: a line feed, or in a file of old Macintosh lines a carriage return alone."""
    if b"\n" in first or b"\r" not in first:
        return b"\n"
    try:
        json.loads(first.lstrip().partition(b"\r")[0])
    except (ValueError, RecursionError):
        return b"\n"  # the carriage return is white space within one value
    return b"\r"


_READERS: dict[str, Any] = {
    "text": _text_pieces,
    "lines": _lines,
    "values": values,
    **{kind: partial(table, delimiter=delimiter) for kind, delimiter in DELIMITERS.items()},
}
