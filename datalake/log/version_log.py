"""The version log: numbered entries, each created if absent, each holding the whole small state.

``<kind>/<name>/00000007.json`` is entry 7. Exactly one writer can create it, so appends are linearizable with no
server beside the store, and the newest entry is all that a reader needs. Every entry carries its writer's nonce: a
writer whose response was lost meets its own bytes at the retry and knows that it won.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from datalake.canonical import canonical_json, parse_json
from datalake.clock import Ambient
from datalake.errors import Conflict, CorruptObjectError, NotFoundError
from datalake.events import tell
from datalake.names import check_name, is_name
from datalake.store.interface import Store, ensure

_FORMAT = 1
_REBASES = 200  # contended appends to one log; far beyond what writers of one name do to each other
_DIGITS = 8
_ENTRY = re.compile(r"([0-9]{8})\.json")
_LOOKS_AT_ONCE = 16


@dataclass(frozen=True)
class LogEntry:
    """Entry ``number`` (from 1) of a log. ``state`` is JSON and must not be changed in place."""

    number: int
    nonce: str
    time: str
    author: str
    message: str
    state: dict[str, Any]


class VersionLog:
    """The log of one name of one kind (``params``, ``datasets``, ``models`` or ``runs``).

    Entries are immutable, so the last one seen is remembered and the next search for the head starts there.
    """

    def __init__(self, store: Store, kind: str, name: str, ambient: Ambient) -> None:
        self._store = store
        self._ambient = ambient
        self.kind = kind
        self.name = check_name(name)
        self._seen: LogEntry | None = None

    def head(self) -> LogEntry | None:
        """The newest entry, or None for an empty log: one listing from the last entry seen, at most one read."""
        prefix = f"{self.kind}/{self.name}/"
        seen = self._seen
        last = 0
        for key in self._store.list(prefix, start_after=self._key(seen.number) if seen else ""):
            if found := _ENTRY.fullmatch(key, len(prefix)):  # else a file that someone put beside the entries
                last = int(found[1])
        if last:
            self._seen = self.entry(last)
        return self._seen

    def has_entries(self) -> bool:
        """Whether the log has an entry: one request where it has, one more where it seems to have none."""
        return self._store.exists(self._key(1)) or self.head() is not None

    def entry(self, number: int) -> LogEntry:
        """Entry ``number``. Raises NotFoundError, or CorruptObjectError if it is not a log entry."""
        key = self._key(number)
        raw = parse_json(self._store.get(key), key)
        try:
            if raw["format"] != _FORMAT or raw["entry"] != number:
                raise KeyError("format")
            return LogEntry(number, raw["nonce"], raw["time"], raw["author"], raw["message"], raw["state"])
        except (KeyError, TypeError) as error:
            raise CorruptObjectError(
                f"object {key} is not entry {number} of a version log in format {_FORMAT}: "
                f"restore it from a copy of the lake, or use the version of morphogen that wrote it"
            ) from error

    def entries(self) -> Iterator[LogEntry]:
        """All entries, oldest first."""
        head = self.head()
        for number in range(1, head.number + 1 if head else 1):
            yield self.entry(number)

    def append(self, state: dict[str, Any], *, expected_head: int, message: str = "") -> LogEntry:
        """Append ``state`` if the newest entry is still ``expected_head`` (0: the log is empty).

        Raises Conflict, which carries both heads, if another writer came first.
        """
        began = self._ambient.monotonic()
        entry = LogEntry(
            number=expected_head + 1,
            nonce=self._ambient.nonce(),
            time=self._ambient.timestamp(),
            author=self._ambient.author,
            message=message,
            state=json.loads(canonical_json(state)),  # what a reader will get: a copy, tuples as lists
        )
        if expected_head and (self._seen is None or self._seen.number < expected_head):
            self.head()  # an entry is only ever created right after one that was seen: no gaps
        seen = self._seen.number if self._seen else 0
        if seen != expected_head or not ensure(self._store, self._key(entry.number), self._encode(entry)):
            head = self.head()
            found = head.number if head else 0
            if seen < expected_head == found:  # the log has just grown to where the caller knew it to be
                return self.append(state, expected_head=expected_head, message=message)
            raise Conflict(
                f"{self.kind} {self.name!r}: expected entry {expected_head} to be the newest, found {found}: "
                f"another writer came first; look at the new state and try again",
                expected=expected_head,
                found=found,
            )
        self._seen = entry
        seconds = round(self._ambient.monotonic() - began, 6)
        tell("commit", log=f"{self.kind}/{self.name}", entry=entry.number, seconds=seconds)
        return entry

    def update(self, change: Callable[[dict[str, Any] | None], dict[str, Any] | None], message: str = "") -> LogEntry:
        """Append ``change(newest state, or None)``, rebasing on whatever other writers append meanwhile.

        ``change`` gets its own copy and may be called many times; it returns None when nothing needs to be appended,
        and may raise to give up. Returns the entry that was appended, or the newest if none was.
        Raises Conflict after 200 lost races.
        """
        for attempt in range(_REBASES):
            head = self.head()
            state = change(copy.deepcopy(head.state) if head else None)
            if state is None:
                if head is None:
                    raise NotFoundError(f"{self.kind} {self.name!r} has no entries and none was appended")
                return head
            try:
                return self.append(state, expected_head=head.number if head else 0, message=message)
            except Conflict:
                if attempt == _REBASES - 1:
                    raise
                self._ambient.pause(min(attempt, 5))
        raise AssertionError("unreachable: the last round returns or raises")

    def _encode(self, entry: LogEntry) -> bytes:
        return canonical_json(
            {
                "format": _FORMAT,
                "kind": self.kind,
                "name": self.name,
                "entry": entry.number,
                "nonce": entry.nonce,
                "time": entry.time,
                "author": entry.author,
                "message": entry.message,
                "state": entry.state,
            }
        )

    def _key(self, number: int) -> str:
        return f"{self.kind}/{self.name}/{number:0{_DIGITS}d}.json"


def logged_names(store: Store, kind: str, ambient: Ambient, after: str = "") -> Iterator[str]:
    """The names of one kind that have an entry and sort after ``after``, sorted; looked at as they are asked for.

    A name exists when it has an entry. A folder without one is what a process leaves that was killed before its first
    write, or what a person made.
    """
    listed = [name for name in store.children(f"{kind}/") if name > after and is_name(name)]
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        for start in range(0, len(listed), _LOOKS_AT_ONCE):
            some = listed[start : start + _LOOKS_AT_ONCE]
            there = pool.map(lambda name: VersionLog(store, kind, name, ambient).has_entries(), some)
            yield from (name for name, has_entries in zip(some, there, strict=True) if has_entries)
