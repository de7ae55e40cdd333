"""Documents to rows: read in groups, tokenised, packed, and made into tables the size of a shard."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestration.corpus.documents import Document, read_documents
from orchestration.corpus.files import Mapper
from orchestration.corpus.packing import Packing, packer
from orchestration.corpus.tokenizers import TextTokenizer

_GROUP_BYTES = 4 << 20  # documents tokenised together: enough to keep the BPE's threads busy, little enough to hold

NumberedTable = tuple[int, pa.Table]


class Rows:
    """The rows of one split; ``tables`` makes them, and what it counted can be read once it is exhausted."""

    def __init__(
        self, documents: Sequence[Document], column: str, tokenizer: TextTokenizer, packing: Packing, seq_len: int
    ) -> None:
        self.documents = documents
        self.column = column
        self.tokenizer = tokenizer
        self.packing: Packing = packing
        self.seq_len = seq_len
        self.count = 0  # rows
        self.lost = 0  # tokens that are in no row
        self.text_bytes = 0  # sum of target_bytes
        self.content = hashlib.sha256()  # over the token bytes in sequence order

    def tables(
        self, shard_sequences: int, mapper: Mapper = map, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[NumberedTable]:
        """(index of the first row, table of ``shard_sequences`` rows), the last table shorter."""
        packing = packer(self.packing, self.seq_len)
        waiting = np.empty((0, self.seq_len), dtype=np.uint16)
        done = 0
        for encoded in mapper(Encoder(self.tokenizer, self.column), _groups(self.documents)):
            waiting = np.concatenate([waiting, packing.add(encoded)])
            while len(waiting) >= shard_sequences:
                shard, waiting = np.split(waiting, [shard_sequences])
                yield self._table(shard)
            done += len(encoded)
            if progress:
                progress(done, len(self.documents))
        waiting = np.concatenate([waiting, packing.finish()])
        self.lost = packing.lost
        for start in range(0, len(waiting), shard_sequences):
            yield self._table(waiting[start : start + shard_sequences])

    def _table(self, tokens_NT: NDArray[np.uint16]) -> NumberedTable:
        first = self.count
        target_bytes_N = self.tokenizer.token_bytes[tokens_NT[:, 1:]].sum(axis=1, dtype=np.int32)
        token_bytes = tokens_NT.astype("<u2", copy=False).tobytes()
        self.count += len(tokens_NT)
        self.text_bytes += int(target_bytes_N.sum(dtype=np.int64))
        self.content.update(token_bytes)
        token_column = pa.Array.from_buffers(
            pa.binary(2 * self.seq_len), len(tokens_NT), [None, pa.py_buffer(token_bytes)]
        )
        fields = [
            pa.field("sequence_id", pa.int64(), nullable=False),
            pa.field("tokens", token_column.type, nullable=False),
            pa.field("target_bytes", pa.int32(), nullable=False),
        ]
        columns = [
            pa.array(np.arange(first, self.count, dtype=np.int64)),
            token_column,
            pa.array(target_bytes_N),
        ]
        return first, pa.Table.from_arrays(columns, schema=pa.schema(fields))


@dataclass(frozen=True)
class Encoder:
    """A group of documents to their tokens, each closed by end of text: what a cluster does elsewhere."""

    tokenizer: TextTokenizer
    column: str

    def __call__(self, group: Sequence[Document]) -> list[NDArray[np.uint16]]:
        end = np.array([self.tokenizer.end_of_text], dtype=np.uint16)
        texts = read_documents(group, self.column)
        return [np.concatenate([tokens, end]) for tokens in self.tokenizer.encode(texts)]


def texts_of(documents: Sequence[Document], column: str) -> Iterator[bytes]:
    """The UTF-8 text of every document, a group in memory at a time."""
    for group in _groups(documents):
        yield from read_documents(group, column)


def _groups(documents: Sequence[Document]) -> Iterator[list[Document]]:
    group: list[Document] = []
    size = 0
    for document in documents:
        group.append(document)
        size += document.size
        if size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
