"""What the probe found out about a store, kept in the store, and asked before the first write of every process.

``probe/verdict.json`` is the one object that is replaced: the newest verdict counts, so a mended store is cleared by
probing it again. A store that was never probed may be written; one that is known to fail may only be read.
"""

from __future__ import annotations

import threading
from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from datalake.canonical import canonical_json
from datalake.clock import Ambient
from datalake.errors import CorruptObjectError, NotFoundError, ProbeError
from datalake.store.probe import ProbeReport

VERDICT_KEY = "probe/verdict.json"


class Verdict(BaseModel):
    """A probe's result: ``ok``, the first ``violations``, ``writers`` per key, ``keys``, ``time``, ``author``."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = 1
    ok: bool
    violations: tuple[str, ...] = ()
    writers: int
    keys: int
    time: str
    author: str


class _Objects(Protocol):
    """What of a store is needed here; reading alone for the guard, which the stores themselves hold."""

    @property
    def uri(self) -> str: ...

    def get(self, key: str) -> bytes: ...

    def replace(self, key: str, data: bytes) -> None: ...


def record_verdict(store: _Objects, report: ProbeReport, ambient: Ambient) -> Verdict:
    """Keep the probe's result where every later writer will find it."""
    verdict = Verdict(
        ok=report.ok,
        violations=report.violations[:10],
        writers=report.writers,
        keys=report.keys,
        time=ambient.timestamp(),
        author=ambient.author,
    )
    store.replace(VERDICT_KEY, canonical_json(verdict.model_dump(mode="json")))
    return verdict


def read_verdict(store: _Objects) -> Verdict | None:
    """The newest verdict, None if the store was never probed. Raises CorruptObjectError if it cannot be read."""
    try:
        data = store.get(VERDICT_KEY)
    except NotFoundError:
        return None
    try:
        return Verdict.model_validate_json(data)
    except ValidationError as error:
        raise CorruptObjectError(
            f"object {VERDICT_KEY} of lake {store.uri} is no verdict: run `morphogen probe` to write it anew"
        ) from error


def check_writable(store: _Objects) -> None:
    """Raise ProbeError if the store's newest verdict is bad; for jobs, which would else compute for nothing."""
    verdict = read_verdict(store)
    if verdict is not None and not verdict.ok:
        reason = verdict.violations[0] if verdict.violations else "no reason recorded"
        raise ProbeError(
            f"lake {store.uri} must not be written: `morphogen probe` found at {verdict.time} that its store "
            f"fails ({reason}): use another store, or mend this one and run `morphogen probe` again"
        )


class WriteGuard:
    """Refuses writes to a store known to fail. Costs one read of a small object per store opened and written to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passed = False

    def __reduce__(self) -> tuple[type[WriteGuard], tuple[()]]:
        return WriteGuard, ()  # another process asks for itself

    def check(self, store: _Objects, key: str) -> None:
        """Raise ProbeError if the store's newest verdict is bad; the probe's own keys pass."""
        if self._passed or key.startswith("probe/"):
            return
        with self._lock:
            if self._passed:
                return
            check_writable(store)
            self._passed = True
