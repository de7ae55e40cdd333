"""The documents inside a file: a text file is one, a JSON-lines or Parquet file has one in each record.

A file is read twice, first for its documents' digests, then for their text; neither reading holds more than one record
or row group.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from orchestration.errors import CorpusError

Left = Literal["", "empty", "undecodable"]


@dataclass(frozen=True)
class Document:
    """One document: its file, that file's path within the corpus, its text's SHA-256 and size in UTF-8 bytes.

    ``record`` is its number in the file, None where the file is the document; ``offset`` is where a JSON line begins.
    ``left`` says why a document has nothing to train on.
    """

    path: Path
    file: str
    record: int | None
    offset: int
    sha256: bytes
    size: int
    left: Left = ""

    @property
    def relative(self) -> str:
        """The document's name within the corpus: the file's path, with ``#record`` where it holds several."""
        return self.file if self.record is None else f"{self.file}#{self.record}"


def survey_file(item: tuple[str, Path], column: str) -> list[Document]:
    """The documents of one (path within the corpus, file), in the file's order.

    Raises CorpusError for a file that cannot be read, a broken record, or one without a text ``column``.
    """
    file, path = item
    if path.suffix not in _RECORDS:
        content = _content(path)
        left: Left = "" if content and _is_utf8(content) else "undecodable" if content else "empty"
        return [Document(path, file, None, 0, hashlib.sha256(content).digest(), len(content), left)]
    return [
        Document(path, file, record, offset, hashlib.sha256(text).digest(), len(text), "" if text else "empty")
        for record, (offset, text) in enumerate(_RECORDS[path.suffix](path, column))
    ]


def read_documents(documents: Sequence[Document], column: str) -> list[bytes]:
    """The UTF-8 text of each; CorpusError if one changed since the survey, as the dataset's spec already names it."""
    contents = []
    for document in documents:
        if document.record is None:
            content = _content(document.path)
        elif document.path.suffix == ".parquet":
            content = _parquet_record(document.path, document.record, column)
        else:
            with _opened(document.path) as lines:
                lines.seek(document.offset)
                content = _line_text(document.path, document.record, lines.readline(), column)
        if hashlib.sha256(content).digest() != document.sha256:
            raise CorpusError(f"paths: {document.path} changed while it was being read; add the corpus again")
        contents.append(content)
    return contents


def _lines(path: Path, column: str) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with _opened(path) as lines:
        for record, line in enumerate(lines):
            yield offset, _line_text(path, record, line, column)
            offset += len(line)


def _line_text(path: Path, record: int, line: bytes, column: str) -> bytes:
    if not line.strip():
        return b""
    try:
        value = json.loads(line)
    except ValueError as error:
        raise CorpusError(
            f"paths: {path} line {record + 1} is not JSON ({error}); mend the line or leave out the file"
        ) from error
    if not isinstance(value, dict) or column not in value:
        found = ", ".join(sorted(value)) if isinstance(value, dict) else type(value).__name__
        raise CorpusError(
            f"text_column: {path} line {record + 1} has no {column!r}, it has {found or 'nothing'}; "
            "name the field that holds the text"
        )
    text = value[column]
    if text is not None and not isinstance(text, str):
        raise CorpusError(
            f"text_column: {path} line {record + 1}: {column!r} is of type {type(text).__name__}, not text; "
            "name the field that holds the text"
        )
    # JSON can spell half of a surrogate pair, which is no character and has no UTF-8.
    return (text or "").encode("utf-8", errors="replace")


def _parquet_rows(path: Path, column: str) -> Iterator[tuple[int, bytes]]:
    file = _parquet(path)
    for group in range(file.num_row_groups):
        for text in _row_group(file, path, group, column).to_pylist():
            yield 0, (text or "").encode()


def _parquet_record(path: Path, record: int, column: str) -> bytes:
    file = _parquet(path)
    ends = _row_group_ends(file)
    group = bisect_right(ends, record)
    if group == len(ends):
        raise CorpusError(f"paths: {path} changed while it was being read; add the corpus again")
    first = ends[group - 1] if group else 0
    return (_row_group(file, path, group, column)[record - first].as_py() or "").encode()


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        status = path.stat()
        return _open_parquet(path, status.st_mtime_ns, status.st_size)
    except (OSError, pa.ArrowInvalid) as error:
        raise CorpusError(
            f"paths: {path} cannot be read as Parquet ({str(error).splitlines()[0]}); mend or leave out the file"
        ) from error


@functools.lru_cache(maxsize=4)
def _open_parquet(path: Path, modified_ns: int, size: int) -> pq.ParquetFile:
    """Kept by time and size too: a file that was replaced is another file."""
    del modified_ns, size
    return pq.ParquetFile(path)


@functools.lru_cache(maxsize=4)
def _row_group_ends(file: pq.ParquetFile) -> list[int]:
    return list(accumulate(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)))


@functools.lru_cache(maxsize=2)
def _row_group(file: pq.ParquetFile, path: Path, group: int, column: str) -> pa.ChunkedArray:
    """One row group's texts: kept, since documents are asked for in the order in which they lie there."""
    schema = file.schema_arrow
    if column not in schema.names:
        raise CorpusError(
            f"text_column: {path} has no {column!r}, it has {', '.join(schema.names)}; "
            "name the column that holds the text"
        )
    kind = schema.field(column).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise CorpusError(
            f"text_column: {path}: {column!r} is of type {kind}, not text; name the column that holds the text"
        )
    return file.read_row_group(group, columns=[column]).column(column)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise CorpusError(f"paths: {path} cannot be read ({error.strerror}); mend or leave out the file") from error


def _content(path: Path) -> bytes:
    with _opened(path) as file:
        return file.read()


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def path_hash(relative: str) -> bytes:
    """SHA-256 of a relative path: what decides a file's split and its place in it, wherever the folder lies."""
    return hashlib.sha256(os.fsencode(relative)).digest()


_RECORDS = {".jsonl": _lines, ".parquet": _parquet_rows}
