"""Documents to rows: read in groups, tokenised, packed, and made into tables the size of a shard."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from datalake import ShardRef, Source, Store, write_shard
from datalake.shards.content import ContentPart, part_of
from datalake.shards.shard_format import token_column
from datalake.shards.tokens import token_dtype
from orchestration.console.foreign import shown
from orchestration.corpus.ahead import mapped_ahead
from orchestration.corpus.documents import Document, Ending, Part, close_files, read_parts
from orchestration.corpus.files import Mapper
from orchestration.corpus.options import ReadOptions
from orchestration.corpus.packing import Packing, packer
from orchestration.corpus.records import PIECE, pieces_of
from orchestration.corpus.tokenizers import TextTokenizer, Tokens
from orchestration.errors import CorpusError, TokenizerError

_GROUP_BYTES = 4 << 20  # documents tokenised together: enough to keep the BPE's threads busy, little enough to hold
_ENCODING = 2  # groups at once: while one's tokens are taken from the library, it makes the other's

NumberedTable = tuple[int, pa.Table]
WrittenRows = tuple[ShardRef, ContentPart]


@dataclass(frozen=True)
class PositionSplit:
    """Which side of each document is wanted where a corpus is too few documents to split by name.

    The last ``heldout_fraction`` of every document is held out, at least ``least`` bytes where it has twice as many.
    """

    heldout_fraction: float
    least: int
    tail: bool

    def parts(self, document: Document) -> Iterator[Part]:
        size = document.size
        cut = size - min(size // 2, max(int(size * self.heldout_fraction), self.least))
        begin = 0
        for part in document.parts():
            end = begin + part.size
            if begin < cut < end:
                ending = part.ending if self.tail else "cut"
                yield replace(part, cut=cut - begin, tail=self.tail, begins=part.begins or self.tail, ending=ending)
            elif self.tail and begin >= cut:
                yield replace(part, begins=part.begins or begin == cut)
            elif not self.tail and end <= cut:
                yield replace(part, ending="cut") if end == cut < size else part
            begin = end


class Rows:
    """The rows of one split; ``tables`` makes them, and what it counted can be read once it is exhausted."""

    def __init__(
        self,
        documents: Sequence[Document],
        options: ReadOptions,
        tokenizer: TextTokenizer,
        packing: Packing,
        seq_len: int,
        *,
        position: PositionSplit | None = None,
        lossy: bool = False,
    ) -> None:
        self.documents = documents
        self.options = options
        self.tokenizer = tokenizer
        self.packing: Packing = packing
        self.seq_len = seq_len
        self.position = position
        self.lossy = lossy
        self.count = 0  # rows
        self.lost = 0  # tokens that are in no row
        self.text_bytes = 0  # sum of target_bytes

    def tables(
        self, shard_sequences: int, mapper: Mapper = map, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[NumberedTable]:
        """(index of the first row, table of ``shard_sequences`` rows), the last table shorter. ``progress`` is told
        bytes of text."""
        dtype = token_dtype(self.tokenizer.vocab_size)
        packing = packer(self.packing, self.seq_len, dtype)
        unfinished = _Unfinished(self.seq_len)
        waiting = np.empty((0, self.seq_len), dtype=dtype)
        sizes: deque[int] = deque()
        done, everything = 0, sum(document.size for document in self.documents) if progress else 0
        for encoded in self._encoded(mapper, sizes):
            waiting = np.concatenate([waiting, packing.add(unfinished.documents(encoded))])
            while len(waiting) >= shard_sequences:
                shard, waiting = np.split(waiting, [shard_sequences])
                yield self._table(shard)
            done += sizes.popleft()
            if progress:
                progress(done, everything)
        waiting = np.concatenate([waiting, packing.finish()])
        self.lost = packing.lost + unfinished.lost
        for start in range(0, len(waiting), shard_sequences):
            yield self._table(waiting[start : start + shard_sequences])

    def _encoded(self, mapper: Mapper, sizes: deque[int]) -> Iterable[list[tuple[Tokens, Ending]]]:
        """Each group's tokens, here or by a cluster's workers, each of which reads what it tokenises."""
        encoder = Encoder(self.tokenizer, self.options, self.lossy)
        if mapper is not map:
            return mapper(encoder, self._groups(sizes, _GROUP_BYTES))
        read = mapped_ahead(encoder.read, self._groups(sizes, _GROUP_BYTES // _ENCODING), finish=close_files)
        return mapped_ahead(encoder.encode, read, _ENCODING)

    def _groups(self, sizes: deque[int], size: int) -> Iterator[list[Part]]:
        for group in grouped(self.documents, self.position, size):
            sizes.append(sum(part.size for part in group))
            yield group

    def _table(self, tokens_NT: Tokens) -> NumberedTable:
        first = self.count
        target_bytes_N = self.tokenizer.token_bytes[tokens_NT[:, 1:]].sum(axis=1, dtype=np.int32)
        if self.tokenizer.prefix_bytes:
            # What a document's first token spells before the document is not text of it.
            begins_NT = (tokens_NT[:, :-1] == self.tokenizer.end_of_text) & (
                tokens_NT[:, 1:] != self.tokenizer.end_of_text
            )
            target_bytes_N -= (begins_NT.sum(axis=1) * self.tokenizer.prefix_bytes).astype(np.int32)
        column = token_column(tokens_NT)
        self.count += len(tokens_NT)
        self.text_bytes += int(target_bytes_N.sum(dtype=np.int64))
        fields = [
            pa.field("sequence_id", pa.int64(), nullable=False),
            pa.field("tokens", column.type, nullable=False),
            pa.field("target_bytes", pa.int32(), nullable=False),
        ]
        columns = [
            pa.array(np.arange(first, self.count, dtype=np.int64)),
            column,
            pa.array(target_bytes_N),
        ]
        return first, pa.Table.from_arrays(columns, schema=pa.schema(fields))


class _Unfinished:
    """Puts the pieces of long documents together again, a whole number of rows at a time."""

    def __init__(self, seq_len: int) -> None:
        self._seq_len = seq_len
        self._held: list[Tokens] = []
        self.lost = 0

    def documents(self, encoded: Iterable[tuple[Tokens, Ending]]) -> Iterator[Tokens]:
        for tokens, ending in encoded:
            joined = np.concatenate([*self._held, tokens]) if self._held else tokens
            self._held = []
            if ending == "closed":
                yield joined
                continue
            full = len(joined) // self._seq_len * self._seq_len
            if ending == "open":
                self._held = [joined[full:]]
            else:
                self.lost += len(joined) - full
            if full:
                yield joined[:full]


@dataclass(frozen=True)
class Encoder:
    """A group of documents to their tokens, each closed by end of text: what a cluster does elsewhere."""

    tokenizer: TextTokenizer
    options: ReadOptions
    lossy: bool = False

    def __call__(self, group: Sequence[Part]) -> list[tuple[Tokens, Ending]]:
        return self.encode(self.read(group))

    def read(self, group: Sequence[Part]) -> tuple[Sequence[Part], list[bytes]]:
        """The group and its texts. Raises CorpusError for one that has changed."""
        return group, read_parts(group, self.options)

    def encode(self, read: tuple[Sequence[Part], list[bytes]]) -> list[tuple[Tokens, Ending]]:
        """The tokens of what was read, and how each part lies in its document."""
        group, texts = read
        end = np.array([self.tokenizer.end_of_text], dtype=token_dtype(self.tokenizer.vocab_size))
        encoded = self._ids(group, texts) if self.options.ids else self._encode(group, texts)
        return [
            (np.concatenate([tokens, end]) if part.ending == "closed" else tokens, part.ending)
            for part, tokens in zip(group, encoded, strict=True)
        ]

    def _ids(self, group: Sequence[Part], texts: Sequence[bytes]) -> list[Tokens]:
        found = [np.frombuffer(text, dtype="<u4") for text in texts]
        for part, ids in zip(group, found, strict=True):
            if int(ids.max()) >= self.tokenizer.vocab_size:
                raise CorpusError(
                    f"tokenizer: {shown(part.place)} record {part.number + 1} holds the token {ids.max()}, the "
                    f"vocabulary has {self.tokenizer.vocab_size}; give the tokenizer that made these ids"
                )
        return [ids.astype(token_dtype(self.tokenizer.vocab_size)) for ids in found]

    def _encode(self, group: Sequence[Part], texts: Sequence[bytes]) -> list[Tokens]:
        """Pieces of at most ``PIECE`` bytes, and not many of them at once: a token in work takes a hundred bytes."""
        pieces = [
            (index, piece, group[index].begins and not number)
            for index, text in enumerate(texts)
            for number, piece in enumerate(pieces_of(text))
        ]
        found: list[list[Tokens]] = [[] for _ in texts]
        for batch in _batches(pieces):
            encoded = self.tokenizer.encode([piece for _, piece, _ in batch], [begins for *_, begins in batch])
            for (index, piece, begins), tokens in zip(batch, encoded, strict=True):
                self._check(group[index], piece, begins, tokens)
                found[index].append(tokens)
        return [np.concatenate(pieces) if len(pieces) > 1 else pieces[0] for pieces in found]

    def _check(self, part: Part, text: bytes, begins: bool, tokens: Tokens) -> None:
        if self.options.chat is None and (tokens == self.tokenizer.end_of_text).any():
            # A model may hold the token as a piece, too, and find it where a text merely spells it.
            raise TokenizerError(
                f"tokenizer: the text of {shown(part.place)} record {part.number + 1} spells "
                f"{self.tokenizer.end_token}, which it takes for the end of a document; take it out of the text, "
                "or use another tokenizer"
            )
        if self.lossy or self.tokenizer.exact:
            return
        spelled = self.tokenizer.spell(tokens)
        expected = b" " * (self.tokenizer.prefix_bytes if begins else 0) + text
        if spelled != expected:
            at = next((i for i, (a, b) in enumerate(zip(spelled, expected, strict=False)) if a != b), 0)
            was, became = (side[max(0, at - 10) : at + 20].decode(errors="replace") for side in (expected, spelled))
            raise TokenizerError(
                f"tokenizer: it does not keep the text of {shown(part.place)} record {part.number + 1}: {was!r} "
                f"becomes {became!r}, so bits per byte would be of another text; use another tokenizer, "
                "or take it as lossy"
            )


def _batches(pieces: list[tuple[int, bytes, bool]]) -> Iterator[list[tuple[int, bytes, bool]]]:
    batch: list[tuple[int, bytes, bool]] = []
    size = 0
    for piece in pieces:
        if batch and size + len(piece[1]) > _GROUP_BYTES + PIECE:
            yield batch
            batch, size = [], 0
        batch.append(piece)
        size += len(piece[1])
    if batch:
        yield batch


def texts_of(documents: Sequence[Document], options: ReadOptions, position: PositionSplit | None) -> Iterator[bytes]:
    """The UTF-8 text of every document, a group in memory at a time."""
    for group in grouped(documents, position, _GROUP_BYTES):
        yield from read_parts(group, options)


def grouped(documents: Sequence[Document], position: PositionSplit | None, most: int) -> Iterator[list[Part]]:
    """The parts of the documents in order, in groups of at least ``most`` bytes but for the last."""
    group: list[Part] = []
    size = 0
    for document in documents:
        for part in position.parts(document) if position else document.parts():
            group.append(part)
            size += part.size
            if size >= most:
                yield group
                group, size = [], 0
    if group:
        yield group


def write_rows(store: Store, source: Source, shard: NumberedTable) -> WrittenRows:
    """Write a table as a shard of ``source``, wherever there is a process for it, and digest its rows."""
    first, table = shard
    return write_shard(store, source, table, first), part_of(table, first)
