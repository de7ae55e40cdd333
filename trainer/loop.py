"""The step loop, top to bottom: open the data, open the run, build the learner, resume, step, evaluate, keep, publish.

``run_steps`` drives whatever is a ``Learner``: a language model (``run_training``) or a lattice (``trainer.lattice``).
It runs alone in one process or as one of ``world`` ranks whose process group the caller has initialised. All that it
does is a function of (config, dataset digests, step), so killing it anywhere and calling it again continues to the same
bits (on CPU, with as many ranks).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, Protocol, TypeVar

from trainer.checkpoint import Snapshot
from trainer.compiling import naming_compiler_failures
from trainer.cpu_memory import keeping_freed_memory
from trainer.data import closing_batches, next_batch
from trainer.inputs import open_inputs
from trainer.job import TrainJob
from trainer.learner import TextLearner, check_tasks
from trainer.metrics import Interval, Record
from trainer.precision import exact
from trainer.ranks import Ranks
from trainer.record import RunRecord
from trainer.result import TrainResult
from trainer.saving import saving
from trainer.tensor_files import FileLimit
from trainer.tensorboard import OnEvent, listening

BatchT = TypeVar("BatchT")


class LoopConfig(Protocol):
    """What the loop itself reads of a run's configuration; see ``TrainConfig``."""

    @property
    def steps(self) -> int: ...

    @property
    def log_every(self) -> int: ...

    @property
    def eval_every(self) -> int: ...

    @property
    def checkpoint_every(self) -> int: ...


class Learner(Protocol[BatchT]):
    """The state of one rank, and one update of it. Every rank makes the same calls in the same order, ``begin`` first.

    A step's number counts the updates made before it: the first is 0.
    """

    @property
    def evaluates(self) -> bool:
        """Whether there is anything to evaluate."""
        ...

    def begin(self, files: Mapping[str, bytes] | None) -> tuple[int, dict[str, Any]]:
        """Load a checkpoint's files (None: a new run); returns the steps done and their last evaluations."""
        ...

    def facts(self) -> dict[str, Any]:
        """What a run's result says of the model and its training, JSON-able."""
        ...

    def warnings(self) -> list[str]:
        """What the user should know before the first step."""
        ...

    def batches(self, start: int) -> Iterator[BatchT]:
        """This rank's share of each step's data, from step ``start`` on; closed when the loop ends."""
        ...

    def gradients(self, step: int, batch: BatchT) -> tuple[float, float]:
        """Compute the global gradient of ``step``; returns this rank's sum of losses, and the gradient's norm."""
        ...

    def loss(self, step: int, total: float) -> float:
        """The mean loss of ``step``, from the sum of all ranks' sums."""
        ...

    def update(self, step: int, loss: float, grad_norm: float, kept: Callable[[], int]) -> None:
        """Apply the gradient. DivergedError if the guard refuses the loss; ``kept`` then gives the last checkpoint."""
        ...

    def row(self, done: int, loss: float, grad_norm: float, interval: Interval) -> Record:
        """The metrics record after ``done`` steps; ``interval`` starts anew."""
        ...

    def evaluate(self) -> dict[str, Any]:
        """Scores by what they were taken on."""
        ...

    def snapshot(self, done: int, evals: dict[str, Any]) -> Callable[[], Snapshot]:
        """What takes this rank's part of a checkpoint after ``done`` steps."""
        ...

    def complete(self, stop: threading.Event) -> dict[str, Any] | None:
        """Wait for what must be true before the run may end; more facts, or None if it was asked to stop first."""
        ...

    def publish(self, evals: dict[str, Any], limit: FileLimit) -> str | None:
        """Publish the model where the config says so; "NAME@VERSION", the same one when done again."""
        ...


