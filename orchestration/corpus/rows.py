"""Documents to rows: read in groups, tokenised, packed, and made into tables the size of a shard."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute

from datalake import ShardRef, Source, Store, write_shard
from datalake.shards.content import ContentPart, part_of
from datalake.shards.shard_format import token_column
from datalake.shards.tokens import token_dtype
from orchestration.corpus import pair_rows
from orchestration.corpus.ahead import mapped_ahead
from orchestration.corpus.documents import NEAR, Document, Ending, Part, close_files, read_parts
from orchestration.corpus.held import PLACE, Cluster, HeldGroups, HeldShard, Lengths
from orchestration.corpus.options import ReadOptions
from orchestration.corpus.packing import Packing, packer
from orchestration.corpus.pairs import plain
from orchestration.corpus.places import named
from orchestration.corpus.records import PIECE, pieces_of
from orchestration.corpus.tokenizers import TextTokenizer, Tokens
from orchestration.errors import CorpusError, TokenizerError

_GROUP_BYTES = 4 << 20  # documents tokenised together: enough to keep the BPE's threads busy, little enough to hold
_ENCODING = 2  # groups at once: while one's tokens are taken from the library, it makes the other's

NumberedTable = tuple[int, pa.Table]
Advance = Callable[[int, int], None]


class WrittenRows(NamedTuple):
    """A shard as the manifest names it, the digests of its rows, and the bytes of text that they predict."""

    ref: ShardRef
    content: ContentPart
    text_bytes: int


@dataclass(frozen=True)
class PositionSplit:
    """Which side of each document is wanted where a corpus is too few documents to split by name.

    The last ``heldout_fraction`` of every document is held out, at least ``least`` bytes where it has twice as many;
    less where a line begins within ``near`` bytes after that.
    """

    heldout_fraction: float
    least: int
    tail: bool
    near: int = NEAR

    def parts(self, document: Document) -> Iterator[Part]:
        size = document.size
        cut = size - min(size // 2, max(int(size * self.heldout_fraction), self.least))
        begin = 0
        for part in document.parts():
            end = begin + part.size
            if begin < cut < end:
                ending = part.ending if self.tail else "cut"
                begins, at = part.begins or self.tail, cut - begin
                yield replace(part, cut=at, tail=self.tail, near=self.near, begins=begins, ending=ending)
            elif self.tail and begin >= cut:
                yield replace(part, begins=part.begins or begin == cut)
            elif not self.tail and end <= cut:
                yield replace(part, ending="cut") if end == cut < size else part
            begin = end


class Rows:
    """The rows of one split; ``tables`` makes them, or ``shards`` has a cluster make them, and what was counted can be
    read once that is exhausted."""

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
        self.too_long = 0  # pairs that are in none
        self.answers = self.padding = 0  # tokens

    def tables(self, shard_sequences: int, progress: Advance | None = None) -> Iterator[NumberedTable]:
        """(index of the first row, table of ``shard_sequences`` rows), the last table shorter. ``progress`` is told
        bytes of text."""
        sizes: deque[int] = deque()
        dtype = token_dtype(self.tokenizer.vocab_size) if self.options.pairs is None else pair_rows.DTYPE
        laying = _Laying(self.packing, self.seq_len, dtype, self.tokenizer.end_of_text)
        for rows_NT in self._laid_out(laying, self._encoded(sizes), shard_sequences, sizes, progress):
            first = self.count
            self.count += len(rows_NT)
            yield first, self._table(first, rows_NT)

    def _table(self, first: int, rows_NT: Tokens) -> pa.Table:
        if self.options.pairs is None:
            return table_of(self.tokenizer, first, rows_NT)
        tokenizer = self.tokenizer
        tokens_NT, roles_NT = pair_rows.tokens_and_roles(rows_NT, tokenizer.end_of_text, tokenizer.vocab_size)
        answers, padding = pair_rows.counts_of(roles_NT)
        self.answers, self.padding = self.answers + answers, self.padding + padding
        return pair_rows.with_roles(table_of(tokenizer, first, tokens_NT), roles_NT)

    def shards(
        self, cluster: Cluster, shard_sequences: int, progress: Advance | None = None
    ) -> Iterator[tuple[HeldShard, list[Any]]]:
        """The same rows, while their tokens stay with the cluster: each shard laid out, and its groups' handles."""
        sizes: deque[int] = deque()
        laying, held = _Laying(self.packing, self.seq_len, PLACE), HeldGroups()
        encoder = Encoder(self.tokenizer, self.options, self.lossy)

        def encoded() -> Iterator[list[tuple[Tokens, Ending]]]:
            for handle, lengths in cluster.held(encoder.held, self._groups(sizes, _GROUP_BYTES)):
                held.keep(laying.waiting())
                yield held.add(handle, lengths)

        for places_NT in self._laid_out(laying, encoded(), shard_sequences, sizes, progress):
            first = self.count
            self.count += len(places_NT)
            yield held.shard(first, places_NT)

    def _laid_out(
        self,
        laying: _Laying,
        encoded: Iterable[list[tuple[Tokens, Ending]]],
        shard_sequences: int,
        sizes: deque[int],
        progress: Advance | None,
    ) -> Iterator[Tokens]:
        done, everything = 0, sum(document.size for document in self.documents) if progress else 0
        for group in encoded:
            yield from laying.add(group, shard_sequences)
            done += sizes.popleft()
            if progress:
                progress(done, everything)
        yield from laying.finish(shard_sequences)
        self.lost, self.too_long = laying.lost, laying.too_long

    def _encoded(self, sizes: deque[int]) -> Iterable[list[tuple[Tokens, Ending]]]:
        longest = self.seq_len - 1 if self.options.pairs and self.options.on_bad_record == "fail" else None
        encoder = Encoder(self.tokenizer, self.options, self.lossy, longest)
        read = mapped_ahead(encoder.read, self._groups(sizes, _GROUP_BYTES // _ENCODING), finish=close_files)
        return mapped_ahead(encoder.encode, read, _ENCODING)

    def _groups(self, sizes: deque[int], size: int) -> Iterator[list[Part]]:
        for group in grouped(self.documents, self.position, size):
            sizes.append(sum(part.size for part in group))
            yield group


class _Laying:
    """Tokens, or their places, of documents on their way into rows."""

    def __init__(self, packing: Packing, seq_len: int, dtype: np.dtype, end: int = 0) -> None:
        self._packer = packer(packing, seq_len, dtype, end)
        self._unfinished = _Unfinished(seq_len)
        self._rows = np.empty((0, seq_len), dtype=dtype)
        self.lost = self.too_long = 0

    def add(self, encoded: list[tuple[Tokens, Ending]], shard_sequences: int) -> Iterator[Tokens]:
        """The shards, [shard_sequences, seq_len], that are now full."""
        self._rows = np.concatenate([self._rows, self._packer.add(self._unfinished.documents(encoded))])
        while len(self._rows) >= shard_sequences:
            shard, self._rows = np.split(self._rows, [shard_sequences])
            yield shard

    def finish(self, shard_sequences: int) -> Iterator[Tokens]:
        """The last shards, the last of them shorter."""
        self._rows = np.concatenate([self._rows, self._packer.finish()])
        self.lost = self._packer.lost + self._unfinished.lost
        self.too_long = self._packer.too_long
        for start in range(0, len(self._rows), shard_sequences):
            yield self._rows[start : start + shard_sequences]

    def waiting(self) -> Iterator[Tokens]:
        """All that may still come into a row: rows, and pieces of documents."""
        yield self._rows
        yield from self._packer.waiting()
        yield from self._unfinished.waiting()


def table_of(tokenizer: TextTokenizer, first: int, tokens_NT: Tokens) -> pa.Table:
    """The table of a shard: rows of tokens from ``first`` on, and the bytes of text that they predict."""
    target_bytes_N = tokenizer.token_bytes[tokens_NT[:, 1:]].sum(axis=1, dtype=np.int32)
    if tokenizer.prefix_bytes:
        # What a document's first token spells before the document is not text of it.
        begins_NT = (tokens_NT[:, :-1] == tokenizer.end_of_text) & (tokens_NT[:, 1:] != tokenizer.end_of_text)
        target_bytes_N -= (begins_NT.sum(axis=1) * tokenizer.prefix_bytes).astype(np.int32)
    column = token_column(tokens_NT)
    fields = [
        pa.field("sequence_id", pa.int64(), nullable=False),
        pa.field("tokens", column.type, nullable=False),
        pa.field("target_bytes", pa.int32(), nullable=False),
    ]
    columns = [
        pa.array(np.arange(first, first + len(tokens_NT), dtype=np.int64)),
        column,
        pa.array(target_bytes_N),
    ]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


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

    def waiting(self) -> Iterable[Tokens]:
        """The tokens that wait for the next piece of their document."""
        return self._held


@dataclass(frozen=True)
class Encoder:
    """A group of documents to their tokens, each closed by end of text: what a cluster does elsewhere. Pairs of more
    than ``longest`` tokens are refused."""

    tokenizer: TextTokenizer
    options: ReadOptions
    lossy: bool = False
    longest: int | None = None

    def held(self, group: Sequence[Part]) -> tuple[Tokens, Lengths]:
        """The tokens of all of the group, and how many each part has."""
        encoded = self.encode(self.read(group))
        return np.concatenate([tokens for tokens, _ in encoded]), [(len(tokens), ending) for tokens, ending in encoded]

    def read(self, group: Sequence[Part]) -> tuple[Sequence[Part], list[bytes]]:
        """The group and its texts. Raises CorpusError for one that has changed."""
        return group, read_parts(group, self.options)

    def encode(self, read: tuple[Sequence[Part], list[bytes]]) -> list[tuple[Tokens, Ending]]:
        """The tokens of what was read, and how each part lies in its document."""
        group, texts = read
        if self.options.pairs is not None:
            found = pair_rows.encoded_pairs(group, texts, self._encode, self.tokenizer.end_of_text, self.longest)
            return [(tokens, "closed") for tokens in found]
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
                    f"tokenizer: {named(part.place)} record {part.number + 1} holds the token {ids.max()}, the "
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
                f"tokenizer: the text of {named(part.place)} record {part.number + 1} spells "
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
                f"tokenizer: it does not keep the text of {named(part.place)} record {part.number + 1}: {was!r} "
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
        texts = read_parts(group, options)
        yield from texts if options.pairs is None else map(plain, texts)


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
    text_bytes = pa.compute.sum(table.column("target_bytes")).as_py()
    return WrittenRows(write_shard(store, source, table, first), part_of(table, first), text_bytes)


def write_held(
    store: Store, source: Source, tokenizer: TextTokenizer, shard: HeldShard, *values: Tokens
) -> WrittenRows:
    """The same of a shard whose tokens are in ``values``."""
    return write_rows(store, source, (shard.first, table_of(tokenizer, shard.first, shard.tokens(values))))
