"""What training a lattice changes, and one update of it: draw samples, let them go on, go back through time.

Everything drawn is a function of (seed, update, sample), so killing a run anywhere and going on continues to the same
bits on CPU, and ranks share an update's samples without a word.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from datalake import Lake
from trainer import checkpoint
from trainer.average import Average
from trainer.guard import LossGuard
from trainer.lattice.cell import Lattice
from trainer.lattice.evaluate import evaluate_lattice
from trainer.lattice.pool import Pool
from trainer.lattice.publish import publish_lattice
from trainer.lattice.replay import Replays
from trainer.lattice.sampling import run_samples
from trainer.lattice.targets import Target
from trainer.lattice.train_config import LatticeTrainConfig
from trainer.metrics import Interval, Record
from trainer.model import count_parameters
from trainer.optim import Optimizer
from trainer.parallel import clip_gradients
from trainer.precision import Precision, resolve_precision
from trainer.ranks import Ranks
from trainer.rates import learning_rate, rates_at
from trainer.shards import Saved
from trainer.tensor_files import FileLimit

POOL = "pool"
Evals = dict[str, Any]


@dataclass(frozen=True)
class LatticeJob:
    """Train ``config`` as run ``run`` of ``lake``; ``lease`` as in ``TrainJob``. All ranks of a run have the same."""

    config: LatticeTrainConfig
    lake: Lake
    run: str
    lease: str | None = None


class LatticeLearner:
    """The state of one rank that trains ``job`` for ``target``; see ``trainer.loop.Learner``.

    A batch is the range of sample numbers, of an update's ``config.batch``, that this rank computes.
    """

    evaluates = True

    def __init__(self, job: LatticeJob, target: Target, ranks: Ranks) -> None:
        config = job.config
        self._job, self._config, self._target, self._ranks = job, config, target, ranks
        share = config.check_world(ranks.world)
        self._samples = range(ranks.rank * share, (ranks.rank + 1) * share)
        self.model = Lattice(config.lattice, config.seed).to_device(ranks.device)
        self._replays = Replays(self.model, record=not config.offload)
        self.optimizer = Optimizer(self.model, config.optimizer)
        self.average = Average(self.model, config.average)
        self._guard = LossGuard(config.spike_nats)
        self._pool = None
        if config.pool is not None:
            self._pool = Pool(config.pool, target, config.lattice.size, config.seed, config.batch)
        self._max_norm = config.optimizer.grad_clip or math.inf
        self._first_whole = config.steps - round(config.quantise_fraction * config.steps)
        self._precision: Precision = "fp32"
        self._cell_updates = self._updates = 0  # of all ranks, since the last metrics record

    def begin(self, files: Mapping[str, bytes] | None) -> tuple[int, Evals]:
        """Load a checkpoint's files (None: a new run); returns the steps done and their last evaluations."""
        self._precision = self._ranks.from_zero(lambda: resolve_precision(self._config.precision, self._ranks.device))
        if files is None:
            return 0, {}
        state = checkpoint.unpack(files, self.model, self.optimizer, self.average)
        self._precision = state["precision"]
        self._guard.load(state["guard"])
        if self._pool is not None:
            for writer in range(state["world"]):
                self._pool.load(dict(Saved(files, f"{POOL}{writer}").tensors(lambda _name: None)))
        return state["step"], state["evals"]

    def facts(self) -> dict[str, Any]:
        """What a run's result says of its lattice, its groups of parameters and its precision."""
        return {
            "parameters": count_parameters(self.model),
            "groups": self.optimizer.describe(),
            "precision": self._precision,
            "world": self._ranks.world,
            "cells": self._config.lattice.cells,
            "distance": int(self._target.distance.max()),
        }

    def warnings(self) -> list[str]:
        """One where the shortest time is too short for the goal to reach every judged cell."""
        needed = int(self._target.distance.max())
        if self._config.time[0] >= needed:
            return []
        return [
            f"time = {list(self._config.time)}: the goal needs {needed} steps to reach the farthest judged cell; with "
            "fewer it cannot be learned there; raise time"
        ]

    def batches(self, start: int) -> Iterator[range]:
        """The same samples of every update: what they are is drawn with the update's number."""
        return (self._samples for _ in range(start, self._config.steps))

    def gradients(self, step: int, batch: range) -> tuple[float, float]:
        """Compute the global gradient of update ``step``; returns this rank's sum of losses, and its norm."""
        config, ranks = self._config, self._ranks
        self.optimizer.set_rates(rates_at(config, self.optimizer.groups, step))
        how = (self._precision, step >= self._first_whole)
        loss_sum, computed = run_samples(config, self.model, self._target, self._pool, step, batch, *how, self._replays)
        self._cell_updates += computed * ranks.world
        self._updates += 1
        _share_gradients(self.model, ranks)
        return loss_sum, clip_gradients(self.model, self._max_norm)

    def loss(self, step: int, total: float) -> float:
        """The loss of an update: the mean over its samples."""
        del step
        return total / self._config.batch

    def update(self, step: int, loss: float, grad_norm: float, kept: Callable[[], int]) -> None:
        """Apply the gradient of update ``step``. DivergedError if the guard refuses its loss."""
        if step == self._first_whole:
            self._guard.forget()
        self._guard.check(step + 1, loss, grad_norm, kept)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update(step + 1, self._config.horizon)

    def row(self, done: int, loss: float, grad_norm: float, interval: Interval) -> Record:
        """The metrics record after ``done`` updates; ``interval`` starts anew."""
        row = {"step": done, "loss": loss, "lr": learning_rate(self._config, done - 1), "grad_norm": grad_norm}
        row["cell_updates_per_s"] = interval.rates(1)["tokens_per_s"] * self._cell_updates / self._updates
        self._cell_updates = self._updates = 0
        return row

    def evaluate(self) -> Evals:
        """What ``evaluate_lattice`` says, with the averaged weights where there are any."""
        how = (self._config, self.model, self._target, self._precision)
        with self.average.swapped_in():
            return {"goal": self._ranks.from_zero(lambda: evaluate_lattice(*how))}

    def snapshot(self, done: int, evals: Evals) -> Callable[[], checkpoint.Snapshot]:
        """What takes this rank's part of a checkpoint after ``done`` updates, its slots of the pool among it."""
        state = {"step": done, "evals": evals, "precision": self._precision, "guard": self._guard.state}
        state["world"] = self._ranks.world

        def take() -> checkpoint.Snapshot:
            files = checkpoint.snapshot(self.model, self.optimizer, self.average, state, self._ranks.rank)
            return files | _pool_files(self._pool, self._ranks.rank)

        return take

    def complete(self, stop: threading.Event) -> dict[str, Any]:
        """Nothing is waited for."""
        del stop
        return {}

    def publish(self, evals: Evals, limit: FileLimit) -> str | None:
        """Publish the averaged weights, or the weights, with ``evals`` as their scores."""
        del limit
        if self._config.publish is None:
            return None
        what = (self._config, self._job.lake, self._job.run, self.model, evals)
        with self.average.swapped_in():
            return self._ranks.from_zero(lambda: publish_lattice(*what))


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
