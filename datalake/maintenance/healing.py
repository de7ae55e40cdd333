"""Healing: what is lost or corrupt is computed again from spec and indices, checked, and put back.

A synthetic shard is a pure function of its source and its range, so the manifest's digest decides whether what was
computed is what was lost. Damaged bytes are kept under ``quarantine/``. A text shard cannot be computed; what is lost
with it is named. The generator is the caller's to give, since this package imports none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow

from datalake.canonical import sha256_hex
from datalake.clock import System
from datalake.errors import (
    CorruptShardError,
    CredentialsError,
    MissingShardError,
    ProbeError,
    StoreRefusedError,
    UnhealableError,
)
from datalake.events import log_event
from datalake.maintenance.verify import Progress, ShardProblem, VerifyOptions, verify_dataset
from datalake.shards.computed import RowGenerator, compute_table
from datalake.shards.manifest import Manifest
from datalake.shards.shard_format import encode_shard
from datalake.shards.shards import ShardRef, fetch_shard, put_back
from datalake.shards.source import Source
from datalake.store.interface import Store


@dataclass(frozen=True)
class Repair:
    """A shard that was computed again: what was wrong with it, where its damaged bytes are kept (None: there were
    none), and whether it was ``written`` back (False: the store let us read only)."""

    key: str
    first: int
    rows: int
    problem: str
    quarantine: str | None
    written: bool
    time: str

    def as_json(self) -> dict[str, Any]:
        """The repair as a run's record keeps it."""
        return asdict(self)


@dataclass(frozen=True)
class HealReport:
    """``checked`` shards were read; ``repaired`` were restored; ``lost`` could not be. ``ok`` if nothing is lost."""

    checked: int
    repaired: tuple[Repair, ...]
    lost: tuple[ShardProblem, ...]

    @property
    def ok(self) -> bool:
        """Whether every shard is now as the manifest says."""
        return not self.lost


def heal_dataset(
    store: Store,
    manifest: Manifest,
    generator: RowGenerator,
    system: System,
    *,
    options: VerifyOptions | None = None,
    progress: Progress | None = None,
    on_repair: Callable[[Repair], None] = lambda _repair: None,
) -> HealReport:
    """Verify every shard of ``manifest`` and restore those that are lost or corrupt, byte for byte.

    Errors of the store itself are raised; what cannot be restored is reported.
    """
    report = verify_dataset(store, manifest, progress, options=options)
    by_key = {ref.key: ref for ref in manifest.shards}
    repaired: list[Repair] = []
    lost: list[ShardProblem] = []
    for problem in report.problems:
        if problem.key not in by_key:  # the manifest's own digest over all tokens: no shard to put right
            lost.append(problem)
            continue
        ref = by_key[problem.key]
        try:
            data = compute_shard(manifest.source, ref, generator)
        except UnhealableError as error:
            lost.append(ShardProblem(ref.key, f"{problem.problem}; {error}"))
            continue
        _, quarantine = put_back(store, ref.key, data, system)
        repaired.append(Repair(ref.key, ref.first, ref.rows, problem.problem, quarantine, True, system.timestamp()))
        log_event("shard_healed", shard=ref.key, rows=ref.rows, problem=problem.problem)
        on_repair(repaired[-1])
    return HealReport(report.checked, tuple(repaired), tuple(lost))


def compute_shard(source: Source, ref: ShardRef, generator: RowGenerator) -> bytes:
    """The bytes of shard ``ref``, computed again. Raises UnhealableError if they are not what ``ref`` names."""
    last = ref.first + ref.rows - 1
    if source.kind != "synthetic":
        raise UnhealableError(
            f"sequences {ref.first} to {last} of this {source.kind} dataset cannot be computed: "
            f"put the object back from a copy of the lake, or add the same text again, which writes the same bytes"
        )
    data = encode_shard(source, compute_table(source, generator, ref.first, ref.rows), ref.first)
    if (found := sha256_hex(data)) != ref.sha256:
        raise UnhealableError(
            f"sequences {ref.first} to {last}, computed again, give a shard with SHA-256 {found}, the manifest names "
            f"{ref.sha256}: install the generator (version {source.generator}) and pyarrow that wrote the dataset "
            f"(this is pyarrow {pyarrow.__version__}), or make the dataset again"
        )
    return data


class Healer:
    """Heals shards for readers while they read, within a budget: ``max_shards`` of them and ``max_seconds`` of work.

    Past the budget the reader gets the error it would have had without a healer: damage on that scale is for
    ``heal_dataset``, not for a training job that waits. ``already`` tells the keys that other processes have healed at
    the expense of the same budget. ``on_repair`` is told each repair, from the thread that reads. Picklable if its
    callables are; a copy starts with the whole budget but for what ``already`` tells.
    """

    def __init__(
        self,
        generator: RowGenerator,
        system: System,
        *,
        max_shards: int = 16,
        max_seconds: float = 600.0,
        on_repair: Callable[[Repair], None] = lambda _repair: None,
        already: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        self._settings = (generator, system, max_shards, max_seconds, on_repair, already)
        self._lock = threading.Lock()
        self._healed: set[str] = set()
        self._seconds_left = max_seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, self._settings

    def heal(self, store: Store, source: Source, ref: ShardRef, error: CorruptShardError) -> bytes:
        """The right bytes of a shard whose reading failed with ``error``; raises ``error`` past the budget."""
        generator, system, max_shards, max_seconds, on_repair, already = self._settings
        with self._lock:  # one at a time: computing takes all the cores there are
            healed = self._healed.union(already())
            if ref.key in healed and (data := _mended(store, ref)) is not None:
                return data
            if len(healed | {ref.key}) > max_shards or self._seconds_left <= 0:
                raise type(error)(
                    f"{error}; the budget for healing while reading ({max_shards} shards, {max_seconds:g} s) is spent",
                    key=error.key,
                    expected=error.expected,
                    found=error.found,
                ) from error
            began = system.monotonic()
            try:
                data = compute_shard(source, ref, generator)
            except UnhealableError as reason:
                raise type(error)(f"{error}; {reason}", key=error.key, expected=error.expected) from reason
            finally:
                self._seconds_left -= system.monotonic() - began
            try:
                written, quarantine = put_back(store, ref.key, data, system)
            except (CredentialsError, ProbeError, StoreRefusedError):  # one that may only read goes on with what it has
                written, quarantine = False, None
            else:
                if not written:  # another process was faster, and has told
                    return data
            self._healed.add(ref.key)
        problem = "missing" if isinstance(error, MissingShardError) else f"corrupt: found SHA-256 {error.found}"
        log_event("shard_healed", shard=ref.key, rows=ref.rows, problem=problem)
        on_repair(Repair(ref.key, ref.first, ref.rows, problem, quarantine, written, system.timestamp()))
        return data


def _mended(store: Store, ref: ShardRef) -> bytes | None:
    """The shard, if another has put it right since it was found damaged."""
    try:
        return fetch_shard(store, ref)
    except CorruptShardError:
        return None


def _rebuild(
    generator: RowGenerator,
    system: System,
    max_shards: int,
    max_seconds: float,
    on_repair: Callable[[Repair], None],
    already: Callable[[], Collection[str]],
) -> Healer:
    return Healer(
        generator, system, max_shards=max_shards, max_seconds=max_seconds, on_repair=on_repair, already=already
    )
