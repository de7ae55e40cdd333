"""What is to be trained: one value, made once, that every part of a job reads what it needs from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from datalake import Lake, Repairer
from trainer.config import TrainConfig
from trainer.data import BatchesFactory, local_batches

if TYPE_CHECKING:  # a job is made, and travels, without PyTorch
    from trainer.parallel import Parallel
    from trainer.planned import PlannedData
    from trainer.task_scores import TaskScorer


@dataclass(frozen=True)
class TrainJob:
    """Train ``config`` as run ``run`` of ``lake``. All ranks of a run have the same; picklable, if its parts are.

    ``parallel``: each rank holds the whole model ("ddp"), or its share of every tensor's rows ("fsdp"); free to change
    from attempt to attempt. ``batches`` yields the rows; ``planned`` is a training dataset that is made meanwhile:
    ``batches`` must know how to read it, and the run ends once it is committed. ``lease`` is that of a job that owns
    the run for its ranks; without one the run is acquired. ``repairer`` decides what damaged data and an absent store
    lead to; the default can compute no shard again. ``score_tasks`` scores the config's ``tasks``, if it has any.
    """

    config: TrainConfig
    lake: Lake
    run: str
    parallel: Parallel = "ddp"
    batches: BatchesFactory = local_batches
    planned: PlannedData | None = None
    lease: str | None = None
    repairer: Repairer = field(default_factory=Repairer)
    score_tasks: TaskScorer | None = None
