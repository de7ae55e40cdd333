"""How documents are laid into rows of one length: end to end and cut, or whole documents fitted together.

The first two give full rows of tokens, without padding, and count the tokens that they lose; the third, for pairs, cuts
nothing, and pads.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable
from typing import Literal, Protocol

import numpy as np

from orchestration.corpus.tokenizers import Tokens

Packing = Literal["concat", "best-fit", "whole"]

# Pieces that wait to be fitted: enough lengths to choose from, and at a few thousand tokens each still a few megabytes.
_WAITING = 1024


class Packer(Protocol):
    """``add`` takes documents in order and gives the rows that are now full, [rows, seq_len]; ``finish`` the
    last ones. ``lost`` counts the tokens given that are in no row, final once ``finish`` was called; ``waiting`` are
    those that may still come into one, as pieces of documents. ``too_long`` counts documents given that fit no row
    whole, where that matters. Tokens are never looked at, so places of tokens are laid out just so."""

    lost: int
    too_long: int

    def add(self, documents: Iterable[Tokens]) -> Tokens: ...

    def finish(self) -> Tokens: ...

    def waiting(self) -> Iterable[Tokens]: ...


def packer(packing: Packing, seq_len: int, dtype: np.dtype, end: int = 0) -> Packer:
    """``end`` is the token that ends a document, which ``whole`` begins and pads rows with."""
    if packing == "whole":
        return Whole(seq_len, dtype, end)
    return Concatenated(seq_len, dtype) if packing == "concat" else BestFit(seq_len, dtype)


class Concatenated:
    """Documents end to end, cut every ``seq_len`` tokens. Only the tokens after the last full row are lost."""

    too_long = 0

    def __init__(self, seq_len: int, dtype: np.dtype) -> None:
        self.seq_len = seq_len
        self._dtype = dtype
        self.lost = 0
        self._rest = np.empty(0, dtype=dtype)

    def add(self, documents: Iterable[Tokens]) -> Tokens:
        tokens = np.concatenate([self._rest, *documents])
        full = len(tokens) // self.seq_len * self.seq_len
        self._rest = tokens[full:].copy()
        return tokens[:full].reshape(-1, self.seq_len)

    def finish(self) -> Tokens:
        self.lost = len(self._rest)
        return np.empty((0, self.seq_len), dtype=self._dtype)

    def waiting(self) -> Iterable[Tokens]:
        return [self._rest]


class BestFit:
    """Rows that begin where a document (or a long one's next piece) begins.

    A document longer than a row is first cut into rows' lengths. A row then takes the longest waiting piece that still
    fits, again and again (best-fit packing, arXiv 2404.10830); where none fits, the shortest is cropped to fill the
    row and its end is lost, so that no row needs padding.
    """

    too_long = 0

    def __init__(self, seq_len: int, dtype: np.dtype) -> None:
        self.seq_len = seq_len
        self._dtype = dtype
        self.lost = 0
        self._arrived = 0
        # Sorted by length, then latest first: the longest that fits is the last, and of equals the oldest goes first.
        self._waiting: list[tuple[int, int]] = []
        self._pieces: dict[int, Tokens] = {}
        self._tokens = 0

    def add(self, documents: Iterable[Tokens]) -> Tokens:
        rows = []
        for document in documents:
            for start in range(0, len(document), self.seq_len):
                self._wait(document[start : start + self.seq_len])
                while len(self._waiting) > _WAITING and self._tokens >= self.seq_len:
                    rows.append(self._row())
        return self._stack(rows)

    def finish(self) -> Tokens:
        rows = []
        while self._tokens >= self.seq_len:
            rows.append(self._row())
        self.lost += self._tokens
        return self._stack(rows)

    def waiting(self) -> Iterable[Tokens]:
        return self._pieces.values()

    def _wait(self, piece: Tokens) -> None:
        insort(self._waiting, (len(piece), -self._arrived))
        self._pieces[self._arrived] = piece
        self._arrived += 1
        self._tokens += len(piece)

    def _row(self) -> Tokens:
        taken: list[Tokens] = []
        space = self.seq_len
        while space and self._waiting:
            fitting = bisect_right(self._waiting, (space, 1))
            length, arrival = self._waiting.pop(fitting - 1 if fitting else 0)
            taken.append(self._pieces.pop(-arrival)[:space])
            self._tokens -= length
            self.lost += max(0, length - space)
            space -= len(taken[-1])
        return np.concatenate(taken)

    def _stack(self, rows: list[Tokens]) -> Tokens:
        return np.stack(rows) if rows else np.empty((0, self.seq_len), dtype=self._dtype)


class Whole(BestFit):
    """Rows of whole documents: each begins with the token that ends one, as if another stood before it, and is padded
    with that token where no waiting document fits any more. A document longer than that leaves is in no row and is
    counted."""

    def __init__(self, seq_len: int, dtype: np.dtype, end: int) -> None:
        super().__init__(seq_len, dtype)
        self._end = end

    def add(self, documents: Iterable[Tokens]) -> Tokens:
        rows = []
        for document in documents:
            if len(document) >= self.seq_len:
                self.too_long += 1
                self.lost += len(document)
                continue
            self._wait(document)
            if len(self._waiting) > _WAITING:
                rows.append(self._row())
        return self._stack(rows)

    def finish(self) -> Tokens:
        rows = []
        while self._waiting:
            rows.append(self._row())
        return self._stack(rows)

    def _row(self) -> Tokens:
        row = np.full(self.seq_len, self._end, dtype=self._dtype)
        begin = 1
        while fitting := bisect_right(self._waiting, (self.seq_len - begin, 1)):
            length, arrival = self._waiting.pop(fitting - 1)
            row[begin : begin + length] = self._pieces.pop(-arrival)
            begin += length
        return row
