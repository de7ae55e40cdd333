"""What changed: between two specs, field by field, and in a version log, entry by entry as it happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from datalake.canonical import canonical_json
from datalake.clock import System
from datalake.log.version_log import LogEntry, VersionLog
from datalake.log.versions import Versions

_ABSENT = object()


@dataclass(frozen=True)
class FieldChange:
    """A field that differs: its dotted ``path``, the ``old`` and ``new`` values, and which of them do not exist."""

    path: str
    old: Any
    new: Any
    added: bool = False
    removed: bool = False


def diff_specs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[FieldChange]:
    """The fields in which two JSON objects differ, sorted by path; objects are compared within, lists as a whole."""
    return list(_differences("", old, new))


def _differences(path: str, old: Any, new: Any) -> Iterator[FieldChange]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(old.keys() | new.keys()):
            below = f"{path}.{name}" if path else name
            yield from _differences(below, old.get(name, _ABSENT), new.get(name, _ABSENT))
    elif old is _ABSENT:
        yield FieldChange(path, None, new, added=True)
    elif new is _ABSENT:
        yield FieldChange(path, old, None, removed=True)
    elif canonical_json(old) != canonical_json(new):  # 1 and 1.0 and true are three specs, also within lists
        yield FieldChange(path, old, new)


@dataclass(frozen=True)
class Change:
    """One thing that an entry of a name's log did.

    ``what`` is "version" (``version`` was made), "alias" (``alias`` now points at ``version``), "retired" (``version``
    was) or "restored" (``version`` is no longer retired). ``entry`` is the log entry's number; ``time``, ``author`` and
    ``message`` are its own.
    """

    name: str
    what: str
    version: int
    alias: str | None
    entry: int
    time: str
    author: str
    message: str


def follow(log: VersionLog, after: int = 0) -> Iterator[LogEntry]:
    """The entries after number ``after`` that are there now, oldest first; none is left out."""
    head = log.head()
    for number in range(after + 1, head.number + 1 if head else 1):
        yield log.entry(number)


def watch(
    log: VersionLog,
    system: System,
    after: int | None = None,
    interval: float = 2.0,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Change]:
    """Changes of a name as they happen, looked for every ``interval`` seconds until ``stop()``.

    ``after`` is the last entry number already known; None begins with what is appended from now on. However many
    entries appear between two looks, each is told, in order. A name that has no entry yet may be watched.
    """
    head = log.head()
    known = (head.number if head else 0) if after is None else after
    before = Versions(log.entry(known) if known else None, log.entry)
    while not stop():
        for entry in follow(log, known):
            now = Versions(entry, log.entry)
            yield from _changes_of(log.name, before, now, entry)
            known, before = entry.number, now
        system.sleep(interval)


def _changes_of(name: str, before: Versions, now: Versions, entry: LogEntry) -> Iterator[Change]:
    facts: dict[str, Any] = {
        "name": name,
        "entry": entry.number,
        "time": entry.time,
        "author": entry.author,
        "message": entry.message,
    }
    for version in range(before.count + 1, now.count + 1):
        yield Change(what="version", version=version, alias=None, **facts)
    if now.retired != before.retired:
        for version in range(1, now.count + 1):
            if now.is_retired(version) != before.is_retired(version):
                what = "retired" if now.is_retired(version) else "restored"
                yield Change(what=what, version=version, alias=None, **facts)
    for alias, version in sorted(now.aliases.items()):
        if before.aliases.get(alias) != version:
            yield Change(what="alias", version=version, alias=alias, **facts)
