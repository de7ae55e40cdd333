"""Training runs on a pool of warm Ray actors, one run an actor at a time, a run after those it needs.

An actor imports torch once and calls the trainer's own step loop, alone in its process: for small models that is some
twenty seconds a run cheaper than a worker group of Ray Train, and two arms side by side use two cores better than one
arm on both. Each run is owned, with a lease, by the actor that trains it; one that another job trains at the moment is
waited for while others are trained. An actor that dies is replaced, and the run it was in resumes from its newest
checkpoint; a run that fails is an outcome, and so are the runs that needed it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray

from datalake import Lake
from datalake.errors import NotFoundError, RunConflictError, RunFencedError, RunHeldError
from orchestration.cluster.beside import beside_driver
from orchestration.cluster.pool import ActorPool, Task, Tasks
from orchestration.cluster.resources import Demand, require
from orchestration.cluster.session import compute_cores
from orchestration.console.progress import Advance, console
from orchestration.errors import JobStopped
from orchestration.runs.lease import OwnerWatch, RunLease
from orchestration.runs.owner import describe
from orchestration.runs.signals import Stop
from orchestration.training.events import EventQueue, EventReader
from orchestration.training.local import train_here
from orchestration.training.ray_train import finished_result
from orchestration.training.stop_watcher import Parent, following
from trainer import TrainConfig, TrainJob, TrainResult

# Events of one run, which are there to be looked at, at most this often.
EVENT_S = 0.5

# How often runs that other jobs train are looked at, and how often it is said that they are waited for.
OTHERS_S = 2.0
NOTICE_S = 30.0


@dataclass(frozen=True)
class Job:
    """One run to be had: its name, its configuration, the run that must be finished before it, a title to show."""

    run: str
    config: TrainConfig
    needs: str | None = None
    title: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a job: its result, or one line that says why there is none. ``reused``: it was there before."""

    result: TrainResult | None = None
    error: str | None = None
    reused: bool = False


@dataclass(frozen=True)
class Watch:
    """What is told on the way: a job's steps done of all, and its end."""

    step: Callable[[Job, int], None] = lambda *_: None
    ended: Callable[[Job, Outcome], None] = lambda *_: None


