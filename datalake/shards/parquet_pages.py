"""The sizes that the pages of a Parquet column claim, read from their headers without decoding a page.

pyarrow decompresses a page whole and does not tell its size before; a header is a Thrift struct in compact encoding,
of which only the first numbers are wanted and the rest is skipped.
"""

from __future__ import annotations

from typing import Any, BinaryIO

MAX_PAGE = 128 << 20  # bytes of a page, and of the rows decoded at once, in files of others
# A value takes some bits at least, so rows that are many times the file's bits hold none.
_ROWS_AT_LEAST = 1_000_000
_ROWS_PER_BYTE = 16
_HEADER = 1 << 16  # bytes read for a header; they take tens, and hundreds where they hold statistics
_UNCOMPRESSED, _COMPRESSED = 2, 3  # the fields' ids in parquet.thrift's PageHeader
_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(13)
_DEPTH = 16


def too_many_rows(rows: int, size: int) -> bool:
    """Return whether a file of ``size`` bytes claims more rows than can hold anything."""
    return rows > _ROWS_AT_LEAST + _ROWS_PER_BYTE * size


def largest_page(source: BinaryIO, chunk: Any) -> int:
    """Uncompressed bytes of the largest page of a column chunk (``pyarrow.parquet.ColumnChunkMetaData``).

    Raises ValueError for a header that is none.
    """
    position = chunk.data_page_offset
    if chunk.dictionary_page_offset is not None:
        position = min(position, chunk.dictionary_page_offset)
    end = position + chunk.total_compressed_size
    largest = 0
    while position < end:
        source.seek(position)
        reader = _Compact(source.read(_HEADER))
        fields = reader.numbers()
        uncompressed, compressed = fields.get(_UNCOMPRESSED, -1), fields.get(_COMPRESSED, -1)
        if uncompressed < 0 or compressed < 0:
            raise ValueError(f"page header at byte {position} is damaged")
        largest = max(largest, uncompressed)
        position += reader.position + compressed
    return largest


class _Compact:
    """Thrift's compact encoding, as far as skipping needs it."""

    def __init__(self, data: bytes) -> None:
        self._data, self.position = data, 0

    def numbers(self) -> dict[int, int]:
        """The 32-bit numbers of a struct by field id; its other fields are skipped."""
        found, field = {}, 0
        while (kind := self._byte()) != _STOP:
            field = field + (kind >> 4) if kind >> 4 else self._signed()
            if kind & 15 == _I32:
                found[field] = self._signed()
            else:
                self._skip(kind & 15, 0)
        return found

    def _byte(self) -> int:
        if self.position >= len(self._data):
            raise ValueError("page header is cut off")
        self.position += 1
        return self._data[self.position - 1]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("page header holds a number that is too long")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

    def _skip(self, kind: int, depth: int) -> None:
        if depth > _DEPTH:
            raise ValueError("page header is nested too deeply")
        if kind in (_TRUE, _FALSE):
            return
        if kind in (_BYTE, _DOUBLE, _BINARY):
            size = {_BYTE: 1, _DOUBLE: 8}.get(kind) or self._unsigned()
            self.position += size
        elif kind in (_I16, _I32, _I64):
            self._unsigned()
        elif kind in (_LIST, _SET):
            head = self._byte()
            for _ in range(head >> 4 if head >> 4 < 15 else self._unsigned()):
                self._skip(head & 15, depth + 1)
        elif kind == _STRUCT:
            while (inner := self._byte()) != _STOP:
                if not inner >> 4:
                    self._signed()
                self._skip(inner & 15, depth + 1)
        else:
            raise ValueError("page header holds what none does")
