"""Training in this one process, without Ray: the same run record, the same ways to stop and go on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from datalake.errors import RunFencedError, RunHeldError
from datalake.reading.node_cache import check_cache_settings
from orchestration.cluster.cores import local_cores
from orchestration.generation.recompute import make_repairer
from orchestration.runs.lease import acquire, await_owner
from orchestration.runs.owner import this_process
from orchestration.runs.signals import Stop
from orchestration.telemetry import with_step_metrics
from trainer import TrainJob, TrainResult, run_training
from trainer.inputs import open_inputs


def train_here(
    job: TrainJob,
    *,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    stop: Stop | None = None,
    parent: str | None = None,
    threads: int | None = None,
) -> TrainResult:
    """Run (or resume, or return the finished) training ``job`` on ``threads`` CPU threads (None: torch's own number).

    Raises what ``run_training`` and ``acquire`` raise, and JobStopped once ``stop`` or a request in the
    lake has ended it.
    """
    config, lake, run = job.config, job.lake, job.run
    lake.check_writable()
    check_cache_settings(lake.store)
    inputs = open_inputs(config, lake).describe()
    resources = {"cpus": local_cores(), "driver": this_process()["host"]}
    with acquire(
        *(lake, run, "train", config.model_dump(mode="json"), inputs),
        stop=stop,
        settings={"ray": False, "damage": asdict(job.repairer.policy)},
        resources=resources,
        parent=parent,
    ) as run_lease:

        def show(event: dict[str, Any]) -> None:
            if event["event"] == "step":
                run_lease.advance(event["step"], config.steps, "steps", f"loss {event['loss']:.4f}")
            elif event["event"] == "skipped_checkpoint":
                run_lease.fault("skipped_checkpoint", step=event["step"], problem=event["problem"])
            if on_event is not None:
                on_event(event)

        lease = None if run_lease.finished else run_lease.run.lease
        owned = replace(job, lease=lease, repairer=make_repairer(lake.store.uri, job.repairer.policy, show))
        logged = with_step_metrics(show, config.log_every)
        result = run_training(owned, threads=threads, on_event=logged, stop=run_lease.stopping)
        if result.status == "stopped":
            run_lease.check()
            raise run_lease.stop.error(run, f"is at step {result.step} of {config.steps}")
    return result


def train_when_free(
    job: TrainJob,
    *,
    stop: Stop,
    threads: int | None = None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> TrainResult:
    """``train_here``, once nobody else works on its run: several jobs may want the same run, and one trains it."""
    while True:
        await_owner(job.lake, job.run, stop)
        with suppress(RunHeldError, RunFencedError):  # somebody was quicker
            return train_here(job, stop=stop, threads=threads, on_event=on_event)
