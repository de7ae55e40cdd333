"""Verification: read every byte that a manifest names and say which shards are not what it says.

One pass reads shards in parallel and digests their tokens in order. It can be slowed to a rate that leaves the store
to others, and it can go on where an interrupted one stopped.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from datalake.clock import System
from datalake.errors import CorruptShardError, MissingShardError
from datalake.maintenance.ledger import Ledger
from datalake.shards.content import digest_like
from datalake.shards.manifest import Manifest, Progress
from datalake.shards.shard_format import decode_shard, token_bytes
from datalake.shards.shards import ShardRef, fetch_shard
from datalake.store.interface import Store


@dataclass(frozen=True)
class ShardProblem:
    """A shard that does not verify, and what is wrong with it in one line."""

    key: str
    problem: str


@dataclass(frozen=True)
class VerifyReport:
    """``checked`` shards were read, ``skipped`` ones had verified before; ``problems`` are in sequence order.

    ``content_checked`` says whether the digest over all tokens was compared: not if shards were skipped or are bad, nor
    of a computed dataset.
    """

    checked: int
    problems: tuple[ShardProblem, ...]
    skipped: int = 0
    content_checked: bool = True

    @property
    def ok(self) -> bool:
        """Whether everything is as the manifest says."""
        return not self.problems


@dataclass(frozen=True)
class VerifyOptions:
    """``threads`` read at once; ``ledger`` knows the shards that verified before and is told those that do now;
    ``limit`` holds the pace."""

    threads: int = 8
    ledger: Ledger | None = None
    limit: RateLimit | None = None


class RateLimit:
    """At most ``bytes_per_second`` on average over all threads, from the moment it is made."""

    def __init__(self, bytes_per_second: float, system: System) -> None:
        self._rate = bytes_per_second
        self._system = system
        self._lock = threading.Lock()
        self._free_at = system.monotonic()

    def spend(self, size: int) -> None:
        """Wait until ``size`` bytes may be read."""
        with self._lock:
            now = self._system.monotonic()
            start = max(now, self._free_at)
            self._free_at = start + size / self._rate
        if start > now:
            self._system.sleep(start - now)


def verify_dataset(
    store: Store, manifest: Manifest, progress: Progress | None = None, *, options: VerifyOptions | None = None
) -> VerifyReport:
    """Check size and SHA-256 of every shard, and, if those hold, the digest over all tokens.

    A computed dataset has neither, and is always as its manifest says.

    A damaged shard is reported, not raised; errors of the store itself are raised.
    """
    options = options or VerifyOptions()
    known = options.ledger.known() if options.ledger else frozenset()
    todo = [ref for ref in manifest.shards if ref.sha256 not in known]
    skipped = len(manifest.shards) - len(todo)
    problems: list[ShardProblem] = []
    content = digest_like(manifest.content_digest, manifest.row_bytes)
    for done, (ref, found) in enumerate(_examined(store, todo, options), start=1):
        if isinstance(found, ShardProblem):
            problems.append(found)
        else:
            content.update(found)
            if options.ledger is not None:
                options.ledger.add(ref.sha256)
        if progress is not None:
            progress(skipped + done, len(manifest.shards))
    whole = not problems and not skipped and not manifest.is_computed
    if whole and (digest := content.value()) != manifest.content_digest:
        problems.append(
            ShardProblem(manifest.key, f"content digest is {digest}, the manifest says {manifest.content_digest}")
        )
    return VerifyReport(len(todo), tuple(problems), skipped, whole)


def _examined(
    store: Store, todo: list[ShardRef], options: VerifyOptions
) -> Iterator[tuple[ShardRef, memoryview | ShardProblem]]:
    """Each shard's token bytes or problem, in order; only so many are in memory as threads read."""
    waiting = iter(todo)
    with ThreadPoolExecutor(options.threads) as pool:
        pending = [(ref, pool.submit(_examine, store, ref, options)) for ref in islice(waiting, options.threads)]
        while pending:
            ref, result = pending.pop(0)
            yield ref, result.result()
            pending += [(ref, pool.submit(_examine, store, ref, options)) for ref in islice(waiting, 1)]


def _examine(store: Store, ref: ShardRef, options: VerifyOptions) -> memoryview | ShardProblem:
    if options.limit is not None:
        options.limit.spend(ref.bytes)
    try:
        return token_bytes(decode_shard(fetch_shard(store, ref)))
    except MissingShardError:
        return ShardProblem(ref.key, f"missing: sequences {ref.first} to {ref.first + ref.rows - 1}")
    except CorruptShardError as error:
        return ShardProblem(ref.key, f"corrupt: expected SHA-256 {error.expected}, found {error.found}")
