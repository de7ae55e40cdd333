"""Tokens that stay where they were made, on the nodes of a cluster, while their rows are laid out here.

A group of documents takes as many numbers as it has tokens, from where those of the group before end. Packers lay out
these numbers as they would the tokens, which they never look at; a shard is then a list of runs of them, and whoever
writes it fetches what it needs from where it lies. So no token passes through the process that lays out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from orchestration.corpus.documents import Ending
from orchestration.corpus.tokenizers import Tokens

Item = TypeVar("Item")
Result = TypeVar("Result")
Lengths = list[tuple[int, Ending]]
"""How many tokens each part of a group has, and how the part lies in its document."""

PLACE = np.dtype(np.uint64)


class Cluster(Protocol):
    """Where work is done elsewhere. ``held`` and ``with_held`` leave large values there; a handle stands for one."""

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterable[Result]:
        """The function's results, in the order of the items."""
        ...

    def held(self, function: Callable[[Item], tuple[Any, Result]], items: Iterable[Item], /) -> Iterator[Any]:
        """(handle of the first, the second) of what the function returns, in the order of the items."""
        ...

    def with_held(
        self, function: Callable[..., Result], items: Iterable[tuple[Any, Sequence[Any]]], /
    ) -> Iterator[Any]:
        """function(item, *values) of each (item, handles), in order."""
        ...

    def alone(self, function: Callable[[Item], Result], item: Item, /) -> Result:
        """function(item), while nothing else of this work is done there."""
        ...


@dataclass(frozen=True)
class HeldShard:
    """``rows`` rows from ``first`` on, as runs [R, 3] of tokens: which of the handles, from where in it, how many."""

    first: int
    rows: int
    runs_R3: NDArray[np.int64]

    def tokens(self, values: Sequence[Tokens]) -> Tokens:
        """The tokens [rows, seq_len], from the values that the handles stand for."""
        pieces = [values[slot][begin : begin + count] for slot, begin, count in self.runs_R3.tolist()]
        return np.concatenate(pieces).reshape(self.rows, -1)


class HeldGroups:
    """The groups whose tokens some row may still need, by the numbers of their tokens."""

    def __init__(self) -> None:
        self._handles: dict[int, Any] = {}
        self._begins: list[int] = []
        self._end = 0

    def __len__(self) -> int:
        return len(self._handles)

    def add(self, handle: Any, lengths: Lengths) -> list[tuple[Tokens, Ending]]:
        """The next group: the numbers of each part's tokens in place of the tokens."""
        self._handles[len(self._begins)] = handle
        self._begins.append(self._end)
        parts = []
        for count, ending in lengths:
            parts.append((np.arange(self._end, self._end + count, dtype=PLACE), ending))
            self._end += count
        return parts

    def shard(self, first: int, places_NT: Tokens) -> tuple[HeldShard, list[Any]]:
        """A shard's rows and the handles of the groups that they are of."""
        places = places_NT.ravel().astype(np.int64)
        groups = self._group_of(places)
        starts = np.flatnonzero(np.concatenate(([True], (np.diff(places) != 1) | (np.diff(groups) != 0))))
        needed, slots = np.unique(groups[starts], return_inverse=True)
        begins = places[starts] - np.array(self._begins, dtype=np.int64)[groups[starts]]
        counts = np.diff(np.append(starts, len(places)))
        runs_R3 = np.stack([slots, begins, counts], axis=1)
        return HeldShard(first, len(places_NT), runs_R3), [self._handles[group] for group in needed.tolist()]

    def keep(self, waiting: Iterable[Tokens]) -> None:
        """Let go of the groups that none of these places is in: each an array of places, rising by one or in rows."""
        needed: set[int] = set()
        for places in waiting:
            if places.ndim == 1 and len(places):  # a piece of a document
                first, last = (bisect_right(self._begins, int(places[at])) - 1 for at in (0, -1))
                needed.update(range(first, last + 1))
            elif places.size:
                needed.update(np.unique(self._group_of(places.ravel().astype(np.int64))).tolist())
        for group in self._handles.keys() - needed:
            del self._handles[group]

    def _group_of(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(np.array(self._begins, dtype=np.int64), places, side="right") - 1
