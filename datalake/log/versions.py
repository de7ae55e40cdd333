"""The versions of a name as one entry of its log knows them: the latest by itself, the others in older entries.

In format 2 an entry's state is::

    {"count": 70, "latest": {the record of version 70}, "made": [[…], …], "aliases": {"stable": 68},
     "retired": [[1, 5]], "before": {"entry": 9, "count": 4}}

``made`` finds the entry that made any version in O(1) reads. Its first list holds the entries that made the versions of
the newest block of 32, the second the last entry of each full block before it in the newest group of 32 blocks, the
third the last entry of each full group, and so on: a tree of which every entry holds one path. ``retired`` are ranges
of versions that were retired. ``before`` says which entry in format 1 the log went on from: there the state is
``{"versions": [all records], "aliases": {…}}``, which still lists the versions up to ``count``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from datalake.errors import CorruptObjectError
from datalake.log.ranges import Ranges, add_numbers, is_in, numbers_outside
from datalake.log.version_log import LogEntry

Record = dict[str, Any]
Levels = list[list[int]]
BLOCK = 32
_READS_AT_ONCE = 8


class Versions:
    """What ``entry`` (None: of an empty log) knows of its name's versions; ``load`` reads an entry by its number."""

    def __init__(self, entry: LogEntry | None, load: Callable[[int], LogEntry]) -> None:
        state: Mapping[str, Any] = entry.state if entry else {}
        self.entry = entry
        self.aliases: dict[str, int] = dict(state.get("aliases", {}))
        self.retired: Ranges = [list(pair) for pair in state.get("retired", ())]
        self._made: Levels = state.get("made", [])
        self._load = load
        self._read: dict[int, LogEntry] = {entry.number: entry} if entry else {}
        if entry is not None and "versions" in state:
            self.count = len(state["versions"])
            self._before: dict[str, int] | None = {"entry": entry.number, "count": self.count}
            self.latest: Record | None = state["versions"][-1] if self.count else None
        else:
            self.count = state.get("count", 0)
            self._before = state.get("before")
            self.latest = state.get("latest")

    @property
    def next_entry(self) -> int:
        """The number of the entry that an append would make."""
        return self.entry.number + 1 if self.entry else 1

    def record(self, version: int) -> Record:
        """The record of ``version`` (1 to ``count``)."""
        if version == self.count and self.latest is not None:
            return self.latest
        if version <= self._count_before:
            return self.listed[version - 1]
        return self._entry(self._maker(version)).state["latest"]

    def records(self, first: int, last: int) -> Iterator[Record]:
        """The records of versions ``first`` to ``last``, each a read or less."""
        wanted = {version: self._maker(version) for version in range(max(first, self._count_before + 1), last + 1)}
        absent = [number for number in wanted.values() if number not in self._read]
        if len(absent) > _READS_AT_ONCE:
            with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
                self._read.update(zip(absent, pool.map(self._load, absent), strict=True))
        return (self.record(version) for version in range(first, last + 1))

    def is_retired(self, version: int) -> bool:
        """Whether ``version`` was retired."""
        return is_in(self.retired, version)

    @property
    def newest_kept(self) -> int | None:
        """The newest version that is not retired, None if there is none."""
        return next(numbers_outside(self.retired, 1, self.count), None)

    def with_version(self, record: Record) -> dict[str, Any]:
        """The state of the next entry if it makes ``record`` the next version."""
        made = grown(self._made, self.count - self._count_before, self.next_entry)
        return self._state(count=self.count + 1, latest=record, made=made)

    def with_alias(self, alias: str, version: int) -> dict[str, Any]:
        """The state of the next entry if it points ``alias`` at ``version``."""
        return self._state(aliases={**self.aliases, alias: version})

    def with_retired(self, version: int) -> dict[str, Any]:
        """The state of the next entry if it retires ``version``; aliases that point there go."""
        kept = {name: to for name, to in self.aliases.items() if to != version}
        return self._state(retired=add_numbers(self.retired, [version]), aliases=kept)

    def with_restored(self, version: int) -> dict[str, Any]:
        """The state of the next entry if it takes the mark of ``with_retired`` off ``version``."""
        ranges: list[list[int]] = []
        for first, last in self.retired:
            if not first <= version <= last:
                ranges.append([first, last])
                continue
            ranges += [[low, high] for low, high in ((first, version - 1), (version + 1, last)) if low <= high]
        state = self._state(retired=ranges)
        return state if ranges else {field: value for field, value in state.items() if field != "retired"}

    def _state(self, **changes: Any) -> dict[str, Any]:
        state: dict[str, Any] = {
            "count": self.count,
            "latest": self.latest,
            "made": self._made,
            "aliases": self.aliases,
            **({"retired": self.retired} if self.retired else {}),
            **({"before": self._before} if self._before else {}),
        }
        return state | changes

    @property
    def _count_before(self) -> int:
        return self._before["count"] if self._before else 0

    @property
    def listed(self) -> Sequence[Record]:
        """The records of the versions that the log had in format 1, oldest first."""
        return self._entry(self._before["entry"]).state["versions"] if self._before else ()

    def _maker(self, version: int) -> int:
        """The entry that made ``version``, of those made in format 2."""
        place = version - self._count_before - 1
        return located(self._made, self.count - self._count_before - 1, place, lambda n: self._entry(n).state["made"])

    def _entry(self, number: int) -> LogEntry:
        if number not in self._read:
            self._read[number] = self._load(number)
        return self._read[number]


def grown(levels: Levels, place: int, entry: int) -> Levels:
    """``levels`` (of ``place`` versions) with one more version, made by ``entry``."""
    grown = [[*levels[0], entry] if place % BLOCK else [entry]]
    depth = 1
    while (size := BLOCK**depth) <= place:
        level = levels[depth] if depth < len(levels) else []
        if place % (size * BLOCK) == 0:
            level = []  # the whole group is found through the level above
        elif place % size == 0:
            level = [*level, levels[0][-1]]
        grown.append(level)
        depth += 1
    return grown


def located(levels: Levels, last: int, place: int, load: Callable[[int], Levels]) -> int:
    """The entry that made the version at ``place`` (from 0), by the levels of the entry that made the one at ``last``.

    ``load`` reads another entry's levels: at most once for each level but the first.
    """
    for depth, level in enumerate(levels):
        size = BLOCK**depth
        if place // (size * BLOCK) == last // (size * BLOCK) and 0 <= place <= last:
            entry = level[place // size % BLOCK]
            return entry if depth == 0 else located(load(entry), (place // size + 1) * size - 1, place, load)
    raise CorruptObjectError(
        f"a version log's index has no version at place {place} of {last + 1}: restore its entries"
    )
