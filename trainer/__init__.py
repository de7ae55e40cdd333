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

Each name here is imported when it is first used: a config is read without PyTorch, which takes seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.config import DataConfig as DataConfig
    from trainer.config import ModelConfig as ModelConfig
    from trainer.config import ModelShape as ModelShape
    from trainer.config import OptimizerConfig as OptimizerConfig
    from trainer.config import ScheduleConfig as ScheduleConfig
    from trainer.config import TrainConfig as TrainConfig
    from trainer.config import TransferConfig as TransferConfig
    from trainer.config import parse_config as parse_config
    from trainer.data import Batch as Batch
    from trainer.data import BatchesFactory as BatchesFactory
    from trainer.data import TrainDataset as TrainDataset
    from trainer.data import local_batches as local_batches
    from trainer.errors import TrainerError as TrainerError
    from trainer.gate import unigram_entropy as unigram_entropy
    from trainer.job import TrainJob as TrainJob
    from trainer.loop import run_training as run_training
    from trainer.model import Llama as Llama
    from trainer.ranks import Ranks as Ranks
    from trainer.result import TrainResult as TrainResult
    from trainer.result import load_metrics as load_metrics

_HOMES = {
    "Batch": "trainer.data",
    "BatchesFactory": "trainer.data",
    "DataConfig": "trainer.config",
    "Llama": "trainer.model",
    "ModelConfig": "trainer.config",
    "ModelShape": "trainer.config",
    "OptimizerConfig": "trainer.config",
    "Ranks": "trainer.ranks",
    "ScheduleConfig": "trainer.config",
    "TrainConfig": "trainer.config",
    "TrainDataset": "trainer.data",
    "TrainJob": "trainer.job",
    "TrainResult": "trainer.result",
    "TrainerError": "trainer.errors",
    "TransferConfig": "trainer.config",
    "load_metrics": "trainer.result",
    "local_batches": "trainer.data",
    "parse_config": "trainer.config",
    "run_training": "trainer.loop",
    "unigram_entropy": "trainer.gate",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """The object behind a name of this package, imported now."""
    if name not in _HOMES:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
