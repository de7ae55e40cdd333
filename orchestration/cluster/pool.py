"""A pool of actors: as many as the cluster has room for now, each kept busy, each death survived.

Ray could restart actors and repeat their tasks itself, but then nobody would hear of it, and a task sent to an actor
that waits for room in a shrunken cluster would wait with it. So an actor gets work only once it runs, a dead one is
dropped and its tasks go back in the queue, and the pool is fitted to the cluster every few seconds.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError, RuntimeEnvSetupError

from orchestration.cluster.head import check_cluster
from orchestration.cluster.resources import Demand, WaitNotice
from orchestration.errors import WorkerDiedError

# A poison task must not loop for ever: this many deaths of an actor on one task, and one more, end it.
RETRIES = 3

FIT_S = 2.0
POLL_S = 0.5

Task = TypeVar("Task")


class Tasks(Protocol[Task]):
    """What is to be done, and who hears of it. A task is handed out once, and again if its actor died of it."""

    def waiting(self) -> int:
        """How many tasks could be handed out now."""
        ...

    def next(self) -> Task:
        """The next one; asked only if some are waiting."""
        ...

    def start(self, actor: Any, task: Task) -> ray.ObjectRef:
        """Send it to an actor."""
        ...

    def facts(self, task: Task) -> dict[str, Any]:
        """What a note on its actor's death says of it."""
        ...

    def done(self, task: Task, result: Any) -> None:
        """It ended well."""
        ...

    def failed(self, task: Task, error: Exception) -> None:
        """It raised this, or is WorkerDiedError; may raise to end the whole work."""
        ...


@dataclass(eq=False)
class _Member(Generic[Task]):
    handle: Any
    number: int
    tasks: dict[ray.ObjectRef, Task] = field(default_factory=dict)  # in the order in which it works on them