def run_training(
    job: TrainJob,
    ranks: Ranks | None = None,
    *,
    threads: int | None = None,
    on_event: OnEvent | None = None,
    stop: threading.Event | None = None,
) -> TrainResult:
    """Train ``job.config`` as run ``job.run`` of ``job.lake``, from wherever that run is, and return its result.

    A finished run returns its recorded result at once; one with checkpoints resumes from the newest that verifies; a
    new one starts. Of several ``ranks`` (this process alone by default) every one calls this with the same job; their
    number is free to change from attempt to attempt. ``threads`` is torch's CPU thread count for this call (default: as
    it is). ``stop`` may be set at any time, on any rank: the run checkpoints after the step it is in and returns with
    status "stopped" once that checkpoint is named.

    ``on_event``, on the ranks that pass one, gets dicts whose "event" is one of: "start" (step, steps and
    ``TrainResult.facts``), "resume" (step), "skipped_checkpoint" (step, problem), "step" (steps and a metrics record:
    step, loss, lr, grad_norm, tokens, tokens_per_s, data_wait; mfu on a GPU that ``hardware`` knows), "eval" (step,
    dataset and what ``evaluate`` returns), "checkpoint" (step; once it is named, which may be some steps later),
    "finished" (result). A step's number counts the updates made, so the first is 1.

    Raises ConfigError, TransferError, PlanMismatchError, DivergedError (the last good checkpoint is kept),
    CheckpointError, and what the lake raises: unknown dataset or model, corrupt shard, run name taken by another run.
    """
    ranks = ranks or Ranks.here()
    ranks.check()
    job.config.check_world(ranks.world)
    tensorboard = job.config.tensorboard if ranks.rank == 0 else None
    with exact(ranks.device, threads), listening(on_event, tensorboard, job.run) as notify:
        config, lake = job.config, job.repairer.retrying(job.lake)

        # What goes in: datasets, plan, model. Nothing is written before all of it is known to fit together.
        inputs = open_inputs(config, lake, job.planned.dataset if job.planned else None, job.repairer)
        check_tasks(job, inputs, ranks)
        learner = TextLearner(job, lake, inputs, ranks)
        record = RunRecord.open(lake, job.run, config, inputs, ranks, job.lease, keep=config.ensemble_steps)
        if record.result is None:
            job.repairer.record_in(record.run)
        return run_steps(config, learner, record, notify, stop or threading.Event())


def run_steps(
    config: LoopConfig, learner: Learner[Any], record: RunRecord, on_event: OnEvent, stop: threading.Event
) -> TrainResult:
    """Drive ``learner`` from wherever the run of ``record`` is to its end; see ``run_training``.

    A finished run's recorded result is returned at once. All ranks of ``record`` call this alike.
    """
    # Where the run is: new, under way or finished. Rank 0 found out, all ranks load the same checkpoint.
    if record.result is not None:
        return record.result
    ranks, name = record.ranks, record.run.name
    for skipped in record.skipped:
        on_event({"event": "skipped_checkpoint", **skipped})
    files = record.load()
    start, evals = learner.begin(files)
    if files is not None:
        on_event({"event": "resume", "step": start})
    facts = learner.facts()
    on_event({"event": "start", "step": start, "steps": config.steps, **facts})
    for message in learner.warnings():
        on_event({"event": "warning", "message": message})

    pending: list[Record] = []  # since the last checkpoint
    interval = Interval()
    stream = learner.batches(start) if start < config.steps else iter(())
    with (
        keeping_freed_memory() if ranks.device.type == "cpu" else nullcontext(),
        record.noting_failure(),
        naming_compiler_failures(),
        closing_batches(stream) as batches,
        saving(record, on_event) as saver,
    ):
        for step in range(start, config.steps):
            # One step: its data, forward, backward, the global loss, the guard, the update.
            with interval.waiting():
                batch = next_batch(batches, step)
            loss_sum, grad_norm = learner.gradients(step, batch)
            total, stopping, failed = ranks.sum([loss_sum, stop.is_set(), saver.failed()])
            if failed:
                saver.wait()
            loss = learner.loss(step, total)
            learner.update(step, loss, grad_norm, saver.kept)

            done = step + 1
            last = done == config.steps
            if done % config.log_every == 0 or last:
                pending.append(learner.row(done, loss, grad_norm, interval))
                on_event({"event": "step", "steps": config.steps, **pending[-1]})
            if learner.evaluates and (done % config.eval_every == 0 or last):
                if last:
                    saver.wait()  # the last evaluation may read what was saved before
                evals = learner.evaluate()
                pending.append({"step": done, "eval": evals})
                for ref, scores in evals.items():
                    on_event({"event": "eval", "step": done, "dataset": ref, **scores})
                interval.reset()
            if done % config.checkpoint_every == 0 or last or stopping:
                saver.save(done, learner.snapshot(done, evals), pending)
                pending = []
                interval.reset()
            if stopping and not last:
                saver.wait()
                return TrainResult("stopped", name, done, evals, None, facts)

    more = learner.complete(stop)
    if more is None:
        return TrainResult("stopped", name, config.steps, evals, None, facts)

    # The end, which may be reached straight from a checkpoint: publishing and recording are both idempotent.
    facts |= more
    published = learner.publish(evals, record.limit)
    result = TrainResult("finished", name, config.steps, evals, published, facts)
    record.finish(result)
    on_event({"event": "finished", "result": result.to_record()})
    return result
