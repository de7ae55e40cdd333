"""An experiment's runs in this one process, one after another, without Ray: what a busy or a small machine can bear."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from datalake import Lake
from datalake.errors import DatalakeError
from generator.errors import GeneratorError
from orchestration.console.progress import Advance
from orchestration.errors import JobStopped, OrchestrationError
from orchestration.experiment.run.pool import Job, Outcome, Watch, error_of
from orchestration.runs.lease import RunLease
from orchestration.runs.signals import Stop
from orchestration.training.local import train_when_free
from orchestration.training.ray_train import finished_result
from trainer import TrainJob
from trainer.errors import TrainerError


class LocalPool:
    """What ``Pool`` does, with no actors: runs in the order given, of ``threads`` CPU threads each.

    With ``run_lease`` None what others have left failed or stopped is an outcome, and not tried again.
    """

    slots = 1

    def __init__(self, lake: Lake, threads: int = 1, run_lease: RunLease | None = None) -> None:
        self._lake, self._threads, self._run_lease = lake, threads, run_lease

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *exception: Any) -> None:
        """Nothing is kept."""

    def map(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], advance: Advance) -> Iterator[Any]:
        """``function(lake, *call)`` of each call, in order; a call that raises gives its exception.

        ``advance`` is told meanwhile how many have ended.
        """
        for ended, call in enumerate(calls):
            advance(ended, "")
            try:
                yield function(self._lake, *call)
            except Exception as error:  # noqa: BLE001  (given to the caller, who says of which model)
                yield error

    def run(self, jobs: Sequence[Job], watch: Watch | None = None) -> dict[str, Outcome]:
        """What came of each job, by its run's name; a run that fails is an outcome. Raises JobStopped."""
        outcomes: dict[str, Outcome] = {}
        for job in jobs:
            if job.run not in outcomes:
                outcomes[job.run] = self._outcome(job, outcomes, watch or Watch())
                (watch or Watch()).ended(job, outcomes[job.run])
        return outcomes

    def _outcome(self, job: Job, outcomes: dict[str, Outcome], watch: Watch) -> Outcome:
        if (found := finished_result(self._lake, job.config, job.run)) is not None:
            return Outcome(found, reused=True)
        if self._run_lease is None and (left := error_of(self._lake, job)) is not None:
            return Outcome(error=left)
        if job.needs is not None and (error := outcomes[job.needs].error) is not None:
            return Outcome(error=f"run {job.needs}, which it starts from, failed: {error}")

        def log_event(event: dict[str, Any]) -> None:
            if event["event"] == "step":
                watch.step(job, event["step"])

        training = TrainJob(job.config, self._lake, job.run)
        stop = self._run_lease.stop if self._run_lease is not None else Stop()
        try:
            return Outcome(train_when_free(training, stop=stop, threads=self._threads, on_event=log_event))
        except JobStopped:
            raise
        except (DatalakeError, GeneratorError, OrchestrationError, TrainerError) as error:
            return Outcome(error=error_of(self._lake, job) or f"{type(error).__name__}: {str(error).splitlines()[0]}")