class ArmWorker:
    """Trains one run after another in its own process, for the run of ``parent``."""

    def __init__(self, lake_uri: str, threads: int, parent: Parent | None) -> None:
        self._lake, self._threads, self._parent = Lake.open(lake_uri), threads, parent

    def train(self, config: dict[str, Any], run: str, events: Any) -> dict[str, Any]:
        """Train or resume `run`, sending steps to the queue `events`; its result as a record.

        Raises what ``train_here`` does, RunHeldError within seconds if somebody else trains it.
        """
        last = time.monotonic()

        def log_event(event: dict[str, Any]) -> None:
            nonlocal last
            now = time.monotonic()
            if event["event"] == "step" and now - last >= EVENT_S:
                last = now
                events.push.remote({"run": run, "step": event["step"]})

        job, stop = TrainJob(TrainConfig.model_validate(config), self._lake, run), Stop()
        with following(self._lake, self._parent, stop):
            result = train_here(job, threads=self._threads, on_event=log_event, stop=stop)
        return result.to_record()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Any other work on a lake that wants torch warm and a core: ``function(lake, *arguments)``."""
        return function(self._lake, *arguments)


class StoppableTasks(Tasks[Task], Protocol[Task]):
    """Tasks that look around now and then, and end early when all is to stop."""

    def poll(self) -> None:
        """Called twice a second, or more often."""
        ...

    def drop(self) -> None:
        """Begin nothing more."""
        ...


def demand_of_actor(threads: int, arms_per_gpu: int = 1) -> Demand:
    """What one actor needs: ``threads`` CPUs, or its share of a GPU where there are any. Ray must be initialised."""
    gpus = ray.cluster_resources().get("GPU", 0)
    need = {"CPU": 1.0 if gpus else float(threads), "GPU": 1 / arms_per_gpu if gpus else 0.0}
    return Demand(f"threads = {threads}", (need,), "lower threads, or join a cluster with such a node")


class Pool:
    """A context of actors: of ``threads`` CPU threads, as many as there are cores for; ``arms_per_gpu`` on each GPU.

    ``run_lease`` is of the run that all is done for: once it is asked to stop, the runs under way are stopped, and
    JobStopped is raised. With ``run_lease`` None what others have left failed or stopped is an outcome,
    and not tried again. Raises InvalidRequestError if no node can hold one actor.
    """

    def __init__(
        self,
        lake: Lake,
        threads: int = 1,
        arms_per_gpu: int = 1,
        run_lease: RunLease | None = None,
        worker: type[ArmWorker] = ArmWorker,
    ) -> None:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        self.slots = gpus * arms_per_gpu if gpus else max(1, compute_cores() // threads)
        self._lake, self._run_lease, self._asked = lake, run_lease, False
        self._events: Any = beside_driver(EventQueue)
        demand = demand_of_actor(threads, arms_per_gpu)
        require(demand, run_lease.stop if run_lease else None)
        (need,) = demand.bundles
        actor: Any = ray.remote(max_restarts=0, max_task_retries=0, num_cpus=need["CPU"], num_gpus=need["GPU"])(worker)
        parent = (
            Parent(run_lease.run.name, run_lease.run.lease or "")
            if run_lease is not None and not run_lease.finished
            else None
        )
        self._actors: ActorPool[Any] = ActorPool(
            lambda _: actor.remote(lake.store.uri, threads, parent),
            lambda: self.slots,
            demand,
            warm=True,
            fault=run_lease.fault if run_lease else lambda *_, **__: None,
        )

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._actors.__exit__(*exception)

    def map(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], advance: Advance) -> Iterator[Any]:
        """``function(lake, *call)`` of each call, in order; a call that raises gives its exception.

        ``advance`` is told meanwhile how many have ended.
        """
        tasks = _Calls(function, calls, advance)
        self.work(tasks)
        return iter(tasks.results[at] for at in range(len(calls)))

    def run(self, jobs: Sequence[Job], watch: Watch | None = None) -> dict[str, Outcome]:
        """Have every job; by run name. Jobs of the same run are one. Never raises for a run that fails."""
        tasks = _Runs(self._lake, jobs, self._events, watch or Watch(), again=self._run_lease is not None)
        self.work(tasks, tasks.left)
        return tasks.outcomes

    def work(self, tasks: StoppableTasks[Any], left: Callable[[], bool] | None = None) -> None:
        """Do all tasks, as ``ActorPool.work`` does; JobStopped once ``run_lease`` is asked to stop."""
        self._actors.work(tasks, lambda: self._poll(tasks), left=left)
        if self._run_lease is not None and self._run_lease.stop.is_set():
            raise self._run_lease.stop.error(self._run_lease.run.name, "keeps what is done")

    def _poll(self, tasks: StoppableTasks[Any]) -> None:
        tasks.poll()
        if self._run_lease is None:
            return
        self._run_lease.check()
        if self._run_lease.stop.is_set() and not self._asked:
            self._asked = True
            self._run_lease.ask_workers()  # they read its log, end their runs with a checkpoint, and are waited for
            tasks.drop()


class _Calls:
    """Calls of a function as tasks; ``results`` by their place."""

    def __init__(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], advance: Advance) -> None:
        self._function, self._calls, self._advance = function, calls, advance
        self._waiting = deque(range(len(calls)))
        self.results: dict[int, Any] = {}

    def waiting(self) -> int:
        return len(self._waiting)

    def next(self) -> int:
        return self._waiting.popleft()

    def start(self, actor: Any, task: int) -> Any:
        return actor.call.remote(self._function, *self._calls[task])

    def facts(self, task: int) -> dict[str, Any]:
        return {"call": task}

    def done(self, task: int, result: Any) -> None:
        self.results[task] = result

    def failed(self, task: int, error: Exception) -> None:
        self.results[task] = error

    def poll(self) -> None:
        """Nothing is waited for but the calls themselves."""
        self._advance(len(self.results), "")

    def drop(self) -> None:
        self._waiting.clear()


@dataclass
class _Runs:
    """Runs as tasks: each after the one it needs, and none that somebody else trains."""

    lake: Lake
    jobs: Sequence[Job]
    events: Any
    watch: Watch
    again: bool
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._left = {job.run: job for job in self.jobs}
        self._by_run = dict(self._left)
        self._elsewhere: dict[str, OwnerWatch] = {}
        self._dropped = False
        self._reader = EventReader(self.events)
        self._looked = self._said = time.monotonic()
        for job in list(self._left.values()):
            if (found := finished_result(self.lake, job.config, job.run)) is not None:
                self._end(job, Outcome(found, reused=True))
            elif not self.again and (error := error_of(self.lake, job)) is not None:
                self._end(job, Outcome(error=error))

    def waiting(self) -> int:
        return len(self._ready())

    def next(self) -> str:
        run = self._ready()[0]
        self._left.pop(run)
        return run

    def start(self, actor: Any, task: str) -> Any:
        config = self._by_run[task].config.model_dump(mode="json")
        return actor.train.options(name=task).remote(config, task, self.events)

    def facts(self, task: str) -> dict[str, Any]:
        return {"run": task}

    def done(self, task: str, result: dict[str, Any]) -> None:
        self._end(self._by_run[task], Outcome(TrainResult.from_record(result)))

    def failed(self, task: str, error: Exception) -> None:
        job = self._by_run[task]
        if isinstance(error, RunHeldError | RunFencedError):
            self._elsewhere[task] = OwnerWatch(self.lake, task)
        elif not (isinstance(error, JobStopped) and self._dropped):
            # What the record says is what anyone who looks later will be told.
            said = None if isinstance(error, RunConflictError) else error_of(self.lake, job)
            self._end(job, Outcome(error=said or f"{_kind(error)}: {_first_line(error)}"))

    def left(self) -> bool:
        """Whether anything is still to come: what waits for another run, or for another job's."""
        return bool(self._left or self._elsewhere)

    def drop(self) -> None:
        """Begin nothing more; what is under way will stop, which is no outcome."""
        self._dropped = True
        self._left.clear()
        self._elsewhere.clear()

    def poll(self) -> None:
        for event in self._reader.read(EVENT_S):
            if (job := self._by_run.get(event["run"])) is not None:
                self.watch.step(job, event["step"])
        for waiting in list(self._left.values()):
            need = self.outcomes.get(waiting.needs) if waiting.needs else None
            if need is not None and need.error is not None:
                self._end(waiting, Outcome(error=f"run {waiting.needs}, which it starts from, failed: {need.error}"))
        now = time.monotonic()
        if now - self._looked < OTHERS_S:
            return
        self._looked = now
        for name, owner in list(self._elsewhere.items()):
            if owner.free() is None:
                continue
            del self._elsewhere[name]
            job = self._by_run[name]
            if (found := finished_result(self.lake, job.config, name)) is not None:
                self._end(job, Outcome(found, reused=True))
            elif (error := error_of(self.lake, job)) is not None:
                self._end(job, Outcome(error=error))
            else:  # its owner died
                self._left[name] = job
        if self._elsewhere and now - self._said >= NOTICE_S:
            self._said = now
            for name in self._elsewhere:
                run_owner = self.lake.runs.get(name).state.get("holder") or {}
                console.print(f"  waiting for run {name}, which {describe(run_owner)} trains", markup=False)

    def _ready(self) -> list[str]:
        return [run for run, job in self._left.items() if job.needs is None or job.needs in self.outcomes]

    def _end(self, job: Job, outcome: Outcome) -> None:
        self._left.pop(job.run, None)
        self.outcomes[job.run] = outcome
        self.watch.ended(job, outcome)


def error_of(lake: Lake, job: Job) -> str | None:
    """Why a run ended without a result, as its record says; None if it has none, or goes on."""
    try:
        run = lake.runs.get(job.run)
    except NotFoundError:
        return None
    return _first_line(run.state["error"]) if run.status in ("failed", "stopped") else None


def _kind(error: Exception) -> str:
    # Ray raises a class of its own making that bears the cause's name.
    return type(error).__name__.removeprefix("RayTaskError(").removesuffix(")")


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
