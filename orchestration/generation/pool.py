"""A pool of actors that make shards: as many as the cluster has room for now, each kept busy, each death survived.

Ray could restart actors and repeat their tasks itself, but then nobody would hear of it, and a task sent to an actor
that waits for room in a shrunken cluster would wait with it. So an actor gets work only once it runs, a dead one is
dropped and its shards go back in the queue, and the pool is fitted to the cluster every few seconds.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from datalake import ShardRef
from datalake.events import tell
from orchestration.errors import GenerationFailedError

# A poison shard must not loop for ever: this many deaths of an actor on one shard, and one more, end the job.
SHARD_RETRIES = 3

# One shard in work and one waiting per actor keep it busy; more would only hold results in memory.
IN_FLIGHT_PER_ACTOR = 2

FIT_S = 2.0
LOOK_S = 0.5

Shard = tuple[int, int]  # first sequence, rows
Made = tuple[ShardRef, bool]  # the shard, and whether it had to be written


@dataclass(eq=False)
class _Member:
    handle: Any
    number: int
    tasks: dict[ray.ObjectRef, Shard] = field(default_factory=dict)  # in the order in which it works on them


class ShardPool:
    """``make_actor(number)`` starts an actor with ``make(first, rows)``; ``room()`` is how many there should be now;
    ``fault(kind, **facts)`` hears of deaths; ``task_name`` is what the dashboard shows, one for all shards since Ray
    keeps counters for every name."""

    def __init__(
        self,
        make_actor: Callable[[int], Any],
        room: Callable[[], int],
        fault: Callable[..., None],
        task_name: str,
    ) -> None:
        self._make_actor, self._room, self._fault, self._task_name = make_actor, room, fault, task_name
        self._working: list[_Member] = []
        self._starting: dict[ray.ObjectRef, _Member] = {}
        self._started = 0
        self._stillborn = 0
        self._deaths: Counter[Shard] = Counter()
        self._fit_due = 0.0
        self._told = (0, 0)

    def make(
        self,
        shards: Iterable[Shard],
        on_made: Callable[[Shard, Made, str], None],
        look: Callable[[], None],
    ) -> None:
        """Make every shard; ``on_made`` is told each one and a note, ``look`` is called twice a second and may raise.

        Raises the actor's own error if it had one, GenerationFailedError for a shard that kills every actor it meets.
        """
        waiting = deque(shards)
        try:
            while waiting or any(member.tasks for member in self._working):
                look()
                self._fit(len(waiting))
                self._feed(waiting)
                self._tell()
                refs = [*self._starting, *(ref for member in self._working for ref in member.tasks)]
                ready, _ = ray.wait(refs, num_returns=1, timeout=LOOK_S) if refs else ([], [])
                for ref in ready:
                    if ref in self._starting:
                        self._welcome(ref)
                    else:
                        self._collect(ref, waiting, on_made)
        finally:
            for member in (*self._working, *self._starting.values()):
                ray.kill(member.handle)

    def _tell(self) -> None:
        size = (len(self._working), sum(len(member.tasks) for member in self._working))
        if size != self._told:
            self._told = size
            tell("pool", logger="morphogen.generator", actors=size[0], in_flight=size[1])

    def _fit(self, waiting: int) -> None:
        now = time.monotonic()
        if now < self._fit_due:
            return
        self._fit_due = now + FIT_S
        busy = sum(bool(member.tasks) for member in self._working)
        wanted = min(max(1, self._room()), busy + waiting)
        for _ in range(wanted - len(self._working) - len(self._starting)):
            member = _Member(self._make_actor(self._started), self._started)
            self._started += 1
            self._starting[member.handle.__ray_ready__.remote()] = member
        surplus = len(self._working) + len(self._starting) - wanted
        for ref in list(self._starting)[: max(0, surplus)]:
            ray.kill(self._starting.pop(ref).handle)
            surplus -= 1
        for member in [member for member in self._working if not member.tasks][: max(0, surplus)]:
            self._working.remove(member)
            ray.kill(member.handle)

    def _feed(self, waiting: deque[Shard]) -> None:
        for depth in range(IN_FLIGHT_PER_ACTOR):
            for member in self._working:
                if waiting and len(member.tasks) <= depth:
                    shard = waiting.popleft()
                    task = member.handle.make.options(name=self._task_name)
                    member.tasks[task.remote(*shard)] = shard

    def _welcome(self, ref: ray.ObjectRef) -> None:
        member = self._starting.pop(ref)
        try:
            ray.get(ref)
        except RayTaskError:
            raise
        except RayError as error:
            self._stillborn += 1
            self._fault("actor_lost", actor=member.number, reason=f"{type(error).__name__} at its start")
            if self._stillborn > SHARD_RETRIES:
                raise GenerationFailedError(
                    f"{self._stillborn} actors died at their start one after another ({type(error).__name__}): "
                    "see the cluster's logs, then run the command again"
                ) from error
        else:
            self._stillborn = 0
            self._working.append(member)

    def _collect(self, ref: ray.ObjectRef, waiting: deque[Shard], on_made: Callable[[Shard, Made, str], None]) -> None:
        member = next(each for each in self._working if ref in each.tasks)
        try:
            made = ray.get(ref)
        except RayTaskError as error:
            if isinstance(error.cause, Exception):
                # The worker's own named error, not Ray's wrapping of it, is what tells the user what to do.
                raise error.cause from error
            raise
        except RayError as error:
            self._bury(member, waiting, error)
        else:
            on_made(member.tasks.pop(ref), made, f"{len(self._working)} actors")

    def _bury(self, member: _Member, waiting: deque[Shard], error: RayError) -> None:
        """Its first shard is what it was working on when it died; all go back to the front of the queue."""
        self._working.remove(member)
        ray.kill(member.handle)  # "unavailable" may also mean out of reach; its work would only be done twice
        shards = list(member.tasks.values())
        self._deaths[shards[0]] += 1
        first, rows = shards[0]
        self._fault("actor_lost", actor=member.number, first=first, rows=rows, reason=type(error).__name__)
        if self._deaths[shards[0]] > SHARD_RETRIES:
            raise GenerationFailedError(
                f"shard of sequences {first} to {first + rows - 1}: its worker died {SHARD_RETRIES + 1} times "
                f"({type(error).__name__}); run the command again, and with fewer --actors if memory is short"
            ) from error
        waiting.extendleft(reversed(shards))
        self._fit_due = 0.0
