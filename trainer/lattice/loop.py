"""The lattice's step loop: draw samples, let them go on, go back through time, update; the rest is the trainer's own.

Everything drawn is a function of (seed, update, sample), so killing it anywhere and calling it again continues to the
same bits on CPU, and ranks share an update's samples without a word.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from datalake import Lake
from datalake.names import check_name
from trainer import checkpoint
from trainer.average import Average
from trainer.guard import LossGuard
from trainer.lattice.cell import Lattice
from trainer.lattice.evaluate import evaluate_lattice
from trainer.lattice.pool import Pool
from trainer.lattice.publish import publish_lattice
from trainer.lattice.quantise import check_quantisable
from trainer.lattice.sampling import run_samples
from trainer.lattice.targets import Target, make_target
from trainer.lattice.train_config import LatticeTrainConfig
from trainer.metrics import Interval
from trainer.model import count_parameters
from trainer.optim import Optimizer
from trainer.parallel import clip_gradients
from trainer.precision import exact, pick_device, resolve_precision
from trainer.ranks import Ranks
from trainer.rates import learning_rate, rates_at
from trainer.record import RunRecord, TrainResult
from trainer.saving import saving
from trainer.shards import Saved
from trainer.tensorboard import OnEvent, listening

KIND = "lattice"
POOL = "pool"


class LatticeInputs:
    """What a lattice's run reads: nothing. Its record names no dataset."""

    @staticmethod
    def describe() -> dict[str, Any]:
        return {"datasets": [], "eval": [], "models": [], "params": [], "digests": {}}


