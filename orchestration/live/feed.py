"""The actor between generators and training: orders shards, holds references to their rows, commits the dataset.

What is fed has been written to the lake and read back, so nothing is trained on that a resume could not find. The rows
stay in Ray's object store; this process holds references, counts bytes, and stops making shards at the bound.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from datalake import Lake, Manifest, Plan, ShardRef, read_shard
from datalake.events import log_event
from datalake.names import parse_ref
from datalake.shards.shard_format import tokens_of
from orchestration.cluster.pool import ActorPool
from orchestration.cluster.resources import Demand
from orchestration.generation.pool import shard_error
from orchestration.generation.worker import Made, ShardWorker, stored
from orchestration.live.schedule import Order, Schedule
from orchestration.live.stats import LiveRecord
from orchestration.telemetry import start_telemetry

SAMPLE_S = 0.5

ORDERS_PER_ACTOR = 2
"""One shard waiting beside the one in work keeps an actor busy."""

WATCH_S = 0.05
"""How soon room that training has made in the buffer leads to another shard."""

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
        """In a thread, as the pool blocks; what it asks is answered in this actor's event loop."""
        job = self._job
        need = {"CPU": float(job.threads), "GPU": float(job.gpus)}
        options: dict[str, Any] = {"num_cpus": job.threads, "num_gpus": job.gpus, "max_restarts": 0}
        worker: Any = ray.remote(max_task_retries=0, **options)(FeedingWorker)

        def make_actor(number: int) -> Any:
            title = f"{job.ref} #{number}"
            return worker.remote(job.lake, job.planned.source, job.backend, job.threads, title, job.run)

        def work() -> None:
            with pool:
                pool.work(orders, orders.poll, left=orders.left)

        demand = Demand(f"actors = {job.actors}, live", (need,), "use fewer actors, or join a larger cluster")
        pool: ActorPool[Order] = ActorPool(
            *(make_actor, lambda: job.actors, demand), depth=ORDERS_PER_ACTOR, warm=True, poll_s=WATCH_S, fault=_fault
        )
        orders = _Orders(self, asyncio.get_running_loop())
        await asyncio.to_thread(work)

    def _on_made(self, order: Order, made: Made, rows: Any) -> None:
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


class _Orders:
    """The schedule's orders as tasks of the pool, which asks in a thread of its own.

    As many are taken from the schedule as all actors can hold: from then on they count against its bound.
    """

    def __init__(self, feed: LiveFeed, loop: asyncio.AbstractEventLoop) -> None:
        self._feed, self._loop = feed, loop
        self._most = feed._job.actors * ORDERS_PER_ACTOR
        self._name = f"live shard of {feed._job.planned.source.data_digest[:8]}"  # of all: Ray counts each for ever
        self._ready: deque[Order] = deque()
        self._rows: dict[Order, Any] = {}  # of what actors work on: a reference to the rows, None if nobody waits
        self._left = True

    def waiting(self) -> int:
        return len(self._ready)

    def next(self) -> Order:
        return self._ready.popleft()

    def left(self) -> bool:
        return self._left

    def start(self, actor: Any, task: Order) -> Any:
        if task.step is None:  # for the commit only: nobody waits for its rows
            self._rows[task] = None
            return actor.make.options(name=self._name).remote(task.first, task.rows)
        made, self._rows[task] = actor.feed.options(name=self._name, num_returns=2).remote(task.first, task.rows)
        return made

    def facts(self, task: Order) -> dict[str, Any]:
        return {"first": task.first, "rows": task.rows}

    def done(self, task: Order, result: Made) -> None:
        self._in_loop(lambda: self._feed._on_made(task, result, self._rows.pop(task)))

    def failed(self, task: Order, error: Exception) -> None:
        raise shard_error(task.first, task.rows, error)

    def poll(self) -> None:
        """Take what the schedule allows now."""
        self._in_loop(self._take)

    def _take(self) -> None:
        schedule, busy = self._feed._schedule, len(self._rows)
        while busy + len(self._ready) < self._most and (order := schedule.next()) is not None:
            self._ready.append(order)
        idle = busy + len(self._ready) < self._most
        self._feed._record.throttled(idle and not schedule.all_ordered)
        self._feed._sample()
        self._left = not schedule.complete

    def _in_loop(self, function: Callable[[], None]) -> None:
        async def call() -> None:
            function()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result()


def _fault(kind: str, **facts: Any) -> None:
    log_event(kind, level=logging.WARNING, logger="morphogen.live", **facts)
