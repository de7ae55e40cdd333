"""The actor between generators and training: orders shards, holds references to their rows, commits the dataset.

What is fed has been written to the lake and read back, so nothing is trained on that a resume could not find. The rows
stay in Ray's object store; this process holds references, counts bytes, and stops making shards at the bound.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from datalake import Lake, Manifest, Plan, ShardRef, read_shard
from datalake.events import log_event
from datalake.names import parse_ref
from datalake.shards.shard_format import tokens_of
from orchestration.cluster.pool import named_cause, reason_of
from orchestration.errors import GenerationFailedError
from orchestration.generation.worker import Made, ShardWorker, stored
from orchestration.live.schedule import Order, Schedule
from orchestration.live.stats import LiveRecord
from orchestration.telemetry import start_telemetry

SAMPLE_S = 0.5

# As in `generate_job`: a poison shard ends the job, and one shard waiting beside the one in work keeps an actor busy.
SHARD_RETRIES = 3
ORDERS_PER_ACTOR = 2

FedShard = tuple[ShardRef, Any]
"""A shard, and a reference to its rows in the object store (None: read it from the lake)."""


@dataclass(frozen=True)
class FeedJob:
    """What a feed makes: ``planned`` as the dataset version ``ref``, for source ``source`` of ``plan``.

    ``shards_bound`` and ``batches_bound`` share the buffer's bytes between shards that no step has used and batches
    that no rank has taken; ``token_bytes`` is what a token takes in a batch.
    """

    lake: Lake
    run: str
    ref: str
    params: str
    planned: Manifest
    plan: Plan
    source: int
    steps: int
    shards_bound: int
    batches_bound: int
    token_bytes: int
    actors: int
    threads: int
    gpus: int
    backend: str


class FeedingWorker(ShardWorker):
    """A generator actor that also hands over the rows, as the lake gives them back."""

    def feed(self, first: int, rows: int) -> tuple[Made, np.ndarray]:
        """``make``, and the shard's tokens: the planned dataset's ``token_dtype`` [rows, seq_len]."""
        made = self.make(first, rows)
        return made, tokens_of(read_shard(self._lake.store, made.ref), self._spec.token_dtype)


class LiveFeed:
    """See the module's docstring. An actor whose methods run interleaved in one event loop, hence without locks."""

    def __init__(self, job: FeedJob, clock: Callable[[], float] = time.monotonic) -> None:
        self._job = job
        self._schedule: Schedule[Any] = Schedule(job.plan, job.source, job.planned, job.steps, job.shards_bound)
        self._made: dict[int, Made] = {}
        self._taken: dict[int, int] = {}
        self._granted: dict[int, int] = {}
        self._began: set[int] = set()
        self._batch_bytes = job.plan.batch * job.planned.seq_len * job.token_bytes
        self._steps_ahead = job.batches_bound // self._batch_bytes
        self._record = LiveRecord(clock)
        start_telemetry(job.run)
        self._changed = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        self._committed: Manifest | None = None
        self._error: Exception | None = None

    async def begin(self, step: int, world: int, rank: int) -> None:
        """An attempt starts to read at ``step``: generation goes on from there, or begins."""
        if rank in self._began or len(self._taken) != world:  # the first rank of a new attempt speaks for all
            self._began = set()
            self._taken = dict.fromkeys(range(world), step)
            self._granted = dict(self._taken)
        self._began.add(rank)
        self._schedule.begin(min(self._taken.values()))
        self._main = self._main or asyncio.create_task(self._make_all())
        self._wake()

    async def shards(self, rank: int, stop: int, firsts: list[int]) -> str | dict[int, FedShard]:
        """The shards at ``firsts``, which steps up to ``stop - 1`` of ``rank`` read, once they are made.

        Waits as long as the batches of these steps would be too far ahead of what has been taken. Once the dataset is
        committed, its manifest's digest instead. Raises what made a shard impossible.
        """

        def ready() -> bool:
            return stop - self._schedule.taken <= self._steps_ahead and self._made.keys() >= set(firsts)

        self._check_begun()
        while not (self._committed is not None or ready()):
            await self._change()
        if self._committed is not None:
            return self._committed.digest
        self._granted[rank] = max(self._granted[rank], stop)
        self._sample()
        return {first: (self._made[first].ref, self._schedule.payload(first)) for first in firsts}

    async def taken(self, rank: int, step: int, waited_s: float) -> None:
        """``rank`` has the batch of step ``step - 1``, for which it waited."""
        self._check_begun()
        self._taken[rank] = step
        self._schedule.take(min(self._taken.values()))
        self._record.took(rank, self._job.plan.batch * self._job.planned.seq_len // len(self._taken), waited_s)
        self._sample()
        self._wake()

    async def commit_facts(self, timeout_s: float) -> dict[str, Any] | None:
        """The facts once the dataset is committed, None if it is not within ``timeout_s``; raises what went wrong."""
        if self._main is None:  # restarted after the last step: all that is left is to commit
            await self.begin(self._job.steps, 1, 0)
        try:
            async with asyncio.timeout(timeout_s):
                while self._committed is None:
                    await self._change()
        except TimeoutError:
            return None
        return await self.facts()

    async def facts(self) -> dict[str, Any]:
        """What has been counted so far, and the dataset's version and digest once it is committed."""
        committed = self._committed.digest if self._committed else None
        return {
            "dataset": self._job.ref,
            "digest": committed,
            "buffer_bytes": self._job.shards_bound + self._job.batches_bound,
            **self._record.facts(),
        }

    def _check_begun(self) -> None:
        if self._main is None:
            # Ends the attempt; the next one begins this feed where its checkpoint is.
            raise RuntimeError("the feed died and was restarted, and knows no attempt: begin one")

    async def _change(self) -> None:
        if self._error is not None:
            raise self._error
        await self._changed.wait()
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _sample(self) -> None:
        batches = sum(max(0, self._granted[rank] - at) for rank, at in self._taken.items())
        waiting = batches * self._batch_bytes // len(self._taken)
        self._record.sample(self._schedule.ahead_bytes, self._schedule.held_bytes, waiting)
        log_event("buffer", logger="morphogen.live", level=logging.DEBUG, bytes=self._schedule.held_bytes + waiting)

    async def _make_all(self) -> None:
        """Keep every actor busy as the schedule allows, then commit. An error goes to whoever waits."""
        ticking = asyncio.create_task(self._tick())
        try:
            await self._make_shards()
            await self._commit()
        except Exception as error:  # noqa: BLE001  (raised to every caller from now on)
            self._error = error
        finally:
            ticking.cancel()
            self._sample()
            self._wake()

    async def _make_shards(self) -> None:
        job = self._job
        options: dict[str, Any] = {"num_cpus": job.threads, "num_gpus": job.gpus}
        worker: Any = ray.remote(max_restarts=-1, max_task_retries=SHARD_RETRIES, **options)(FeedingWorker)
        pool = [
            worker.remote(job.lake, job.planned.source, job.backend, job.threads, f"{job.ref} #{number}", job.run)
            for number in range(job.actors)
        ]
        idle = [actor for actor in pool for _ in range(ORDERS_PER_ACTOR)]
        making: set[asyncio.Task[None]] = set()
        try:
            while not self._schedule.complete:
                changed = self._changed
                while idle and (order := self._schedule.next()) is not None:
                    making.add(asyncio.create_task(self._make(idle, idle.pop(0), order)))
                self._record.throttled(bool(idle) and not self._schedule.all_ordered)
                self._sample()
                await changed.wait()
                for task in [task for task in making if task.done()]:
                    making.remove(task)
                    task.result()
        finally:
            for task in making:
                task.cancel()
            for actor in pool:
                ray.kill(actor)

    async def _make(self, idle: list[Any], actor: Any, order: Order) -> None:
        name = f"live shard of {self._job.planned.source.data_digest[:8]}"  # not of each: Ray counts by name for ever
        rows = None
        try:
            if order.step is None:  # for the commit only: nobody waits for its rows
                making = actor.make.options(name=name).remote(order.first, order.rows)
            else:
                making, rows = actor.feed.options(name=name, num_returns=2).remote(order.first, order.rows)
            made: Made = await making
        except RayTaskError as error:
            raise named_cause(error) from error
        except RayError as error:
            raise GenerationFailedError(
                f"shard of sequences {order.first} to {order.first + order.rows - 1}: its worker died "
                f"{SHARD_RETRIES + 1} times ({reason_of(error)}); run the command again, and with fewer actors if "
                "memory is short"
            ) from error
        finally:
            idle.append(actor)
            self._wake()
        self._made[order.first] = made
        self._schedule.fill(order, rows)
        self._record.made(order.rows * self._job.planned.seq_len, made.written)
        self._wake()

    async def _commit(self) -> None:
        job = self._job
        manifest = await asyncio.to_thread(stored, job.planned, self._made.values())
        name, version = parse_ref(job.ref, "dataset")
        assert isinstance(version, int), "checked before the feed was started"
        await asyncio.to_thread(
            job.lake.datasets.commit, name, manifest, params=job.params, message="made live", version=version
        )
        self._committed = manifest

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            self._sample()
