"""The step loop, top to bottom: open the data, open the run, build the model, resume, step, evaluate, keep, publish.

It runs alone in one process or as one of ``world`` ranks whose process group the caller has initialised. All that it
does is a function of (config, dataset digests, step), so killing it anywhere and calling it again continues to the same
bits (on CPU, with as many ranks).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from trainer.data import closing_batches, next_batch
from trainer.inputs import open_inputs
from trainer.job import TrainJob
from trainer.learner import Learner
from trainer.metrics import Interval, Record
from trainer.planned import wait_for_commit
from trainer.precision import exact
from trainer.publish import publish
from trainer.ranks import Ranks
from trainer.record import RunRecord, TrainResult
from trainer.saving import saving
from trainer.tensorboard import listening

OnEvent = Callable[[dict[str, Any]], None]


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
        return _train(job, ranks, notify, stop or threading.Event())


def _train(job: TrainJob, ranks: Ranks, on_event: OnEvent, stop: threading.Event) -> TrainResult:
    config, lake = job.config, job.repairer.retrying(job.lake)

    # What goes in: datasets, plan, model. Nothing is written before all of it is known to fit together.
    inputs = open_inputs(config, lake, job.planned.dataset if job.planned else None, job.repairer)
    learner = Learner(job, lake, inputs, ranks)

    # Where the run is: new, under way or finished. Rank 0 finds out, all ranks load the same checkpoint.
    record = RunRecord.open(lake, job.run, config, inputs, ranks, job.lease)
    if record.result is not None:
        return record.result
    job.repairer.record_in(record.run)
    for skipped in record.skipped:
        on_event({"event": "skipped_checkpoint", **skipped})
    files = record.load()
    start, evals = learner.begin(files)
    if files is not None:
        on_event({"event": "resume", "step": start})
    facts = learner.facts()
    on_event({"event": "start", "step": start, "steps": config.steps, **facts})

    pending: list[Record] = []  # since the last checkpoint
    interval = Interval()
    begun = start < config.steps
    stream = job.batches(inputs.plan, start, config.steps, ranks.world, ranks.rank, inputs.train) if begun else iter(())
    with record.noting_failure(), closing_batches(stream) as batches, saving(record, on_event) as saver:
        for step in range(start, config.steps):
            # One step: the plan's rows, forward, backward, the global loss, the guard, the update.
            with interval.waiting():
                batch = next_batch(batches, step)
            nats, grad_norm = learner.gradients(step, batch)
            total_nats, stopping, failed = ranks.sum([nats, stop.is_set(), saver.failed()])
            if failed:
                saver.wait()
            loss = learner.loss(step, total_nats)
            learner.update(step, loss, grad_norm, saver.kept)

            done = step + 1
            last = done == config.steps
            if done % config.log_every == 0 or last:
                pending.append(learner.row(done, loss, grad_norm, interval))
                on_event({"event": "step", "steps": config.steps, **pending[-1]})
            if inputs.eval and (done % config.eval_every == 0 or last):
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
                return TrainResult("stopped", job.run, done, evals, None, facts)

    if job.planned is not None:
        facts["live"] = wait_for_commit(job.planned, ranks, stop)
        if facts["live"] is None:
            return TrainResult("stopped", job.run, config.steps, evals, None, facts)

    # The end, which may be reached straight from a checkpoint: publishing and recording are both idempotent.
    published = None
    if (name := config.publish) is not None:
        with learner.average.swapped_in():
            published = publish(name, lake, job.run, inputs, learner.model, evals, ranks, record.limit)
    result = TrainResult("finished", job.run, config.steps, evals, published, facts)
    record.finish(result)
    on_event({"event": "finished", "result": result.to_record()})
    return result
