"""Training a lattice in this process, as a run like any other: leased, resumable, stopped well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datalake import Lake
from orchestration.cluster.cores import local_cores
from orchestration.runs.lease import acquire
from orchestration.runs.owner import this_process
from orchestration.runs.signals import Stop
from trainer.lattice.learner import LatticeJob
from trainer.lattice.loop import KIND, LatticeInputs, run_lattice
from trainer.lattice.targets import make_target
from trainer.lattice.train_config import LatticeTrainConfig
from trainer.result import TrainResult


def train_lattice(
    lake: Lake,
    config: LatticeTrainConfig,
    run: str,
    *,
    on_event: Callable[[dict[str, Any]], None],
    stop: Stop | None = None,
    threads: int | None = None,
) -> TrainResult:
    """Run (or resume, or return the finished) training ``run`` on ``threads`` CPU threads (None: torch's own number).

    Raises what ``run_lattice`` and ``acquire`` raise, and JobStopped once ``stop`` or a request in the
    lake has ended it.
    """
    lake.check_writable()
    make_target(config.lattice, config.target)  # what no lattice can hold begins no run
    resources = {"cpus": local_cores(), "driver": this_process()["host"]}
    fields = config.model_dump(mode="json")
    with acquire(lake, run, KIND, fields, LatticeInputs.describe(), stop=stop, resources=resources) as run_lease:

        def show(event: dict[str, Any]) -> None:
            if event["event"] == "step":
                run_lease.advance(event["step"], config.steps, "steps", f"loss {event['loss']:.4f}")
            elif event["event"] == "skipped_checkpoint":
                run_lease.fault("skipped_checkpoint", step=event["step"], problem=event["problem"])
            on_event(event)

        job = LatticeJob(config, lake, run, None if run_lease.finished else run_lease.run.lease)
        result = run_lattice(job, threads=threads, on_event=show, stop=run_lease.stopping)
        if result.status == "stopped":
            run_lease.check()
            raise run_lease.stop.error(run, f"is at step {result.step} of {config.steps}")
    return result
