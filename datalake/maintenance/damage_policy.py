"""What a job does about a lost shard or a store that does not answer: heal, wait or fail, within stated budgets.

A shard that is lost or corrupt is computed again (``heal``), waited for until someone has put it right (``wait``), or
ends the job (``fail``). A store on the network that does not answer is waited for unless the policy is ``fail``. Each
use is told as an event and kept in the run's record. Nothing is ever skipped: past the budgets the job ends with the
error that names what is lost.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from datalake.clock import System
from datalake.errors import CorruptShardError, DamagePolicyError, RunConflictError
from datalake.events import log_event as log_event
from datalake.lake import Lake
from datalake.maintenance.healing import Healer, Repair
from datalake.reading.attempts import index_of
from datalake.reading.computed import ComputedReader
from datalake.reading.node_cache import default_cache
from datalake.reading.reader import DatasetReader, ShardRepair
from datalake.reading.row_reader import RowReader
from datalake.runs.run import Run
from datalake.shards.computed import RowGenerator
from datalake.shards.manifest import Manifest
from datalake.shards.shards import ShardRef, fetch_shard
from datalake.shards.source import Source
from datalake.store.interface import Store
from datalake.store.retry import RetryDeadline

OnDamage = Literal["heal", "wait", "fail"]
LogEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class DamagePolicy:
    """``on_damage`` None heals what can be computed again and fails on text.

    ``heal_shards`` may be healed in a run, by all its processes and attempts together; each process may spend
    ``heal_seconds`` on computing them, and ``wait_seconds`` on waiting. Raises DamagePolicyError.
    """

    on_damage: OnDamage | None = None
    heal_shards: int = 16
    heal_seconds: float = 900.0
    wait_seconds: float = 120.0

    def __post_init__(self) -> None:
        if self.on_damage not in (None, *get_args(OnDamage)):
            raise DamagePolicyError(f"on_damage = {self.on_damage!r}: expected heal, wait or fail; give one of them")
        for field in ("heal_shards", "heal_seconds", "wait_seconds"):
            if not getattr(self, field) >= 0:
                raise DamagePolicyError(f"{field} = {getattr(self, field)}: expected 0 or more; give another budget")

    def on(self, kind: str) -> OnDamage:
        """What damage to a dataset of this kind (``synthetic`` or ``text``) leads to."""
        return self.on_damage or ("heal" if kind == "synthetic" else "fail")


class Repairer:
    """One process's part in keeping a job to its policy: opens the lake and its readers so that they do.

    ``generator`` computes rows: of shards again, and those that are stored nowhere (None: neither can be had).
    ``log_event`` gets an event for each use, from whichever thread met it, whose "event" is one of "repair" (and what a
    ``Repair`` says), "waiting" (reason), "waited" (seconds, reason), "cache_off" (reason).
    Picklable if its callables are. Two are equal if they keep the same policy under the same lease of a run.
    """

    def __init__(
        self,
        policy: DamagePolicy | None = None,
        generator: RowGenerator | None = None,
        system: System | None = None,
        log_event: LogEvent | None = None,
        run: Run | None = None,
    ) -> None:
        self.policy = policy or DamagePolicy()
        self._generator = generator
        self._system = system or System()
        self._log_event = log_event
        self._run = run
        self._cache_off = False
        self._unrecorded: list[dict[str, Any]] = []
        self._lock = threading.RLock()  # recording a wait may have to wait
        self._deadline = RetryDeadline(self.policy.wait_seconds, self._system, self._waited)
        self._healer = Healer(
            generator,
            self._system,
            max_shards=self.policy.heal_shards,
            max_seconds=self.policy.heal_seconds,
            on_repair=self._repaired,
            already=self._healed,
        ) if generator else None  # fmt: skip

    def __reduce__(self) -> tuple[type[Repairer], tuple[Any, ...]]:
        return Repairer, (self.policy, self._generator, self._system, self._log_event, self._run)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Repairer) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[Any, ...]:
        return self.policy, self._generator, self._run and (self._run.name, self._run.lease)

    def open(self, uri: str) -> Lake:
        """``Lake.open`` that waits, and so does all that is done through the lake."""
        if not self._waits_for(uri):
            return Lake.open(uri, self._system)
        return self.retrying(self._deadline.retry_until(lambda: Lake.open(uri, self._system)))

    def retrying(self, lake: Lake) -> Lake:
        """Return the same lake, whose calls are repeated while its store does not answer."""
        if not self._waits_for(lake.uri):
            return lake
        from datalake.store.s3 import S3Store  # boto3 takes long to import, and a local lake needs none

        if not isinstance(lake.store, S3Store):
            return lake
        return Lake(lake.store.within(self._deadline), lake.system)

    def reader(self, store: Store, manifest: Manifest, generator: RowGenerator | None = None) -> RowReader:
        """A reader of verified rows that treats damage as the policy says, through the node's cache if it has one.

        The rows of a computed dataset come from this repairer's generator, or else ``generator``. Raises ManifestError
        if there is none, GeneratorVersionError if it would make other rows.
        """
        if manifest.is_computed:
            return ComputedReader(manifest, self._generator or generator, index_of(store, manifest))
        action = self.policy.on(manifest.kind)
        repair: ShardRepair | None = None
        if action == "heal" and self._healer is not None:
            repair = self._healer.heal
        elif action == "wait":
            repair = self._wait_for_shard
        return DatasetReader(store, manifest, node_cache=default_cache(store, self._cache_failed), repair=repair)

    def record_in(self, run: Run) -> None:
        """From now on note each use in this run's record, and first those that there were before it was open."""
        with self._lock:
            self._run = run.for_another_thread()
            waits, self._unrecorded = self._unrecorded, []
        for wait in waits:
            self._record_wait(wait)

    def _waits_for(self, uri: str) -> bool:
        """A local folder has no server that could come back: its errors, such as a full disk, are raised at once."""
        return self.policy.on_damage != "fail" and self.policy.wait_seconds > 0 and uri.startswith("s3://")

    def _cache_failed(self, reason: str) -> None:
        """Show it once a process, though each dataset has a reader that finds it out for itself."""
        with self._lock:
            first, self._cache_off = not self._cache_off, True
        if first:
            log_event("cache_off", level=logging.WARNING, reason=reason)
            self._show({"event": "cache_off", "reason": reason})

    def _wait_for_shard(self, store: Store, _source: Source, ref: ShardRef, error: CorruptShardError) -> bytes:
        if self.policy.wait_seconds <= 0:
            raise error
        return self._deadline.retry_until(lambda: fetch_shard(store, ref), CorruptShardError)

    def _healed(self) -> frozenset[str]:
        """Keys of the shards that were healed for this run, by any process."""
        with self._lock:
            if self._run is None:
                return frozenset()
            return frozenset(repair["key"] for repair in self._run.refresh().listed("repairs"))

    def _repaired(self, repair: Repair) -> None:
        with self._lock:
            if self._run is not None:
                self._run.add_repair(repair.as_json())
        self._show({"event": "repair", **repair.as_json()})

    def _waited(self, seconds: float | None, reason: str) -> None:
        if seconds is None:
            self._show({"event": "waiting", "reason": reason})
            return
        wait = {"seconds": round(seconds, 3), "reason": reason}
        self._record_wait(wait)
        self._show({"event": "waited", **wait})

    def _record_wait(self, wait: dict[str, Any]) -> None:
        with self._lock:
            if self._run is None:
                self._unrecorded.append(wait)
                return
            try:
                self._run.add_fault("waited", wait)
            except RunConflictError:  # the call that waited was the one that finished the run: its record is closed
                self._unrecorded.append(wait)

    def _show(self, event: dict[str, Any]) -> None:
        if self._log_event is not None:
            self._log_event(event)