def run_lattice(
    config: LatticeTrainConfig,
    lake: Lake,
    run_name: str,
    *,
    rank: int = 0,
    world: int = 1,
    device: str | None = None,
    threads: int | None = None,
    on_event: OnEvent | None = None,
    stop: threading.Event | None = None,
    lease: str | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> TrainResult:
    """Train ``config`` as run ``run_name`` of ``lake``, from wherever that run is, and return its result.

    Arguments, events, resuming and stopping are those of ``run_training``; a step's record has ``cell_updates`` in
    place of tokens. Raises ConfigError, DivergedError, CheckpointError, and what the lake raises.
    """
    place = pick_device(device)
    ranks = Ranks(rank, world, place)
    ranks.check()
    config.check_world(world)
    if config.publish is not None:
        check_name(config.publish, "publish: model")
    if config.quantise_fraction:
        check_quantisable(config.lattice)
    target = make_target(config.lattice, config.target)
    with exact(place, threads), listening(on_event, config.tensorboard if rank == 0 else None, run_name) as notify:
        return _train(config, lake, run_name, target, ranks, notify, stop, lease, clock)


def _train(
    config: LatticeTrainConfig,
    lake: Lake,
    run_name: str,
    target: Target,
    ranks: Ranks,
    on_event: OnEvent,
    stop: threading.Event | None,
    lease: str | None,
    clock: Callable[[], float],
) -> TrainResult:
    share = config.check_world(ranks.world)
    mine = range(ranks.rank * share, (ranks.rank + 1) * share)
    model = Lattice(config.lattice, config.seed).to_device(ranks.device)
    optimizer = Optimizer(model, config.optimizer)
    average = Average(model, config.average)
    guard = LossGuard(config.spike_nats)
    pool = None
    if config.pool is not None:
        pool = Pool(config.pool, target, config.lattice.size, config.seed, config.batch)

    # Where the run is: new, under way or finished. Rank 0 finds out, all ranks load the same checkpoint.
    record = RunRecord.open(lake, run_name, config, LatticeInputs, ranks, lease, kind=KIND)
    if record.result is not None:
        return record.result
    for skipped in record.skipped:
        on_event({"event": "skipped_checkpoint", **skipped})
    precision = ranks.from_zero(lambda: resolve_precision(config.precision, ranks.device))
    start: int = 0
    evals: dict[str, Any] = {}
    if (files := record.load()) is not None:
        state = checkpoint.unpack(files, model, optimizer, average)
        start, evals, precision = state["step"], state["evals"], state["precision"]
        guard.load(state["guard"])
        if pool is not None:
            for writer in range(state["world"]):
                pool.load(dict(Saved(files, f"{POOL}{writer}").tensors(lambda _name: None)))
        on_event({"event": "resume", "step": start})

    facts: dict[str, Any] = {
        "parameters": count_parameters(model),
        "groups": optimizer.describe(),
        "precision": precision,
        "world": ranks.world,
        "cells": config.lattice.cells,
        "distance": int(target.distance.max()),
    }
    on_event({"event": "start", "step": start, "steps": config.steps, **facts})
    if config.time[0] < facts["distance"]:
        reach = (
            f"time = {list(config.time)}: the goal needs {facts['distance']} steps to reach the farthest judged cell"
        )
        on_event({"event": "warning", "message": f"{reach}; with fewer it cannot be learned there; raise time"})

    max_norm = config.optimizer.grad_clip or math.inf
    first_whole = config.steps - round(config.quantise_fraction * config.steps)
    pending: list[dict[str, Any]] = []
    interval, cell_updates, updates = Interval(clock), 0, 0
    with record.noting_failure(), saving(record, on_event) as saver:
        for step in range(start, config.steps):
            # One update: its samples, T steps, back through them, the ranks' mean gradient, the guard, the update.
            with interval.waiting():
                optimizer.set_rates(rates_at(config, optimizer.groups, step))
            whole = step >= first_whole
            loss_sum, computed = run_samples(config, model, target, pool, step, mine, precision, whole)
            cell_updates, updates = cell_updates + computed * ranks.world, updates + 1
            _share_gradients(model, ranks)
            grad_norm = clip_gradients(model, max_norm)
            total, stopping, failed = ranks.sum([loss_sum, stop is not None and stop.is_set(), saver.failed()])
            if failed:
                saver.wait()
            loss = total / config.batch
            if step == first_whole:
                guard.forget()
            guard.check(step + 1, loss, grad_norm, saver.kept)
            optimizer.step()
            optimizer.zero_grad()

            done = step + 1
            average.update(done, config.horizon)
            last = done == config.steps
            if done % config.log_every == 0 or last:
                row = {"step": done, "loss": loss, "lr": learning_rate(config, step), "grad_norm": grad_norm}
                row["cell_updates_per_s"] = interval.rates(1)["tokens_per_s"] * cell_updates / updates
                cell_updates = updates = 0
                pending.append(row)
                on_event({"event": "step", "steps": config.steps, **row})
            if done % config.eval_every == 0 or last:
                with average.swapped_in():
                    evals = {"goal": ranks.from_zero(lambda: evaluate_lattice(config, model, target, precision))}
                pending.append({"step": done, "eval": evals})
                on_event({"event": "eval", "step": done, "dataset": "goal", **evals["goal"]})
                interval.reset()
            if done % config.checkpoint_every == 0 or last or stopping:
                state = {"step": done, "evals": evals, "precision": precision, "guard": guard.state}
                state["world"] = ranks.world

                def snapshot(state: dict[str, Any] = state) -> checkpoint.Snapshot:
                    files = checkpoint.snapshot(model, optimizer, average, state, ranks.rank)
                    return files | _pool_files(pool, ranks.rank)

                saver.save(done, snapshot, pending)
                pending = []
                interval.reset()
            if stopping and not last:
                saver.wait()
                return TrainResult("stopped", run_name, done, evals, None, facts)

    published = None
    if config.publish is not None:
        with average.swapped_in():
            published = ranks.from_zero(lambda: publish_lattice(config, lake, run_name, model, evals))
    result = TrainResult("finished", run_name, config.steps, evals, published, facts)
    record.finish(result)
    on_event({"event": "finished", "result": result.to_record()})
    return result


def _share_gradients(model: Lattice, ranks: Ranks) -> None:
    """Add the ranks' gradients up; all of them are there at once, so there is no backward pass to hide it behind."""
    if ranks.world == 1:
        return
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad, group=ranks.group)


def _pool_files(pool: Pool | None, rank: int) -> checkpoint.Snapshot:
    """This rank's slots as a file of its own: samples differ between ranks, so names do not collide."""
    if pool is None:
        return {}
    return {f"{POOL}{rank}.safetensors": {key: tensor.clone() for key, tensor in pool.tensors().items()}}
