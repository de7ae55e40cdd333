"""trainer streams, steps, publishes.

One readable step loop over the plan's batches, resumable at any step, with or without torch.distributed.
What it publishes names the data, rules and parameters that made it.
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
from trainer.evaluate import evaluate, unigram_entropy
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
