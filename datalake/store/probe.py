"""The probe: does this store create an object only if it is absent, which the lake is built on?

Writers race to create the same keys; exactly one may win each, its bytes must be what everyone then reads, and a
listing must show the object as soon as its writer was told that it is there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from datalake.clock import System
from datalake.errors import ProbeError
from datalake.store.conformance import ProbeReport
from datalake.store.interface import Store

# Servers that poll their locks keep the losers of one race waiting for seconds; other races can use the time.
_RACES_AT_ONCE = 5


def probe_store(
    store: Store,
    writers: int = 32,
    keys: int = 50,
    system: System | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ProbeReport:
    """Race ``writers`` threads for each of ``keys`` objects under ``probe/``, then remove them.

    Before a race the key is looked for, so that a cache which remembers absence is found out. ``progress`` is told
    (races done, races in all). Raises what the store raises if it fails.

    A store that says that it has no conditional writes is not raced on.
    """
    folder = f"probe/{(system or System()).nonce()}"
    names = [f"{folder}/{number:04d}" for number in range(keys)]
    violations: list[str] = []
    began = time.monotonic()
    try:
        store.put_if_absent(f"{folder}-first", b"")  # alone: a store without conditional writes is told at once
        store.delete(f"{folder}-first")
    except ProbeError as error:
        return ProbeReport(store.uri, writers, keys, (str(error),), time.monotonic() - began)
    try:
        with ThreadPoolExecutor(min(_RACES_AT_ONCE, keys)) as pool:
            for done, found in enumerate(pool.map(lambda name: _race(store, name, writers), names), start=1):
                violations += found
                if progress is not None:
                    progress(done, keys)
        if list(store.list(f"{folder}/")) != names:
            violations.append(f"a listing does not show exactly the {keys} objects just written")
    finally:
        for name in names:
            store.delete(name)
    return ProbeReport(store.uri, writers, keys, tuple(violations), time.monotonic() - began)


@dataclass(frozen=True)
class _Saw:
    """What one writer was told, read back, and found listed right after its write."""

    won: bool
    read: bytes
    listed: bool


def _race(store: Store, key: str, writers: int) -> list[str]:
    start = threading.Barrier(writers)
    bodies = [f"{key} by writer {writer}".encode() for writer in range(writers)]
    found = [f"{key}: it is there before anyone wrote it"] if store.exists(key) else []

    def write(body: bytes) -> _Saw:
        start.wait()
        won = store.put_if_absent(key, body)
        # Every loser knows just as well that the object is there, but one listing a race is enough to pay for.
        listed = not won or key in store.list(key)
        return _Saw(won, store.get(key), listed)

    with ThreadPoolExecutor(writers) as pool:
        results = list(pool.map(write, bodies))
    winners = [body for body, saw in zip(bodies, results, strict=True) if saw.won]
    final = store.get(key)
    if len(winners) > 1:
        found.append(f"{key}: {len(winners)} of {writers} writers were told that they created it")
    if final not in bodies or (winners and final not in winners):
        found.append(f"{key}: it holds bytes of a writer that was told it lost")
    if any(saw.read != final for saw in results):
        found.append(f"{key}: some writers read other bytes right after writing than are there now")
    if not all(saw.listed for saw in results):
        found.append(f"{key}: a listing right after the write does not show it")
    return found
