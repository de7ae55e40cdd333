"""What the probe found out about a store, kept in the store, and asked before the first write of every process.

``probe/verdict.json`` is the one object that is replaced: the newest record counts, so a mended store is cleared by
probing it again. The first write to a store of which nothing is known tries to create its object twice, and keeps what
that showed; a store that is known to fail may only be read.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from datalake.canonical import canonical_json
from datalake.clock import System
from datalake.errors import CorruptObjectError, CredentialsError, NotFoundError, ProbeError, StoreRefusedError
from datalake.events import log_event

CONFORMANCE_KEY = "probe/verdict.json"
_FINDERS = {"probe": "`morphogen probe`", "first write": "its first write"}


@dataclass(frozen=True)
class ProbeReport:
    """What a probe saw. ``violations`` are one line each; ``seconds`` is its whole duration."""

    uri: str
    writers: int
    keys: int
    violations: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the store may hold a lake."""
        return not self.violations


class Conformance(BaseModel):
    """What was found: ``ok``, the first ``violations``, ``writers`` per key, ``keys``, ``time``, ``author``.

    ``found_by`` is "probe" (a race of many writers) or "first write" (one writer that tried to create an object twice).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = 1
    ok: bool
    violations: tuple[str, ...] = ()
    writers: int
    keys: int
    time: str
    author: str
    found_by: Literal["probe", "first write"] = "probe"


class _Objects(Protocol):
    """What of a store is needed here; reading alone for the guard, which the stores themselves hold."""

    @property
    def uri(self) -> str: ...

    def get(self, key: str) -> bytes: ...

    def put_if_absent(self, key: str, data: bytes) -> bool: ...

    def replace(self, key: str, data: bytes) -> None: ...


def record_conformance(store: _Objects, report: ProbeReport, system: System) -> Conformance:
    """Keep the probe's result where every later writer will find it."""
    record = Conformance(
        ok=report.ok,
        violations=report.violations[:10],
        writers=report.writers,
        keys=report.keys,
        time=system.timestamp(),
        author=system.author,
    )
    store.replace(CONFORMANCE_KEY, canonical_json(record.model_dump(mode="json")))
    return record


def read_conformance(store: _Objects) -> Conformance | None:
    """The newest record, None if the store was never probed. Raises CorruptObjectError if it cannot be read."""
    try:
        data = store.get(CONFORMANCE_KEY)
    except NotFoundError:
        return None
    try:
        return Conformance.model_validate_json(data)
    except ValidationError as error:
        raise CorruptObjectError(
            f"object {CONFORMANCE_KEY} of lake {store.uri} is no conformance record"
            ": run `morphogen probe` to write it anew"
        ) from error


def check_writable(store: _Objects) -> None:
    """Raise ProbeError if the store's newest record is bad; for jobs, which would else compute for nothing."""
    _check(store, read_conformance(store))


def _check(store: _Objects, record: Conformance | None) -> None:
    if record is not None and not record.ok:
        finder = _FINDERS[record.found_by]
        reason = record.violations[0] if record.violations else "no reason recorded"
        raise ProbeError(
            f"lake {store.uri} must not be written: {finder} found at {record.time} that its store "
            f"fails ({reason}): use another store, or mend this one and run `morphogen probe` again"
        )


class WriteGuard:
    """Refuses writes to a store known to fail. Costs one read of a small object per store opened and written to, and
    the first write of a lake anywhere two writes more: whoever comes later finds the record."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passed = False
        self._proven = False

    def __reduce__(self) -> tuple[type[WriteGuard], tuple[()]]:
        return WriteGuard, ()  # another process asks for itself

    def check(self, store: _Objects, key: str) -> bool:
        """Whether the store is known to refuse a second create; the probe's own keys pass as if it were.

        Raises ProbeError if the store's newest record is bad.
        """
        if self._proven or key.startswith("probe/"):
            return True
        with self._lock:
            if not self._passed:
                record = read_conformance(store)
                _check(store, record)
                self._passed, self._proven = True, record is not None
            return self._proven

    def prove(self, store: _Objects, system: System, *, refuses: bool) -> None:
        """Keep what the first create showed: whether a second one of the same object was refused.

        Raises ProbeError if it was not.
        """
        found = () if refuses else ("an object that was there was created again: the store ignores If-None-Match",)
        record = Conformance(
            ok=refuses,
            violations=found,
            writers=1,
            keys=1,
            time=system.timestamp(),
            author=system.author,
            found_by="first write",
        )
        data = canonical_json(record.model_dump(mode="json"))
        try:
            if refuses:
                store.put_if_absent(CONFORMANCE_KEY, data)  # never in place of a bad one
            else:
                store.replace(CONFORMANCE_KEY, data)
        except (CredentialsError, StoreRefusedError) as error:  # only lost: every process will try it for itself
            log_event("conformance_not_kept", level=logging.WARNING, reason=str(error))
        if not refuses:
            _check(store, record)
        self._proven = True
