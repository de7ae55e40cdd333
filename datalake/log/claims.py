"""How a commit and the removal of garbage keep out of each other's way, whatever the interleaving.

A commit names objects that lie in the lake; a collection removes objects that nothing names. Each says first what it is
about to do, and then looks what the other said:

- a commit writes a claim (``claims/<nonce>.json``) on the groups of what it will name, looks for collections, waits for
  those of its groups to end, checks that its objects are there, appends, and takes its claim away;
- a collection writes what groups it is about to remove from (``collections/<nonce>.json``), looks for claims, then for
  what is named, removes the rest, and takes its note away.

The store is linearizable, so at least one of the two sees the other: either the collection spares what is claimed (or
named by now), or the commit waits and then finds out by its check what is gone. Neither note is ever taken to be stale
by a clock: one that a killed process left holds the others off until a person says that its process is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from datalake.canonical import canonical_json, parse_json
from datalake.clock import System
from datalake.errors import CollectionError, CorruptObjectError, NotFoundError, StoreUnavailableError
from datalake.events import log_event
from datalake.store.interface import Store

CLAIMS = "claims/"
COLLECTIONS = "collections/"
_WAIT_S = 60.0
_LOOK_S = 0.5


@dataclass(frozen=True)
class Note:
    """A claim or a collection: its ``key``, the ``groups`` of objects that it is about, for ``what``, by whom, when."""

    key: str
    groups: frozenset[str]
    what: str
    author: str
    time: str


def group_of(key: str) -> str:
    """What lies together and is removed or kept together: the first two segments of a key."""
    return "/".join(key.split("/")[:2])


@contextmanager
def claimed(store: Store, system: System, keys: Iterable[str], what: str) -> Iterator[None]:
    """Hold collections off the groups of ``keys`` for the block, which checks that they are there and names them.

    Raises CollectionError, after a minute, while a collection in one of these groups goes on.
    """
    groups = frozenset(map(group_of, keys))
    with _noted(store, system, CLAIMS, groups, what):
        for note in notes(store, COLLECTIONS):
            if note.groups & groups:
                _wait(store, system, note, what)
        yield


@contextmanager
def collecting(store: Store, system: System, groups: Iterable[str]) -> Iterator[frozenset[str]]:
    """Say that objects of ``groups`` are about to be removed; yields the groups in which none may be.

    Whatever the block removes, it must look first, within the block, at what is named.
    """
    wanted = frozenset(groups)
    with _noted(store, system, COLLECTIONS, wanted, "data gc"):
        yield frozenset(group for note in notes(store, CLAIMS) for group in note.groups)


def notes(store: Store, prefix: str) -> list[Note]:
    """The claims, or the collections, that are there now. Raises CorruptObjectError."""
    found = []
    for key in store.list(prefix):
        try:
            raw = parse_json(store.get(key), key)
        except NotFoundError:
            continue  # it has just ended
        try:
            found.append(Note(key, frozenset(raw["groups"]), raw["what"], raw["author"], raw["time"]))
        except (KeyError, TypeError) as error:
            raise CorruptObjectError(
                f"object {key} is not a note of a commit or a collection: look at what it is and move it away"
            ) from error
    return found


def forget(store: Store, key: str) -> None:
    """Take away a note whose process is known to be gone. Raises NotFoundError if there is none."""
    if not key.startswith((CLAIMS, COLLECTIONS)) or not store.exists(key):
        there = [note.key for prefix in (CLAIMS, COLLECTIONS) for note in notes(store, prefix)]
        raise NotFoundError(f"no claim or collection {key!r} in lake {store.uri}: there are {there}")
    store.delete(key)


@contextmanager
def _noted(store: Store, system: System, prefix: str, groups: frozenset[str], what: str) -> Iterator[None]:
    key = f"{prefix}{system.nonce()}.json"
    note = {"groups": sorted(groups), "what": what, "author": system.author, "time": system.timestamp()}
    store.put_if_absent(key, canonical_json(note))
    try:
        yield
    finally:
        try:
            store.delete(key)
        except StoreUnavailableError as error:  # what it was for is done or not: a note too many only keeps garbage
            log_event("note_left", level=logging.WARNING, key=key, reason=str(error))


def _wait(store: Store, system: System, collection: Note, what: str) -> None:
    until = system.monotonic() + _WAIT_S
    while store.exists(collection.key):
        if system.monotonic() >= until:
            raise CollectionError(
                f"{what}: a collection of garbage by {collection.author} since {collection.time} removes objects "
                f"beside those that are to be named: run again when it has ended; if its process is gone, "
                f"`morphogen data gc --forget {collection.key}`"
            )
        system.sleep(_LOOK_S)
