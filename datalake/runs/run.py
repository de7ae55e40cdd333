"""One run: what a job is doing, as a version log that any process can take over and only one can write.

``RunRepository.start`` takes the run over by writing a fresh *lease*; every later change checks that the lease is still
its own, so a driver that was presumed dead and comes back is fenced off at its next write. A checkpoint's files are
uploaded beside, under a fresh key, read back, and only then named in the log. Threads may share a ``Run``: the log
takes their changes one at a time, and it knows the newest state that either met.
"""

from __future__ import annotations

import copy
import json
import math
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from datalake.clock import System
from datalake.errors import CorruptObjectError, NotFoundError, RunConflictError, RunFencedError
from datalake.log.claims import claimed
from datalake.log.growing import GrowingList, Item, Value
from datalake.log.version_log import LogEntry, VersionLog
from datalake.runs.checkpoints import (
    Checkpoint,
    CheckpointFiles,
    SkippedCheckpoint,
    check_files,
    read_verified,
    upload_files,
)
from datalake.runs.heartbeat import Heartbeat, write_heartbeat
from datalake.store.content import Content
from datalake.store.interface import Store

State = dict[str, Any]
METRICS = "metrics.jsonl"
LOG_FORMAT = 2  # 1: every entry held these lists whole
GROWING = ("checkpoints", "repairs", "extended", "trials")  # see ``log.growing``; dropped checkpoints are marked
# Not append()'s to change.
_OWNED = {
    *("kind", "config", "config_digest", "inputs", "attempts", "lease", "faults", "stop", "retired"),
    *GROWING,
}
FAULTS_KEPT = 200  # every entry of the log holds them all; ``fault_count`` goes on counting
_READS_AT_ONCE = 8


