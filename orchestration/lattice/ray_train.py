"""Training a lattice under Ray Train: the trainer's own step loop in each DDP worker, which computes its share of it.

There is nothing to feed: the samples of an update are drawn from its number and the seed.
"""

from __future__ import annotations

import threading

import ray

from datalake import Lake
from orchestration.cluster.resources import require
from orchestration.cluster.session import cluster_facts
from orchestration.errors import InvalidRequestError
from orchestration.runs.lease import acquire
from orchestration.runs.signals import Stop
from orchestration.training.events import EventSender, OnEvent
from orchestration.training.ray_train import RayAttempts, finished_result
from orchestration.training.resizing import Sizes
from orchestration.training.worker_range import WorkerRange
from trainer import Ranks, TrainResult
from trainer.lattice.learner import LatticeJob
from trainer.lattice.loop import KIND, LatticeInputs, run_lattice
from trainer.lattice.targets import make_target
from trainer.lattice.train_config import LatticeTrainConfig


def train_lattice_on_ray(
    lake: Lake,
    config: LatticeTrainConfig,
    run: str,
    workers: int,
    *,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> TrainResult:
    """Run (or resume, or return the finished) training ``run`` on ``workers`` workers, on GPUs if the cluster has as
    many. Ray must be initialised.

    Raises what ``train_lattice`` and ``train_on_ray`` raise.
    """
    if workers < 1:
        raise InvalidRequestError(f"workers = {workers}: a training needs 1 or more; give another number")
    config.check_world(workers)
    make_target(config.lattice, config.target)  # what no lattice can hold begins no run
    recorded = finished_result(lake, config, run)
    if recorded is not None:
        return recorded
    lake.check_writable()
    use_gpu = int(ray.cluster_resources().get("GPU", 0)) >= workers
    sizes = Sizes(WorkerRange(workers, workers), [workers], use_gpu, loads_rows=False)
    require(sizes.demand(workers), stop)
    with acquire(
        *(lake, run, KIND, config.model_dump(mode="json"), LatticeInputs.describe()),
        stop=stop,
        settings={"workers": workers},
        resources=cluster_facts(),
    ) as run_lease:
        job = LatticeJob(config, lake, run, run_lease.run.lease)
        return RayAttempts(_train, job, run_lease, sizes, on_event).run()


def _train(job: LatticeJob, ranks: Ranks, threads: int, sender: EventSender, stop: threading.Event) -> TrainResult:
    """One rank of a lattice's training."""
    return run_lattice(job, ranks, threads=threads, on_event=sender if ranks.rank == 0 else None, stop=stop)
