"""Ray Train's `fit` beside the main thread, which stays free for signals; Ray would handle SIGINT its own way."""

from __future__ import annotations

import threading
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from orchestration.cluster.resources import collective_seconds
from orchestration.cluster.session import without_dashboard
from orchestration.training.process_group import ProcessGroup
from orchestration.training.worker import RayJob, TrainRank, run_rank

UPLOADS = 4  # times as long, ranks wait for each other's parts of a checkpoint


# Parts of Ray Train that would have nothing to do here, most of them a process that a core takes 1.6 seconds to start.
# What shares out its datasets, of which it is given none:
SPARE = {"DatasetsCallback"}
# Where there is no dashboard to ask whether the controller lives: what removes its placement group once it does not,
# and figures that nobody can fetch.
SPARE_WITHOUT_DASHBOARD = {"PlacementGroupCleanerCallback", "ControllerMetricsCallback", "WorkerMetricsCallback"}


def _asks_nobody(*_given: Any) -> None:
    """In place of asking for room, in a Ray that has all it will ever have."""


class _Trainer(DataParallelTrainer):
    """Ray Train's own without what is spare; in a Ray of this machine also without what asks an autoscaler for room.

    Where another release of Ray lacks one of these hooks, a training is as Ray made it.
    """

    def _create_default_callbacks(self) -> list[Any]:
        spare = SPARE | SPARE_WITHOUT_DASHBOARD if without_dashboard() else SPARE
        return [each for each in super()._create_default_callbacks() if type(each).__name__ not in spare]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        if without_dashboard() and "scaling_policy" in parts:
            for asks in ("after_controller_start", "_maybe_send_resource_request"):
                setattr(parts["scaling_policy"], asks, _asks_nobody)
        return super()._initialize_and_run_controller(**parts)


class Fit(threading.Thread):
    """One attempt, begun at once: ``train`` on each worker of ``scaling``. ``failure`` is what ended it, if anything.

    Ray's own ``TorchTrainer`` would import PyTorch in this process, too, which does without.
    """

    def __init__(self, train: TrainRank, job: RayJob, queue: Any, scaling: ScalingConfig, scratch: str) -> None:
        super().__init__(name=f"fit {job.run}", daemon=True)
        self.failure: Exception | None = None
        handed = {"train": train, "job": job, "queue": queue, "upload_s": UPLOADS * collective_seconds()}
        self._trainer = _Trainer(
            run_rank,
            # By reference: Ray Train's controller gets this as well, and would unpickle it, with all that it imports.
            train_loop_config={"handed": ray.put(handed)},
            backend_config=ProcessGroup("nccl" if scaling.use_gpu else "gloo", collective_seconds()),
            scaling_config=scaling,
            # Attempts are counted by us and not by Ray, which would also repeat the user's own mistakes.
            run_config=RunConfig(name=job.run, storage_path=scratch, failure_config=FailureConfig(max_failures=0)),
        )
        self.start()

    def run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # noqa: BLE001 - the main thread asks for it
            self.failure = error