class Run:
    """One run, as of the last call that read or wrote its log. Picklable: workers share their driver's lease."""

    def __init__(self, store: Store, system: System, log: VersionLog, entry: LogEntry, lease: str | None) -> None:
        self._store = store
        self._system = system
        self._log = log
        self._entry = entry
        self._lease = lease
        self._parent: str | None = None  # key_prefix of the checkpoint that the next one goes on from
        self._read: dict[tuple[str, int], Value] = {}  # of older entries: the list in this field
        self._knowing = threading.Lock()
        self.name = log.name

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_knowing"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _knowing=threading.Lock())

    @property
    def state(self) -> State:
        """A copy of the newest state known here: kind, status, config, inputs, attempts, result, …

        What grows without end (checkpoints, repairs, …) is not in it, see ``listed``.
        """
        return copy.deepcopy({field: value for field, value in self._entry.state.items() if field not in GROWING})

    def listed(self, field: str) -> GrowingList:
        """One of the lists that grow, as the newest state known here has it; older items are read when asked for."""
        return self._list(field, self._entry)

    def _list(self, field: str, entry: LogEntry) -> GrowingList:
        def load(number: int) -> Value:
            if (field, number) not in self._read:
                self._read[field, number] = self._log.entry(number).state[field]
            return self._read[field, number]

        return list_in(field, entry, load)

    @property
    def status(self) -> str:
        """``running``, ``finished``, ``failed`` or ``stopped``."""
        return self._entry.state["status"]

    @property
    def lease(self) -> str | None:
        """What lets this object write to the run; None for one that only looks."""
        return self._lease

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """All checkpoints that have their files, in the order in which they were made: a read for 32 of them."""
        recorded = self.listed("checkpoints")
        return tuple(map(Checkpoint.model_validate, recorded.at([*recorded.unmarked_places()][::-1])))

    @property
    def checkpoint_count(self) -> int:
        """How many checkpoints have their files."""
        return self.listed("checkpoints").unmarked

    @property
    def newest_checkpoint(self) -> Checkpoint | None:
        """The last checkpoint of those that have their files, None if there is none."""
        return next(self._newest_first(), None)

    def recorded_checkpoints(self, limit: int | None = None) -> list[Checkpoint]:
        """All checkpoints that were ever made, or the last ``limit``, oldest first, those without their files too."""
        recorded = self.listed("checkpoints")
        places = range(0 if limit is None else max(0, recorded.count - limit), recorded.count)
        found = zip(places, map(Checkpoint.model_validate, recorded.at(places)), strict=True)
        return [
            each.model_copy(update={"files": {}, "dropped": True}) if recorded.is_marked(place) else each
            for place, each in found
        ]

    def _newest_first(self) -> Iterator[Checkpoint]:
        recorded = self.listed("checkpoints")
        return (Checkpoint.model_validate(recorded.item(place)) for place in recorded.unmarked_places())

    @property
    def retired(self) -> bool:
        """Whether the run was retired: its record and its curve stay, its checkpoints may be gone."""
        return bool(self._entry.state.get("retired"))

    def for_another_thread(self) -> Run:
        """The same run, under the same lease, for another thread to note things in."""
        log = VersionLog(self._store, "runs", self.name, self._system, LOG_FORMAT)
        return Run(self._store, self._system, log, self._entry, self._lease)

    def refresh(self) -> Run:
        """Read the newest state; returns self."""
        head = self._log.head()
        if head is None:
            raise NotFoundError(f"run {self.name!r} is gone from lake {self._store.uri}: restore it from a copy")
        self._know(head)
        return self

    def poll(self) -> Run:
        """``refresh`` for whoever looks every second: one request where nothing is new, however long the log is."""
        head = self._log.advance()
        if head is None:
            raise NotFoundError(f"run {self.name!r} is gone from lake {self._store.uri}: restore it from a copy")
        self._know(head)
        return self

    def append(self, *, message: str = "", **changes: Any) -> None:
        """Set fields of the state (JSON values; not those that the run itself keeps, such as ``config``).

        Raises RunFencedError if another process has taken the run over, RunConflictError if it is finished.
        """
        if owned := sorted(_OWNED & changes.keys()):
            raise RunConflictError(f"run {self.name!r} keeps {', '.join(owned)} itself: append() cannot set them")
        self._change(lambda state: {**state, **changes}, message or f"set {', '.join(sorted(changes))}")

    def add_repair(self, repair: Mapping[str, Any]) -> None:
        """Note in the list ``repairs`` that a shard was healed for this run. Raises as ``append`` does."""
        self._add("repairs", dict(repair), f"repair {repair.get('key')}")

    def add_trial(self, trial: Mapping[str, Any]) -> None:
        """Note in the list ``trials`` what one trial of a tuning came to. Raises as ``append`` does."""
        self._add("trials", dict(trial), "trial")

    def send_heartbeat(self, number: int, progress: Mapping[str, Any]) -> None:
        """Show that the owner lives and how far it is (``datalake.runs.heartbeat``); the log is not touched."""
        time = self._system.timestamp()
        write_heartbeat(
            self._store, self.name, Heartbeat(lease=self._lease or "", beat=number, time=time, progress=dict(progress))
        )

    def add_fault(self, kind: str, facts: Mapping[str, Any], *, new_attempt: bool = False) -> None:
        """Note in the state's list ``faults`` what went wrong and was survived; the newest 200 are kept.

        ``new_attempt`` counts one more attempt: the same owner begins again. Raises as ``append`` does.
        """
        item = {"kind": kind, "time": self._system.timestamp(), **facts}

        def note(state: State) -> State:
            faults = [*state.get("faults", ()), item][-FAULTS_KEPT:]
            counts = {"fault_count": state.get("fault_count", 0) + 1, "attempts": state["attempts"] + new_attempt}
            return {**state, **counts, "faults": faults}

        self._change(note, f"fault {kind}")

    def stop(self, reason: str, **changes: Any) -> None:
        """Mark the run stopped, with one line that says why; ``start`` takes it up again."""
        self.append(status="stopped", error=reason, message="stop", **changes)

    def finish(self, result: Mapping[str, Any] | None = None) -> None:
        """Mark the run finished, with its result (JSON); nothing can be appended after that."""
        self.append(status="finished", result=dict(result or {}), message="finish")

    def fail(self, error: str) -> None:
        """Mark the run failed, with one line that says why; ``start`` takes it up again."""
        self.append(status="failed", error=error, message="fail")

    def add_checkpoint(self, step: int, files: Mapping[str, Content], metrics: bytes | None = None) -> Checkpoint:
        """Upload ``files``, read them back, then name them in the log as the checkpoint of ``step``.

        ``metrics`` is the JSON-lines chunk since the checkpoint that this one goes on from (the last one added or
        resumed from through this object). Raises as ``append`` does, and CorruptObjectError if what was read back
        differs.
        """
        prefix = self.checkpoint_prefix(step)
        extra = {} if metrics is None else {METRICS: metrics}
        return self.name_checkpoint(step, prefix, self.upload_checkpoint(prefix, {**files, **extra}))

    def checkpoint_prefix(self, step: int) -> str:
        """A fresh place for the files of a checkpoint of ``step``."""
        return f"checkpoints/{self.name}/{step:08d}-{self._system.nonce()}"

    def upload_checkpoint(self, prefix: str, files: Mapping[str, Content]) -> dict[str, str]:
        """Upload some of a checkpoint's files and read them back; returns names to SHA-256. Any worker may do this.

        Nothing names them yet. Raises CorruptObjectError if what was read back differs, and ObjectTooLargeError.
        """
        return upload_files(self._store, prefix, files)

    def name_checkpoint(self, step: int, prefix: str, digests: Mapping[str, str]) -> Checkpoint:
        """Name in the log, as the checkpoint of ``step``, files that have been uploaded and read back.

        A file ``metrics.jsonl`` is its metrics, see ``add_checkpoint``. Raises as ``append`` does.
        """
        files = dict(digests)
        checkpoint = Checkpoint(
            step=step,
            key_prefix=prefix,
            metrics=files.pop(METRICS, None),
            files=files,
            parent=self._parent,
            time=self._system.timestamp(),
        )
        item = checkpoint.model_dump(mode="json")
        with claimed(self._store, self._system, [f"{prefix}/"], f"checkpoint {step} of run {self.name}"):
            there = {*self._store.list(f"{prefix}/")}
            if absent := [name for name in digests if f"{prefix}/{name}" not in there]:
                raise NotFoundError(
                    f"{prefix}/{absent[0]} is not in lake {self._store.uri}: upload it before naming it"
                )
            self._add("checkpoints", item, f"checkpoint {step}")
        self._parent = prefix
        return checkpoint

    def drop_checkpoints(self, dropped: Collection[Checkpoint]) -> None:
        """Let go of these checkpoints: the log stops naming their files, then the files are deleted.

        Their metrics stay. A crash in between leaves files that nothing names. Raises as ``append`` does.
        """
        prefixes = {checkpoint.key_prefix for checkpoint in dropped}
        if not prefixes:
            return

        def forget(state: State, now: LogEntry) -> State:
            recorded = self._list("checkpoints", now)
            kept = [*recorded.unmarked_places()]
            places = [p for p, item in zip(kept, recorded.at(kept), strict=True) if item["key_prefix"] in prefixes]
            return {**state, "checkpoints": recorded.with_marks(places, lambda item: {**item, "files": {}})}

        self._change_lists(forget, f"drop {len(prefixes)} checkpoints")
        for checkpoint in dropped:
            for name in checkpoint.files:
                self._store.delete(f"{checkpoint.key_prefix}/{name}")

    def latest_valid_checkpoint(self) -> tuple[Checkpoint | None, list[SkippedCheckpoint]]:
        """The newest checkpoint whose files all verify (None: start from nothing), and the newer ones that do not.

        The next ``add_checkpoint`` goes on from it.
        """
        skipped: list[SkippedCheckpoint] = []
        for checkpoint in self._newest_first():
            problem = check_files(self._store, checkpoint)
            if problem is None:
                self._parent = checkpoint.key_prefix
                return checkpoint, skipped
            skipped.append(SkippedCheckpoint(checkpoint.step, checkpoint.key_prefix, problem))
        self._parent = None
        return None, skipped

    def open_checkpoint(self, checkpoint: Checkpoint) -> CheckpointFiles:
        """A checkpoint's files, each read and verified when it is asked for.

        Asking raises NotFoundError or CorruptObjectError.
        """
        return CheckpointFiles(self._store, checkpoint)

    def metric_records(self) -> list[dict[str, Any]]:
        """What the step loop logged, oldest first, each step once: the lines of ``metrics_chunks``."""
        return [json.loads(line) for chunk in self.metrics_chunks() for line in chunk.splitlines()]

    def metrics_chunks(self) -> Sequence[bytes]:
        """The metrics of the run's history, oldest first: chunks of the newest checkpoint and those it goes on from.

        Steps that were run and lost before a resume are in no chunk of this chain, so no step appears twice.
        Raises NotFoundError or CorruptObjectError.
        """
        chain: list[Checkpoint] = []
        for item in reversed(self.listed("checkpoints").items(0, self.listed("checkpoints").count)):
            if not chain or chain[-1].parent == item["key_prefix"]:
                chain.append(Checkpoint.model_validate(item))
        if chain and chain[-1].parent is not None:
            raise CorruptObjectError(
                f"run {self.name!r} goes on from checkpoint {chain[-1].parent}, which its log does not name: restore "
                f"the log's entries from a copy of the lake"
            )
        return self._chunks(reversed(chain))

    def metrics_sample(self, limit: int) -> tuple[list[dict[str, Any]], int]:
        """What the step loop logged up to ``limit`` checkpoints that are spread over the run's, and how many it has.

        With ``limit`` checkpoints or fewer it is all of ``metric_records``. Raises as that does.
        """
        recorded = self.listed("checkpoints")
        if recorded.count <= limit:
            return self.metric_records(), recorded.count
        places = sorted({round(n * (recorded.count - 1) / (limit - 1)) for n in range(limit)})
        records: list[dict[str, Any]] = []
        for chunk in self._chunks(map(Checkpoint.model_validate, recorded.at(places))):
            lines = [json.loads(line) for line in chunk.splitlines()]
            begin = min((line["step"] for line in lines), default=math.inf)
            while records and records[-1]["step"] >= begin:  # run, lost, and run again
                records.pop()
            records += lines
        return records, recorded.count

    def _chunks(self, checkpoints: Iterable[Checkpoint]) -> list[bytes]:
        """The metrics of these checkpoints, read several at a time."""
        wanted = [(f"{each.key_prefix}/{METRICS}", each.metrics) for each in checkpoints if each.metrics is not None]
        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
            return [*pool.map(lambda one: read_verified(self._store, *one), wanted)]

    def _add(self, field: str, item: Item, message: str) -> None:
        def add(state: State, now: LogEntry) -> State:
            return {**state, field: self._list(field, now).with_item(item)}

        self._change_lists(add, message)

    def _change(self, change: Callable[[State], State], message: str) -> None:
        self._change_lists(lambda state, _now: change(state), message)

    def _change_lists(self, change: Callable[[State, LogEntry], State], message: str) -> None:
        """Append what ``change`` makes of the newest state, and of the entry that it is from."""

        def fenced(now: LogEntry | None) -> State:
            state = now.state if now else None
            if state is not None and state["status"] == "finished":
                raise RunConflictError(f"run {self.name!r} is finished: use another run name for more work")
            if now is None or state is None or self._lease is None or state["lease"] != self._lease:
                raise fenced_error(self.name, state)
            return with_lists_kept(change(state, now), now)

        self._know(self._log.append_next(fenced, message))

    def _know(self, entry: LogEntry) -> None:
        # Two threads may come back from the log in either order; no lock is held while they are there, since a store
        # that is away can make one of them note, through this object, that it waits.
        with self._knowing:
            if entry.number > self._entry.number:
                self._entry = entry


def list_in(field: str, entry: LogEntry, load: Callable[[int], Value]) -> GrowingList:
    """The list ``field`` (of GROWING) of a run as ``entry`` has it; ``load`` gives it as another entry has it."""
    return GrowingList(entry.state.get(field), entry.number, load, lambda item: bool(item.get("dropped")))


def with_lists_kept(state: State, now: LogEntry) -> State:
    """``state`` as the entry after ``now`` is to hold it: lists that ``now`` writes out, in format 1, are named."""
    written_out = [field for field in GROWING if isinstance(state.get(field), list)]
    return {**state, **{field: list_in(field, now, lambda _: []).kept() for field in written_out}}


def fenced_error(run: str, state: State | None) -> RunFencedError:
    """The error of a writer whose lease is not the run's any more; ``state`` is the newest."""
    return RunFencedError(
        f"run {run!r} belongs to another process now (attempt {state['attempts'] if state else '?'}): this one stops; "
        "`morphogen runs show` says who works on it"
    )
