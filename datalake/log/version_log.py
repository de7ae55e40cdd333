"""The version log: numbered entries, each created if absent, each holding what the newest must know of the others.

``<kind>/<name>/00000007.json`` is entry 7. Exactly one writer can create it, so appends are linearizable with no
server beside the store. Every entry carries its writer's nonce: a writer whose response was lost meets its own bytes at
the retry and knows that it won.

The newest entry is found by one listing of a bounded length. So that this stays so in a long log, every 64th append
leaves a hint at ``heads/<kind>/<name>.json``. A hint is never the truth: it only says where to begin to look, and
without it the entries are found by longer listings.
"""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from datalake.canonical import canonical_json, parse_json
from datalake.clock import System
from datalake.errors import Conflict, CorruptObjectError, DatalakeError, KeyReusedError, NotFoundError
from datalake.events import log_event
from datalake.names import check_name, is_name
from datalake.store.interface import Store, ensure

_FORMATS = (1, 2)  # 2: the state of a name with versions is no longer all of its history; see ``versioned``
_REBASES = 200  # contended appends to one log; far beyond what writers of one name do to each other
_DIGITS = 8
_ENTRY = re.compile(r"([0-9]{8})\.json")
_LOOKS_AT_ONCE = 16
_PAGE = 64  # entries to a hint, and keys in a first listing
_LONGEST_PAGE = 1000
_REQUESTS_KEPT = 128
_ID_SHOWN = 16  # characters of a request's id in the list that every entry carries; the whole id is in its own entry


@dataclass(frozen=True)
class ChangeRequest:
    """One client's wish for one change, which is done once however often it is asked for.

    ``id`` is unique to the client's request (text without spaces); ``fingerprint`` is a digest of all that was asked.
    """

    id: str
    fingerprint: str


@dataclass(frozen=True)
class LogEntry:
    """Entry ``number`` (from 1) of a log. ``state`` is JSON and must not be changed in place.

    ``request`` is whose request made this entry, and ``changed`` whether it found anything to change. ``requests``
    lists the newest 128 requests up to this entry: [start of the id, entry], or, of entries in format 1, [id,
    fingerprint, version, changed]. An entry that ``update`` returns is ``replayed`` if the request had been answered
    before; ``answer`` is the version it was answered with, where only an entry in format 1 knows it.
    """

    number: int
    nonce: str
    time: str
    author: str
    message: str
    state: dict[str, Any]
    request: ChangeRequest | None = None
    changed: bool = True
    requests: tuple[Any, ...] = ()
    replayed: bool = field(default=False, compare=False)
    answer: int | None = field(default=None, compare=False)


