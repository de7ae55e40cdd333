"""Training under Ray Train: the trainer's own step loop in each DDP worker, fed by Ray Data.

The lake's run record is what survives: Ray's checkpoints are not used, since a report is no durable commit. A worker's
death ends one attempt; the next begins at the newest checkpoint that verifies.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.train import ScalingConfig

from datalake import Lake
from datalake.errors import NotFoundError
from datalake.reading.node_cache import check_cache_settings
from orchestration.cluster.beside import beside_driver
from orchestration.cluster.head import await_cluster, check_cluster
from orchestration.cluster.resources import (
    WaitNotice,
    cluster_nodes,
    demand_of_workers,
    fits,
    require,
    start_seconds,
)
from orchestration.cluster.session import cluster_facts
from orchestration.errors import ClusterLostError, JobStopped, TrainingFailedError
from orchestration.runs.lease import RunLease, acquire
from orchestration.runs.signals import Stop
from orchestration.training.events import EventQueue, EventReader, OnEvent
from orchestration.training.fit import Fit
from orchestration.training.ray_data import ray_data_batches
from orchestration.training.resizing import Preemptions, Sizes
from orchestration.training.worker import QUEUE_S, RayJob, TrainRank, train_rank
from orchestration.training.worker_range import WorkerRange
from trainer import TrainConfig, TrainJob, TrainResult
from trainer.inputs import open_inputs
from trainer.lattice.train_config import LatticeTrainConfig

ATTEMPTS = 4
CPU_WORKERS = 2
POLL_S = 0.5


def train_on_ray(
    job: TrainJob,
    *,
    workers: int | WorkerRange = 2,
    use_gpu: bool = False,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
    parent: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> TrainResult:
    """Run (or resume, or return the finished) training `job` on `workers` workers. Ray must be initialised.

    Of a range of workers as many train as find room. When a node is about to be taken away they checkpoint and as many
    as still find room go on; when there is room for more, more go on.

    Batches come through Ray Data, or from the stream of a planned dataset. `settings` are kept in the record beside
    this function's own, for whoever resumes the run.

    Raises InvalidRequestError if the cluster can never hold the workers, the worker's own named error if it had one,
    TrainingFailedError after ATTEMPTS deaths of workers with no checkpoint in between, JobStopped once `stop` or a
    request in the lake has ended it, and what `acquire` raises.
    """
    config, lake, run = job.config, job.lake, job.run
    wanted = workers if isinstance(workers, WorkerRange) else WorkerRange.parse(workers)
    sizes = Sizes(wanted, wanted.counts(config), use_gpu)
    recorded = finished_result(lake, config, run)
    if recorded is not None:
        return recorded
    lake.check_writable()
    check_cache_settings(lake.store)
    # What is wrong with the inputs is known before any worker starts, and so is what the cluster cannot hold.
    inputs = open_inputs(config, lake, job.planned.dataset if job.planned else None).describe()
    require(sizes.demand(sizes.least), stop)
    fields = config.model_dump(mode="json")
    own: dict[str, Any] = {"workers": wanted.setting, "gpu": use_gpu, "parallel": job.parallel, "ray": True}
    with acquire(
        *(lake, run, "train", fields, inputs),
        stop=stop,
        settings={**(settings or {}), **own, "damage": asdict(job.repairer.policy)},
        resources=cluster_facts(),
        parent=parent,
    ) as run_lease:
        owned = replace(job, lease=run_lease.run.lease)
        # By lanes the rows of a block are of many steps in a row: a rank reads for itself and keeps the block, which
        # tasks, in whatever process they run, would each fetch.
        if job.planned is None and config.lanes is None:
            owned = replace(owned, batches=ray_data_batches)
        return RayAttempts(train_rank, owned, run_lease, sizes, on_event).run()


class RayAttempts:
    """The attempts at one run that this driver holds; each rank calls ``train(job, ranks, threads, sender, stop)``."""

    def __init__(
        self, train: TrainRank, job: RayJob, run_lease: RunLease, sizes: Sizes, on_event: OnEvent | None
    ) -> None:
        self._train, self._job, self._run_lease, self._sizes = train, job, run_lease, sizes
        self._on_event = on_event or (lambda _event: None)
        self._queue: Any = None
        self._step = 0
        self._saved = 0
        self._stepping_since: float | None = None
        self._preemptions = Preemptions()
        self._pausing = ""

    def run(self) -> TrainResult:
        run_lease, deaths, saved = self._run_lease, 0, 0
        if run_lease.finished:
            return TrainResult.from_record(run_lease.run.state["result"])
        while True:
            failure = self._attempt(self._sizes.choose(self._check_waiting))
            try:
                record, error = self._outcome()
            except RayActorError as gone:
                await_cluster()
                failure, record, error = failure or gone, None, None
            if error is not None:
                raise error from failure
            result = None if record is None else TrainResult.from_record(record)
            # Workers that were done may have died before they could say so, which the lake has: a finished run.
            result = result or finished_result(self._job.lake, self._job.config, run_lease.run.name)
            if result is not None and result.status == "finished":
                return result
            run_lease.send_heartbeat()  # sees who asked it to stop, or took it
            if run_lease.stop.is_set() or (result is not None and not self._pausing):
                raise self._stopped()
            if result is not None:
                continue
            # Nodes that come and go may end any number of attempts; what ends one after another without a step that
            # is kept is a fault that will not go away by itself.
            deaths = 1 if self._saved > saved else deaths + 1
            saved = self._saved
            reason = type(failure).__name__
            run_lease.fault("worker_lost", new_attempt=True, attempt=deaths, reason=reason)
            self._on_event({"event": "worker_lost", "attempt": deaths, "reason": reason})
            if deaths >= ATTEMPTS:
                raise TrainingFailedError(
                    f"run {run_lease.run.name}: its workers died in {ATTEMPTS} attempts, the last of "
                    f"{_last_line(failure)!r}; what was checkpointed is kept: run the same command again to go on"
                )

    def _outcome(self) -> tuple[dict[str, Any] | None, Exception | None]:
        """What the workers of the last attempt have left; RayActorError if their queue is gone."""
        asked, until = self._queue.outcome.remote(), time.monotonic() + start_seconds()
        while True:
            try:
                found: tuple[dict[str, Any] | None, Exception | None] = ray.get(asked, timeout=QUEUE_S)
            except GetTimeoutError:
                self._check_waiting()
                if time.monotonic() > until:
                    raise ClusterLostError(
                        f"run {self._run_lease.run.name}: its own queue on this node has not answered for "
                        f"{start_seconds():.0f} s: what is checkpointed is kept; run the same command again"
                    ) from None
            else:
                return found

    def _check_waiting(self) -> None:
        self._run_lease.check()
        check_cluster()
        if self._run_lease.stop.is_set():
            raise self._stopped()

    def _attempt(self, workers: int) -> Exception | None:
        """One worker group from start to end; returns what ended it, None if it finished, stopped or paused."""
        self._stepping_since, asked, self._pausing = None, False, ""
        self._preemptions = Preemptions()
        self._queue = beside_driver(EventQueue, self._run_lease.run.name)
        reader = EventReader(self._queue)
        scaling = ScalingConfig(num_workers=workers, use_gpu=self._sizes.use_gpu)
        with tempfile.TemporaryDirectory(prefix="morphogen-ray-train-", ignore_cleanup_errors=True) as scratch:
            fit = Fit(self._train, self._job, self._queue, scaling, scratch)
            notice = WaitNotice(self._sizes.demand(workers))
            try:
                while fit.is_alive():
                    fit.join(POLL_S)
                    if self._show_events(reader):
                        notice.running()
                    self._run_lease.check()
                    check_cluster()
                    stepping = self._stepping_since is not None
                    notice.poll(started=stepping)
                    if self._run_lease.stop.is_set() and not asked:
                        if not stepping:  # workers that have done nothing yet have nothing to keep
                            raise self._stopped()
                        asked = True
                        self._run_lease.ask_workers()
                    elif self._stepping_since is not None and not self._pausing:
                        self._pausing = self._why_pause(workers, time.monotonic() - self._stepping_since)
                        if self._pausing:
                            self._queue.pause.remote()
                            self._on_event({"event": "resize", "workers": workers, "reason": self._pausing})
            finally:
                self._sizes.release()
            self._show_events(reader)
        return fit.failure

    def _why_pause(self, workers: int, age_s: float) -> str:
        """Why these workers should end with a checkpoint for others to go on, "" if they should not."""
        if leaving := list(self._preemptions.found()):
            self._run_lease.fault("preempted", nodes=leaving)
            return f"{len(leaving)} of their nodes will be taken away"
        if more := self._sizes.room_for_more(workers, age_s):
            return f"there is room for {more}"
        return ""

    def _stopped(self) -> JobStopped:
        return self._run_lease.stop.error(
            self._run_lease.run.name, f"is at step {self._step} of {self._job.config.steps}"
        )

    def _show_events(self, reader: EventReader) -> bool:
        """Show what the workers have told since the last call; whether there was anything.

        Workers cannot end without a queue that is gone, and the next attempt has its own.
        """
        events = reader.read(10 * POLL_S)
        for event in events:
            kind = event["event"]
            if kind == "placed":
                self._preemptions.add(event["node"])
                continue
            if kind == "checkpoint":
                self._saved = max(self._saved, event["step"])
            if kind in ("start", "resume", "step", "checkpoint"):
                self._stepping_since = self._stepping_since or time.monotonic()
                self._step = event["step"]
                loss = f"loss {event['loss']:.4f}" if kind == "step" else ""
                self._run_lease.advance(self._step, self._job.config.steps, "steps", loss)
            elif kind == "skipped_checkpoint":
                self._run_lease.fault(kind, step=event["step"], problem=event["problem"])
            self._on_event(event)
        return bool(events)


def default_workers(
    config: TrainConfig, workers: int | WorkerRange | None = None, gpu: bool | None = None
) -> tuple[int | WorkerRange, bool]:
    """DDP workers and whether each has a GPU, what is None from the cluster: as many GPUs as share the batch evenly,
    or up to CPU_WORKERS processes where there are none, if that many fit. Ray must be initialised."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    on_gpu = gpus > 0 if gpu is None else gpu
    most = max(1, gpus) if on_gpu else CPU_WORKERS
    nodes = cluster_nodes()
    fitting = [
        count
        for count in range(1, min(most, config.batch_sequences) + 1)
        if config.batch_sequences % count == 0
        and config.batch_sequences // count >= config.micro_batches
        and fits(demand_of_workers(count, on_gpu).bundles, nodes)
    ]
    return workers or max(fitting, default=1), on_gpu


def cpus_of_training(workers: int | WorkerRange | None, generators: int = 0) -> float:
    """Logical CPUs that a training takes of a Ray of its own: its workers (the least of a range, as such a Ray does not
    change), what loads their rows, and, while its data is being made, the ``generators``."""
    count = workers.low if isinstance(workers, WorkerRange) else workers or CPU_WORKERS
    loading = 1 if generators else demand_of_workers(count, use_gpu=True).total("CPU")
    return count + loading + generators


def finished_result(lake: Lake, config: TrainConfig | LatticeTrainConfig, run: str) -> TrainResult | None:
    """The result of `run` if it has finished with this config: found here, it costs no start of workers."""
    try:
        state = lake.runs.get(run).state
    except NotFoundError:
        return None
    if state["status"] != "finished" or state.get("retired") or state["config"] != config.model_dump(mode="json"):
        return None
    return TrainResult.from_record(state["result"])


def _last_line(failure: Exception | None) -> str:
    """The end of Ray's account of a failure: below its own frames stands what went wrong."""
    lines = str(failure).strip().splitlines()
    return lines[-1].strip() if lines else type(failure).__name__
