"""The probe: does this store keep the one promise the lake is built on?

Writers race to create the same keys; exactly one may win each, its bytes must be what is read, and reading and
listing must show the object at once.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from datalake.ambient import Ambient
from datalake.store import Store


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


def probe_store(store: Store, writers: int = 16, keys: int = 8, ambient: Ambient | None = None) -> ProbeReport:
    """Race ``writers`` threads for each of ``keys`` objects under ``probe/``, then remove them.

    Losing a race can take seconds on a server that polls its locks. Raises what the store raises if it fails.
    """
    folder = f"probe/{(ambient or Ambient()).nonce()}"
    names = [f"{folder}/{number:04d}" for number in range(keys)]
    violations: list[str] = []
    began = time.monotonic()
    try:
        with ThreadPoolExecutor(writers) as pool:
            for name in names:
                violations += _race(store, pool, name, writers)
        if list(store.list(f"{folder}/")) != names:
            violations.append(f"a listing does not show the {keys} objects just written")
    finally:
        for name in names:
            store.delete(name)
    return ProbeReport(store.uri, writers, keys, tuple(violations), time.monotonic() - began)


def _race(store: Store, pool: ThreadPoolExecutor, key: str, writers: int) -> list[str]:
    start = threading.Barrier(writers)
    bodies = [f"{key} by writer {writer}".encode() for writer in range(writers)]

    def write(body: bytes) -> tuple[bool, bytes]:
        start.wait()
        won = store.put_if_absent(key, body)
        return won, store.get(key)

    results = list(pool.map(write, bodies))
    winners = [body for body, (won, _) in zip(bodies, results, strict=True) if won]
    final = store.get(key)
    found = []
    if len(winners) > 1:
        found.append(f"{key}: {len(winners)} of {writers} writers were told that they created it")
    if final not in bodies or (winners and final not in winners):
        found.append(f"{key}: it holds bytes of a writer that was told it lost")
    if any(seen != final for _, seen in results):
        found.append(f"{key}: some writers read other bytes right after writing than are there now")
    return found