class VersionLog:
    """The log of one name of one kind (``params``, ``datasets``, ``models`` or ``runs``).

    Entries are immutable, so the last one seen is remembered and the next search for the head starts there. ``format``
    is what its appends are marked with; entries of every format are read.
    """

    def __init__(self, store: Store, kind: str, name: str, system: System, format: int = 1) -> None:
        self._store = store
        self._system = system
        self.kind = kind
        self.name = check_name(name)
        self._format = format
        self._seen: LogEntry | None = None

    @property
    def seen(self) -> LogEntry | None:
        """The newest entry that was read or appended through this object."""
        return self._seen

    def head(self) -> LogEntry | None:
        """The newest entry, or None for an empty log: a listing from the last entry seen, at most one read."""
        seen = self._seen
        known = seen.number if seen else 0
        newest = self._newest_after(known)
        return self._remember(self.entry(newest)) if newest > known else seen

    def advance(self) -> LogEntry | None:
        """The newest entry, as ``head``, by asking for the one after the last seen: one request if there is none.

        For whoever looks every second; where nothing was seen yet, it is ``head``.
        """
        if self._seen is None:
            return self.head()
        while True:
            try:
                self._remember(self.entry(self._seen.number + 1))
            except NotFoundError:
                return self._seen

    def has_entries(self) -> bool:
        """Whether the log has an entry: one request where it has, one more where it seems to have none."""
        return self._store.exists(self._key(1)) or self.head() is not None

    def _remember(self, entry: LogEntry) -> LogEntry:
        if self._seen is None or entry.number > self._seen.number:
            self._seen = entry
        return entry

    def _newest_after(self, known: int) -> int:
        """The number of the newest entry, ``known`` if there is none after that one."""
        prefix = f"{self.kind}/{self.name}/"
        newest, hinted, page = known, known > 0, _PAGE
        after = self._key(known) if known else ""
        while True:
            keys = [*self._store.list(prefix, start_after=after, limit=page)]
            for key in keys:
                if found := _ENTRY.fullmatch(key, len(prefix)):  # else a file that someone put beside the entries
                    newest = int(found[1])
            if len(keys) < page:
                return newest
            after = keys[-1]
            if hinted:  # or there is no hint, or a stale one
                page = min(2 * page, _LONGEST_PAGE)
            elif (hint := self._hint()) > newest:
                newest, after = hint, self._key(hint)
            hinted = True

    def _hint(self) -> int:
        """A number up to which there are entries, 0 if there is no hint or not a true one."""
        try:
            number = parse_json(self._store.get(self._hint_key()), self._hint_key())["entry"]
        except (NotFoundError, CorruptObjectError, KeyError, TypeError):
            return 0  # the entries themselves are the truth, and are found without it
        return number if isinstance(number, int) and number > 0 and self._store.exists(self._key(number)) else 0

    def _leave_hint(self, number: int) -> None:
        try:
            self._store.replace(self._hint_key(), canonical_json({"entry": number}))
        except DatalakeError as error:  # the entry is there: what only makes reading faster must not make this fail
            log_event(
                "hint_lost", level=logging.WARNING, log=f"{self.kind}/{self.name}", entry=number, reason=str(error)
            )

    def _hint_key(self) -> str:
        return f"heads/{self.kind}/{self.name}.json"

    def entry(self, number: int) -> LogEntry:
        """Entry ``number``. Raises NotFoundError, or CorruptObjectError if it is not a log entry."""
        key = self._key(number)
        raw = parse_json(self._store.get(key), key)
        try:
            if raw["format"] not in _FORMATS or raw["entry"] != number:
                raise KeyError("format")
            noted = raw.get("request")
            return LogEntry(
                *(number, raw["nonce"], raw["time"], raw["author"], raw["message"], raw["state"]),
                request=ChangeRequest(noted["id"], noted["fingerprint"]) if noted else None,
                changed=noted["changed"] if noted else True,
                requests=tuple(raw.get("requests", raw["state"].get("requests", ()))),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise CorruptObjectError(
                f"object {key} is not entry {number} of a version log in format {' or '.join(map(str, _FORMATS))}: "
                f"restore it from a copy of the lake, or use the version of morphogen that wrote it"
            ) from error

    def entries(self) -> Iterator[LogEntry]:
        """All entries, oldest first."""
        head = self.head()
        for number in range(1, head.number + 1 if head else 1):
            yield self.entry(number)

    def append(
        self,
        state: dict[str, Any],
        *,
        expected_head: int,
        message: str = "",
        request: ChangeRequest | None = None,
        changed: bool = True,
    ) -> LogEntry:
        """Append ``state`` if the newest entry is still ``expected_head`` (0: the log is empty).

        Raises Conflict, which carries both heads, if another writer came first.
        """
        began = self._system.monotonic()
        if expected_head and (self._seen is None or self._seen.number < expected_head):
            self.head()  # an entry is only ever created right after one that was seen: no gaps
        seen = self._seen.number if self._seen else 0
        carried = self._seen.requests if self._seen else ()
        number = expected_head + 1
        if request is not None:
            carried = (*carried, [request.id[:_ID_SHOWN], number])[-_REQUESTS_KEPT:]
        entry = LogEntry(
            number=number,
            nonce=self._system.nonce(),
            time=self._system.timestamp(),
            author=self._system.author,
            message=message,
            state=json.loads(canonical_json(state)),  # what a reader will get: a copy, tuples as lists
            request=request,
            changed=changed,
            requests=carried,
        )
        if seen != expected_head or not ensure(self._store, self._key(entry.number), self._encode(entry)):
            head = self.head()
            found = head.number if head else 0
            if seen < expected_head == found:  # the log has just grown to where the caller knew it to be
                return self.append(
                    state, expected_head=expected_head, message=message, request=request, changed=changed
                )
            raise Conflict(
                f"{self.kind} {self.name!r}: expected entry {expected_head} to be the newest, found {found}: "
                f"another writer came first; look at the new state and try again",
                expected=expected_head,
                found=found,
            )
        self._remember(entry)
        if number % _PAGE == 0:
            self._leave_hint(number)
        seconds = round(self._system.monotonic() - began, 6)
        log_event("commit", log=f"{self.kind}/{self.name}", entry=entry.number, seconds=seconds)
        return entry

    def update(
        self,
        change: Callable[[dict[str, Any] | None], dict[str, Any] | None],
        message: str = "",
        request: ChangeRequest | None = None,
    ) -> LogEntry:
        """Append ``change(newest state, or None)``, as ``append_next``; ``change`` gets its own copy."""
        return self.append_next(
            lambda head: change(copy.deepcopy(head.state) if head else None), message=message, request=request
        )

    def append_next(
        self,
        change: Callable[[LogEntry | None], dict[str, Any] | None],
        message: str = "",
        request: ChangeRequest | None = None,
    ) -> LogEntry:
        """Append the state that ``change(newest entry, or None)`` returns, rebasing on what others append meanwhile.

        ``change`` may be called many times; it returns None when nothing needs to be appended, and may raise to give
        up. Returns the entry that was appended, or the newest (not ``changed``) if none was.

        A ``request`` that one of the newest 128 carries is not done again: its entry is returned, ``replayed``, and
        ``change`` is not called. One that finds nothing to change is noted in an entry of its own, since its answer
        must stay what it was. Raises KeyReusedError if its id came with another fingerprint, Conflict after 200 lost
        races.
        """
        for attempt in range(_REBASES):
            head = self.head()
            if request is not None and head is not None and (done := self._answered(head, request)) is not None:
                return done
            state = change(head)
            changed = state is not None
            if state is None:
                if head is None:
                    raise NotFoundError(f"{self.kind} {self.name!r} has no entries and none was appended")
                if request is None:
                    return replace(head, changed=False)
                state = head.state
            number = head.number if head else 0
            try:
                return self.append(state, expected_head=number, message=message, request=request, changed=changed)
            except Conflict:
                if attempt == _REBASES - 1:
                    raise
                self._system.pause(min(attempt, 5))
        raise AssertionError("unreachable: the last round returns or raises")

    def _answered(self, head: LogEntry, request: ChangeRequest) -> LogEntry | None:
        """The entry in which ``request`` was answered, None if it was not; KeyReusedError if it was another request."""
        for noted in head.requests:
            if len(noted) == 4:  # from an entry in format 1, whose own number is not known any more
                if noted[0] != request.id:
                    continue
                fingerprint, found = noted[1], replace(head, changed=noted[3], answer=noted[2])
            else:
                if noted[0] != request.id[:_ID_SHOWN]:
                    continue
                found = self.entry(noted[1])
                if found.request is None or found.request.id != request.id:
                    continue
                fingerprint = found.request.fingerprint
            if fingerprint != request.fingerprint:
                raise KeyReusedError("Idempotency-Key: found with another request; use a fresh one for each change")
            return replace(found, replayed=True)
        return None

    def _encode(self, entry: LogEntry) -> bytes:
        document = {
            "format": self._format,
            "kind": self.kind,
            "name": self.name,
            "entry": entry.number,
            "nonce": entry.nonce,
            "time": entry.time,
            "author": entry.author,
            "message": entry.message,
            "state": entry.state,
        }
        if entry.requests:
            document["requests"] = list(entry.requests)
        if entry.request is not None:
            noted = {"id": entry.request.id, "fingerprint": entry.request.fingerprint, "changed": entry.changed}
            document["request"] = noted
        return canonical_json(document)

    def _key(self, number: int) -> str:
        return f"{self.kind}/{self.name}/{number:0{_DIGITS}d}.json"


def logged_names(store: Store, kind: str, system: System, after: str = "") -> Iterator[str]:
    """The names of one kind that have an entry and sort after ``after``, sorted; looked at as they are asked for.

    A name exists when it has an entry. A folder without one is what a process leaves that was killed before its first
    write, or what a person made.
    """
    listed = [name for name in store.children(f"{kind}/") if name > after and is_name(name)]
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        for start in range(0, len(listed), _LOOKS_AT_ONCE):
            some = listed[start : start + _LOOKS_AT_ONCE]
            there = pool.map(lambda name: VersionLog(store, kind, name, system).has_entries(), some)
            yield from (name for name, has_entries in zip(some, there, strict=True) if has_entries)
