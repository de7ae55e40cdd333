"""Train a lattice by the trainer's own step loop, as a run like any other."""

from __future__ import annotations

import threading
from typing import Any

from datalake.names import check_name
from trainer.lattice.learner import LatticeJob, LatticeLearner
from trainer.lattice.quantise import check_quantisable
from trainer.lattice.targets import make_target
from trainer.loop import OnEvent, run_steps
from trainer.precision import exact
from trainer.ranks import Ranks
from trainer.record import RunRecord
from trainer.result import TrainResult
from trainer.tensorboard import listening

KIND = "lattice"


class LatticeInputs:
    """What a lattice's run reads: nothing. Its record names no dataset."""

    @staticmethod
    def describe() -> dict[str, Any]:
        return {"datasets": [], "eval": [], "models": [], "params": [], "digests": {}}


def run_lattice(
    job: LatticeJob,
    ranks: Ranks | None = None,
    *,
    threads: int | None = None,
    on_event: OnEvent | None = None,
    stop: threading.Event | None = None,
) -> TrainResult:
    """Train ``job.config`` as run ``job.run`` of ``job.lake``, from wherever that run is, and return its result.

    Arguments, events, resuming and stopping are those of ``run_training``; a step's record has ``cell_updates_per_s``
    in place of tokens, and "warning" (message) is one more event. Raises ConfigError, DivergedError, CheckpointError,
    and what the lake raises.
    """
    ranks = ranks or Ranks.here()
    ranks.check()
    config = job.config
    config.check_world(ranks.world)
    if config.publish is not None:
        check_name(config.publish, "publish: model")
    if config.quantise_fraction:
        check_quantisable(config.lattice)
    target = make_target(config.lattice, config.target)
    tensorboard = config.tensorboard if ranks.rank == 0 else None
    with exact(ranks.device, threads), listening(on_event, tensorboard, job.run) as notify:
        learner = LatticeLearner(job, target, ranks)
        record = RunRecord.open(job.lake, job.run, config, LatticeInputs, ranks, job.lease, kind=KIND)
        return run_steps(config, learner, record, notify, stop or threading.Event())