class ActorPool(Generic[Task]):
    """Actors made by ``make_actor(number)``; ``room()`` is how many there should be now.

    ``demand`` is what one of them needs. Each holds up to ``depth`` tasks: one in work, the others waiting beside it.
    With ``warm`` an idle actor is kept for later work. A task that comes is noticed within ``poll_s``.
    ``fault(kind, **facts)`` hears of deaths. The actors live as long as the context.
    """

    def __init__(
        self,
        make_actor: Callable[[int], Any],
        room: Callable[[], int],
        demand: Demand,
        *,
        depth: int = 1,
        warm: bool = False,
        poll_s: float = POLL_S,
        fault: Callable[..., None] = lambda *_, **__: None,
        on_size: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        self._make_actor, self._room, self._fault, self._on_size = make_actor, room, fault, on_size
        self._depth, self._warm, self._poll_s = depth, warm, poll_s
        self._notice = WaitNotice(demand)
        self._working: list[_Member[Any]] = []
        self._starting: dict[ray.ObjectRef, _Member[Any]] = {}
        self._started = 0
        self._failed_starts = 0
        self._fit_due = 0.0
        self._size = (0, 0)

    def __enter__(self) -> ActorPool[Task]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in (*self._working, *self._starting.values()):
            ray.kill(member.handle)
        self._working, self._starting = [], {}

    @property
    def size(self) -> int:
        """Actors that run now."""
        return len(self._working)

    def work(self, tasks: Tasks[Task], poll: Callable[[], None], left: Callable[[], bool] | None = None) -> None:
        """Do all tasks; ``poll`` is called every ``poll_s`` seconds, or sooner, and may raise.

        It goes on while a task is waiting or in work, and as long as ``left`` says that more may come. Raises
        ClusterLostError if the head is gone, WorkerDiedError if no actor can be started, and what ``tasks.failed``
        raises.
        """
        again: deque[Task] = deque()
        deaths: Counter[Task] = Counter()
        self._fit_due = 0.0
        self._notice.running()
        while again or tasks.waiting() or self._in_work() or (left is not None and left()):
            poll()
            check_cluster()
            self._fit(len(again) + tasks.waiting())
            self._feed(tasks, again)
            self._report_size()
            if self._working:
                self._notice.running()
            else:
                self._notice.poll()
            refs = [*self._starting, *(ref for member in self._working for ref in member.tasks)]
            if not refs:
                time.sleep(self._poll_s)
                continue
            for ref in ray.wait(refs, num_returns=1, timeout=self._poll_s)[0]:
                if ref in self._starting:
                    self._on_started(ref)
                else:
                    self._collect(ref, tasks, again, deaths)

    def _in_work(self) -> bool:
        return any(member.tasks for member in self._working)

    def _report_size(self) -> None:
        size = (len(self._working), sum(len(member.tasks) for member in self._working))
        if size != self._size:
            self._size = size
            self._on_size(*size)

    def _fit(self, waiting: int) -> None:
        now = time.monotonic()
        if now < self._fit_due:
            return
        self._fit_due = now + FIT_S
        room = max(1, self._room())
        busy = sum(bool(member.tasks) for member in self._working)
        wanted = min(room, busy + waiting)
        for _ in range(wanted - len(self._working) - len(self._starting)):
            member: _Member[Any] = _Member(self._make_actor(self._started), self._started)
            self._started += 1
            self._starting[member.handle.__ray_ready__.remote()] = member
        surplus = len(self._working) + len(self._starting) - (room if self._warm else wanted)
        for ref in list(self._starting)[: max(0, surplus)]:
            ray.kill(self._starting.pop(ref).handle)
            surplus -= 1
        for member in [member for member in self._working if not member.tasks][: max(0, surplus)]:
            self._working.remove(member)
            ray.kill(member.handle)

    def _feed(self, tasks: Tasks[Task], again: deque[Task]) -> None:
        for depth in range(self._depth):
            for member in self._working:
                if len(member.tasks) <= depth and (again or tasks.waiting()):
                    task = again.popleft() if again else tasks.next()
                    member.tasks[tasks.start(member.handle, task)] = task

    def _on_started(self, ref: ray.ObjectRef) -> None:
        member = self._starting.pop(ref)
        try:
            ray.get(ref)
        except RayError as error:
            self._failed_starts += 1
            reason = reason_of(error)
            self._fault("actor_lost", actor=member.number, reason=f"at its start: {reason}")
            if self._failed_starts > RETRIES:
                raise WorkerDiedError(
                    f"{self._failed_starts} actors died at their start one after another ({reason}): mend that, then "
                    "run the command again"
                ) from error
        else:
            self._failed_starts = 0
            self._working.append(member)

    def _collect(self, ref: ray.ObjectRef, tasks: Tasks[Task], again: deque[Task], deaths: Counter[Task]) -> None:
        member = next(each for each in self._working if ref in each.tasks)
        try:
            result = ray.get(ref)
        except RayTaskError as error:
            # The worker's own named error, not Ray's wrapping of it, is what tells the user what to do.
            tasks.failed(member.tasks.pop(ref), named_cause(error))
        except RayError as error:
            self._on_actor_death(member, tasks, again, deaths, error)
        else:
            tasks.done(member.tasks.pop(ref), result)

    def _on_actor_death(
        self, member: _Member[Task], tasks: Tasks[Task], again: deque[Task], deaths: Counter[Task], error: RayError
    ) -> None:
        """Its first task is what it was working on when it died; all go back to the front of the queue."""
        self._working.remove(member)
        ray.kill(member.handle)  # "unavailable" may also mean out of reach; its work would only be done twice
        first, *rest = member.tasks.values()
        deaths[first] += 1
        self._fault("actor_lost", actor=member.number, **tasks.facts(first), reason=reason_of(error))
        again.extendleft(reversed(rest))
        if deaths[first] > RETRIES:
            died = WorkerDiedError(f"its worker died {RETRIES + 1} times ({reason_of(error)})")
            died.__cause__ = error
            tasks.failed(first, died)
        else:
            again.appendleft(first)
        self._fit_due = 0.0


def named_cause(error: RayTaskError) -> Exception:
    """What a task raised, without Ray's account of it; the account where Ray has no more."""
    if isinstance(error.cause, Exception):
        error.cause.__cause__ = error
        return error.cause
    return error


def reason_of(error: RayError) -> str:
    """Why an actor is gone, in one line: what its constructor raised, or the kind of its death."""
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return _last_line(str(error)) or type(error).__name__
    if isinstance(error, RayTaskError):
        return f"{type(named_cause(error)).__name__}: {(str(named_cause(error)).splitlines() or [''])[0]}"
    if isinstance(error, RuntimeEnvSetupError):  # a traceback of Ray's agent, which ends in what was wrong
        said = _last_line(error.error_message or "")
        return f"its environment could not be set up: {said}" if said else type(error).__name__
    return type(error).__name__


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
