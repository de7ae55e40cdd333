"""A model trained over the plan's rows, resumable at any step, with or without torch.distributed. No Ray.

Flat, one idea a file; ``lattice/`` trains 3-D lattices by the same loop. The way of data through a run:

    job, config, recipe       what is to be trained: one value
    inputs, data, documents   datasets opened; the plan's rows as batches, refused when they are others
    model, optim, transfer    weights, their groups and rates, what is carried over from another model
    learner                   one update: forward, backward, the guard, the optimiser, the average
    loop                      drives a learner: step, log, evaluate, save, publish
    ranks, parallel, shards   several processes as one
    saving, record            checkpoints beside the loop; the run's log
    publish, hf_layout        a model version that names the data, rules and parameters that made it
"""

from trainer.config import (
    DataConfig,
    ModelConfig,
    ModelShape,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
    TransferConfig,
    parse_config,
)
from trainer.data import Batch, BatchesFactory, TrainDataset, local_batches
from trainer.errors import TrainerError
from trainer.evaluate import evaluate
from trainer.gate import unigram_entropy
from trainer.job import TrainJob
from trainer.loop import run_training
from trainer.model import Llama
from trainer.ranks import Ranks
from trainer.record import TrainResult, load_metrics

__all__ = [
    "Batch",
    "BatchesFactory",
    "DataConfig",
    "Llama",
    "ModelConfig",
    "ModelShape",
    "OptimizerConfig",
    "Ranks",
    "ScheduleConfig",
    "TrainConfig",
    "TrainDataset",
    "TrainJob",
    "TrainResult",
    "TrainerError",
    "TransferConfig",
    "evaluate",
    "load_metrics",
    "local_batches",
    "parse_config",
    "run_training",
    "unigram_entropy",
]
