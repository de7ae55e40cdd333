"""A list that grows without end, as one entry of a version log knows it: the newest items by themselves, the others in
older entries.

In format 2 such a list is, in an entry's state::

    {"count": 70, "newest": [the last 6 items], "blocks": [[40, 75]], "marked": [[0, 60]],
     "before": {"entry": 9, "count": 4}}

Items come in blocks of 32. An entry that holds a full block in ``newest`` is where that block is found from then on:
``blocks`` are the numbers of those entries, as the tree of ``versions`` has those of versions, so that every entry
holds one path and any item is found in O(1) reads. ``marked`` are the places (from 0) of items that their list has
marked: what a mark means is the list's own. ``before`` says which entry in format 1 the log went on from: there the
list is written out, with ``count`` items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from datalake.log.ranges import Ranges, add_numbers, is_in, numbers_outside, size
from datalake.log.versions import BLOCK, Levels, grown, located

Item = dict[str, Any]
Value = Mapping[str, Any] | list[Item]
_READS_AT_ONCE = 8


class GrowingList:
    """The list that ``value`` stands for in entry ``number`` (None: there is none yet).

    ``load`` gives what the same field is in another entry; what it returns is not changed. ``is_marked`` says of an
    item in format 1 whether it is marked, where items themselves said so.
    """

    def __init__(
        self,
        value: Value | None,
        number: int,
        load: Callable[[int], Value],
        is_marked: Callable[[Item], bool] = lambda _item: False,
    ) -> None:
        self._number = number
        self._load = load
        if isinstance(value, list):
            self._read: dict[int, Value] = {number: value}
            marked = add_numbers([], (place for place, item in enumerate(value) if is_marked(item)))
            before = {"before": {"entry": number, "count": len(value)}} if value else {}
            value = {"count": len(value), "marked": marked, **before}
        else:
            self._read = {number: value} if value else {}
        state: Mapping[str, Any] = value or {}
        self.count: int = state.get("count", 0)
        self.marked: Ranges = state.get("marked", [])
        self._newest: list[Item] = state.get("newest", [])
        self._blocks: Levels = state.get("blocks", [])
        self._before: Mapping[str, int] | None = state.get("before")

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items(0, self.count))

    @property
    def unmarked(self) -> int:
        """How many items are not marked."""
        return self.count - size(self.marked)

    def is_marked(self, place: int) -> bool:
        """Whether the item at ``place`` is marked."""
        return is_in(self.marked, place)

    def unmarked_places(self) -> Iterator[int]:
        """The places of the items that are not marked, newest first."""
        return numbers_outside(self.marked, 0, self.count - 1)

    def item(self, place: int) -> Item:
        """The item at ``place`` (0 to ``count`` - 1): at most a few reads."""
        if place < self._count_before:
            return self._listed[place]
        return self._block((place - self._count_before) // BLOCK)[(place - self._count_before) % BLOCK]

    def items(self, first: int, last: int) -> list[Item]:
        """The items at places ``first`` up to and without ``last``: a read for 32 of them."""
        return self.at(range(max(0, first), min(last, self.count)))

    def newest(self, limit: int) -> list[Item]:
        """The last ``limit`` items, oldest first."""
        return self.items(self.count - limit, self.count)

    def at(self, places: Iterable[int]) -> list[Item]:
        """The items at ``places``; each block that holds some of them is read once, several at a time."""
        wanted = [*places]
        blocks = {(place - self._count_before) // BLOCK for place in wanted if place >= self._count_before}
        absent = [entry for entry in sorted({self._entry_of(block) for block in blocks}) if entry not in self._read]
        if len(absent) > 1:
            with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
                self._read.update(zip(absent, pool.map(self._load, absent), strict=True))
        return [self.item(place) for place in wanted]

    def with_item(self, item: Item) -> dict[str, Any]:
        """What the list is in the entry after this one if that adds ``item``."""
        place = self.count - self._count_before
        if place % BLOCK:
            return self.kept(count=self.count + 1, newest=[*self._newest, item])
        blocks = grown(self._blocks, place // BLOCK - 1, self._number) if place else []
        return self.kept(count=self.count + 1, newest=[item], blocks=blocks)

    def with_marks(self, places: Iterable[int], change: Callable[[Item], Item] = lambda item: item) -> dict[str, Any]:
        """What the list is in the entry after this one if that marks the items at ``places``.

        ``change`` is what a marked item may be kept as, where it is among the newest and so written anew anyway.
        """
        marked = add_numbers(self.marked, places)
        first = self.count - len(self._newest)
        newest = [change(item) if is_in(marked, first + place) else item for place, item in enumerate(self._newest)]
        return self.kept(newest=newest, marked=marked)

    def kept(self, **changes: Any) -> dict[str, Any]:
        """What the list is in the entry after this one if that leaves it as it is, or changes these parts of it."""
        value = {
            "count": self.count,
            "newest": self._newest,
            **({"blocks": self._blocks} if self._blocks else {}),
            **({"marked": self.marked} if self.marked else {}),
            **({"before": dict(self._before)} if self._before else {}),
        }
        return value | changes

    @property
    def _count_before(self) -> int:
        return self._before["count"] if self._before else 0

    @property
    def _listed(self) -> list[Item]:
        """The items that the log had in format 1."""
        assert self._before is not None, "there are items from before only where an entry from before is named"
        listed = self._loaded(self._before["entry"])
        assert isinstance(listed, list), "in format 1 a list is written out"
        return listed

    def _block(self, block: int) -> list[Item]:
        value = self._loaded(self._entry_of(block))
        return value["newest"] if isinstance(value, Mapping) else []

    def _entry_of(self, block: int) -> int:
        """The entry that holds ``block``: this one for the newest."""
        newest = (self.count - self._count_before - 1) // BLOCK
        return self._number if block == newest else located(self._blocks, newest - 1, block, self._blocks_up_to)

    def _blocks_up_to(self, entry: int) -> Levels:
        """The tree of the blocks up to the full one that ``entry`` holds, that one included."""
        then = GrowingList(self._loaded(entry), entry, self._load)
        return grown(then._blocks, (then.count - then._count_before) // BLOCK - 1, entry)

    def _loaded(self, entry: int) -> Value:
        if entry not in self._read:
            self._read[entry] = self._load(entry)
        return self._read[entry]
