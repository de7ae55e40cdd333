"""Training runs on a pool of warm Ray actors, one run an actor at a time, a run after those it needs.

An actor imports torch once and calls the trainer's own step loop, alone in its process: for small models that is some
twenty seconds a run cheaper than a worker group of Ray Train, and two arms side by side use two cores better than one
arm on both. An actor that dies is replaced, and the run it was in resumes from its newest checkpoint; a run that
fails is an outcome, and so are the runs that needed it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from datalake import Lake
from orchestration.cluster.session import compute_cores
from orchestration.generation.recompute import caretaker
from orchestration.training.events import EventBoard
from orchestration.training.ray_train import finished_result
from trainer import TrainConfig, TrainResult, run_training

POLL_S = 0.5

# Events of one run, which are there to be looked at, at most this often.
EVENT_S = 0.5

# A run that takes its actor down again and again ends as a failed run.
DEATHS = 3


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
    """Trains one run after another in its own process."""

    def __init__(self, lake_uri: str, threads: int) -> None:
        self._lake, self._threads = Lake.open(lake_uri), threads

    def ready(self) -> bool:
        """Answered once the actor has its place."""
        return True

    def train(self, config: dict[str, Any], run: str, board: Any) -> dict[str, Any]:
        """Train or resume `run`, telling `board` of steps; its result as a record."""
        last = time.monotonic()

        def tell(event: dict[str, Any]) -> None:
            nonlocal last
            now = time.monotonic()
            if event["event"] == "step" and now - last >= EVENT_S:
                last = now
                board.push.remote({"run": run, "step": event["step"]})

        parsed = TrainConfig.model_validate(config)
        result = run_training(parsed, self._lake, run, threads=self._threads, on_event=tell, care=caretaker())
        return result.to_record()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Any other work on a lake that wants torch warm and a core: ``function(lake, *arguments)``."""
        return function(self._lake, *arguments)


class Pool:
    """A context of actors: of ``threads`` CPU threads, as many as there are cores for; ``arms_per_gpu`` on each GPU."""

    def __init__(self, lake: Lake, threads: int = 1, arms_per_gpu: int = 1) -> None:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        self.slots = gpus * arms_per_gpu if gpus else max(1, compute_cores() // threads)
        self._lake = lake
        self._board: Any = ray.remote(num_cpus=0)(EventBoard).remote()
        options: dict[str, Any] = {"num_cpus": 1 if gpus else threads, "num_gpus": 1 / arms_per_gpu if gpus else 0}
        worker: Any = ray.remote(max_restarts=-1, max_task_retries=DEATHS, **options)(ArmWorker)
        self._actors = [worker.remote(lake.store.uri, threads) for _ in range(self.slots)]

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_exception: object) -> None:
        for actor in self._actors:
            ray.kill(actor)

    def map(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """``function(lake, *call)`` of each call, in order, as they end; a call that raises gives its exception."""
        refs = [self._actors[i % self.slots].call.remote(function, *call) for i, call in enumerate(calls)]
        for ref in refs:
            try:
                yield ray.get(ref)
            except RayError as error:
                yield error

    def run(self, jobs: Sequence[Job], watch: Watch | None = None) -> dict[str, Outcome]:
        """Have every job; by run name. Jobs of the same run are one. Never raises for a run that fails."""
        watch = watch or Watch()
        waiting = {job.run: job for job in jobs}
        outcomes: dict[str, Outcome] = {}

        def end(job: Job, outcome: Outcome) -> None:
            outcomes[job.run] = outcome
            watch.ended(job, outcome)

        for job in list(waiting.values()):
            found = finished_result(self._lake, job.config, job.run)
            if found is not None:
                end(waiting.pop(job.run), Outcome(found, reused=True))
        starting = {actor.ready.remote(): actor for actor in self._actors}
        working: dict[Any, tuple[Any, Job]] = {}
        free: list[Any] = []
        while waiting or working:
            for job in list(waiting.values()):
                need = outcomes.get(job.needs) if job.needs else None
                if need is not None and need.error is not None:
                    end(
                        waiting.pop(job.run),
                        Outcome(error=f"run {job.needs}, which it starts from, failed: {need.error}"),
                    )
                elif free and (job.needs is None or need is not None):
                    actor = free.pop()
                    config = job.config.model_dump(mode="json")
                    ref = actor.train.options(name=job.run).remote(config, job.run, self._board)
                    working[ref] = (actor, waiting.pop(job.run))
            pending = [*starting, *working]
            ready = ray.wait(pending, num_returns=1, timeout=POLL_S)[0] if pending else []
            by_run = {job.run: job for _, job in working.values()}
            for event in ray.get(self._board.drain.remote()):
                if event["run"] in by_run:
                    watch.step(by_run[event["run"]], event["step"])
            for ref in ready:
                if ref in starting:
                    free.append(starting.pop(ref))
                else:
                    actor, job = working.pop(ref)
                    free.append(actor)
                    end(job, _outcome(ref))
        return outcomes


def _outcome(ref: Any) -> Outcome:
    try:
        return Outcome(TrainResult.from_record(ray.get(ref)))
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        return Outcome(error=f"{_kind(cause)}: {_first_line(cause)}")
    except RayActorError as error:
        return Outcome(error=f"its worker died {DEATHS + 1} times: {_first_line(error)}")


def _kind(error: Exception) -> str:
    # Ray raises a class of its own making that bears the cause's name.
    return type(error).__name__.removeprefix("RayTaskError(").removesuffix(")")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
