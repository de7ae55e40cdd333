"""The step loop, top to bottom: open the data, open the run, build the model, resume, step, evaluate, keep, publish.

It runs alone in one process or as one of ``world`` ranks whose process group the caller has initialised. All that it
does is a function of (config, dataset digests, step), so killing it anywhere and calling it again continues to the same
bits (on CPU, with as many ranks).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from datalake import Lake, Repairer
from trainer import checkpoint
from trainer.accumulate import accumulate
from trainer.average import Average
from trainer.config import TrainConfig
from trainer.data import BatchesFactory, check_batch, closing_batches, local_batches, next_batch
from trainer.documents import DocumentNumbers
from trainer.evaluate import evaluate
from trainer.guard import LossGuard
from trainer.hardware import flops_per_token, peak_flops
from trainer.hf_layout import load_pieces
from trainer.inputs import open_inputs
from trainer.mask import TargetMasks, dataset_mask
from trainer.metrics import Interval
from trainer.model import Llama, count_parameters
from trainer.optim import Optimizer
from trainer.parallel import Parallel, clip_gradients, over_ranks, place_model
from trainer.planned import PlannedData, wait_for_commit
from trainer.precision import exact, pick_device, resolve_precision, seed_step
from trainer.publish import publish
from trainer.published import Weights
from trainer.ranks import Ranks
from trainer.rates import learning_rate, rates_at
from trainer.record import RunRecord, TrainResult
from trainer.saving import saving
from trainer.tensorboard import listening
from trainer.transfer import transfer

OnEvent = Callable[[dict[str, Any]], None]


def run_training(
    config: TrainConfig,
    lake: Lake,
    run_name: str,
    *,
    batches_factory: BatchesFactory | None = None,
    planned: PlannedData | None = None,
    rank: int = 0,
    world: int = 1,
    parallel: Parallel = "ddp",
    device: str | None = None,
    threads: int | None = None,
    on_event: OnEvent | None = None,
    stop: threading.Event | None = None,
    lease: str | None = None,
    clock: Callable[[], float] = time.perf_counter,
    repairer: Repairer | None = None,
) -> TrainResult:
    """Train ``config`` as run ``run_name`` of ``lake``, from wherever that run is, and return its result.

    A finished run returns its recorded result at once; one with checkpoints resumes from the newest that verifies; a
    new one starts. ``planned`` is a training dataset that is made meanwhile: ``batches_factory`` must know how to read
    it, and the run ends once it is committed. With ``world`` > 1 every rank calls this with the same arguments but
    ``rank``; each holds the whole model ("ddp") or shares its rows with the others ("fsdp"), which is as free to change
    from attempt to attempt as ``world`` is. ``device`` defaults to CUDA where there is one; ``threads`` is torch's CPU
    thread count for this call (default: as it is). ``stop`` may be set at any time, on any rank: the run checkpoints
    after the step it is in and returns with status "stopped" once that checkpoint is named. ``lease`` is that of a job
    that owns the run for its ranks; without it this call acquires one. ``repairer`` decides what damaged
    data and an absent store lead to; alone, the trainer can compute no shard again.

    ``on_event``, on the ranks that pass one, gets dicts whose "event" is one of: "start" (step, steps and
    ``TrainResult.facts``), "resume" (step), "skipped_checkpoint" (step, problem), "step" (steps and a metrics record:
    step, loss, lr, grad_norm, tokens, tokens_per_s, data_wait; mfu on a GPU that ``hardware`` knows), "eval" (step,
    dataset and what ``evaluate`` returns), "checkpoint" (step; once it is named, which may be some steps later),
    "finished" (result). A step's number counts the updates made, so the first is 1.

    Raises ConfigError, TransferError, PlanMismatchError, DivergedError (the last good checkpoint is kept),
    CheckpointError, and what the lake raises: unknown dataset or model, corrupt shard, run name taken by another run.
    """
    place = pick_device(device)
    ranks = Ranks(rank, world, place)
    ranks.check()
    config.check_world(world)
    with exact(place, threads), listening(on_event, config.tensorboard if rank == 0 else None, run_name) as notify:
        run = (config, lake, run_name, batches_factory or local_batches, planned, ranks, parallel)
        return _train(*run, notify, stop, lease, clock, repairer or Repairer())


def _train(
    config: TrainConfig,
    lake: Lake,
    run_name: str,
    batches_factory: BatchesFactory,
    planned: PlannedData | None,
    ranks: Ranks,
    parallel: Parallel,
    on_event: OnEvent,
    stop: threading.Event | None,
    lease: str | None,
    clock: Callable[[], float],
    repairer: Repairer,
) -> TrainResult:
    device, lake = ranks.device, repairer.retrying(lake)

    # What goes in: datasets, plan, model. Nothing is written before all of it is known to fit together.
    inputs = open_inputs(config, lake, planned.dataset if planned else None, repairer)
    plan, shape = inputs.plan, config.model.shape(inputs.vocab_size)
    seed = config.seed if inputs.init is None else None  # all of its weights are about to be read
    model = Llama(shape, seed, dropout=config.model.dropout, recompute=config.model.recompute)
    moved: list[str] = []
    if config.transfer is not None and inputs.source is not None:
        weights = Weights(lake, inputs.source)
        moved = transfer(model, weights.shapes(), weights, config.transfer.what, config.seed)
    elif inputs.init is not None:
        load_pieces(model, Weights(lake, inputs.init).pieces())
    place_model(model, parallel, ranks, config.model.compile)
    anchors = {}
    if config.transfer is not None and config.transfer.decay_toward == "source":
        anchors = {name: weight.detach().clone() for name, weight in model.named_parameters() if name in set(moved)}
    optimizer = Optimizer(model, config.optimizer, moved, anchors)
    average = Average(model, config.average)
    guard = LossGuard(config.spike_nats)
    train_ends, eval_ends = inputs.document_ends(config)
    documents = None if train_ends is None else DocumentNumbers(train_ends, device)
    masks = TargetMasks(plan, [dataset_mask(item.manifest, config.loss_mask) for item in inputs.train], device)

    # Where the run is: new, under way or finished. Rank 0 finds out, all ranks load the same checkpoint.
    record = RunRecord.open(lake, run_name, config, inputs, ranks, lease)
    if record.result is not None:
        return record.result
    repairer.record_in(record.run)
    for skipped in record.skipped:
        on_event({"event": "skipped_checkpoint", **skipped})
    precision = ranks.from_zero(lambda: resolve_precision(config.precision, device))
    start: int = 0
    evals: dict[str, Any] = {}
    if (files := record.load()) is not None:
        state = checkpoint.unpack(files, model, optimizer, average)
        start, evals, precision = state["step"], state["evals"], state["precision"]
        guard.load(state["guard"])
        on_event({"event": "resume", "step": start})

    batch_tokens = config.batch_sequences * (inputs.seq_len - 1)
    flops, peak = flops_per_token(shape, inputs.seq_len - 1), peak_flops(device)
    facts: dict[str, Any] = {
        "parameters": count_parameters(model),
        "shape": shape.model_dump(),
        "groups": optimizer.describe(),
        "moved": moved,
        "precision": precision,
        "world": ranks.world,
        "parallel": parallel if ranks.world > 1 else None,
        "batch_tokens": batch_tokens,
        "flops_per_token": flops,
    }
    on_event({"event": "start", "step": start, "steps": config.steps, **facts})

    # Gradients are averaged over ranks, hence the factor ``world`` in the loss below.
    forward = over_ranks(model, ranks, precision)
    max_norm = config.optimizer.grad_clip or math.inf
    mixture_changes = {step for step, _ in plan.schedule}
    pending: list[dict[str, Any]] = []  # records since the last checkpoint
    interval = Interval(clock)
    steps_left = range(start, config.steps)
    if steps_left:
        stream = batches_factory(plan, start, config.steps, ranks.world, ranks.rank, inputs.train)
    else:
        stream = iter(())
    with record.noting_failure(), closing_batches(stream) as batches, saving(record, on_event) as saver:
        for step in steps_left:
            # One step: the plan's rows, forward, backward, the global loss, the guard, the update.
            with interval.waiting():
                batch = next_batch(batches, step)
            tokens_BT = check_batch(batch, plan, step, ranks.world, ranks.rank).to(device)
            seed_step(config.seed, step, ranks.rank)
            optimizer.set_rates(rates_at(config, optimizer.groups, step))
            counted, weights_BT = masks.count(step), masks.of(batch.rows)
            documents_BT = None if documents is None else documents.of(tokens_BT, batch.rows)
            scale, pieces = ranks.world / counted, config.micro_batches
            nats = accumulate(forward, tokens_BT, weights_BT, pieces, scale, precision, documents_BT)
            optimizer.drop_frozen()
            grad_norm = clip_gradients(model, max_norm)
            total_nats, stopping, failed = ranks.sum([float(nats), stop is not None and stop.is_set(), saver.failed()])
            if failed:
                saver.wait()
            loss = total_nats / counted
            if step in mixture_changes:
                guard.forget()
            guard.check(step + 1, loss, grad_norm, saver.kept)
            optimizer.step()
            optimizer.zero_grad()

            done = step + 1
            average.update(done, config.horizon)
            last = done == config.steps
            if done % config.log_every == 0 or last:
                lr = learning_rate(config, step)
                row = {"step": done, "loss": loss, "lr": lr, "grad_norm": grad_norm, "tokens": done * batch_tokens}
                row |= interval.rates(batch_tokens)
                if peak is not None:
                    row["mfu"] = row["tokens_per_s"] * flops / (peak * ranks.world)
                pending.append(row)
                on_event({"event": "step", "steps": config.steps, **row})
            if inputs.eval and (done % config.eval_every == 0 or last):
                with average.swapped_in():
                    evals = {
                        held_out.ref: evaluate(
                            model, held_out, config.eval_sequences, precision, device, ranks, config.loss_mask, end
                        )
                        for held_out, end in zip(inputs.eval, eval_ends, strict=True)
                    }
                pending.append({"step": done, "eval": evals})
                for ref, scores in evals.items():
                    on_event({"event": "eval", "step": done, "dataset": ref, **scores})
                interval.reset()
            if done % config.checkpoint_every == 0 or last or stopping:
                state = {"step": done, "evals": evals, "precision": precision, "plan": plan.digest}
                state["guard"] = guard.state
                saver.save(done, partial(checkpoint.snapshot, model, optimizer, average, state, ranks.rank), pending)
                pending = []
                interval.reset()
            if stopping and not last:
                saver.wait()
                return TrainResult("stopped", run_name, done, evals, None, facts)

    if planned is not None:
        facts["live"] = wait_for_commit(planned, ranks, stop)
        if facts["live"] is None:
            return TrainResult("stopped", run_name, config.steps, evals, None, facts)

    # The end, which may be reached straight from a checkpoint: publishing and recording are both idempotent.
    published = None
    if (name := config.publish) is not None:
        with average.swapped_in():
            published = publish(name, lake, run_name, inputs, model, evals, ranks, record.limit)
    result = TrainResult("finished", run_name, config.steps, evals, published, facts)
    record.finish(result)
    on_event({"event": "finished", "result": result.to_record()})
    return result
