"""How far the runs of an experiment are: done, reused, failed, and when the rest should be there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from orchestration.console.progress import console, stage
from orchestration.experiment.run.pool import Job, Outcome, Watch


@contextmanager
def arms_stage(
    title: str,
    jobs: Sequence[Job],
    slots: int,
    record: Callable[[float, float, str, str], None] | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Watch]:
    """Show `jobs` on `slots` workers; yields what a pool tells. A run's size is its optimiser steps times its batch.

    ``record(done, of, unit, note)`` is told of the runs that have ended.
    """
    unique = {job.run: job for job in jobs}
    sizes = {run: job.config.steps * job.config.batch_sequences for run, job in unique.items()}
    done = dict.fromkeys(unique, 0.0)
    began: dict[str, float] = {}
    ends: dict[str, Outcome] = {}
    started = clock()
    with stage(f"{title} ({len(unique)} runs, {slots} at a time)", sum(sizes.values())) as advance:

        def show() -> None:
            reused = sum(sizes[run] for run, outcome in ends.items() if outcome.reused)
            fresh = sum(done.values()) - reused
            left = sum(sizes.values()) - sum(done.values())
            failed = sum(outcome.error is not None for outcome in ends.values())
            eta = f"{left * (clock() - started) / fresh / 60:.0f} min left" if fresh else "time left unknown"
            advance(sum(done.values()), f"{len(ends) - failed} runs done, {failed} failed, {eta}")
            if record is not None:
                record(len(ends), len(unique), "runs", f"{title}, {failed} failed")

        def step(job: Job, at: int) -> None:
            began.setdefault(job.run, clock())
            done[job.run] = at * job.config.batch_sequences
            show()

        def ended(job: Job, outcome: Outcome) -> None:
            ends[job.run] = outcome
            done[job.run] = sizes[job.run]
            if outcome.error is not None:
                console.print(f"  failed: {job.title} (run {job.run}): {outcome.error}")
            show()

        yield Watch(step, ended)
