"""One rank of a training, in a worker of Ray Train: what it tells goes to the driver's queue, a named error as well.

PyTorch is imported in the rank itself: the driver hands these functions on without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import ray
import ray.train
from ray.exceptions import RayError, RayTaskError

from datalake import Lake
from datalake.errors import DatalakeError
from generator.errors import GeneratorError
from orchestration.cluster.beside import this_node
from orchestration.cluster.cores import local_cores
from orchestration.errors import OrchestrationError
from orchestration.folders import prepare_folders
from orchestration.generation.recompute import make_repairer
from orchestration.telemetry import start_telemetry, with_step_metrics
from orchestration.training.events import EventSender
from orchestration.training.stop_watcher import watching
from trainer.errors import TrainerError

if TYPE_CHECKING:
    from trainer import Ranks, TrainJob, TrainResult

QUEUE_S = 5.0


class RayJob(Protocol):
    """What of a job the attempts at it look at."""

    @property
    def config(self) -> Any: ...
    @property
    def lake(self) -> Lake: ...
    @property
    def run(self) -> str: ...
    @property
    def lease(self) -> str | None: ...


TrainRank = Callable[[Any, "Ranks", int, EventSender, threading.Event], "TrainResult"]


def run_rank(config: dict[str, Any]) -> None:
    """One rank. A named error is the user's to mend: it goes to the queue of events before the worker dies of it."""
    from trainer import Ranks

    prepare_folders()
    handed = ray.get(config["handed"])
    job: RayJob = handed["job"]
    queue = handed["queue"]
    context = ray.train.get_context()
    ranks = Ranks.here(
        context.get_world_rank(), context.get_world_size(), upload_timeout=timedelta(seconds=handed["upload_s"])
    )
    start_telemetry(job.run, rank=ranks.rank)
    sender = EventSender(queue)
    sender({"event": "placed", "node": this_node()})
    try:
        threads = max(1, local_cores() // context.get_local_world_size())
        with watching(job.lake, job.run, job.lease or "", ranks.rank, partial(_paused, queue)) as stop:
            result = handed["train"](job, ranks, threads, sender, stop)
    except Exception as error:
        named = _named(error)
        if named is not None:
            ray.get(queue.fail.remote(named))
        raise
    if ranks.rank == 0:
        ray.get(queue.finish.remote(result.to_record()))


def train_rank(job: TrainJob, ranks: Ranks, threads: int, sender: EventSender, stop: threading.Event) -> TrainResult:
    """One rank of a language model's training."""
    from trainer import run_training

    return run_training(
        replace(job, repairer=make_repairer(job.lake.store.uri, job.repairer.policy, sender)),
        ranks,
        threads=threads,
        on_event=with_step_metrics(sender, job.config.log_every) if ranks.rank == 0 else None,
        stop=stop,
    )


def _paused(queue: Any) -> bool:
    try:
        return bool(ray.get(queue.paused.remote(), timeout=QUEUE_S))
    except RayError:  # the queue's node is gone or cut off: its driver, which sees that too, decides what follows
        return False


def _named(error: Exception) -> Exception | None:
    """Our own error inside what Ray made of it, its message one line again; None for others."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if not isinstance(cause, DatalakeError | GeneratorError | TrainerError | OrchestrationError):
        return None
    cause.args = (str(cause).splitlines()[0], *cause.args[1:])
    return cause
