"""The blocks of a shard: rows whose tokens are one range of the file's bytes, with a digest of each in the footer.

A shard of format 2 can be read in part: its manifest names the size and the SHA-256 of the footer, the footer names the
SHA-256 of every block, so a range that was fetched alone is known to be right alone. The file is plain Parquet as ever:
the tokens of a row group, plain and uncompressed, are one page.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 1024  # rows; 2 MiB of 16-bit tokens at 1,024 a sequence: small enough for a reader to take a part
BLOCK_BYTES = 128 << 10
_ENDING = 8  # the footer's length in four bytes, and Parquet's magic


def block_rows(row_bytes: int) -> int:
    """Rows in a block: as many as BLOCK_BYTES hold, rounded down to a power of two from 1 to a row group."""
    return min(ROW_GROUP, 1 << max(0, (BLOCK_BYTES // row_bytes).bit_length() - 1))


def block_digests(tokens: memoryview, row_bytes: int) -> str:
    """The SHA-256 of every block of a shard's token bytes, as the footer names them."""
    size = block_rows(row_bytes) * row_bytes
    return b64encode(
        b"".join(hashlib.sha256(tokens[start : start + size]).digest() for start in range(0, len(tokens), size))
    ).decode()


def footer_size(data: bytes) -> int:
    """Bytes of the footer at the end of a Parquet file."""
    return int.from_bytes(data[-_ENDING:-4], "little") + _ENDING


@dataclass(frozen=True)
class BlockMap:
    """Where each block of a shard lies, and its digest."""

    row_bytes: int
    rows: int
    starts: tuple[int, ...]  # of the tokens of each row group
    digests: bytes

    @classmethod
    def of_footer(cls, footer: bytes, row_bytes: int) -> BlockMap:
        """The blocks that a footer names. Raises ValueError if it names none that can be read alone."""
        try:
            metadata = pq.read_metadata(pa.BufferReader(b"PAR1" + footer))
            digests = b64decode((metadata.metadata or {})[b"morphogen.blocks"], validate=True)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise ValueError(f"its footer names no blocks ({error})") from error
        starts = []
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            chunks = [group.column(index) for index in range(group.num_columns)]
            (tokens,) = [chunk for chunk in chunks if chunk.path_in_schema == "tokens"]
            # One page: what its header leaves of the chunk is the rows' bytes.
            starts.append(tokens.data_page_offset + tokens.total_compressed_size - group.num_rows * row_bytes)
        return cls(row_bytes, metadata.num_rows, tuple(starts), digests)

    @property
    def block_rows(self) -> int:
        return block_rows(self.row_bytes)

    def span(self, block: int) -> tuple[int, int]:
        """The bytes of a block: from, and up to."""
        first = block * self.block_rows
        start = self.starts[first // ROW_GROUP] + first % ROW_GROUP * self.row_bytes
        return start, start + (min(first + self.block_rows, self.rows) - first) * self.row_bytes

    def is_right(self, block: int, data: bytes | memoryview) -> bool:
        """Whether these are the bytes of the block."""
        return hashlib.sha256(data).digest() == self.digests[32 * block : 32 * block + 32]
