"""Morphogen's public face: what a user of the library needs, imported when it is first used.

    import morphogen

    rows = morphogen.NcaDataset("code", seed=0, sequences=1_000_000)      # a torch.utils.data.Dataset
    lake = morphogen.Lake.open("s3://bucket/lake")                        # registry, datasets, models, runs

Nothing here is written here: each name comes from the room that has it (see `_HOMES`), with its docstring. `import
morphogen` alone imports neither PyTorch nor Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datalake import Lake as Lake
    from datalake import Plan as Plan
    from datalake import PlanSource as PlanSource
    from datalake.errors import DatalakeError as DatalakeError
    from generator import GENERATOR_VERSION as GENERATOR_VERSION
    from generator import check_acceptance as check_acceptance
    from generator import decode_tokens as decode_tokens
    from generator import generate_batch as generate_batch
    from generator import generate_rows as generate_rows
    from generator import list_presets as list_presets
    from generator import load_preset as load_preset
    from generator import parse_spec as parse_spec
    from generator.errors import GeneratorError as GeneratorError
    from orchestration.errors import OrchestrationError as OrchestrationError
    from orchestration.experiment.config.load import load_experiment as load_experiment
    from orchestration.experiment.run.runner import run_experiment as run_experiment
    from trainer import Ranks as Ranks
    from trainer import TrainJob as TrainJob
    from trainer import run_training as run_training
    from trainer.carry_over import joint_attention as joint_attention
    from trainer.carry_over import transfer as transfer
    from trainer.config import TrainConfig as TrainConfig
    from trainer.config import parse_config as parse_config
    from trainer.errors import TrainerError as TrainerError
    from trainer.map_datasets import LakeDataset as LakeDataset
    from trainer.map_datasets import NcaDataset as NcaDataset
    from trainer.model import Llama as Llama
    from trainer.plan_loader import plan_loader as plan_loader

_HOMES = {
    "DatalakeError": "datalake.errors",
    "GENERATOR_VERSION": "generator",
    "GeneratorError": "generator.errors",
    "Lake": "datalake",
    "LakeDataset": "trainer.map_datasets",
    "Llama": "trainer.model",
    "NcaDataset": "trainer.map_datasets",
    "OrchestrationError": "orchestration.errors",
    "Plan": "datalake",
    "PlanSource": "datalake",
    "Ranks": "trainer",
    "TrainConfig": "trainer.config",
    "TrainJob": "trainer",
    "TrainerError": "trainer.errors",
    "check_acceptance": "generator",
    "decode_tokens": "generator",
    "generate_batch": "generator",
    "generate_rows": "generator",
    "joint_attention": "trainer.carry_over",
    "list_presets": "generator",
    "load_experiment": "orchestration.experiment.config.load",
    "load_preset": "generator",
    "parse_config": "trainer.config",
    "parse_spec": "generator",
    "plan_loader": "trainer.plan_loader",
    "run_experiment": "orchestration.experiment.run.runner",
    "run_training": "trainer",
    "transfer": "trainer.carry_over",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """The object behind a public name, imported now."""
    if name not in _HOMES:
        raise AttributeError(f"module 'morphogen' has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
